"""The process in which hf_transfer runs, for it can be ended by nothing but a kill.

It is run as a file; what to do is one line of JSON on standard input, where other users of the
machine do not see the signed URL. While hf_transfer is at work no other Python code runs in its
process: so this one forks, and looks whether whoever wants the bytes is still there. Its standard
input ends when that one closes it or dies, by whatever; then the fork is killed. On standard output
is what went wrong.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from typing import Any

DONE, FAILED = 0, 1
# A process that its parent has forked since may hold standard input open.
_LOOK_EVERY = 1.0
_RETRIES = 5


def main() -> None:
    """Do what standard input says, as long as it stays open."""
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
    """Wait for the fork to end, which closes `done`; False where nobody wants its work any more."""
    while True:
        ready, _, _ = select.select([0, done], [], [], _LOOK_EVERY)
        if done in ready:
            return True
        if ready or os.getppid() != parent:
            return False


def _die_with_parent() -> None:
    """Have the system kill this process when its parent, however killed, is no more."""
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
    except BaseException as error:  # a panic of Rust's is none of Exception
        # What it says ends with the URL.
        words = str(error).partition(" for url")[0].partition("http")[0].strip()
        os.write(1, words.encode(errors="replace")[:200])
        return FAILED
    return DONE


if __name__ == "__main__":
    # A file that is run has its folder searched first, where our own hf_transfer is.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != here]
    main()
