"""Pipelines on disk: trees of links, the pins that keep their files, and what leaves the disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy import WeightsDownloadCache
from pgetpy.core.pipelines.build_manifest import BuildManifest, ManifestSubject
from pgetpy.errors import CacheError, IntegrityError
from pgetpy.pipelines.tree_links import TreeSource
from pgetpy.pipelines.trees import TreeStore

FILES = {"model_index.json": b"{}", "unet/config.json": b'{"a": 1}', "unet/model.txt": b"weights"}
KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[WeightsDownloadCache]:
    with WeightsDownloadCache(tmp_path / "cache", min_disk_free=0, any_file=True) as cache:
        yield cache


@pytest.fixture
def trees(cache: WeightsDownloadCache, tmp_path: Path) -> TreeStore:
    return TreeStore(tmp_path / "pipelines", cache)


def manifest_of(files: dict[str, bytes] = FILES, key: str = KEY) -> BuildManifest:
    subjects = tuple(
        ManifestSubject(path, hashlib.sha256(data).hexdigest(), len(data))
        for path, data in files.items()
    )
    return BuildManifest(key, key, {}, (), 1.0, {}, subjects)


def reference_to(data: bytes) -> str:
    return f"data:,{data.decode()}"


def sources(cache: WeightsDownloadCache, files: dict[str, bytes] = FILES) -> list[TreeSource]:
    """The cache's entries of `files`."""
    return [
        TreeSource(path, cache.ensure(reference_to(data)), reference_to(data))
        for path, data in files.items()
    ]


def publish(
    trees: TreeStore, cache: WeightsDownloadCache, files: dict[str, bytes] = FILES, key: str = KEY
) -> None:
    trees.publish(manifest_of(files, key), sources(cache, files)).close()


def test_a_tree_is_a_folder_that_loaders_can_read(
    trees: TreeStore, cache: WeightsDownloadCache
) -> None:
    with trees.publish(manifest_of(), sources(cache)) as tree:
        assert {path: (tree.path / path).read_bytes() for path in FILES} == FILES
        assert tree.manifest == manifest_of()
    with TreeStore(trees.folder, cache).open(KEY) or pytest.fail("it is not there") as tree:
        assert tree.manifest == manifest_of()


def test_what_is_not_there_is_a_miss(trees: TreeStore) -> None:
    assert trees.open(KEY) is None
    assert (trees.keys(), trees.listed(), trees.sweep(), trees.remove(KEY)) == ([], [], 0, False)


@pytest.mark.parametrize("key", ["", "..", "A" * 64, "a" * 63, "../" + "a" * 61])
def test_what_is_not_a_key_is_refused(trees: TreeStore, key: str) -> None:
    with pytest.raises(IntegrityError):
        trees.open(key)


def test_files_of_a_tree_stay_in_the_cache_until_it_is_removed(
    trees: TreeStore, cache: WeightsDownloadCache
) -> None:
    publish(trees, cache)
    reference = reference_to(FILES["unet/config.json"])
    with pytest.raises(CacheError, match="held by a pin"):
        cache.remove(reference)
    assert trees.remove(KEY)
    assert cache.remove(reference)
    assert not trees.keys()


def test_a_file_of_two_trees_stays_until_both_are_removed(
    trees: TreeStore, cache: WeightsDownloadCache
) -> None:
    publish(trees, cache)
    publish(trees, cache, key=OTHER)
    assert trees.remove(KEY)
    with pytest.raises(CacheError, match="held by a pin"):
        cache.remove(reference_to(FILES["unet/config.json"]))


def test_a_pin_of_the_user_outlives_the_tree(trees: TreeStore, cache: WeightsDownloadCache) -> None:
    publish(trees, cache)
    reference = reference_to(FILES["unet/config.json"])
    cache.pin(reference)
    trees.remove(KEY)
    assert cache.unpin(reference)


def test_a_tree_in_use_is_not_removed(trees: TreeStore, cache: WeightsDownloadCache) -> None:
    with trees.publish(manifest_of(), sources(cache)):
        assert not trees.remove(KEY)
        assert trees.listed()[0].held
    assert not trees.listed()[0].held
    assert trees.remove(KEY)


def damage_link(tree: Path) -> None:
    (tree / "unet/config.json").unlink()


def damage_target(tree: Path) -> None:
    target = (tree / "unet/config.json").resolve()
    os.chmod(target, 0o644)
    target.write_bytes(b'{"a": 12}')


def damage_time(tree: Path) -> None:
    os.utime((tree / "unet/config.json").resolve(), ns=(1, 1))


def damage_manifest(tree: Path) -> None:
    (tree.parent / "manifest.json").write_bytes(b"{}")


def damage_links(tree: Path) -> None:
    (tree.parent / "links.json").write_bytes(b"[1]")


def redirect_link(tree: Path) -> None:
    """Another file of the same size and time."""
    target = (tree / "unet/config.json").resolve()
    status = target.stat()
    other = tree.parent / "other"
    other.write_bytes(b"x" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    (tree / "unet/config.json").unlink()
    (tree / "unet/config.json").symlink_to(other)


@pytest.mark.parametrize(
    "damage", [damage_link, damage_time, damage_manifest, damage_links, redirect_link]
)
def test_a_tree_that_does_not_hold_is_a_miss_and_is_replaced(
    trees: TreeStore, cache: WeightsDownloadCache, damage: object
) -> None:
    publish(trees, cache)
    assert callable(damage)
    damage(trees.folder / KEY / "tree")
    assert trees.open(KEY) is None
    publish(trees, cache)
    tree = trees.open(KEY)
    assert tree is not None
    assert (tree.path / "unet/config.json").read_bytes() == FILES["unet/config.json"]


def test_a_damaged_tree_that_another_process_has_just_replaced_stays(
    trees: TreeStore, cache: WeightsDownloadCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(trees, cache)
    place = trees.folder / KEY
    damage_link(place / "tree")
    rename, inodes = os.rename, []

    def late(source: Path, target: Path) -> None:
        if source == place:
            monkeypatch.setattr(os, "rename", rename)
            publish(TreeStore(trees.folder, cache), cache)
            inodes.append(place.stat().st_ino)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    publish(trees, cache)
    assert inodes == [place.stat().st_ino]
    assert list((trees.folder / "tmp").iterdir()) == []
    (owner,) = {each for each in cache.pins_by_owner() if each}
    assert owner in (place / "links.json").read_text()


def test_a_file_of_another_size_is_a_miss(trees: TreeStore, cache: WeightsDownloadCache) -> None:
    publish(trees, cache)
    damage_target(trees.folder / KEY / "tree")
    assert trees.open(KEY) is None


def test_verifying_finds_a_flipped_bit_that_opening_does_not(
    trees: TreeStore, cache: WeightsDownloadCache
) -> None:
    publish(trees, cache)
    assert trees.verify(KEY) == []
    target = (trees.folder / KEY / "tree/unet/config.json").resolve()
    status = target.stat()
    os.chmod(target, 0o644)
    target.write_bytes(FILES["unet/config.json"][:-1] + b"]")
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    tree = trees.open(KEY)
    assert tree is not None
    tree.close()
    assert trees.verify(KEY) == ["unet/config.json"]


@pytest.mark.parametrize("change", ["missing", "unnamed", "larger"])
def test_a_tree_that_its_manifest_does_not_describe_is_not_made(
    trees: TreeStore, cache: WeightsDownloadCache, change: str
) -> None:
    given = sources(cache)
    if change == "missing":
        given = given[:-1]
    elif change == "unnamed":
        given.append(given[0]._replace(path="other.json"))
    else:
        given[1] = given[1]._replace(target=given[2].target)
    with pytest.raises(IntegrityError):
        trees.publish(manifest_of(), given)
    assert trees.keys() == []
    assert list((trees.folder / "tmp").iterdir()) == []
    assert set(cache.pins_by_owner()) <= {""}


def test_the_least_recently_used_leaves_when_the_budget_is_exceeded(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    trees = TreeStore(tmp_path / "pipelines", cache, max_bytes=25)
    shared = {"model_index.json": b"{}"}
    one, two, three = (shared | {"unet/config.json": letter * 10} for letter in (b"x", b"y", b"z"))
    publish(trees, cache, one, KEY)
    os.utime(trees.folder / KEY / "used", ns=(1, 1))
    publish(trees, cache, two, OTHER)
    assert trees.keys() == [KEY, OTHER]
    assert trees.kept_bytes() == 22
    publish(trees, cache, three, "c" * 64)
    assert trees.keys() == [OTHER, "c" * 64]


def test_what_a_dead_process_left_is_swept(trees: TreeStore, cache: WeightsDownloadCache) -> None:
    publish(trees, cache)
    owner = json.loads((trees.folder / KEY / "links.json").read_bytes())["owner"]
    dead = owner[:16] + "0" * 16
    reference = reference_to(b"left")
    cache.ensure(reference)
    cache.pin_for(dead, reference)
    cache.pin_for("f" * 32, reference)
    left = trees.folder / "tmp" / ("0" * 16)
    left.mkdir()
    assert trees.sweep() == 0  # it may be at work
    os.utime(left, (1, 1))
    assert trees.sweep() == 2
    # Pins of living trees and of other folders stay.
    assert set(cache.pins_by_owner()) == {owner, "f" * 32}


@pytest.mark.parametrize("mark", [b"", b"\xff", b"f", b"0" * 17])
def test_a_damaged_id_costs_no_pins_of_others(
    trees: TreeStore, cache: WeightsDownloadCache, mark: bytes
) -> None:
    cache.pin_for("f" * 32, reference_to(b"x"))
    trees.folder.mkdir()
    (trees.folder / "id").write_bytes(mark)
    with pytest.raises(IntegrityError, match="id is damaged"):
        trees.sweep()
    assert "f" * 32 in cache.pins_by_owner()


def test_a_folder_that_is_mounted_elsewhere_keeps_its_pins(
    trees: TreeStore, cache: WeightsDownloadCache
) -> None:
    publish(trees, cache)
    moved = trees.folder.rename(trees.folder.with_name("moved"))
    again = TreeStore(moved, cache)
    assert again.sweep() == 0
    assert again.remove(KEY)
    assert cache.pins_by_owner() == {}


def test_threads_that_publish_at_once_get_the_same_tree(
    trees: TreeStore, cache: WeightsDownloadCache
) -> None:
    given = sources(cache)
    found: list[Path] = []

    def work() -> None:
        with trees.publish(manifest_of(), given) as tree:
            found.append((tree.path / "unet/config.json").resolve())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [given[1].target.resolve()] * 6
    assert len(cache.pins_by_owner()) == 1
    assert list((trees.folder / "tmp").iterdir()) == []


def test_another_process_sees_a_tree_and_its_use(
    trees: TreeStore, cache: WeightsDownloadCache
) -> None:
    publish(trees, cache)
    program = (
        "import sys; from pathlib import Path; from pgetpy import WeightsDownloadCache;"
        "from pgetpy.pipelines.trees import TreeStore;"
        f"cache = WeightsDownloadCache({str(cache.path)!r});"
        f"tree = TreeStore(Path({str(trees.folder)!r}), cache).open({KEY!r});"
        "print((tree.path / 'unet/config.json').read_text(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == FILES["unet/config.json"]
        assert not trees.remove(KEY)
        other.kill()
    assert trees.remove(KEY)
