"""A digest is of what arrived: what was changed before it was computed is never blessed by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.cache.checking import Verdict
from pgetpy.cli import main
from pgetpy.errors import PgetError
from pgetpy.weights.background_hash import BackgroundHasher
from tests.support.entries import sha256
from tests.support.faults import Status
from tests.support.processes import environment
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import MIB, flip, only_record, opened, rewrite, serve, weights

LARGE = weights(6 * MIB)


def pending(cache: WeightsDownloadCache, url: str, **options: str) -> Path:
    """Ensure `url` in a process that dies before it comes to the digest."""
    path = cache.ensure(url, **options)
    assert cache.settle(30)
    rewrite(cache, digest="")
    return path


def test_what_is_small_has_its_digest_when_it_appears(
    server: Server, cache: WeightsDownloadCache
) -> None:
    path = cache.ensure(serve(server))
    flip(path)
    assert only_record(cache).digest == sha256(weights())
    assert cache.verify(server.url("/lora.safetensors"), repair=False) is Verdict.DAMAGED


def test_what_was_changed_before_its_digest_was_known_is_not_blessed(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, LARGE)
    flip(cache.ensure(url))
    # The background may have been faster, then it knows better.
    assert cache.settle(30)
    assert only_record(cache).digest in ("", sha256(LARGE))
    assert cache.verify(url) in (Verdict.DAMAGED, Verdict.UNKNOWN)
    assert cache.ensure(url).read_bytes() == LARGE
    assert cache.settle(30)
    assert cache.verify(url) is Verdict.SOUND


@pytest.mark.parametrize("changed", [True, False])
def test_what_has_no_digest_is_unknown_and_fetched_anew(
    server: Server, cache: WeightsDownloadCache, changed: bool
) -> None:
    url = serve(server, LARGE)
    path = pending(cache, url)
    if changed:
        flip(path)
    asked = len(server.requests)
    assert cache.verify(url, repair=False) is Verdict.UNKNOWN
    assert cache.verify_all() == {only_record(cache).key: Verdict.UNKNOWN}
    assert len(server.requests) == asked
    assert cache.verify(url) is Verdict.UNKNOWN
    assert len(server.requests) > asked
    assert cache.ensure(url).read_bytes() == LARGE
    assert cache.settle(30)
    assert cache.verify(url) is Verdict.SOUND


def test_what_cannot_be_fetched_anew_stays_unknown(server: Server, root: Path) -> None:
    url = serve(server, LARGE)
    with opened(root, retries=0) as cache:
        path = pending(cache, url)
        flip(path)
        server.stop()
        with pytest.raises(PgetError):
            cache.verify(url)
        assert cache.verify(url, repair=False) is Verdict.UNKNOWN


def test_the_command_says_unknown_and_its_status_tells(
    server: Server, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(server, LARGE)
    with opened(root) as cache:
        flip(pending(cache, url))
    environ = {"PGET_CACHE_DIR": str(root), "PGET_MIN_DISK_FREE": "0"}
    assert main(["cache", "verify"], environ=environ) == 1
    out = capsys.readouterr().out
    assert out.startswith("unknown ")
    assert "downloaded again" in out
    assert main(["cache", "verify", url], environ=environ) == 0
    assert capsys.readouterr().out.startswith("sound ")


def test_the_command_ends_when_the_digests_of_what_it_fetched_are_known(
    server: Server, root: Path
) -> None:
    """Also where another failed, and of what one that was killed has left."""
    url = serve(server, LARGE)
    bad = server.add("/gone.safetensors", Resource(b"", faults=[Status(404)]))
    environ = {"PGET_CACHE_DIR": str(root), "PGET_MIN_DISK_FREE": "0"}
    assert main(["ensure", url], environ=environ) == 0
    with opened(root) as cache:
        assert only_record(cache).digest == sha256(LARGE)
        rewrite(cache, digest="")
    assert main(["ensure", url, bad], environ=environ) == 1
    with opened(root) as cache:
        assert only_record(cache).digest == sha256(LARGE)


_SHORT = """
import sys
from tests.support.weights import opened
cache = opened(sys.argv[1])
cache.ensure(sys.argv[2])
if sys.argv[3] == "closed":
    cache.close()
"""


@pytest.mark.parametrize("end", ["closed", "not closed"])
def test_a_short_process_computes_the_digest_before_it_ends(
    server: Server, root: Path, end: str
) -> None:
    url = serve(server, LARGE)
    command = [sys.executable, "-c", _SHORT, str(root), url, end]
    home = str(Path(__file__).parents[3])
    subprocess.run(command, env=environment(), cwd=home, check=True, timeout=50)
    with opened(root) as cache:
        assert only_record(cache).digest == sha256(LARGE)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_who_is_interrupted_does_not_wait_for_digests(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch, interrupt: type[BaseException]
) -> None:
    waits: list[object] = []
    monkeypatch.setattr(BackgroundHasher, "put", lambda hasher, *_: setattr(hasher, "_unknown", 1))
    monkeypatch.setattr(BackgroundHasher, "wait", lambda *arguments: waits.append(arguments))

    def work() -> None:
        with opened(root) as cache:
            cache.ensure(serve(server, LARGE))
            raise interrupt

    with pytest.raises(interrupt):
        work()
    assert waits == []
