"""A fleet's cache nodes at work: which there are, where they are, and whether one works right.

Decisions about them are in core/fleet, core/placement and core/nodes; engine/ makes the requests of
downloads to them.
"""
