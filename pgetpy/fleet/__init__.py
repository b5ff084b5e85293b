"""A fleet's cache nodes at work: which there are now, and where they are on the network.

Decisions about them are in core/fleet and core/placement; engine/ makes the requests to them.
"""
