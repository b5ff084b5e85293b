"""Generations: the text of manifests and locks, the record of what was built, what may be pruned.

Belongs here: whatever can be said about a generation from text, numbers, sizes and digests.
Folders, links, locks and readers are in `generations/`.
"""
