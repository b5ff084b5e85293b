"""How often something is looked at that cannot say when it changes, in seconds."""

from __future__ import annotations

# A thread that waits for another looks up, so that an exception injected into it (Cog's
# cancellation, Ctrl-C) arrives at once, and that it sees that it is not wanted any more.
SLICE = 0.05
# Threads of one process that take turns. A turn may be over within milliseconds.
TURN = 0.01
# Locks of other processes: nothing tells that one is free. A file takes longer than this to fetch.
LOCK = 0.1
# How far another process is: for people, who read no faster.
OTHERS = 0.5
# The size of a file that another process writes for us: often enough for a progress bar.
CHILD = 0.1
