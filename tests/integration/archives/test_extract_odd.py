"""Odd tars by every way in: what is odd is said, and what may have been cut off is refused."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pgetpy import tensors
from pgetpy.cli import main
from pgetpy.core.report.events import Remarked
from pgetpy.errors import ArchiveError, TransferError, TruncatedArchiveError
from tests.support.bodies import body
from tests.support.faults import Chunked, IgnoreRange, NoLength, ResetAt
from tests.support.fetching import Events, contents, extract, names_in
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.tars import END, block, file, octal, padded, pax
from tests.support.weights import opened, weights, zip_of

MIB = 1 << 20
BIG = body(3 * MIB + 17)
HEAD = file(b"small") + file(b"d/big", BIG)
FILES = {"small": b"data of it", "d/big": BIG}
LORA = file(b"lora.safetensors", weights())
ODD = {
    "no end marker": (HEAD, "no end marker"),
    "lone zero block": (HEAD + bytes(512) + file(b"late") + END, "single zero block"),
    "a time that is none": (pax((b"mtime", b"now")) + HEAD + END, "plain header's was used"),
    "two extended headers": (pax((b"path", b"x")) + pax((b"mtime", b"7")) + HEAD + END, "last one"),
}
SERVERS = {"ranges": (), "one answer": (IgnoreRange(),), "chunked": (Chunked(),)}


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("how", SERVERS)
@pytest.mark.parametrize("kind", ODD)
def test_odd_tars_are_extracted_with_a_remark(
    server: Server, tmp_path: Path, kind: str, how: str, compress: Callable[[bytes], bytes]
) -> None:
    archive, words = ODD[kind]
    packed = compress(archive)
    url = server.add("/odd.tar", Resource(packed, faults=SERVERS[how]))
    for checksum in (None, f"sha256:{hashlib.sha256(packed).hexdigest()}"):
        events = Events()
        out = tmp_path / ("checked" if checksum else "unchecked")
        extract(url, out, checksum=checksum, progress=events)
        assert contents(out) == FILES
        (remarked,) = events.of(Remarked)
        assert words in remarked.remark


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_without_length_and_end_marker_an_archive_may_have_been_cut_off(
    server: Server, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(HEAD)
    url = server.add("/odd.tar", Resource(packed, faults=[IgnoreRange(), NoLength()]))
    with pytest.raises(TruncatedArchiveError, match="end marker is missing"):
        extract(url, tmp_path / "out")
    assert names_in(tmp_path) == []
    # A digest of the whole tells as well.
    extract(url, tmp_path / "out", checksum=f"sha256:{hashlib.sha256(packed).hexdigest()}")
    assert contents(tmp_path / "out") == FILES


def test_a_tar_without_its_end_marker_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    url = server.add("/odd.tar", Resource(HEAD, etag='"1"', faults=[ResetAt(2 * MIB)]))
    with pytest.raises(TransferError):
        extract(url, tmp_path / "out", retries=0)
    server.change("/odd.tar", faults=[])
    assert extract(url, tmp_path / "out").resumed > MIB
    assert contents(tmp_path / "out") == FILES


@pytest.mark.parametrize("size", [len(HEAD) - 1, len(HEAD) - MIB, 1024 + 300])
@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
def test_what_is_cut_in_the_middle_of_a_member_is_refused(
    server: Server, tmp_path: Path, size: int, compress: Callable[[bytes], bytes]
) -> None:
    url = server.add("/odd.tar", Resource(compress(HEAD[:size])))
    with pytest.raises(TruncatedArchiveError):
        extract(url, tmp_path / "out")
    assert names_in(tmp_path) == []


def test_an_empty_object_is_no_archive(server: Server, tmp_path: Path) -> None:
    url = server.add("/odd.tar", Resource(b""))
    with pytest.raises(ArchiveError, match="it is empty"):
        extract(url, tmp_path / "out")


@pytest.mark.parametrize("kind", ODD)
def test_the_command_line_says_what_is_odd(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    archive, words = ODD[kind]
    url = server.add("/odd.tar", Resource(archive))
    assert main(["-x", url, str(tmp_path / "out")], environ={}) == 0
    assert words in capfd.readouterr().err
    assert contents(tmp_path / "out") == FILES


LORAS = {
    "no end marker": LORA,
    "lone zero block": LORA + bytes(512) + b"g" * 512,
    "a time that is none": pax((b"mtime", b"now")) + LORA + END,
    "two extended headers": pax((b"path", b"x")) + pax((b"mtime", b"7")) + LORA + END,
    "a size with zeros": pax((b"size", b"0" * 25 + b"%d" % len(weights())))
    + block(b"lora.safetensors", size=octal(0))
    + padded(weights())
    + END,
}


@pytest.mark.parametrize("kind", LORAS)
def test_the_cache_takes_odd_tars(server: Server, tmp_path: Path, kind: str) -> None:
    url = server.add("/odd.tar", Resource(LORAS[kind]))
    said: list[object] = []
    with opened(tmp_path / "cache", progress=said.append) as cache:
        assert cache.ensure(url).read_bytes() == weights()
        folder = cache.ensure(url, wanted="folder")
        assert contents(folder) == {"lora.safetensors": weights()}
        assert list(tensors.load(url, cache=cache, framework="numpy")) == ["weight"]
    remarked = [event for event in said if isinstance(event, Remarked)]
    assert len(remarked) == (0 if "zeros" in kind else 2)


def test_bytes_behind_a_zip_are_said(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the command line, and by the cache, with ranges and without."""
    url = server.add("/odd.zip", Resource(zip_of({"lora.safetensors": weights()}) + b"\r\n"))
    assert main(["-x", url, str(tmp_path / "out")], environ={}) == 0
    assert "2 bytes that do not belong to the zip follow its end" in capfd.readouterr().err
    assert contents(tmp_path / "out") == {"lora.safetensors": weights()}
    server.change("/odd.zip", faults=[IgnoreRange()])
    events = Events()
    with opened(tmp_path / "cache", progress=events) as cache:
        assert cache.ensure(url).read_bytes() == weights()
    assert any("follow its end" in event.remark for event in events.of(Remarked))
