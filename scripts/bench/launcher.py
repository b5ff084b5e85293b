"""Runs one command and reports wall, CPU and peak memory; started anew for every run.

A process inherits the peak memory of the one that started it, so the starter must be small: a bare
interpreter of about 9 MB, which is therefore the least that can be measured. It imports next to
nothing and shares no code with the harness.

    python -I -S launcher.py LIMIT_S STDOUT STDERR PROGRAM ARGUMENT...

prints: exit status, wall seconds, CPU seconds, peak kibibytes. Where the program starts others and
waits for them, as a shell does for a pipeline, CPU is their sum and the peak that of the largest.
"""

import os
import signal
import sys
import time


def main() -> None:
    limit, stdout, stderr, *command = sys.argv[1:]
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, stdout, write, 0o600),
        (os.POSIX_SPAWN_OPEN, 2, stderr, write, 0o600),
    ]
    begin = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions, setpgroup=0)
    # A group of its own, so that all of a pipeline ends; a terminal's Ctrl-C does not reach it.
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, float(limit))
    try:
        _, status, usage = os.wait4(pid, 0)
    except KeyboardInterrupt:
        os.killpg(pid, signal.SIGKILL)
        raise
    wall = time.perf_counter() - begin
    code = os.waitstatus_to_exitcode(status)
    print(code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)


main()
