"""Decisions about the cache: keys of objects, records of entries, the order of eviction.

What reads and writes the cache's folder is in cache/.
"""
