"""Decisions about weight files: whether they are safetensors, and which shards belong together.

What opens the files is in weights/.
"""
