"""Locations in a bucket, and behind a web server that cannot be listed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgetpy.settings import Settings
from pgetpy.sources.object_bucket import bucket_of
from tests.support.compile_trees import Machine, contents
from tests.support.object_store import SECRET_KEY, ObjectStore
from tests.support.server import Resource, Server

Machines = Callable[[str], Machine]
LOCATION = "s3://bucket/compiled/flux"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    bucket_of.cache_clear()
    with ObjectStore() as store:
        store.objects["bucket"] = {}
        for name, value in store.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PGET_RETRIES", "0")
        yield store
    assert store.violations == []
    bucket_of.cache_clear()


def filled(machine: Machine) -> Machine:
    for _ in range(2):
        machine.inductor.graph()
        machine.triton.kernel()
    return machine


def files_of(machine: Machine) -> dict[str, bytes]:
    return {**contents(machine.inductor.root), **contents(machine.triton.root)}


def test_a_bucket_brings_what_another_machine_has_saved(
    machine: Machines, store: ObjectStore
) -> None:
    one, two = filled(machine("one")), machine("two")
    assert one.cache(LOCATION).load().outcome == "miss"
    saved = one.cache(LOCATION).save()
    assert (saved.outcome, saved.reason) == ("saved", "")
    names = sorted(store.objects["bucket"])
    assert [name.split("/")[4] for name in names] == ["env.json", "packs", "seals"]
    assert all(name.startswith(f"compiled/flux/v1/{saved.key}/") for name in names)
    result = two.cache(LOCATION).load()
    assert (result.outcome, result.reason) == ("loaded", "")
    assert files_of(two) == files_of(one)
    before = len(store.requests)
    assert one.cache(LOCATION).save().outcome == "unchanged"
    assert not [each for each in store.requests[before:] if each.method != "GET"]


def test_a_load_that_is_cancelled_has_stopped_writing(
    machine: Machines, store: ObjectStore, tmp_path: Path
) -> None:
    filled(machine("one")).cache(LOCATION).save()
    asked, go_on = threading.Event(), threading.Event()
    store.pause_at = lambda request: request.path.endswith(".zst")

    def paused() -> None:
        asked.set()
        go_on.wait(60)

    store.paused = paused
    two = machine("two")
    operation = two.cache(LOCATION).load_async()
    try:
        assert asked.wait(60)
        assert operation.cancel() is True
    finally:
        go_on.set()
    assert operation.result.outcome == "cancelled"
    assert files_of(two) == {}
    assert not list(two.home.rglob("pgetpy-packs-*"))
    assert not list(two.home.rglob(".pgetpy-stage-*"))


def test_the_nearest_key_is_named(machine: Machines, store: ObjectStore) -> None:
    there = filled(machine("one")).cache(LOCATION).save()
    result = machine("two").cache(LOCATION, name="other").load()
    assert (result.outcome, result.nearest) == ("miss", there.key)
    assert result.differing == ["name: none, here other"]


def test_eight_savers_at_once(machine: Machines, store: ObjectStore) -> None:
    machines = [machine(f"m{number}") for number in range(8)]
    caches = []
    for number, each in enumerate(machines):
        each.inductor._random.seed(number)
        each.inductor.graph()
        caches.append(each.cache(LOCATION))
    threads = [threading.Thread(target=cache.save) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = machine("last")
    assert last.cache(LOCATION).load().entries == 8 * 5


@pytest.mark.parametrize("refused", [(403, "AccessDenied"), (500, "InternalError")])
def test_a_store_that_refuses_breaks_no_start_and_no_secret_is_told(
    machine: Machines, store: ObjectStore, refused: tuple[int, str]
) -> None:
    store.refuse(*refused, times=1000)
    cache = filled(machine("one")).cache(LOCATION)
    for result in (cache.load(), cache.save()):
        assert result.outcome == "failed"
        assert "s3://bucket" in result.reason or "127.0.0.1" in result.reason
        assert SECRET_KEY not in repr(result)
    store.forgive()


def test_a_store_that_cannot_be_reached_breaks_no_start(
    machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("PGET_RETRIES", "0")
    bucket_of.cache_clear()
    result = machine("one").cache(LOCATION).load()
    assert result.outcome == "failed"
    assert "127.0.0.1:9" in result.reason


def test_a_damaged_pack_in_a_bucket_is_left_out_and_replaced(
    machine: Machines, store: ObjectStore
) -> None:
    one, two = filled(machine("one")), machine("two")
    one.cache(LOCATION).save()
    (name,) = [name for name in store.objects["bucket"] if name.endswith(".zst")]
    good = store.objects["bucket"][name].body
    store.put("bucket", name, bytes(len(good)))
    cache = two.cache(LOCATION)
    assert cache.load().outcome == "partial"
    assert files_of(two) == {}
    for path, data in contents(one.inductor.root).items():
        two.inductor.write(path, data)
    assert cache.save().outcome == "saved"
    three = machine("three")
    three.cache(LOCATION).load()
    assert contents(three.inductor.root) == contents(one.inductor.root)


def test_upkeep_of_a_bucket(machine: Machines, store: ObjectStore) -> None:
    one = filled(machine("one"))
    key = one.cache(LOCATION).save().key
    keeper = one.cache(LOCATION).keeper()
    (listed,) = keeper.listings()
    assert (listed.key, listed.seals, listed.packs) == (key, 1, 1)
    assert keeper.verify(key, repair=True).damaged == []
    assert keeper.publish() == [key]
    assert keeper.remove(key) == listed.size
    assert store.objects["bucket"] == {}


def test_a_web_server_is_read_by_its_index(
    machine: Machines, server: Server, tmp_path: Path
) -> None:
    one, two = filled(machine("one")), machine("two")
    location = tmp_path / "www"
    one.cache(location).save()
    one.cache(location).keeper().publish()
    for path in location.rglob("*"):
        if path.is_file():
            server.add(f"/www/{path.relative_to(location)}", Resource(path.read_bytes()))
    cache = two.cache(server.url("/www"), settings=Settings(retries=0))
    assert cache.load().outcome == "loaded"
    assert files_of(two) == files_of(one)
    two.inductor.graph()
    result = cache.save()
    assert result.outcome == "skipped"
    assert "is only read" in result.reason
    assert machine("three").cache(server.url("/none")).load().outcome == "miss"
