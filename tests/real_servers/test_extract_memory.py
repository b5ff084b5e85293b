"""How much memory extractions take, of large archives and of many small members."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from tests.integration.archives.test_extract_faults import file, packed, serve, tree_of
from tests.support.bodies import body, digest
from tests.support.children import (
    MIB,
    peak_of,
    telling_its_peak,
)
from tests.support.faults import IgnoreRange
from tests.support.judges import Judge
from tests.support.processes import run
from tests.support.server import Server
from tests.support.trees import plain_tree as tree

MB = 1_000_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A served folder with a tar of 200 MB, and the same compressed."""
    folder = tmp_path_factory.mktemp("large")
    folder.chmod(0o755)
    piece = body(20 * MB)
    with tarfile.open(folder / "large.tar", "w") as archive:
        for n in range(10):
            member = tarfile.TarInfo(f"large/{n}")
            member.size = len(piece)
            archive.addfile(member, io.BytesIO(piece))
    with (folder / "large.tar").open("rb") as plain, (folder / "large.tar.zst").open("wb") as to:
        zstandard.ZstdCompressor(level=1).copy_stream(plain, to)
    for path in folder.iterdir():
        path.chmod(0o644)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.judge("nginx")
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("large.tar", "hashed"),
        ("large.tar.zst", "TLS"),
        pytest.param("large.tar", "plain", marks=pytest.mark.soak),
        pytest.param("large.tar", "TLS", marks=pytest.mark.soak),
        pytest.param("large.tar.zst", "plain", marks=pytest.mark.soak),
        pytest.param("large.tar.zst", "hashed", marks=pytest.mark.soak),
    ],
)
def test_a_large_archive_takes_little_memory(
    name: str, way: str, large: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    judge: Judge = request.getfixturevalue("tls_nginx" if way == "TLS" else "nginx")
    os.link(large / name, judge.folder / name) if not (judge.folder / name).exists() else None
    command: list[str | Path] = ["-x", judge.url(name), tmp_path / "out", "-c", "64"]
    if way == "TLS":
        command += ["--cacert", request.getfixturevalue("ca").pem]
    if way == "hashed":
        command += ["--checksum", f"sha256:{digest((large / name).read_bytes())}"]
    try:
        ended = run(*command, program=telling_its_peak(), within=50)
        assert ended.code == 0, ended.err
        assert all(
            (tmp_path / "out" / "large" / str(n)).read_bytes() == body(20 * MB) for n in range(10)
        )
    finally:
        (judge.folder / name).unlink()
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert peak_of(ended.err) < 96 * MB


@pytest.mark.judge("nginx")
@pytest.mark.parametrize("count", [4_000, pytest.param(20_000, marks=pytest.mark.soak)])
def test_many_small_members_take_little_memory_and_few_descriptors(
    tmp_path: Path, nginx: Judge, count: int
) -> None:
    members = [file(f"{n % 100}/{n}", b"%0100d" % n) for n in range(count)]
    url = nginx.put("many.tar", packed(members))
    out = tmp_path / "out"
    ended = run("-x", url, out, program=telling_its_peak(), descriptors=64)
    assert ended.code == 0, ended.err
    assert peak_of(ended.err) < 96 * MB
    for n in range(0, count, 97):
        assert (out / str(n % 100) / str(n)).read_bytes() == b"%0100d" % n
    assert sum(len(os.listdir(folder)) for folder in out.iterdir()) == count


@pytest.mark.judge("nginx")
@pytest.mark.parametrize("compress", [bytes, zstandard.compress], ids=["tar", "tar.zst"])
def test_an_archive_larger_than_the_window_needs_no_ranges(
    large: Path, server: Server, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    members = [file(str(n), body(15 * MIB, str(n % 3))) for n in range(4)]
    url = serve(server, IgnoreRange(), data=compress(packed(members)))
    ended = run("-x", url, tmp_path / "out", program=telling_its_peak())
    assert ended.code == 0, ended.err
    assert tree(tmp_path / "out") == tree_of(members)
    assert peak_of(ended.err) < 96 * MB
