"""Entries on disk: publishing, leases, single flight, eviction; nothing here knows the network."""
