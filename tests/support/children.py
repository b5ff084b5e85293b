"""The command line as a child in odd circumstances, and what it has left when it was killed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgetpy.core.destinations.journal import parse_journal
from pgetpy.core.http.ranges import Spans
from tests.support.processes import THEN_COMMAND, Ended, Run, missing
from tests.support.server import Server

MIB = 1 << 20
PAGE = 4096
ENDLESS = 1 << 62
_PEAK = """
import atexit
def tell():
    with open("/proc/self/status") as status:
        print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr)
import sys
atexit.register(tell)
"""


def after(code: str) -> tuple[str, ...]:
    """The program that runs `code` and then is the command line."""
    return (sys.executable, "-c", code + THEN_COMMAND)


def telling_its_peak() -> tuple[str, ...]:
    """The program that is the command line and says at its end how much memory it took.

    Never forked: that would count what its parent has in memory.
    """
    return (sys.executable, "-c", f"{_PEAK}\nimport pgetpy.cli\nsys.exit(pgetpy.cli.main())")


def peak_of(said: str) -> int:
    """Bytes that a child which `telling_its_peak` started had in memory at most."""
    line = next(line for line in said.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def in_namespace(order: str) -> tuple[str, ...]:
    """The program that gives shell command `order` in a mount namespace of its own, and then is
    the command line; skips where there can be none."""
    if shutil.which("unshare") is None:
        missing("there is no unshare")
    shell = ["/bin/sh", "-ec", f'{order}\nexec "$@"', "sh"]
    return ("unshare", "--mount", *shell, sys.executable, "-m", "pgetpy")


def result_of(ended: Ended) -> dict[str, Any]:
    """What a run with --json that succeeded said of itself."""
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
    return found


def events_of(run: Run | Ended, kind: str) -> list[dict[str, Any]]:
    """The events of one kind that a run with --progress json has told so far."""
    lines = [line for line in run.err.splitlines() if line.startswith("{") and line.endswith("}")]
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def part_of(dest: Path) -> Path:
    """The part file of `dest`, of the name that every run gives it."""
    return dest.with_name(f".{dest.name}.pgetpy-part")


def journal_of(dest: Path) -> Path:
    return dest.with_name(f".{dest.name}.pgetpy-journal")


def landed(dest: Path, data: bytes) -> set[int]:
    """The pages of the part file of `dest` that hold what `data` has there."""
    there = part_of(dest).read_bytes() if part_of(dest).exists() else b""
    starts = range(0, len(there), PAGE)
    return {at // PAGE for at in starts if there[at : at + PAGE] == data[at : at + PAGE]}


def asked_since(server: Server, path: str, count: int) -> set[int]:
    """The pages that the requests for `path` behind the first `count` asked for."""
    spans = [span for span in server.asked(path)[count:] if span is not None]
    size = server.size(path)
    return {
        page
        for start, stop in spans
        for page in range(start // PAGE, -(-(size if stop is None else stop) // PAGE))
    }


def bytes_asked(server: Server, path: str) -> int:
    """How many bytes of `path` were asked for, each counted once.

    On a busy machine a connection may look stuck, and another fetches some of its bytes:
    `Server.sent` counts them twice.
    """
    asked = Spans()
    for span in server.asked(path):
        start, stop = span or (0, None)
        asked.add(start or 0, server.size(path) if stop is None else stop)
    return asked.size


def killed_when(run: Run, condition: Callable[[], object]) -> None:
    """kill -9 `run` as soon as `condition` holds."""
    run.wait_until(condition)
    run.kill()


def written(out: Path) -> Spans:
    """What the journal of a run to `out` vouches for so far."""
    for path in (journal_of(out), journal_of(out / "members")):
        if path.exists():
            return parse_journal(path.read_bytes()).written
    return Spans()


def last_line(ended: Ended) -> str:
    """The one line in which a run that failed says why."""
    assert "Traceback" not in ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("pgetpy: ")]
    assert len(lines) == 1, ended.err
    return lines[0]
