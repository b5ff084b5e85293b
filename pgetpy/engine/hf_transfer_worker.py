"""The process in which hf_transfer runs, because only a kill can stop it.

hf_transfer holds the interpreter's lock while it works, so no Python code in its process could
notice that the download is not wanted any more. Hence two processes beside ours:

    pgetpy --stdin--> worker --fork--> hf_transfer
           <-stdout-- waits for either    |
                      end to close <-pipe-+

The order is one line of JSON on standard input, where other users of the machine cannot see the
signed URL, as they could in a command line. Standard input stays open as long as the bytes are
wanted: it closes when pgetpy says so, or dies in whatever way, and then the worker kills its fork.
The pipe closes when the fork ends. On standard output is the error, if any.

This module is run as a file, and imports nothing of pgetpy: starting it must be cheap.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

DONE, FAILED = 0, 1
# Another child of pgetpy, forked meanwhile, may hold standard input open although pgetpy is dead:
# so look at the parent's process ID from time to time as well. Seconds.
_LOOK_EVERY = 1.0
_RETRIES = 5


def main() -> None:
    """Carry out the order on standard input, as long as that stays open."""
    parent = os.getppid()
    work = json.loads(sys.stdin.buffer.readline())
    done, at_work = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(done)
        os._exit(_download(work))
    os.close(at_work)
    if not _wait(done, parent):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os._exit(DONE if status == 0 else FAILED)


def _wait(done: int, parent: int) -> bool:
    """Wait for the fork to end, which closes `done`; False if it is not wanted any more."""
    while True:
        ready, _, _ = select.select([0, done], [], [], _LOOK_EVERY)
        if done in ready:
            return True
        if ready or os.getppid() != parent:
            return False


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even by SIGKILL."""
    if sys.platform == "linux":
        import ctypes

        parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def _download(work: dict[str, Any]) -> int:
    """Have hf_transfer do `work`; return the exit status."""
    try:
        _die_with_parent()
        import hf_transfer

        hf_transfer.download(
            url=work["url"],
            filename=work["path"],
            max_files=work["files"],
            chunk_size=work["chunk"],
            parallel_failures=work["files"] - 1,
            max_retries=_RETRIES,
            headers=work["headers"],
        )
    except BaseException as error:  # a panic in Rust is not an Exception
        # The message ends with the URL, which may be signed: cut it off.
        words = str(error).partition(" for url")[0].partition("http")[0].strip()
        os.write(1, words.encode(errors="replace")[:200])
        return FAILED
    return DONE


if __name__ == "__main__":
    # Python searches the folder of the file first, and there pgetpy has an hf_transfer of its own.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    main()
