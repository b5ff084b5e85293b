"""data: URIs bear their weights themselves, and files of this machine go where any URL goes."""

from __future__ import annotations

import base64
import os
import pickle
from pathlib import Path
from urllib.parse import quote

import pytest

import pgetpy
from pgetpy import WeightsDownloadCache
from pgetpy.cache.checking import Verdict
from pgetpy.cli import main
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.local_urls import parse_data
from pgetpy.core.references.reference import Wanted
from pgetpy.core.report.events import Event, Progressed
from pgetpy.errors import (
    ArchiveError,
    BadReferenceError,
    DestinationError,
    DigestMismatchError,
    NotWeightsError,
    PgetError,
    UnsafeMemberError,
)
from pgetpy.errors.redact import redact, redact_text
from pgetpy.settings import Settings, SourceSettings
from pgetpy.sources.data import DataSettings
from pgetpy.sources.table import parse_reference
from tests.support.entries import sha256
from tests.support.faults import Redirect
from tests.support.fetching import contents, extract, fetch
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import (
    MIB,
    assert_nothing_left,
    flip,
    only_record,
    opened,
    tar_of,
    weights,
    zip_of,
)

LORA = weights()
MEMBERS = {"out/lora.safetensors": LORA, "out/config.yaml": b"a: 1\n"}
TAR = tar_of(MEMBERS)


def uri(data: bytes, kind: str = "application/x-tar") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture
def cache(root: Path) -> WeightsDownloadCache:
    return opened(root)


# ------------------------------------------------------------------- reading (RFC 2397)


@pytest.mark.parametrize(
    ("text", "kind", "content"),
    [
        ("data:,A%20brief%20note", "", b"A brief note"),
        ("data:text/plain;charset=x,%be%fa%be", "text/plain;charset=x", b"\xbe\xfa\xbe"),
        ("data:;base64,AAEC", "", b"\0\1\2"),
        ("DATA:application/x-tar;BASE64,AAEC", "application/x-tar", b"\0\1\2"),
        ("data:a/b; base64,AAEC", "a/b", b"\0\1\2"),
        ("data:a/b;base64,AA%3D%3D", "a/b", b"\0"),
        ("data:a/b;base64,AA", "a/b", b"\0"),
        ("data:a/b;base64,AA\nEC\r\n", "a/b", b"\0\1\2"),
        ("data:,", "", b""),
        ("data:,a,b", "", b"a,b"),
        ("data:,a#b", "", b"a"),
        ("data:a/base64,AAEC", "a/base64", b"AAEC"),
    ],
)  # fmt: skip
def test_a_data_uri_bears_its_bytes(text: str, kind: str, content: bytes) -> None:
    data = parse_data(text)
    assert (data.media_type, data.content) == (kind, content)


@pytest.mark.parametrize(
    "text",
    ["data:", "data:x", "data:a/b;base64", "data:;base64,A", "data:;base64,AA=A",
     "data:;base64,AA*=", "data:;base64,AAEC====,", "data:a\x00b,x",
     "data:;base64,\u00e9\u00e9", "data:,\ud800",
     "data:a/b;base64,... (12 bytes)"],
)  # fmt: skip
def test_what_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(BadReferenceError):
        parse_reference(text)


def test_too_large_is_refused_before_it_is_decoded() -> None:
    for text in (uri(bytes(1000)), "data:," + "a" * 1000, "data:," + "%61" * 1000):
        assert parse_reference(text, "auto", SourceSettings((DataSettings(max_size=1000),))).local
        with pytest.raises(BadReferenceError, match="PGET_MAX_DATA_SIZE"):
            parse_reference(text, "auto", SourceSettings((DataSettings(max_size=999),)))
    read = Settings.from_environment({"PGET_MAX_DATA_SIZE": "2MiB"}).sources
    assert read.of(DataSettings).max_size == 2 * MIB
    with pytest.raises(BadReferenceError):
        parse_reference(uri(bytes(65 * MIB)))


@pytest.mark.parametrize("data", [TAR, zip_of(MEMBERS), tar_of(MEMBERS, "w:gz"), LORA, b"x"])
def test_the_bytes_tell_what_is_wanted(data: bytes) -> None:
    found = parse_reference(uri(data, "application/octet-stream"))
    archive = data not in (LORA, b"x")
    assert (found.source, found.local) == ("data", True)
    assert found.wanted is (Wanted.WEIGHTS if archive else Wanted.FILE)


def test_equal_bytes_are_one_object_however_they_are_written() -> None:
    keys = {parse_reference(text).key for text in ("data:,abc", "data:a/b,%61bc", uri(b"abc"))}
    assert len(keys) == 1
    others = {parse_reference(uri(TAR), wanted).key for wanted in ("file", "weights", "folder")}
    assert len(others | keys | {parse_reference("data:,abd").key}) == 5
    assert parse_reference(uri(LORA), "weights").key == parse_reference(uri(LORA)).key


# ------------------------------------------------------------------- what is shown


def test_what_is_shown_is_short_and_says_how_many_bytes() -> None:
    for count in range(8):
        for text in (
            uri(bytes(count)),
            uri(bytes(count)).rstrip("="),
            "data:," + quote(bytes(count)),
        ):
            assert redact(text).endswith(f",... ({count} bytes)")
    shown = redact(uri(TAR))
    assert shown == f"data:application/x-tar;base64,... ({len(TAR)} bytes)"
    assert (redact(shown), redact_text(f"see {shown}!")) == (shown, f"see {shown}!")
    assert redact_text(f"cannot use {uri(TAR)!r}: why") == f"cannot use {shown!r}: why"
    for odd in ("data:" + "x" * MIB, "data:" + "x" * MIB + ",y", "data:%" + "\ud800" * 99 + ",%00"):
        assert len(redact(odd)) < 400
        with pytest.raises(BadReferenceError) as caught:
            parse_reference(odd)
        assert len(str(caught.value)) + len(pickle.dumps(caught.value)) < 2000


def test_nothing_prints_the_bytes(
    cache: WeightsDownloadCache, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "c2VjcmV0" * 20
    good = uri(LORA)
    bad, broken = f"data:;base64,{secret}", f"data:;base64,{secret}*"
    environ = {"PGET_CACHE_DIR": str(root), "PGET_MIN_DISK_FREE": "0"}
    for argv in (
        ["ensure", good], ["ensure", bad, "--json"], ["ensure", broken], ["cache", bad],
        ["cache", "ls"], ["cache", "ls", "--json"], ["cache", "verify"], ["cache", "path", good],
        ["cache", "path", bad], ["cache", "pin", bad], ["cache", "rm", bad],
        ["cache", "rm", broken],
        [bad, str(tmp_path / "x"), "--json", "--progress", "json"], [bad, str(tmp_path)],
        [bad, str(tmp_path / "y"), "--checksum", "md5:" + "0" * 32], [broken, str(tmp_path / "z")],
        ["multifile", bad], ["-x", bad, str(tmp_path / "out")], ["--cacert", bad, "a", "b"],
    ):  # fmt: skip
        main(argv, environ=environ)
    said = capfd.readouterr()
    assert secret[:40] not in said.out + said.err
    assert good[:80] not in said.out + said.err
    shown = redact(good)
    assert f"{shown}" in said.out
    assert all(len(line) < 2000 for line in (said.out + said.err).splitlines())
    assert secret[:40].encode() not in b"".join(
        path.read_bytes() for path in (root / "entries").rglob("*") if path.is_file()
    )


# ------------------------------------------------------------------- the cache


@pytest.mark.parametrize("data", [LORA, TAR, zip_of(MEMBERS), tar_of(MEMBERS, "w:gz")])
def test_weights_come_out_of_a_data_uri(
    cache: WeightsDownloadCache, root: Path, data: bytes
) -> None:
    text = uri(data)
    path = cache.ensure(text)
    assert (path.read_bytes(), path.suffix) == (LORA, ".safetensors")
    assert cache.ensure(text.replace("x-tar", "octet-stream")) == path
    assert cache.lookup(text) == path
    # What an archive hashed to was not noted, for nobody asked: it is unpacked anew.
    path = cache.ensure(text, digest=sha256(data))
    assert path.read_bytes() == LORA
    assert only_record(cache).about.reference == redact(text)
    with pytest.raises(DigestMismatchError):
        cache.ensure(text, digest="0" * 64)
    assert cache.ensure(text) == path
    cache.close()
    assert_nothing_left(root)


def test_all_of_an_archive_is_had_as_a_folder(cache: WeightsDownloadCache) -> None:
    assert contents(cache.ensure(uri(TAR), wanted="folder")) == MEMBERS
    assert cache.ensure(uri(TAR), wanted="file").read_bytes() == TAR
    with pytest.raises(ArchiveError):
        cache.ensure(uri(LORA), wanted="folder")


def test_what_is_no_weights_is_refused(cache: WeightsDownloadCache, root: Path) -> None:
    for data in (b"<html>", b'{"error": 1}', LORA[:-1], b"", pickle.dumps({1: 2})):
        with pytest.raises(NotWeightsError):
            cache.ensure(uri(data))
    for data in (tar_of({"a.txt": b"x"}), tar_of({"a.safetensors": LORA, "b.safetensors": LORA})):
        with pytest.raises(ArchiveError):
            cache.ensure(uri(data))
    with pytest.raises(UnsafeMemberError):
        cache.ensure(uri(tar_of({"../../evil.safetensors": LORA})))
    assert cache.entries() == []
    cache.close()
    assert_nothing_left(root)


def test_a_damaged_entry_is_repaired_only_by_who_brings_the_bytes_again(
    cache: WeightsDownloadCache, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = cache.ensure(uri(LORA))
    cache.settle()
    flip(path)
    environ = {"PGET_CACHE_DIR": str(root), "PGET_MIN_DISK_FREE": "0"}
    assert main(["cache", "verify"], environ=environ) == 1
    said = capfd.readouterr().out
    assert "not repaired" in said
    assert "does not keep the bytes of data: URIs" in said
    assert cache.verify(uri(LORA)) in (Verdict.DAMAGED, Verdict.MISSING)
    assert cache.ensure(uri(LORA)).read_bytes() == LORA
    assert main(["cache", "verify", uri(LORA)], environ=environ) == 0


# ------------------------------------------------------------------- to a destination


def test_a_file_of_this_machine_is_downloaded_like_any_other(tmp_path: Path) -> None:
    source = tmp_path / "a b ü.bin"
    source.write_bytes(weights(3 * MIB))
    events: list[Event] = []
    whole = sha256(source.read_bytes())
    result = fetch(source.as_uri(), tmp_path / "got", checksum=whole, progress=events.append)
    assert (tmp_path / "got").read_bytes() == source.read_bytes()
    assert (result.size, result.digest, result.validator) == (
        source.stat().st_size,
        whole,
        "strong",
    )
    assert {type(event).__name__ for event in events} >= {"Started", "Progressed", "Finished"}
    fetch(source.as_uri(), f"{tmp_path}/into/")
    assert contents(tmp_path / "into") == {"a b ü.bin": source.read_bytes()}
    with pytest.raises(DestinationError, match="already exists"):
        fetch(source.as_uri(), tmp_path / "got")
    with pytest.raises(DigestMismatchError):
        fetch(source.as_uri(), tmp_path / "got", force=True, checksum="md5:" + "0" * 32)
    assert (tmp_path / "got").read_bytes() == source.read_bytes()


class _StopError(Exception):
    """What a test's progress raises."""


def test_a_copy_of_a_file_that_was_cut_off_goes_on_if_the_file_is_the_same(tmp_path: Path) -> None:
    source, dest = tmp_path / "source", tmp_path / "got"
    source.write_bytes(weights(12 * MIB))

    def stop(event: Event) -> None:
        if isinstance(event, Progressed) and event.done > 3 * MIB:
            raise _StopError

    for change in (False, True):
        with pytest.raises(_StopError):
            fetch(source.as_uri(), dest, progress=stop, limit_rate=20 * MIB)
        if change:
            source.write_bytes(weights(12 * MIB, "new"))
        result = fetch(source.as_uri(), dest)
        assert dest.read_bytes() == source.read_bytes()
        assert (result.resumed > 0) != change
        dest.unlink()


def test_a_file_that_changes_while_it_is_read_is_read_anew(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(weights(12 * MIB))
    changed: list[bool] = []

    def change(event: Event) -> None:
        if isinstance(event, Progressed) and event.done > 3 * MIB and not changed:
            changed.append(True)
            with source.open("r+b") as file:  # never shorter than it was
                file.write(weights(12 * MIB, "new"))

    fetch(source.as_uri(), tmp_path / "got", progress=change, limit_rate=30 * MIB)
    assert changed
    assert (tmp_path / "got").read_bytes() == weights(12 * MIB, "new")


def test_a_file_that_changes_in_its_last_range_is_read_anew(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(weights(1000))
    versions: list[object] = []

    def change(identity: object) -> None:
        versions.append(identity)
        if len(versions) == 1:
            with source.open("r+b") as file:
                file.write(weights(1000, "new"))

    job = Job(source.as_uri(), str(tmp_path / "got"), admit=change)
    events: list[Event] = []
    pgetpy.download_many([job], fail_fast=True, progress=events.append)
    assert (tmp_path / "got").read_bytes() == weights(1000, "new")
    assert len(set(versions)) == 2
    assert "StartedOver" in {type(event).__name__ for event in events}


def test_an_empty_file_and_one_that_is_no_utf_8_can_be_had(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    fetch((tmp_path / "empty").as_uri(), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b""
    raw = os.fsencode(tmp_path) + b"/\xff\xfe"
    with open(raw, "wb") as file:
        file.write(b"hello")
    fetch("file://" + quote(raw), tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == b"hello"


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "none", tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(BadReferenceError):
            fetch(path.as_uri(), tmp_path / "got")
    with pytest.raises(BadReferenceError):
        fetch("file:///a%00b", tmp_path / "got")
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(PgetError, match="max-size"):
        fetch((tmp_path / "large").as_uri(), tmp_path / "got", max_size=99)
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize("place", ["file", "data"])
def test_an_archive_of_this_machine_is_extracted(tmp_path: Path, place: str) -> None:
    for name, data in {
        "x.tar": TAR,
        "x.zip": zip_of(MEMBERS),
        "x.tgz": tar_of(MEMBERS, "w:gz"),
    }.items():
        source = tmp_path / name
        source.write_bytes(data)
        url = source.as_uri() if place == "file" else uri(data)
        folder = tmp_path / f"out-{name}"
        result = extract(url, folder, checksum=sha256(data))
        assert contents(folder) == MEMBERS
        assert len(result.members) == 2


def test_a_data_uri_goes_to_a_file_or_a_folder(tmp_path: Path) -> None:
    result = fetch(uri(LORA), tmp_path / "x", checksum=sha256(LORA))
    assert (tmp_path / "x").read_bytes() == LORA
    assert result.url == result.final_url == redact(uri(LORA))
    fetch(uri(LORA), f"{tmp_path}/into/")
    fetch(uri(TAR), f"{tmp_path}/into/")
    assert contents(tmp_path / "into") == {"data.safetensors": LORA, "data.tar": TAR}
    large = weights(3 * MIB)
    (result,) = pgetpy.download_many([(uri(large), tmp_path / "large")])
    assert (tmp_path / "large").read_bytes() == large


def test_no_redirect_leads_to_a_file_of_this_machine(server: Server, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    for target in ((tmp_path / "secret").as_uri(), "data:,secret", "file://localhost/etc/passwd"):
        url = server.add("/x", Resource(faults=[Redirect(target)]))
        with pytest.raises(PgetError):
            fetch(url, tmp_path / "got")
    with pytest.raises(PgetError):
        fetch(server.url("/none"), tmp_path / "got", mirrors=[(tmp_path / "secret").as_uri()])
    assert not (tmp_path / "got").exists()
