"""Pipelines: what a specification asks for, which files it needs, and the key of what is built.

Belongs here: whatever can be said about a pipeline from names, sizes, digests and the text of its
configuration. Fetching, linking and loading are done in `pipelines/`.
"""
