"""Decisions about a fleet's cache nodes: which URLs go through them, how they are written there,
and what their SRV records mean.

Which node serves a piece is decided in core/placement; looking nodes up is done in fleet/.
"""
