"""How much memory downloads take from stores that are fast enough to fill it: nginx serves them."""

from __future__ import annotations

import filecmp
import hashlib
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from tests.support import judges
from tests.support.authority import Authority
from tests.support.bodies import BLOCK, block, body
from tests.support.children import (
    MIB,
    peak_of,
    result_of,
    telling_its_peak,
)
from tests.support.judges import Judge
from tests.support.processes import environment, run

BODY = body(2 * MIB)
MB = 1_000_000
SIZE = 256 * MIB


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `model` of 256 MiB, in which each block stands in one place only."""
    folder = tmp_path_factory.mktemp("large")
    # The workers of a judge may be another user's.
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    with (folder / "model").open("wb") as file:
        for index in range(SIZE // BLOCK):
            file.write(index.to_bytes(8, "big") + block(index % 64)[8:])
    return folder


@lru_cache(maxsize=1)
def sha256_of(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            found.update(piece)
    return found.hexdigest()


@pytest.fixture(scope="module")
def slow_links(large: Path) -> Iterator[Judge]:
    """A store of which each connection gives little: many of them pay."""
    with judges.nginx(folder=large, extra="limit_rate 6m;") as judge:
        yield judge


@pytest.fixture(scope="module")
def slow_tls_links(large: Path, ca: Authority) -> Iterator[Judge]:
    with judges.nginx(ca, large, extra="limit_rate 6m;") as judge:
        yield judge


@pytest.mark.judge("nginx")
@pytest.mark.parametrize(
    "store", ["slow_links", pytest.param("slow_tls_links", marks=pytest.mark.soak)]
)
@pytest.mark.parametrize(
    "hashed", [pytest.param(False, marks=pytest.mark.soak), True], ids=["", "hashed"]
)
def test_64_connections_take_little_memory(
    store: str, hashed: bool, tmp_path: Path, large: Path, request: pytest.FixtureRequest
) -> None:
    judge: Judge = request.getfixturevalue(store)
    command = [judge.url("model"), tmp_path / "got", "-c", "64", "--json"]
    if judge.tls:
        command += ["--cacert", request.getfixturevalue("ca").pem]
    if hashed:
        command += ["--checksum", f"sha256:{sha256_of(large / 'model')}"]
    ended = run(*command, program=telling_its_peak(), within=50)
    result = result_of(ended)
    assert filecmp.cmp(tmp_path / "got", large / "model", shallow=False)
    assert peak_of(ended.err) < 96 * MB
    # Several of them, also where other processes leave little of the processors.
    assert result["connections"] > 4
    (tmp_path / "got").unlink()


@pytest.mark.judge("nginx")
@pytest.mark.parametrize(
    "store", ["slow_links", pytest.param("slow_tls_links", marks=pytest.mark.soak)]
)
def test_a_reader_that_is_slow_costs_little_memory(
    store: str, large: Path, request: pytest.FixtureRequest
) -> None:
    judge: Judge = request.getfixturevalue(store)
    command = [judge.url("model"), "-", "-c", "64"]
    if judge.tls:
        command += ["--cacert", str(request.getfixturevalue("ca").pem)]
    found = hashlib.sha256()
    with subprocess.Popen(
        [*telling_its_peak(), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Slower than all connections together, as it hashes what it reads.
        while piece := process.stdout.read1(64 * 1024):
            found.update(piece)
        assert process.wait(30) == 0
        said = process.stderr.read().decode()
    assert found.hexdigest() == sha256_of(large / "model")
    assert peak_of(said) < 128 * MB


@pytest.mark.judge("nginx")
def test_few_megabytes_are_enough_for_a_small_file(nginx: Judge, tmp_path: Path) -> None:
    url = nginx.put("small", BODY)
    ended = run(url, tmp_path / "got", program=telling_its_peak())
    assert ended.code == 0
    assert peak_of(ended.err) < 64 * MB
