"""What the operating system does for every room: threads, locks, files, the load of processors.

Nothing here knows HTTP, archives or caches. What a module of two rooms would both want from the
system belongs here; what it is wanted for does not.
"""
