"""What every room wants of the operating system: threads, locks, files, the load of processors.

A module that two rooms need and that would be as useful in another program belongs here. Nothing
here knows HTTP, archives or caches.
"""
