"""Weights that are kept: a reference in, a path that can be trusted out.

What gives out an entry of the cache, fetches one that is missing or checks that it is what it was
taken for belongs here. How entries lie on disk is known to cache/, how bytes come to engine/, and
whether a file is made of weights is decided in core/weights.
"""
