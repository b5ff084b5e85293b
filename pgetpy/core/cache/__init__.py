"""What is decided about the cache: the key of an object, the record of an entry, who leaves first.

What reads and writes the cache's folder is in cache/.
"""
