"""Entries on disk: publishing, leases, single part, eviction.

What reads or writes the cache's folder belongs here. What a key or a record is and who leaves first
is decided in core/cache; what is fetched for an entry, and whether it is weights, is the business
of weights/. Nothing here knows the network.
"""
