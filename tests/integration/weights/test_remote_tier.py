"""A second tier in a scripted bucket: what is looked for, copied and believed."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgetpy import Policy, WeightsDownloadCache
from pgetpy.cli import main
from pgetpy.core.cache.remote_records import (
    MOST_FILES,
    RemoteBlob,
    RemoteRecord,
    UploadClaim,
    claim_name,
    format_claim,
    format_record,
    parse_claim,
    parse_record,
    record_name,
)
from pgetpy.core.http.answers import Identity
from pgetpy.core.report.events import Finished, Remarked
from pgetpy.errors import BadSettingError, HttpStatusError
from pgetpy.settings import SourceSettings
from tests.support.entries import child, said
from tests.support.faults import Status
from tests.support.fetching import Events
from tests.support.object_store import SECRET_KEY, ObjectStore, started_store
from tests.support.server import Server
from tests.support.weights import MIB, only_record, opened, serve, tar_of, weights

pytestmark = pytest.mark.usefixtures("forked_runs")

PLACE = "s3://bucket/tier"
DAY = 24 * 3600


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    with started_store() as store:
        yield store


def machine(
    folder: Path, store: ObjectStore, environ: dict[str, str] | None = None, **options: Any
) -> WeightsDownloadCache:
    """A cache of one machine, with the tier."""
    sources = SourceSettings(environ=store.environ if environ is None else environ)
    return opened(folder, remote=PLACE, sources=sources, **options)


def names(store: ObjectStore, kind: str = "") -> list[str]:
    return sorted(key for key in store.objects["bucket"] if key.startswith(f"tier/{kind}"))


def blob_of(data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"tier/blobs/{digest[:2]}/{digest}"


def copied(folder: Path, store: ObjectStore, url: str, **options: Any) -> None:
    """One machine fetches `url` from its origin, and copies it."""
    call = {name: options.pop(name) for name in ("wanted", "digest") if name in options}
    with machine(folder, store, **options) as cache:
        cache.ensure(url, **call)
        assert cache.settle(60)


def results(events: Events) -> list[str]:
    return [event.result.served_from for event in events.all if isinstance(event, Finished)]


# ------------------------------------------------------------------------------------ to and fro


def test_what_one_machine_fetched_the_next_has_from_the_tier(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url, events = serve(server), Events()
    copied(tmp_path / "a", store, url, progress=events)
    assert results(events) == ["origin"]
    assert [e.remark for e in events.all if isinstance(e, Remarked)] == [f"a copy goes to {PLACE}"]
    assert store.objects["bucket"][blob_of(weights())].body == weights()
    assert "immutable" in store.objects["bucket"][blob_of(weights())].headers["cache-control"]
    assert len(names(store, "records/")) == 1
    assert names(store, "claims/") == []
    asked, events = len(server.requests), Events()
    with machine(tmp_path / "b", store, progress=events) as cache:
        path = cache.ensure(url)
        assert path.read_bytes() == weights()
        assert path.name.endswith(".lora.safetensors")
        assert len(server.requests) == asked
        assert results(events) == ["remote"]
        record = only_record(cache)
        assert record.digest == f"sha256:{hashlib.sha256(weights()).hexdigest()}"
        assert cache.ensure(url) == path
        assert cache.cache_info()[:2] == (1, 1)
    # What came from the tier is not copied there again.
    assert not [each for each in store.requests[-3:] if each.method == "PUT"]


def test_a_large_file_travels_in_parts(server: Server, store: ObjectStore, tmp_path: Path) -> None:
    big = weights(18 * MIB, "big")
    url = serve(server, big)
    copied(tmp_path / "a", store, url)
    assert store.uploads == {}
    assert store.objects["bucket"][blob_of(big)].etag.endswith('-2"')
    with machine(tmp_path / "b", store) as cache:
        assert cache.ensure(url).read_bytes() == big


@pytest.mark.parametrize(("knows", "heeds"), [(False, True), (True, False)])
def test_stores_that_do_not_know_or_heed_conditions_serve_as_well(
    server: Server, store: ObjectStore, tmp_path: Path, knows: bool, heeds: bool
) -> None:
    store.knows_conditions, store.heeds_conditions = knows, heeds
    url = serve(server)
    copied(tmp_path / "a", store, url)
    asked = len(server.requests)
    with machine(tmp_path / "b", store) as cache:
        cache.ensure(url)
    assert len(server.requests) == asked


def test_a_machine_that_may_not_write_only_reads(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server)
    copied(tmp_path / "a", store, url, remote_mode="read")
    assert names(store) == []
    assert {each.method for each in store.requests} == {"GET"}


@pytest.mark.parametrize("options", [{"remote": "https://h.test/x"}, {"remote_mode": "write"}])
def test_what_is_no_place_for_a_tier_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(BadSettingError):
        WeightsDownloadCache(tmp_path / "c", **options)  # type: ignore[arg-type]


def test_the_environment_and_a_flag_name_the_tier(
    server: Server, store: ObjectStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command ends when the copy is made."""
    url = serve(server)
    environ = {**store.environ, "PGET_CACHE_REMOTE": PLACE}
    first = ["ensure", url, "--json", "--min-disk-free", "0", "--cache-dir"]
    assert main([*first, str(tmp_path / "a")], environ=environ) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["served_from"] == "origin"
    assert f"a copy goes to {PLACE}" in err
    assert blob_of(weights()) in names(store)
    flags = ["--cache-remote", PLACE, "--cache-remote-mode", "read"]
    assert main([*first, str(tmp_path / "b"), *flags], environ=store.environ) == 0
    assert json.loads(capfd.readouterr().out)["served_from"] == "remote"
    assert main([*first, str(tmp_path / "b")], environ=environ) == 0
    assert json.loads(capfd.readouterr().out)["served_from"] == "cache"


# -------------------------------------------------------------------------- archives and folders


def test_the_weights_of_an_archive_travel_without_it(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    archive = tar_of({"a/lora.safetensors": weights(), "notes.txt": b"x"})
    digest = hashlib.sha256(archive).hexdigest()
    url = serve(server, archive, "/lora.tar")
    copied(tmp_path / "a", store, url, digest=digest)
    asked = len(server.requests)
    with machine(tmp_path / "b", store) as cache:
        assert cache.ensure(url, digest=digest).read_bytes() == weights()
        assert only_record(cache).about.details["archive"] == f"sha256:{digest}"
    assert len(server.requests) == asked


def test_a_folder_travels_file_by_file(server: Server, store: ObjectStore, tmp_path: Path) -> None:
    files = {"a/one.safetensors": weights(), "b c.json": b"{}", "empty": b""}
    url = serve(server, tar_of(files), "/model.tar")
    copied(tmp_path / "a", store, url, wanted="folder")
    assert len(names(store, "blobs/")) == 3
    asked = len(server.requests)
    with machine(tmp_path / "b", store) as cache:
        folder = cache.ensure(url, wanted="folder")
        found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        assert {name: path.read_bytes() for name, path in found.items()} == files
        assert cache.settle(60)
        there = only_record(cache).digest
    assert len(server.requests) == asked
    with machine(tmp_path / "a", store) as cache:
        assert only_record(cache).digest == there


def test_a_folder_with_links_stays_where_it_is(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    import io
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        data = tarfile.TarInfo("m.safetensors")
        data.size = len(weights())
        tar.addfile(data, io.BytesIO(weights()))
        link = tarfile.TarInfo("latest")
        link.type, link.linkname = tarfile.SYMTYPE, "m.safetensors"
        tar.addfile(link)
    copied(tmp_path / "a", store, serve(server, file.getvalue(), "/m.tar"), wanted="folder")
    assert names(store) == []


# ------------------------------------------------------------------------------------- freshness


def test_a_record_that_is_too_old_is_confirmed_by_the_origin(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server)
    copied(tmp_path / "a", store, url)
    asked, events = len(server.requests), Events()
    with machine(tmp_path / "b", store, remote_max_age=1e-6, progress=events) as cache:
        cache.ensure(url)
    assert results(events) == ["remote"]
    (request,) = server.requests[asked:]
    assert request.request.values("range") == ["bytes=0-0"]


@pytest.mark.parametrize("options", [{"remote_max_age": 1e-6}, {"refresh": "check"}])
def test_an_origin_that_has_changed_is_asked_and_its_record_replaced(
    server: Server, store: ObjectStore, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = serve(server)
    copied(tmp_path / "a", store, url)
    new = weights(seed="v2")
    serve(server, new, etag='"v2"')
    copied(tmp_path / "b", store, url, **options)
    asked = len(server.requests)
    with machine(tmp_path / "c", store) as cache:
        assert cache.ensure(url).read_bytes() == new
    assert len(server.requests) == asked


def test_an_origin_without_validators_confirms_nothing(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server, etag=None, last_modified=None)
    copied(tmp_path / "a", store, url)
    serve(server, weights(seed="v2"), etag=None, last_modified=None)
    with machine(tmp_path / "b", store, remote_max_age=1e-6) as cache:
        assert cache.ensure(url).read_bytes() == weights(seed="v2")


def test_a_record_that_is_too_old_is_renewed_by_those_who_fetch_the_same_again(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server, etag=None, last_modified=None)
    copied(tmp_path / "a", store, url)
    (name,) = names(store, "records/")
    before = json.loads(store.objects["bucket"][name].body)
    copied(tmp_path / "b", store, url, remote_max_age=1e-6)
    after = json.loads(store.objects["bucket"][name].body)
    assert after.pop("checked") > before.pop("checked")
    assert after == before


def test_what_an_origin_refuses_to_confirm_is_an_error(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server)
    copied(tmp_path / "a", store, url)
    serve(server, faults=[Status(404)])
    with (
        machine(tmp_path / "b", store, remote_max_age=1e-6) as cache,
        pytest.raises(HttpStatusError, match="404"),
    ):
        cache.ensure(url)


def test_an_origin_that_is_gone_leaves_the_copy(
    store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Server() as server:
        url = serve(server)
        copied(tmp_path / "a", store, url)
    with machine(tmp_path / "b", store, remote_max_age=1e-6, retries=0) as cache:
        assert cache.ensure(url).read_bytes() == weights()
    assert "which the origin could not confirm" in caplog.text


# ----------------------------------------------------------------------------------- by a digest


def test_a_digest_finds_content_under_another_key(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    copied(tmp_path / "a", store, serve(server))
    other = serve(server, path="/other.safetensors", faults=[Status(404)])
    digest, asked = hashlib.sha256(weights()).hexdigest(), len(server.requests)
    with machine(tmp_path / "b", store) as cache:
        path = cache.ensure(other, digest=digest)
        assert path.read_bytes() == weights()
        assert cache.ensure(other, digest=digest) == path
        assert len(server.requests) == asked
        # Nothing shows that this origin has it: others who name the URL alone do not get it.
        assert cache.lookup(other) is None
        with pytest.raises(HttpStatusError, match="404"):
            cache.ensure(other)


def test_a_record_with_another_digest_is_passed_over(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server)
    copied(tmp_path / "a", store, url)
    new = weights(seed="v2")
    serve(server, new, etag='"v2"')
    with machine(tmp_path / "b", store) as cache:
        digest = hashlib.sha256(new).hexdigest()
        assert cache.ensure(url, digest=digest).read_bytes() == new


# -------------------------------------------------------------------------------- what is wrong


def test_wrong_content_is_ignored_and_made_good(
    server: Server, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, events = serve(server), Events()
    copied(tmp_path / "a", store, url)
    store.put("bucket", blob_of(weights()), weights(seed="forged"))
    copied(tmp_path / "b", store, url, progress=events)
    assert results(events) == ["origin"]
    assert "is wrong and ignored" in caplog.text
    assert store.objects["bucket"][blob_of(weights())].body == weights()


@pytest.mark.parametrize("text", ["", "{", '{"pgetpy": 2}', "[]", '"x"', "[" * 99999])
def test_a_damaged_record_is_a_miss(
    server: Server, store: ObjectStore, tmp_path: Path, text: str
) -> None:
    url = serve(server)
    copied(tmp_path / "a", store, url)
    (name,) = names(store, "records/")
    right = store.objects["bucket"][name].body
    store.put("bucket", name, text.encode())
    copied(tmp_path / "b", store, url)
    there = json.loads(store.objects["bucket"][name].body)
    assert there["blobs"] == json.loads(right)["blobs"]


def test_a_record_without_its_content_is_a_miss(
    server: Server, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, events = serve(server), Events()
    copied(tmp_path / "a", store, url)
    del store.objects["bucket"][blob_of(weights())]
    with machine(tmp_path / "b", store, progress=events) as cache:
        cache.ensure(url)
    assert results(events) == ["origin"]
    assert "but not its content" in caplog.text


def test_names_of_a_folder_are_judged(server: Server, store: ObjectStore, tmp_path: Path) -> None:
    url = serve(server, tar_of({"m.safetensors": weights()}), "/m.tar")
    copied(tmp_path / "a", store, url, wanted="folder")
    (name,) = names(store, "records/")
    record = json.loads(store.objects["bucket"][name].body)
    record["blobs"][0]["name"] = "../../../escaped"
    store.put("bucket", name, json.dumps(record).encode())
    with machine(tmp_path / "b", store) as cache:
        folder = cache.ensure(url, wanted="folder")
        assert [path.name for path in folder.iterdir()] == ["m.safetensors"]
    assert not list(tmp_path.rglob("escaped"))


def test_a_follower_is_told_that_wrong_bytes_are_lost(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    from pgetpy import tensors

    url = serve(server)
    copied(tmp_path / "a", store, url)
    store.put("bucket", blob_of(weights()), weights(seed="forged"))
    with machine(tmp_path / "b", store) as cache:
        found = tensors.load(url, framework="numpy", cache=cache)["weight"]
    assert found.tobytes() == weights()[-10_000:]


# --------------------------------------------------------------------------------- what is secret


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"X-Key": "k"}},
        {"authorization": "Bearer t"},
        {"use_netrc": True, "netrc_file": "/dev/null"},
        {"policy": Policy(allow_networks=("127.0.0.0/8",), share=False)},
    ],
)
def test_what_a_secret_or_a_policy_keeps_is_not_copied(
    server: Server, store: ObjectStore, tmp_path: Path, options: dict[str, Any]
) -> None:
    copied(tmp_path / "a", store, serve(server), **options)
    assert names(store) == []


def test_what_a_signed_url_opened_is_not_copied(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server)
    parts = url.partition("://")
    copied(tmp_path / "a", store, f"{parts[0]}://user:pass@{parts[2]}")
    signed = (
        f"{url}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=k&X-Amz-Date=20260101T000000Z"
        f"&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature={'0' * 64}"
    )
    copied(tmp_path / "b", store, signed)
    assert names(store) == []


def test_what_came_under_another_policy_is_not_given_to_strangers(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    """The tier itself is the operator's, and is reached with the operator's keys."""
    url, events = serve(server), Events()
    copied(tmp_path / "a", store, url)
    rules = Policy(allow_networks=("127.0.0.0/8",))
    copied(tmp_path / "b", store, url, policy=rules, progress=events)
    assert results(events) == ["origin"]
    events = Events()
    with machine(tmp_path / "c", store, policy=rules, progress=events) as cache:
        cache.ensure(url)
    # The record says now that this policy lets it through, which serves those without one as well.
    assert results(events) == ["remote"]
    copied(tmp_path / "d", store, url)
    events = Events()
    with machine(tmp_path / "e", store, policy=rules, progress=events) as cache:
        cache.ensure(url)
    assert results(events) == ["remote"]


# ---------------------------------------------------------------------------- one copies it


def claim_on(store: ObjectStore, key: str, until: float) -> None:
    name = f"tier/{claim_name(key)}"
    store.put("bucket", name, format_claim(UploadClaim("another", until)))


@pytest.mark.parametrize(("left", "copies"), [(600.0, False), (-1.0, True), (365 * DAY, True)])
def test_who_finds_a_claim_leaves_the_copy_to_another(
    server: Server, store: ObjectStore, tmp_path: Path, left: float, copies: bool
) -> None:
    url = serve(server)
    with machine(tmp_path / "a", store) as cache:
        claim_on(store, cache.hold(url).key, time.time() + left)
        cache.ensure(url)
        assert cache.settle(60)
    assert (blob_of(weights()) in names(store)) is copies
    assert (names(store, "claims/") == []) is copies


def test_of_many_who_fetch_at_once_one_copies(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server)
    caches = [machine(tmp_path / str(n), store) for n in range(4)]
    threads = [threading.Thread(target=cache.ensure, args=(url,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cache in caches:
        assert cache.settle(60)
        cache.close()
    puts = [each for each in store.requests if each.method == "PUT" and "/blobs/" in each.path]
    assert len(puts) == 1


def test_a_process_that_is_killed_while_it_copies_leaves_nothing_wrong(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    big = weights(40 * MIB, "big")
    url = serve(server, big)
    gate, at_work = threading.Event(), threading.Event()
    store.pause_at = lambda asked: "partNumber" in asked.query

    def wait() -> None:
        at_work.set()
        gate.wait(60)

    store.paused = wait
    code = f"""
from tests.integration.weights.test_remote_tier import *
class Store: environ = {store.environ!r}
cache = machine(Path(sys.argv[1]), Store)
say(cache.ensure(sys.argv[2]))
cache.settle()
"""
    with child(code, tmp_path / "a", url) as process:
        assert said(process)
        assert at_work.wait(60)
        process.kill()
        process.wait()
    gate.set()
    assert names(store, "blobs/") == names(store, "records/") == []
    store.pause_at = None
    asked = len(server.requests)
    with machine(tmp_path / "b", store) as cache:
        assert cache.ensure(url).read_bytes() == big
    assert len(server.requests) > asked


def test_a_process_ends_when_its_copy_is_made(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url = serve(server)
    code = f"""
from tests.integration.weights.test_remote_tier import *
class Store: environ = {store.environ!r}
cache = machine(Path(sys.argv[1]), Store)
say(cache.ensure(sys.argv[2]))
"""
    with child(code, tmp_path / "a", url) as process:
        assert said(process)
        assert process.wait(60) == 0
    assert len(names(store, "records/")) == 1


@pytest.mark.soak
def test_a_process_does_not_wait_long_for_a_store_that_hangs(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    """It takes ten seconds; the copy is ended, and nothing of it is seen."""
    url, gate = serve(server, weights(18 * MIB, "big")), threading.Event()
    store.pause_at = lambda asked: "partNumber" in asked.query
    store.paused = lambda: gate.wait(120)
    code = f"""
from tests.integration.weights.test_remote_tier import *
class Store: environ = {store.environ!r}
cache = machine(Path(sys.argv[1]), Store)
say(cache.ensure(sys.argv[2]))
"""
    with child(code, tmp_path / "a", url) as process:
        assert said(process)
        assert process.wait(60) == 0
    gate.set()
    assert names(store, "blobs/") == names(store, "records/") == []


# ------------------------------------------------------------------------- a store that is down


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_a_store_that_cannot_be_reached_is_asked_once_and_costs_a_warning(
    server: Server, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    urls = [serve(server, path=f"/{n}.safetensors") for n in range(3)]
    environ = {**store.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    with machine(tmp_path / "a", store, environ) as cache:
        for url in urls:
            assert cache.ensure(url).read_bytes() == weights()
        assert cache.settle(60)
    first, *others = warnings(caplog)
    assert f"the cache's remote {PLACE} is not read for a minute" in first
    assert len(others) == 1
    assert "gets no copies for a minute" in others[0]


def test_a_store_that_does_not_answer_costs_one_short_wait(
    server: Server, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    store.before[0] = lambda: gate.wait(60)
    urls = [serve(server, path=f"/{n}.safetensors") for n in range(3)]
    with machine(tmp_path / "a", store, stall_timeout=0.5, remote_mode="read") as cache:
        for url in urls:
            assert cache.ensure(url).read_bytes() == weights()
    gate.set()
    assert len(warnings(caplog)) == 1


def test_a_refusal_is_explained_without_the_secret(
    server: Server, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    environ = {**store.environ, "AWS_SECRET_ACCESS_KEY": "wrong/secret"}
    with machine(tmp_path / "a", store, environ) as cache:
        cache.ensure(serve(server))
        assert cache.settle(60)
    first = warnings(caplog)[0]
    assert "secret" in first
    assert "wrong/secret" not in caplog.text
    assert SECRET_KEY not in caplog.text


def test_a_key_that_may_not_write_still_reads(
    server: Server, store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, other = serve(server), serve(server, path="/other.safetensors")
    copied(tmp_path / "a", store, url)
    store.read_only = True
    events = Events()
    with machine(tmp_path / "b", store, progress=events) as cache:
        cache.ensure(other)
        assert cache.settle(60)
        cache.ensure(url)
    assert results(events) == ["origin", "remote"]
    assert len(warnings(caplog)) == 1


def test_a_store_that_fails_in_mid_transfer_leaves_the_origin(
    server: Server, store: ObjectStore, tmp_path: Path
) -> None:
    url, events = serve(server), Events()
    copied(tmp_path / "a", store, url)
    store.before[len(store.requests) + 1] = lambda: store.refuse(500, "InternalError", times=20)
    with machine(tmp_path / "b", store, remote_mode="read", progress=events) as cache:
        assert cache.ensure(url).read_bytes() == weights()
    assert results(events) == ["origin"]


# --------------------------------------------------------------------------------------- records


RECORD = RemoteRecord(
    "ab" * 32,
    "m.safetensors",
    False,
    (RemoteBlob("", 5, f"sha256:{'0' * 64}"),),
    Identity(5, '"v1"', None),
    None,
    "",
    1.5,
)


def test_a_record_is_read_as_it_was_written() -> None:
    assert parse_record(format_record(RECORD).decode(), RECORD.key) == RECORD
    assert parse_record(format_record(RECORD).decode(), "cd" * 32) is None
    assert record_name(RECORD.key) == f"records/ab/{RECORD.key}"
    claim = UploadClaim("me", 5.0)
    assert parse_claim(format_claim(claim).decode()) == claim
    assert parse_claim("{}") is None
    assert parse_claim("[" * 99999) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"blobs": ()},
        {"blobs": RECORD.blobs * 2},
        {"blobs": (RemoteBlob("", -1, f"sha256:{'0' * 64}"),)},
        {"blobs": (RemoteBlob("", 5, "sha256:../x"),)},
        {"name": 5},
        {"name": "../x"},
        {"name": "x\0"},
        {"checked": "now"},
        {"folder": True, "blobs": RECORD.blobs * (MOST_FILES + 1)},
    ],
)
def test_a_record_that_makes_no_sense_is_none(changes: dict[str, Any]) -> None:
    written = format_record(replace(RECORD, **changes)).decode()
    assert parse_record(written, RECORD.key) is None
