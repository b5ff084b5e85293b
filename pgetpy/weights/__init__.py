"""Cached weights: give it a reference, get a path to verified weights.

Giving out cache entries, fetching missing ones and checking that they are what they should be
belongs here. How entries are stored is up to cache/, how bytes arrive to engine/, and whether a
file is made of weights is decided in core/weights.
"""
