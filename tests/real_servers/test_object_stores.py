"""Downloads, uploads and the cache's second tier against object stores that others have written.

rclone and Swift run in `make check`, Ceph in `make soak`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pgetpy
from pgetpy.core.report.events import Event, Progressed
from pgetpy.core.report.uploads import UploadResult
from pgetpy.errors import (
    NotFoundError,
    ObjectChangedError,
    ObjectExistsError,
    PgetError,
    UnauthorizedError,
)
from pgetpy.settings import SourceSettings
from pgetpy.sources.object_bucket import bucket_of
from tests.support import stores
from tests.support.bodies import body
from tests.support.compile_trees import Machine, install_torch
from tests.support.compile_trees import contents as tree_of
from tests.support.fetching import contents, fetch, impatient
from tests.support.processes import Run
from tests.support.stores import RealStore
from tests.support.weights import MIB, opened, serve, weights

BODY = body(3_000_001)
PART = 5 * MIB
LARGE = body(3 * PART + 4321)
STORES = [
    pytest.param("rclone", marks=pytest.mark.judge("rclone")),
    pytest.param("swift", marks=pytest.mark.judge("swift-proxy-server")),
    pytest.param("ceph", marks=(pytest.mark.judge("radosgw"), pytest.mark.soak)),
]
ODD_KEYS = ["a b+c%20\u00e9?x#y&z=1.bin", "a;b,c:d@e!$'()~[]", "deep/er/\u4e2d.bin"]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session", params=STORES)
def running(request: pytest.FixtureRequest) -> Iterator[RealStore]:
    with getattr(stores, request.param)() as store:
        yield store


@pytest.fixture
def store(
    running: RealStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RealStore]:
    """A running store, seen by a process that knows nothing of it yet."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    bucket_of.cache_clear()
    yield running
    bucket_of.cache_clear()


def put(store: RealStore, key: str, data: bytes) -> str:
    """Have botocore write an object; return its reference."""
    store.client.put_object(Bucket=store.bucket, Key=key, Body=data)
    return f"s3://{store.bucket}/{key}"


def stored(store: RealStore, key: str) -> bytes:
    data: bytes = store.client.get_object(Bucket=store.bucket, Key=key)["Body"].read()
    return data


def get(store: RealStore, url: str, dest: Path, **options: Any) -> pgetpy.DownloadResult:
    environ = {**store.environ, **options.pop("environ", {})}
    return fetch(url, dest, sources=SourceSettings(environ=environ), **options)


def upload(store: RealStore, path: Path, url: str, **options: Any) -> UploadResult:
    call = {name: options.pop(name) for name in ("if_absent", "progress") if name in options}
    settings = impatient(
        sources=SourceSettings(environ=store.environ), **{"chunk_size": PART, **options}
    )
    return pgetpy.upload(path, url, settings=settings, **call)


# ----------------------------------------------------------------------------------- downloads


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_signed_as_the_store_reads_them(
    store: RealStore, tmp_path: Path, key: str
) -> None:
    get(store, put(store, f"odd/{key}", BODY), tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY


def test_ranges_make_the_object(store: RealStore, tmp_path: Path) -> None:
    url = put(store, "ranges.bin", BODY)
    result = get(store, url, tmp_path / "out", chunk_size=400_000, concurrency=4)
    assert (tmp_path / "out").read_bytes() == BODY
    assert result.requests >= 7
    assert result.validator == "strong"


def test_an_empty_object_is_fetched(store: RealStore, tmp_path: Path) -> None:
    assert get(store, put(store, "empty", b""), tmp_path / "out").size == 0


def test_a_wrong_secret_is_said_without_it(store: RealStore, tmp_path: Path) -> None:
    url = put(store, "secret.bin", BODY)
    with pytest.raises(UnauthorizedError) as found:
        get(store, url, tmp_path / "out", environ={"AWS_SECRET_ACCESS_KEY": "wrong-secret"})
    text = f"{found.value} {found.value!r} {found.value.hint}"
    assert store.keys[0] in text
    assert "wrong-secret" not in text


def test_a_request_without_keys_is_said_to_be_unsigned(store: RealStore, tmp_path: Path) -> None:
    url = put(store, "unsigned.bin", BODY)
    with pytest.raises(PgetError, match="was not signed"):
        get(store, url, tmp_path / "out", environ={"PGET_S3_SIGN": "never"})
    absent = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    with pytest.raises(PgetError, match=r"no keys were found.*set AWS_ACCESS_KEY_ID"):
        get(store, url, tmp_path / "out", environ=absent)


def test_missing_objects_and_buckets_are_told_apart(store: RealStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such key"):
        get(store, f"s3://{store.bucket}/nowhere", tmp_path / "out")
    with pytest.raises(NotFoundError, match="no bucket"):
        get(store, "s3://no-such-bucket-here/x", tmp_path / "out")


@pytest.mark.parametrize("off", [1200.0, -1200.0])
def test_a_clock_that_is_twenty_minutes_off_is_made_up_for(
    store: RealStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    url = put(store, "clock.bin", BODY)
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + off)
    get(store, url, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BODY


def test_an_object_that_is_replaced_meanwhile_is_of_one_version(
    store: RealStore, tmp_path: Path
) -> None:
    url, other = put(store, "replaced.bin", BODY), body(len(BODY), seed=9)
    replaced = []

    def replace(event: Event) -> None:
        if isinstance(event, Progressed) and event.done and not replaced:
            replaced.append(put(store, "replaced.bin", other))

    try:
        get(store, url, tmp_path / "out", chunk_size=200_000, limit_rate=3_000_000,
            concurrency=2, progress=replace)  # fmt: skip
    except ObjectChangedError:
        assert not (tmp_path / "out").exists()
    else:
        assert (tmp_path / "out").read_bytes() in (BODY, other)
    assert replaced


def test_a_folder_is_listed_and_fetched(store: RealStore, tmp_path: Path) -> None:
    files = {f"{n}/part {n}.bin": body(1000 + n, seed=n) for n in range(12)}
    for name, data in files.items():
        put(store, f"folder/{name}", data)
    put(store, "folder-other/x", b"x")
    get(store, f"s3://{store.bucket}/folder/", tmp_path / "out")
    assert contents(tmp_path / "out") == files
    get(store, f"s3://{store.bucket}/folder/1*.bin", tmp_path / "some")
    assert set(contents(tmp_path / "some")) == {name for name in files if name.startswith("1")}


# ------------------------------------------------------------------------------------- uploads


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "parts"])
def test_what_is_uploaded_is_what_the_store_has(
    store: RealStore, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(data)
    key = f"up/{ODD_KEYS[0]}"
    result = upload(store, path, f"s3://{store.bucket}/{key}")
    assert stored(store, key) == data
    assert result.parts_sent == (4 if data is LARGE else 0)
    # rclone serves another ETag than the one that it answers an upload with.
    if store.name != "rclone":
        head = store.client.head_object(Bucket=store.bucket, Key=key)
        assert result.etag.strip('"') == head["ETag"].strip('"')


def test_an_upload_that_was_killed_goes_on(store: RealStore, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(LARGE)
    state = tmp_path / "home/.local/state/pgetpy/uploads"
    url = f"s3://{store.bucket}/killed.bin"
    arguments = ("put", path, url, "-m", str(PART), "-c", "1", "--json")
    environ = {**store.environ, "HOME": str(tmp_path / "home")}
    with Run(*arguments, env=environ) as run:
        run.wait_until(lambda: _parts_noted(state) >= 1)
        run.process.kill()
        run.process.wait()
    result = upload(store, path, url)
    assert stored(store, "killed.bin") == LARGE
    # A fast store may have had all of it before the signal came.
    assert result.parts_sent < 4 or result.resumed == 0


def _parts_noted(state: Path) -> int:
    return sum(path.read_text().count('"number"') for path in state.glob("*"))


@pytest.mark.parametrize("data", [b"new", LARGE], ids=["put", "complete"])
def test_an_object_that_exists_is_kept_where_it_must_be_absent(
    store: RealStore, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    url = put(store, "absent/there", b"old")
    with pytest.raises(ObjectExistsError):
        upload(store, path, url, if_absent=True)
    assert stored(store, "absent/there") == b"old"
    key = f"absent/{hashlib.sha256(data).hexdigest()}"
    upload(store, path, f"s3://{store.bucket}/{key}", if_absent=True)
    assert stored(store, key) == data


def test_the_condition_itself_is_kept_where_the_store_promises_it(
    store: RealStore, tmp_path: Path
) -> None:
    """The object appears after it was looked for: when the upload has started."""
    for kind, data in (("put", b"new"), ("complete", LARGE)):
        path, key = tmp_path / kind, f"race/{kind}"
        path.write_bytes(data)
        url = f"s3://{store.bucket}/{key}"

        def appear(event: Event, key: str = key) -> None:
            if type(event).__name__ == "Started":
                put(store, key, b"theirs")

        # What is sent in parts is looked for again before it is completed.
        if kind in store.heeds or kind == "complete":
            with pytest.raises(ObjectExistsError):
                upload(store, path, url, if_absent=True, progress=appear)
            assert stored(store, key) == b"theirs"
        else:
            upload(store, path, url, if_absent=True, progress=appear)
            assert stored(store, key) == data


# ---------------------------------------------------------------------------- the second tier


def test_the_cache_has_a_second_tier_there(store: RealStore, tmp_path: Path, server: Any) -> None:
    big, place = weights(18 * MIB, f"{store.name} {time.time_ns()}"), f"s3://{store.bucket}/tier"
    urls = [serve(server, big), serve(server, weights(5000, "small"), "/small.safetensors")]
    sources = SourceSettings(environ=store.environ)
    with opened(tmp_path / "a", remote=place, sources=sources) as cache:
        for url in urls:
            cache.ensure(url)
        assert cache.settle(120)
    asked = len(server.requests)
    with opened(tmp_path / "b", remote=place, sources=sources) as cache:
        assert cache.ensure(urls[0]).read_bytes() == big
        assert cache.ensure(urls[1]).read_bytes() == weights(5000, "small")
    assert len(server.requests) == asked
    # An origin that has changed gets another record.
    new = weights(6000, "new")
    serve(server, new, "/small.safetensors", etag='"v2"')
    for name in "cd":
        with opened(tmp_path / name, remote=place, sources=sources, refresh="check") as cache:
            assert cache.ensure(urls[1]).read_bytes() == new
            assert cache.settle(120)
    listed = store.client.list_objects_v2(Bucket=store.bucket, Prefix="tier/")["Contents"]
    assert not [each["Key"] for each in listed if "/claims/" in each["Key"]]


# -------------------------------------------------------------------------------- compile caches


def test_compiled_code_goes_from_one_machine_to_another(
    store: RealStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_torch(tmp_path / "site", monkeypatch)
    monkeypatch.setenv("TORCH_COMPILE_CACHE_KEY_TAG", "")
    settings = impatient(sources=SourceSettings(environ=store.environ))
    place = f"s3://{store.bucket}/compiled"
    one, two = Machine(tmp_path / "one", monkeypatch), Machine(tmp_path / "two", monkeypatch)
    for _ in range(3):
        one.inductor.graph()
        one.triton.kernel()
    name = str(time.time_ns())
    saved = one.cache(place, name=name, settings=settings).save()
    assert (saved.outcome, saved.reason) == ("saved", "")
    loaded = two.cache(place, name=name, settings=settings).load()
    assert (loaded.outcome, loaded.reason, loaded.entries) == ("loaded", "", saved.entries)
    assert tree_of(two.inductor.root) == tree_of(one.inductor.root)
    assert one.cache(place, name=name, settings=settings).save().outcome == "unchanged"
    keeper = one.cache(place, name=name, settings=settings).keeper()
    assert keeper.verify(saved.key, repair=False).damaged == []
    assert keeper.remove(saved.key) > 0
    assert saved.key not in [each.key for each in keeper.listings()]
