"""`pgetpy compile-cache run`: load, run a program, save what it has compiled.

    load --> program starts --> it is ready (--ready-url) --> save
                                or it has ended well ------> save, unless that was done

In a shell one would write `load; program & save`, which saves before anything is compiled.
Nothing is saved of a program that fails: what it left may be why.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Sequence

from pgetpy.cli.compile_cache_results import tell_result
from pgetpy.cli.invocation import INTERRUPTED, Invocation, status_of
from pgetpy.cli.terminal import Terminated, say
from pgetpy.compile_cache import CompileCache
from pgetpy.errors import UsageError
from pgetpy.errors.reasons import system_reason

_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
# The shell's status for a program that cannot be started.
_NOT_FOUND, _NOT_STARTED = 127, 126
# What a Cog server says in "status" while it cannot take a prediction yet, or never will.
_NOT_READY = ("STARTING", "SETUP_FAILED", "DEFUNCT", "UNKNOWN")


def run_program(invocation: Invocation, cache: CompileCache, command: Sequence[str]) -> int:
    """Run `command` between a load and a save; return its exit status.

    Raises:
        UsageError: no program is given.
    """
    if not command:
        raise UsageError("expected -- PROGRAM [ARGUMENT...], got nothing")
    as_json = invocation.options.json
    tell_result(cache.load(), done="loaded", as_json=as_json)
    try:
        program = subprocess.Popen(command, env=os.environ)  # noqa: S603  it is what was asked for
    except OSError as error:
        say(f"{command[0]} cannot be started: {system_reason(error)}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_STARTED
    saver = _Saver(cache, invocation.options.ready_url, as_json=as_json)
    told = 0
    try:
        program.wait()
    except KeyboardInterrupt:
        # The terminal has sent it to the program as well.
        told = INTERRUPTED
        program.wait()
    except Terminated as terminated:
        told = status_of(terminated)
        program.send_signal(signal.SIGTERM)
        program.wait()
    status = program.returncode
    saver.end(save=status == 0 or bool(told))
    return told or (128 - status if status < 0 else status)


class _Saver:
    """Saves once: when the program is ready, or when it has ended.

    What is compiled after the program was ready is left to the next start: a server compiles little
    then, and saving while it answers requests would take processor time from them.
    """

    def __init__(self, cache: CompileCache, ready_url: str, *, as_json: bool) -> None:
        self._cache = cache
        self._url = ready_url
        self._json = as_json
        self._over = threading.Event()
        self._saved = False
        self._thread = threading.Thread(target=self._wait_until_ready, daemon=True)
        if ready_url:
            self._thread.start()

    def end(self, *, save: bool) -> None:
        """The program has ended: save, if that has not been done."""
        self._over.set()
        if self._url:
            self._thread.join()
        if save and not self._saved:
            self._save()

    def _wait_until_ready(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            if is_ready(self._url):
                self._save()
                return

    def _save(self) -> None:
        self._saved = True
        tell_result(self._cache.save(), done="saved", as_json=self._json)


def is_ready(url: str) -> bool:
    """Whether the program answers `url` with a success, and does not say that it is still starting.

    A Cog server answers /health-check with 200 from the beginning, and says how far it is in JSON.
    """
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310  http only
            body = answer.read(65536)
    except (OSError, ValueError):
        return False
    try:
        status = json.loads(body)["status"]
    except (ValueError, TypeError, KeyError):
        return True
    return status not in _NOT_READY
