"""Entries on disk: publishing them, leasing them, letting one process fetch each, evicting them.

Whatever reads or writes the cache's folder belongs here. The format of keys and records, and the
order of eviction, are decided in core/cache. What is fetched for an entry, and whether it is
weights, is up to weights/. Nothing here uses the network.

Several processes, in several containers, on several machines, may share the folder, and any of them
can be killed at any instruction. Locks exist to save work; none is needed for correctness, as
network file systems often ignore them. Correctness rests on two facts: `rename` is atomic, and of
two processes that each write a note and then look for the other's, at least one sees the other's.

   publish   content is complete, checked and under its final name; then its record appears
             by rename. An entry exists exactly as long as its record is in its place.
   lease     write the lease        then  look whether the record is in its place   (holders)
   evict     take the record away   then  read the leases; delete, or put it back   (removal)
   fill      one process claims a key; the others wait and look again               (fills)
"""
