"""Compile caches: which ones fit a machine, what may be in them, and how several saves become one.

Belongs here: whatever can be said about compiled code from facts, names and bytes alone. Looking at
the machine, its folders and a store is done in `compile_cache/`.
"""
