"""How often something is looked at that cannot say when it changes, in seconds.

They are together here so that a reader can see why one place looks more often than another.
"""

from __future__ import annotations

# A thread that waits for another wakes up, so that an exception injected into it (Cog's
# cancellation, Ctrl-C) is raised soon, and that it notices a request to stop.
SLICE = 0.05
# Threads of one process that take turns. A turn may be over within milliseconds.
TURN = 0.01
# Locks of other processes: nothing says when one is released. Fetching a file takes longer anyway.
LOCK = 0.1
# How far another process is. Only shown, and people do not read faster.
OTHERS = 0.5
# The size of a file that another process writes for us: often enough for a progress bar.
CHILD = 0.1
