"""What is in the cache is what was meant: digests, the look at a file, and what is found later."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import threading
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.cache.checking import Verdict
from pgetpy.errors import DigestMismatchError, NotWeightsError, PgetError
from tests.support.bodies import body, digest
from tests.support.entries import child, left_over, said, sha256
from tests.support.faults import Chunked, Status
from tests.support.fetching import names_in
from tests.support.server import Server
from tests.support.weights import (
    MIB,
    assert_nothing_left,
    flip,
    only_record,
    opened,
    partials,
    rewrite,
    serve,
    weights,
)

pytestmark = pytest.mark.usefixtures("forked_runs")

RIGHT = sha256(weights())
WRONG = "sha256:" + "0" * 64


def torch_file() -> bytes:
    """What torch.save makes: a zip with a pickle in a folder of the file's name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("lora/data.pkl", pickle.dumps({"a": 1}))
        archive.writestr("lora/data/0", body(1000))
    return file.getvalue()


@dataclass(frozen=True)
class Refused:
    """An answer that is no weights, and what the error has to say."""

    data: bytes
    says: str


POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""
REFUSED = {
    "page": Refused(
        b"<!DOCTYPE html><html><title>Sign in</title><body>Please sign in</body></html>",
        "a page, which says '.*Please sign in",
    ),
    "page behind blanks": Refused(b"\xef\xbb\xbf\r\n  <html>Not here</html>", "Not here"),
    "JSON": Refused(b'{"error": "model is gated"}', "JSON, which says '.*model is gated"),
    "JSON list": Refused(b'["rate limited"]', "rate limited"),
    "text": Refused(b"Too many requests\n", "text, which says 'Too many requests"),
    "LFS pointer": Refused(POINTER, "git-lfs"),
    "pickle": Refused(pickle.dumps({"a": body(3000)}, protocol=2), "pickle, which may run any"),
    "pickle 4": Refused(pickle.dumps([1] * 3000, protocol=4), "pickle"),
    "torch zip": Refused(torch_file(), "pickle"),
    "empty": Refused(b"", "empty"),
    "truncated": Refused(weights()[:-1], "broken safetensors file: .* 1.*bytes"),
    "only a head": Refused(weights()[:20], "broken safetensors"),
    "over-long": Refused(weights() + b"x", "broken safetensors"),
    "two in one": Refused(weights() * 2, "broken safetensors"),
    "bad header": Refused(b"\x09" + bytes(7) + b'{"a": 1]}', "broken safetensors.*JSON"),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        # Each by two of the three names in `make test`.
        pytest.param(kind, name, marks=[pytest.mark.soak] if turn % 3 == left_out else [])
        for turn, kind in enumerate(REFUSED)
        for left_out, name in enumerate(["lora", "lora.safetensors", "lora.bin"])
    ],
)
def test_what_is_no_weights_is_refused_in_its_own_words(
    server: Server, cache: WeightsDownloadCache, kind: str, name: str
) -> None:
    refused = REFUSED[kind]
    url = serve(server, refused.data, f"/{name}")
    for attempt in (1, 2):
        with pytest.raises(NotWeightsError, match=refused.says) as caught:
            cache.ensure(url)
        assert url in str(caught.value)
        assert len(server.requests) >= attempt
        assert cache.entries() == []
        assert partials(cache.path) == []
    asked = len(server.requests)
    # The server thinks better of it.
    serve(server, weights(), f"/{name}")
    assert cache.ensure(url).read_bytes() == weights()
    assert len(server.requests) > asked
    cache.close()
    assert_nothing_left(cache.path)


@pytest.mark.parametrize("kind", ["page", "JSON", "text", "LFS pointer", "pickle", "torch zip"])
def test_any_file_is_taken_where_it_is_asked_for(server: Server, root: Path, kind: str) -> None:
    with opened(root, any_file=True) as cache:
        path = cache.ensure(serve(server, REFUSED[kind].data, "/config.txt"))
        assert (path.read_bytes(), path.suffix) == (REFUSED[kind].data, ".txt")


def test_a_broken_safetensors_file_is_refused_also_where_any_file_is_taken(
    server: Server, root: Path
) -> None:
    with opened(root, any_file=True) as cache, pytest.raises(NotWeightsError, match="broken"):
        cache.ensure(serve(server, REFUSED["truncated"].data))


def test_a_format_that_is_not_known_is_taken_by_another_name(
    server: Server, cache: WeightsDownloadCache
) -> None:
    data = b"GGUF" + body(5000)
    assert cache.ensure(serve(server, data, "/model.gguf")).suffix == ".gguf"
    with pytest.raises(NotWeightsError, match="data of an unknown kind"):
        cache.ensure(serve(server, data, "/model.safetensors"))


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500])
def test_an_error_page_is_never_weights(server: Server, root: Path, status: int) -> None:
    url = serve(server, faults=[Status(status, "<html>you may not</html>")])
    with opened(root, retries=0) as cache:
        with pytest.raises(PgetError, match=f"{status}.*you may not"):
            cache.ensure(url)
        assert cache.entries() == []
    assert left_over(root) == []


def test_an_answer_that_is_cut_short_is_not_taken(server: Server, root: Path) -> None:
    # Without a length nothing but the file itself tells that there should be more.
    url = serve(server, weights()[:5000], faults=[Chunked()])
    with opened(root) as cache, pytest.raises(NotWeightsError, match="broken"):
        cache.ensure(url)


# ------------------------------------------------------------------- digests


@pytest.mark.parametrize("size", [10_000, 3 * MIB])
def test_a_wrong_digest_is_refused_and_nothing_is_left(
    server: Server, root: Path, size: int
) -> None:
    data = weights(size)
    url = serve(server, data)
    # Over one connection, so that nothing is sent twice.
    cache = opened(root, concurrency=1)
    for _ in range(2):
        before = server.sent("/lora.safetensors")
        with pytest.raises(DigestMismatchError) as caught:
            cache.ensure(url, digest=WRONG)
        assert (caught.value.expected, caught.value.actual) == (WRONG, sha256(data))
        assert server.sent("/lora.safetensors") - before == len(data)
        assert (cache.entries(), partials(cache.path)) == ([], [])
    assert cache.ensure(url, digest=sha256(data)).read_bytes() == data
    cache.close()
    assert_nothing_left(cache.path)


@pytest.mark.parametrize("spelling", [RIGHT, RIGHT.upper().replace("SHA", "sha"), RIGHT[7:]])
def test_a_digest_is_taken_in_all_spellings(
    server: Server, cache: WeightsDownloadCache, spelling: str
) -> None:
    cache.ensure(serve(server), digest=spelling)
    # It was checked before the name appeared, and need not be computed again.
    assert only_record(cache).digest == RIGHT
    assert cache.ensure(server.url("/lora.safetensors"), digest=spelling)
    assert len(server.requests) == 1


@pytest.mark.parametrize("settled", [True, False], ids=["known", "pending"])
def test_a_digest_given_for_a_hit_is_compared(
    server: Server, cache: WeightsDownloadCache, settled: bool
) -> None:
    url = serve(server)
    path = cache.ensure(url)
    assert cache.settle(30)
    rewrite(cache, digest=RIGHT if settled else "")
    assert cache.ensure(url, digest=RIGHT) == path
    assert len(server.requests) == 1
    # It might have been replaced at its source.
    with pytest.raises(DigestMismatchError):
        cache.ensure(url, digest=WRONG)
    assert len(server.requests) == 2
    # Who was given what is there keeps it.
    assert cache.ensure(url) == path
    serve(server, weights(seed="new"))
    new = cache.ensure(url, digest=sha256(weights(seed="new")))
    assert (new.read_bytes(), path.read_bytes()) == (weights(seed="new"), weights())
    assert cache.ensure(url) == new


def test_every_entry_gets_its_digest_in_the_background(
    server: Server, cache: WeightsDownloadCache
) -> None:
    cache.ensure(serve(server))
    assert cache.settle(30)
    (listing,) = cache.entries()
    assert (listing.record.digest, listing.digest_pending) == (RIGHT, False)
    assert cache.settle(30, flush=True)
    assert only_record(cache).flushed


def test_a_closed_cache_writes_nothing_more(
    server: Server, cache: WeightsDownloadCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    midway, done = threading.Event(), threading.Event()
    link = os.symlink

    def slow(target: str, path: str) -> None:  # how a digest is noted
        link(target, path)
        midway.set()
        time.sleep(0.2)
        done.set()

    monkeypatch.setattr(os, "symlink", slow)
    cache.ensure(serve(server))
    assert midway.wait(30)
    cache.close()
    assert done.is_set()
    assert_nothing_left(cache.path)


def test_a_digest_that_was_left_pending_is_computed_when_the_entry_is_used(
    server: Server, root: Path
) -> None:
    data = weights(5 << 20)  # what is small has its digest at once
    url = serve(server, data)
    with opened(root) as cache:
        cache.ensure(url)
        assert cache.settle(30)
        # Whoever fetched it ended before it came to that.
        rewrite(cache, digest="", flushed=False, created=1.0)
    asked = len(server.requests)
    with opened(root) as later:
        assert only_record(later).digest == ""
        later.ensure(url)
        assert later.settle(30, flush=True)
        record = only_record(later)
        assert (record.digest, record.flushed) == (sha256(data), True)
    assert len(server.requests) == asked


def test_equal_files_under_two_urls_are_one_on_the_disk(
    server: Server, cache: WeightsDownloadCache
) -> None:
    paths = [cache.ensure(serve(server, path=f"/{name}.safetensors")) for name in "ab"]
    assert cache.settle(30)
    assert paths[0] != paths[1]
    assert paths[0].samefile(paths[1])
    assert cache.totals().stored == len(weights())


# ------------------------------------------------------------------- what is found later


def test_a_flipped_bit_is_found_and_repaired(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server)
    path = cache.ensure(url)
    assert cache.settle(30)
    assert cache.verify(url) is Verdict.SOUND
    flip(path)
    # A hit costs no hash.
    assert cache.ensure(url) == path
    assert cache.verify(url) is Verdict.DAMAGED
    assert len(server.requests) == 2
    repaired = cache.ensure(url)
    assert repaired.read_bytes() == weights()
    assert cache.settle(30)
    assert cache.verify(url) is Verdict.SOUND
    assert len(server.requests) == 2


def test_what_was_found_damaged_is_fetched_by_who_asks_next(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server)
    flipped = cache.ensure(url)
    assert cache.settle(30)
    flip(flipped)
    assert cache.verify(url, repair=False) is Verdict.DAMAGED
    assert cache.verify_all() == {only_record(cache).key: Verdict.DAMAGED}
    assert len(server.requests) == 1
    assert cache.ensure(url).read_bytes() == weights()
    assert cache.verify(server.url("/other")) is Verdict.MISSING


def test_what_is_damaged_is_an_error_where_it_cannot_be_fetched(server: Server, root: Path) -> None:
    url = serve(server)
    with opened(root, retries=0) as cache:
        flip(cache.ensure(url, digest=RIGHT))
        server.stop()
        with pytest.raises(PgetError):
            cache.verify(url)
        with pytest.raises(PgetError):
            cache.ensure(url)


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
@pytest.mark.parametrize("known", [True, False], ids=["known digest", "pending digest"])
def test_what_was_not_flushed_when_the_machine_went_down_is_verified_before_it_is_a_hit(
    server: Server, cache: WeightsDownloadCache, known: bool, damaged: bool
) -> None:
    url = serve(server)
    path = cache.ensure(url)
    assert cache.settle(30)
    rewrite(cache, boot="before", flushed=False, digest=RIGHT if known else "")
    if damaged:
        flip(path)
    found = cache.ensure(url)
    assert found.read_bytes() == weights()
    # Only a digest can vouch for what the disk has kept.
    trusted = known and not damaged
    assert len(server.requests) == (1 if trusted else 2)
    assert (found == path) is trusted
    assert cache.ensure(url) == found
    assert len(server.requests) == (1 if trusted else 2)


def test_what_was_flushed_before_the_machine_went_down_is_a_hit(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server)
    path = cache.ensure(url)
    assert cache.settle(30)
    rewrite(cache, boot="before", flushed=True, digest=RIGHT)
    server.stop()
    assert cache.ensure(url) == path


def test_a_record_of_nonsense_is_a_miss(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server)
    cache.ensure(url)
    assert cache.settle(30)
    key = only_record(cache).key
    record = cache.path / "entries" / key[:2] / key
    for nonsense in (b"", b"\0" * 500, record.read_bytes()[:100], json.dumps({}).encode()):
        record.write_bytes(nonsense)
        assert cache.ensure(url).read_bytes() == weights()
    assert len(server.requests) == 5


# ------------------------------------------------------------------- a cache baked into an image


def test_a_lower_cache_is_looked_at_first_and_never_written(
    server: Server, tmp_path: Path, root: Path
) -> None:
    url = serve(server)
    baked = tmp_path / "baked"
    with opened(baked) as below:
        path = below.ensure(url)
        assert below.settle(30)
    before = sorted(baked.rglob("*"))
    with opened(root, lower=[baked], max_bytes=0) as cache:
        assert cache.ensure(url) == path
        with cache.lease(url) as leased:
            assert leased == path
        assert cache.entries() == []
    assert sorted(baked.rglob("*")) == before
    assert len(server.requests) == 1


def test_what_has_changed_since_a_lower_cache_was_made_is_fetched_once(
    server: Server, tmp_path: Path, root: Path
) -> None:
    url = serve(server)
    baked = tmp_path / "baked"
    with opened(baked) as below:
        old = below.ensure(url)
        assert below.settle(30)
    server.change("/lora.safetensors", body=weights(seed="new"), etag='"v2"')
    with opened(root, lower=[baked], refresh="check") as cache:
        new = cache.ensure(url)
        assert new.read_bytes() == weights(seed="new")
        assert cache.ensure(url) == new
    assert old.read_bytes() == weights()
    # Whether it has changed, the new one, and whether that has changed.
    assert server.sent("/lora.safetensors") <= 2 * len(weights()) + 2


@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_a_lower_cache_of_another_machine_is_believed_where_a_digest_vouches_for_it(
    server: Server, tmp_path: Path, root: Path, damaged: bool
) -> None:
    url = serve(server)
    baked = tmp_path / "baked"
    with opened(baked) as below:
        path = below.ensure(url, digest=RIGHT)
        assert below.settle(30)
        rewrite(below, boot="elsewhere", flushed=False, digest=RIGHT)
    if damaged:
        flip(path)
    with opened(root, lower=[baked]) as cache:
        found = cache.ensure(url)
        assert found.read_bytes() == weights()
        assert (found == path) is not damaged
        assert cache.ensure(url) == found
    assert len(server.requests) == (2 if damaged else 1)


def test_the_words_of_a_page_are_short_and_printable(
    server: Server, cache: WeightsDownloadCache
) -> None:
    page = b"<html>\x1b[31m" + b"very long " * 1000 + b"</html>"
    with pytest.raises(NotWeightsError) as caught:
        cache.ensure(serve(server, page))
    assert len(str(caught.value)) < 500
    assert re.search(r"[\x00-\x1f]", str(caught.value)) is None


def test_names_in_the_folder_of_a_refusal_do_not_add_up(
    server: Server, cache: WeightsDownloadCache
) -> None:
    for number in range(5):
        with pytest.raises(NotWeightsError):
            cache.ensure(serve(server, b"no", f"/{number}"))
    assert names_in(cache.path / "partial") == names_in(cache.path / "fills") == []
    assert digest(b"no") not in str(sorted(cache.path.rglob("*")))
    with child("say(Store(sys.argv[1]).entries())", cache.path) as other:
        assert said(other) == "[]"
