"""Locations that others have written: no start fails, and nothing is made or removed elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgetpy.cli import main
from pgetpy.compile_cache.stages import create_file, write_whole
from pgetpy.core.compile_cache.seals import seal_name
from pgetpy.settings import Settings
from tests.support.compile_trees import Machine, contents
from tests.support.object_store import ObjectStore
from tests.support.resources import Resource
from tests.support.server import Server

Machines = Callable[[str], Machine]


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return tmp_path / "location"


@pytest.fixture
def key(machine: Machines, location: Path) -> str:
    """The key of a location with one save."""
    one = machine("one")
    one.inductor.graph()
    return one.cache(location).save().key


@pytest.mark.parametrize("name", ["../evil.json", "../../evil.json"])
def test_an_index_makes_no_file_elsewhere(
    machine: Machines, server: Server, tmp_path: Path, name: str
) -> None:
    cache = machine("one").cache(server.url("/www"), settings=Settings(retries=0))
    environment = cache.environment()
    assert environment is not None
    base = f"/www/v1/{environment.key}"
    index = {"seals": {name: 2}, "packs": {}}
    server.add(f"{base}/index.json", Resource(json.dumps(index).encode()))
    server.add(f"{base}/seals/{name}", Resource(b"{}"))
    assert cache.load().outcome == "miss"
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {"cpu_flags": [{}]}},
        {"facts": {"cpu_flags": 7}},
        {"facts": {"glibc": "glibc \u00b2.\u0663"}},
        {"pack_size": "1e999"},
        {"required": {"name": "NaN"}},
        {"files": {"inductor": [[["a"], 1, "0" * 64, 0, 0, 0]]}},
        {"files": {"inductor": "1e999"}},
    ],
)
def test_a_seal_with_odd_values_costs_its_own_files_alone(
    machine: Machines, location: Path, key: str, change: dict[str, Any]
) -> None:
    seals = location / "v1" / key / "seals"
    (good,) = seals.iterdir()
    body = json.loads(good.read_bytes())["seal"]
    text = json.dumps({"seal": {**body, **change}})
    data = text.replace('"1e999"', "1e999").replace('"NaN"', "NaN").encode()
    (seals / seal_name(data, 1)).write_bytes(data)
    two = machine("two")
    assert two.cache(location).load().outcome in ("loaded", "partial")
    assert contents(two.inductor.root) == contents(machine("one").inductor.root)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"required": {}, "facts": {"cpu_flags": 7}}'])
def test_facts_of_another_key_that_cannot_be_read_are_passed_over(
    machine: Machines, location: Path, key: str, data: bytes
) -> None:
    (location / "v1" / key / "env.json").write_bytes(data)
    cache = machine("two").cache(location, name="other")
    result = cache.load()
    assert (result.outcome, result.nearest) == ("miss", "")
    (listed,) = cache.keeper().listings()
    assert listed.environment is None


def test_a_fifo_does_not_block(machine: Machines, location: Path, key: str) -> None:
    path = location / "v1" / key / "env.json"
    path.unlink()
    os.mkfifo(path)
    cache = machine("two").cache(location, name="other")
    assert cache.load().outcome == "miss"
    assert len(cache.keeper().listings()) == 1


def test_facts_do_not_steer_the_terminal(
    machine: Machines, location: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = location / "v1" / key / "env.json"
    found = json.loads(path.read_bytes())
    found["required"]["name"] = "\x1b[2Jother"
    path.write_text(json.dumps(found))
    (location / "v1" / "\x1b[2J").mkdir()
    machine("two").boot()
    for command in ("load", "explain", "ls"):
        main(["compile-cache", command, "--location", str(location), "--name", "mine"])
    said = "".join(capsys.readouterr())
    assert "other" in said
    assert "\x1b" not in said


def test_repair_removes_nothing_that_another_secret_has_signed(
    machine: Machines, location: Path
) -> None:
    one = machine("one")
    one.inductor.graph()
    key = one.cache(location, secret="theirs").save().key
    found = one.cache(location, secret="ours").keeper().verify(key, repair=True)
    assert "not signed with our secret" in found.damaged[0]
    assert found.removed == []
    assert machine("two").cache(location, secret="theirs").load().outcome == "loaded"


def test_repair_removes_nothing_that_may_only_be_late(
    machine: Machines, location: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pack,) = location.rglob("*.zst")
    pack.rename(tmp_path / "hidden")
    keeper = machine("two").cache(location).keeper()
    found = keeper.verify(key, repair=True)
    assert "its pack is not there" in found.damaged[0]
    assert found.removed == []
    monkeypatch.setattr("pgetpy.compile_cache.maintenance._SEEN_SECONDS", -1.0)
    assert len(keeper.verify(key, repair=True).removed) == 2


def test_repair_removes_nothing_that_a_server_refuses_just_now(
    machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ObjectStore() as store:
        store.objects["bucket"] = {}
        for name, value in store.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PGET_RETRIES", "0")
        one = machine("one")
        one.inductor.graph()
        cache = one.cache("s3://bucket/compiled")
        key = cache.save().key
        before = set(store.objects["bucket"])
        store.pause_at = lambda request: request.path.endswith(".zst")
        store.paused = lambda: store.refuse(500, "InternalError", times=1)
        found = cache.keeper().verify(key, repair=True)
        assert len(found.damaged) == 1
        assert set(store.objects["bucket"]) == before


def test_no_folder_for_temporary_files_breaks_no_start(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    one = machine("one")
    monkeypatch.setattr("tempfile.gettempdir", none)
    assert one.cache(location).load().outcome in ("miss", "failed")


def test_a_place_where_no_folder_can_be_made_is_named_once(
    machine: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    one = machine("one")
    one.inductor.graph()
    one.boot()
    assert main(["compile-cache", "save", "--location", "/proc/pgetpy"]) == 1
    said = "".join(capsys.readouterr())
    assert said.count("no such file or directory") == 1
    assert "recursion" not in said


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with create_file(tmp_path / "pack") as out:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, out.fileno())
        os.close(full)
        with pytest.raises(OSError, match=str(tmp_path / "pack")):
            write_whole(out, b"x")


def test_what_killed_saves_have_left_is_removed_a_day_later(
    machine: Machines, location: Path, key: str
) -> None:
    old, new = (location / "v1" / f".unfinished-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir()
        (folder / "pack").write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    two = machine("two")
    two.inductor.graph()
    two.inductor.table("k9", {"a": 1})
    assert two.cache(location).save().outcome == "saved"
    assert not old.exists()
    assert new.exists()
