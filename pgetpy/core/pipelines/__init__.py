"""Pipelines: what a specification asks for, which files it needs, and the key of what is built.

Belongs here: whatever can be said about a pipeline from names, sizes, digests and the text of its
configuration; which attention backend is chosen; the timeline of a start. Fetching, linking,
loading, probing and clocks are in `pipelines/`.
"""
