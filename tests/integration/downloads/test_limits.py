"""Poor machines: few descriptors, small pipes, little memory."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.bodies import body, digest
from tests.support.children import (
    MIB,
    PAGE,
    events_of,
    in_namespace,
    landed,
    part_of,
    result_of,
)
from tests.support.delivery import Gate
from tests.support.faults import Dam, Fault, GateAfter, Pace, When
from tests.support.fetching import names_in
from tests.support.processes import Run, folder_of_nobody, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import weights

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(12 * MIB)
MB = 1_000_000
SIZE = 256 * MIB


def serve(server: Server, *faults: Fault, data: bytes = BODY, path: str = "/model") -> str:
    return server.add(path, Resource(data, faults=faults))


# ------------------------------------------------------------------- descriptors and pipes


@pytest.mark.parametrize(
    ("way", "descriptors"),
    [("plain", 40), ("plain", 64), ("plain", 128), ("TLS", 40), ("hashed", 64), ("proxy", 40)],
)
def test_few_descriptors_are_enough(
    way: str, descriptors: int, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue("tls_server" if way == "TLS" else "server")
    env = {"http_proxy": request.getfixturevalue("proxy").url()} if way == "proxy" else {}
    # Where there are descriptors for many connections each of them is slow.
    pace = Pace(2 * MIB if descriptors > 100 and way != "proxy" else 16 * MIB)
    command: list[str | Path] = [serve(server, pace), "-c", "64", "-m", "400k", "--json"]
    if way == "hashed":
        command += ["--checksum", f"sha256:{digest(BODY)}"]
    with folder_of_nobody() as folder:
        if way == "TLS":
            shutil.copy(request.getfixturevalue("ca").pem, folder)
            command += ["--cacert", folder / "ca.pem"]
        dest = folder / "got"
        ended = run(*command, dest, unprivileged=True, descriptors=descriptors, env=env)
        result = result_of(ended)
        assert dest.read_bytes() == BODY
        assert "got" in names_in(folder)
        assert part_of(dest).name not in names_in(folder)
    # Nothing failed for want of a descriptor and was tried again.
    assert result["retries"] == 0
    # Where there are descriptors they are used.
    assert pace.rate > 2 * MIB or result["connections"] > 1


def test_few_descriptors_are_enough_for_many_files(server: Server) -> None:
    urls = [serve(server, data=BODY[: 1000 + n], path=f"/{n}") for n in range(150)]
    with folder_of_nobody() as folder:
        lines = [f"{url} {folder}/{n}\n" for n, url in enumerate(urls)]
        (folder / "manifest").write_text("".join(lines))
        options = ("--max-concurrent-files", "100", "--json")
        ended = run("multifile", folder / "manifest", *options, unprivileged=True, descriptors=48)
        assert ended.code == 0, ended.err
        for n in range(150):
            assert (folder / str(n)).read_bytes() == BODY[: 1000 + n]


def test_few_descriptors_are_enough_for_many_entries_of_a_cache(
    server: Server, tmp_path: Path
) -> None:
    urls = [
        serve(server, Pace(8 * MIB), data=weights(MIB, n), path=f"/{n}.safetensors")
        for n in range(20)
    ]
    ended = run("ensure", *urls, "--cache-dir", tmp_path, "--min-disk-free", "0", descriptors=48)
    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 20
    # Nothing failed for want of a descriptor and was tried again.
    assert "again" not in ended.err


@contextmanager
def pipes_used_up() -> Iterator[None]:
    """Have the unprivileged user hold so many large pipes that new ones are small."""
    hold = """
import fcntl, os, sys
held = []
try:
    while len(held) < 2000:
        held.append(os.pipe())
        if fcntl.fcntl(held[-1][1], 1031, 1 << 20) < 1 << 20:
            break
except OSError:
    pass
print(len(held), flush=True)
sys.stdin.read()
sys.stdout.flush()
import time
time.sleep(60)
"""
    with Run(program=(sys.executable, "-c", hold), unprivileged=True, descriptors=4096) as running:
        running.wait_until(lambda: bool(running.out))
        if int(running.out) >= 2000:
            pytest.skip("here the pipes of a user have no quota")
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pipes have no quota")
def test_a_quota_of_pipes_that_is_used_up_leaves_it_working(server: Server) -> None:
    url = serve(server, Pace(2 * MIB))
    with pipes_used_up(), folder_of_nobody() as folder:
        dest = folder / "got"
        ended = run(url, dest, "-c", "64", "-m", "400k", "--json", unprivileged=True)
        assert result_of(ended)["retries"] == 0
        assert dest.read_bytes() == BODY


# ------------------------------------------------------------------- the page cache


def resident(path: Path) -> int:
    """Bytes of the file at `path` that are in the page cache (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    size = path.stat().st_size
    fd = os.open(path, os.O_RDONLY)
    at = libc.mmap(None, size, 1, 1, fd, 0)
    pages = (ctypes.c_ubyte * (-(-size // PAGE)))()
    assert libc.mincore(at, size, ctypes.addressof(pages)) == 0
    libc.munmap(at, size)
    os.close(fd)
    return sum(page & 1 for page in pages) * PAGE


def in_a_group_of(limit: int) -> tuple[str, ...]:
    """The command line where the control groups say that it may have so many bytes of memory.

    The limit is only told, for whoever runs the tests may not make control groups.
    """
    return in_namespace(
        "mount -t tmpfs tmpfs /sys/fs/cgroup; mkdir /sys/fs/cgroup/memory;"
        f"echo {limit} > /sys/fs/cgroup/memory.max;"
        f"echo {limit} > /sys/fs/cgroup/memory/memory.limit_in_bytes"
    )


def drops_pages(folder: Path) -> bool:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True
    )
    return kind.stdout.strip() not in ("tmpfs", "ramfs")


@pytest.mark.skipif(sys.platform != "linux", reason="it is played by a mount namespace")
@pytest.mark.parametrize("hashed", [False, True], ids=["", "hashed"])
def test_where_memory_is_short_written_pages_are_dropped(
    hashed: bool, server: Server, tmp_path: Path
) -> None:
    if not drops_pages(tmp_path):
        pytest.skip("this file system lives in memory")
    data = body(64 * MIB)
    gate = Gate()
    last = When(covers=len(data) - 1)
    dest = tmp_path / "got"
    command = [serve(server, GateAfter(100_000, gate, when=last), data=data), dest]
    command += ["-c", "4", "-m", "4M", "--progress", "json"]
    if hashed:
        command += ["--checksum", f"sha256:{digest(data)}"]
    most = len(data) - 5 * MIB
    with Run(*command, program=in_a_group_of(48 * MIB)) as running:
        running.wait_until(lambda: any(e["done"] > most for e in events_of(running, "progressed")))
        # Looking at it brings no page back.
        assert resident(part_of(dest)) < 48 * MIB
        gate.open()
        assert running.wait().code == 0, running.err
    assert resident(dest) < 16 * MIB
    assert dest.read_bytes() == data


@pytest.mark.skipif(sys.platform != "linux", reason="it is played by a mount namespace")
def test_where_there_is_memory_pages_stay_for_whoever_reads_the_file_next(
    server: Server, tmp_path: Path
) -> None:
    if not drops_pages(tmp_path):
        pytest.skip("this file system lives in memory")
    data = body(16 * MIB)
    ended = run(serve(server, data=data), tmp_path / "got", program=in_a_group_of(1 << 40))
    assert ended.code == 0, ended.err
    assert resident(tmp_path / "got") == len(data)


@pytest.mark.skipif(sys.platform != "linux", reason="it is played by a mount namespace")
def test_where_memory_is_short_a_killed_run_goes_on_all_the_same(
    server: Server, tmp_path: Path
) -> None:
    dest = tmp_path / "got"
    url = serve(server, Pace(8 * MIB), Dam(len(BODY) - 100_000))
    with Run(url, dest, "-c", "2", program=in_a_group_of(4 * MIB)) as running:
        running.wait_until(lambda: len(landed(dest, BODY)) * PAGE > 6 * MIB)
        running.kill()
    ended = run(serve(server), dest, "--json", program=in_a_group_of(4 * MIB))
    assert result_of(ended)["resumed"] > 3 * MIB
    assert dest.read_bytes() == BODY
