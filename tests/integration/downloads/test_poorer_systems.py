"""Systems that lack what Linux has: the calls are taken away from a child, as macOS lacks them.

And file systems that lack what others have: splice refused at the first block, or half way.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy.core.destinations.journal import parse_journal
from pgetpy.engine.transports.pipes import PIPES
from tests.support.authority import Authority
from tests.support.bodies import body, digest
from tests.support.children import bytes_asked, journal_of, killed_when, part_of, result_of
from tests.support.delivery import Gate
from tests.support.faults import GateAfter, Pace
from tests.support.fetching import fetch, names_in
from tests.support.processes import Run, run
from tests.support.resources import Resource
from tests.support.server import Server

MIB = 1 << 20
BODY = body(8 * MIB + 11)
TOTAL = len(BODY)

# What macOS has not, taken from those who look for it; BOOT is what its sysctl says of the boot.
_TAKEN_AWAY = """
import ctypes, errno, fcntl, os, pathlib, subprocess, sys

for name in ("splice", "posix_fadvise", "fdatasync", "posix_fallocate", "pipe2",
             "sched_getaffinity", "memfd_create", "copy_file_range"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("F_SETPIPE_SZ", "F_GETPIPE_SZ"):
    if hasattr(fcntl, name):
        delattr(fcntl, name)

def control(fd, command, *rest, own=fcntl.fcntl):
    if command in (1031, 1032):
        raise OSError(errno.EINVAL, "no such command")
    return own(fd, command, *rest)
fcntl.fcntl = control

class Library:
    def __init__(self, *names, own=ctypes.CDLL, **options):
        self._own = own(*names, **options)
    def __getattr__(self, name):
        if name == "sync_file_range":
            raise AttributeError(name)
        return getattr(self._own, name)
ctypes.CDLL = Library

def opened(path, *rest, own=pathlib.Path.open, **options):
    if str(path).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    return own(path, *rest, **options)
pathlib.Path.open = opened
pathlib.Path.read_text = lambda path, encoding=None: opened(path, encoding=encoding).read()

def told(command, *rest, own=subprocess.run, **options):
    if command[0] != "/usr/sbin/sysctl":
        return own(command, *rest, **options)
    if not os.environ.get("BOOT"):
        raise FileNotFoundError(command[0])
    return subprocess.CompletedProcess(command, 0, os.environ["BOOT"] + "\\n", "")
subprocess.run = told

# Imported by the name that the standard library was made for.
import pgetpy.api, pgetpy.cli, pgetpy.cli.dispatch, aiohttp, aiofiles.os
sys.platform = "darwin"
sys.exit(pgetpy.cli.main())
"""
POORER = (sys.executable, "-c", _TAKEN_AWAY)


@pytest.fixture(params=["plain", "over TLS"])
def served(request: pytest.FixtureRequest) -> tuple[Server, tuple[str, ...]]:
    """A server, and what a client must be told to trust it."""
    if request.param == "plain":
        return request.getfixturevalue("server"), ()
    authority: Authority = request.getfixturevalue("ca")
    return request.getfixturevalue("tls_server"), ("--cacert", str(authority.pem))


@pytest.mark.parametrize("boot", ["", "b1"], ids=["boot unknown", "boot known"])
def test_a_download_works_without_what_linux_has(
    served: tuple[Server, tuple[str, ...]], tmp_path: Path, boot: str
) -> None:
    server, trust = served
    url = server.add("/x", Resource(BODY))
    dest = tmp_path / "x"
    checksum = f"sha256:{digest(BODY)}"
    ended = run(
        *(url, dest, *trust, "-c", "4", "-m", "1M", "--fsync", "--json", "--checksum", checksum),
        program=POORER,
        env={"BOOT": boot},
    )
    assert result_of(ended)["digest"] == checksum
    assert "Traceback" not in ended.err
    assert dest.read_bytes() == BODY
    assert names_in(tmp_path) == ["x"]


def test_standard_output_works_without_what_linux_has(server: Server) -> None:
    text = bytes(at % 94 + 33 for at in range(3 * MIB))
    url = server.add("/x", Resource(text))
    ended = run(url, "-", "-m", "1M", "--progress", "none", program=POORER)
    assert (ended.code, ended.out.encode()) == (0, text)


def killed_half_way(server: Server, dest: Path, boot: str) -> None:
    """kill -9 a poor run in the middle of /x."""
    gate = Gate()
    # Of each answer: a busy machine may leave everything to the first one.
    half = GateAfter(4 * MIB, gate)
    url = server.add("/x", Resource(BODY, faults=[half]))
    with Run(url, dest, "-c", "1", "-m", "100M", program=POORER, env={"BOOT": boot}) as running:
        killed_when(running, lambda: part_of(dest).exists() and _written(dest) >= 3 * MIB)
    gate.open()


def _written(dest: Path) -> int:
    return parse_journal(journal_of(dest).read_bytes()).written.size


def test_a_killed_run_is_gone_on_with_where_the_boot_is_known(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "x"
    killed_half_way(server, dest, "b1")
    server.requests.clear()
    written = _written(dest)
    ended = run(server.url("/x"), dest, "--json", program=POORER, env={"BOOT": "b1"})
    assert result_of(ended)["resumed"] == written
    assert dest.read_bytes() == BODY
    assert bytes_asked(server, "/x") <= TOTAL - written
    assert names_in(tmp_path) == ["x"]


@pytest.mark.parametrize(("before", "now"), [("b1", "b2"), ("b1", ""), ("", "")])
def test_nothing_is_believed_that_another_boot_may_have_lost(
    server: Server, tmp_path: Path, before: str, now: str
) -> None:
    dest = tmp_path / "x"
    killed_half_way(server, dest, before)
    # What a power cut leaves of pages that never reached the disk.
    part_of(dest).write_bytes(bytes(TOTAL))
    ended = run(server.url("/x"), dest, "--json", program=POORER, env={"BOOT": now})
    assert result_of(ended)["resumed"] == 0
    assert dest.read_bytes() == BODY


def test_a_rich_system_goes_on_with_what_a_poor_one_left(server: Server, tmp_path: Path) -> None:
    """Only as far as it is flushed: the two do not know each other's boots."""
    dest = tmp_path / "x"
    killed_half_way(server, dest, "b1")
    assert result_of(run(server.url("/x"), dest, "--json"))["resumed"] == 0
    assert dest.read_bytes() == BODY


# --------------------------------------------------------------------------------- splice refused


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """os.splice into a file fails as file systems let it; the list says after how many, and how."""
    if not hasattr(os, "splice"):
        pytest.skip("this system has no splice")
    rule = [0, errno.EINVAL]
    own = os.splice
    into_files = 0

    def splice(source: int, target: int, count: int, **options: int) -> int:
        nonlocal into_files
        if "offset_dst" in options:
            into_files += 1
            if into_files > rule[0]:
                raise OSError(rule[1], os.strerror(rule[1]))
            # Less than all of it: what is left in the pipe has to be brought to the file as well.
            count = max(1, count // 2)
        return own(source, target, count, **options)

    monkeypatch.setattr(os, "splice", splice)
    monkeypatch.setattr(PIPES, "usable", True)
    yield rule
    assert into_files > rule[0], "splice was never refused"
    assert PIPES.usable is False, "a call that is refused is not made for ever"


@pytest.mark.parametrize(
    ("after", "number"),
    [(0, errno.EINVAL), (1, errno.EINVAL), (5, errno.EINVAL), (2, errno.ENOSYS),
     (3, errno.EOPNOTSUPP)],
)  # fmt: skip
def test_where_splice_is_refused_half_way_the_rest_is_received(
    server: Server, tmp_path: Path, refusing: list[int], after: int, number: int
) -> None:
    refusing[:] = [after, number]
    url = server.add("/x", Resource(BODY))
    result = fetch(url, tmp_path / "x", concurrency=1, checksum=f"sha256:{digest(BODY)}")
    assert (tmp_path / "x").read_bytes() == BODY
    assert result.retries == 0
    assert server.sent("/x") == TOTAL, "a byte was fetched twice"


def test_where_splice_is_refused_to_several_at_one_time_no_byte_is_lost(
    server: Server, tmp_path: Path, refusing: list[int]
) -> None:
    refusing[:] = [7, errno.EINVAL]
    url = server.add("/x", Resource(BODY, faults=[Pace(20 * MIB)]))
    fetch(url, tmp_path / "x", chunk_size=MIB, checksum=f"sha256:{digest(BODY)}")
    assert (tmp_path / "x").read_bytes() == BODY


def test_where_splice_from_the_socket_is_refused_it_is_received(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "splice"):
        pytest.skip("this system has no splice")

    def splice(*_: int, **__: int) -> int:
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(os, "splice", splice)
    monkeypatch.setattr(PIPES, "usable", True)
    fetch(server.add("/x", Resource(BODY)), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BODY


def test_where_no_pipe_can_be_had_the_bytes_are_received(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe() -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    PIPES.forget()
    monkeypatch.setattr(os, "pipe", pipe)
    fetch(server.add("/x", Resource(BODY)), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == BODY
