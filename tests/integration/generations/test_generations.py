"""Generations: built once and never changed, read under a lock, pruned when not read."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pgetpy.core.generations.lock import FileLine, GenerationLock
from pgetpy.errors import (
    CacheFullError,
    DigestMismatchError,
    GenerationError,
    GenerationIncompleteError,
    GenerationInUseError,
    GenerationTakenError,
    NotOneFileSystemError,
    UsageError,
)
from pgetpy.generations import Generations, Pruned, hold, use
from tests.support.generations import Node, digest
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import opened, tar_of, weights

UNET, VAE, OTHER = weights(3000, "unet"), weights(2000, "vae"), weights(1000, "other")
SIX = {"unet/model.safetensors": UNET, "vae/model.safetensors": VAE}
SEVEN = {"unet/model.safetensors": UNET, "vae/model.safetensors": OTHER, "config.json": b"{}"}


def test_a_generation_has_the_files_of_its_lock(node: Node) -> None:
    built = node.generations.build(node.lock(6, SIX))
    assert node.files(6) == SIX
    assert built.number == 6
    assert sorted(file.path for file in built.files) == sorted(f"files/{path}" for path in SIX)
    assert os.readlink(node.root / "latest") == "ids/6"
    assert (node.root / "latest" / "files" / "unet" / "model.safetensors").read_bytes() == UNET
    assert node.left_over() == []


def test_files_are_those_of_the_cache_and_are_not_fetched_twice(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    asked = len(node.server.requests)
    node.generations.build(node.lock(7, {**SIX, "copy": UNET}))
    assert len(node.server.requests) == asked
    one = node.root / "ids/6/files/unet/model.safetensors"
    assert one.samefile(node.cache.ensure(node.url(UNET)))
    assert one.samefile(node.root / "ids/7/files/copy")


def test_what_is_published_may_be_read_by_all_and_written_by_none(node: Node) -> None:
    before = os.umask(0o077)
    try:
        node.generations.build(node.lock(6, SIX))
    finally:
        os.umask(before)
    path = node.root / "latest/files/unet/model.safetensors"
    assert stat.S_IMODE(path.stat().st_mode) & 0o666 == 0o444
    for folder in [node.root, *list(path.parents)[:3], node.root / "ids"]:
        assert folder.stat().st_mode & 0o555 == 0o555, folder


def test_the_same_lock_is_built_once(node: Node) -> None:
    lock = node.lock(6, SIX)
    first = node.generations.build(lock)
    pinned = node.pinned()
    assert node.generations.build(lock) == first
    assert node.pinned() == pinned == 2


def test_a_number_that_has_other_content_is_not_given_away(node: Node) -> None:
    before = node.generations.build(node.lock(6, SIX))
    with pytest.raises(GenerationTakenError, match=before.digest):
        node.generations.build(node.lock(6, SEVEN))
    assert node.files(6) == SIX


def test_a_file_with_another_digest_publishes_nothing(node: Node) -> None:
    line = FileLine(node.url(UNET), "unet", digest(b"something else"))
    with pytest.raises(DigestMismatchError):
        node.generations.build(GenerationLock(6, (line,)))
    assert not node.generations.ready(6).ready
    assert node.left_over() == []
    assert node.pinned() == 0


def test_an_archive_becomes_a_folder(node: Node, server: Server) -> None:
    tar = tar_of({"a/one": b"1", "two": b"22"})
    url = server.add("/tokenizer.tar", Resource(tar))
    lock = GenerationLock(6, (FileLine(url, "tokenizer", digest(tar), extract=True),))
    node.generations.build(lock)
    assert node.files(6) == {"tokenizer/a/one": b"1", "tokenizer/two": b"22"}
    assert node.generations.verify(6).sound
    asked = len(server.requests)
    node.generations.build(GenerationLock(7, lock.files))
    assert len(server.requests) == asked


# ------------------------------------------------------------------------------------- readiness


def test_a_node_is_ready_when_all_wanted_numbers_are_whole(node: Node) -> None:
    generations = node.generations
    assert not generations.ready().ready
    generations.build(node.lock(6, SIX))
    assert generations.ready().ready
    assert generations.ready(6, 6).ready
    assert generations.ready(5).why == "generation 5 is not there"
    assert generations.ready(6, 7).why == "generation 7 is not there"
    generations.build(node.lock(7, SEVEN))
    assert generations.ready(6, 7).ready
    with pytest.raises(UsageError):
        generations.ready(7, 6)


def test_a_generation_without_its_record_is_listed_and_can_be_built_again(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    node.generations.build(node.lock(7, SEVEN))
    record = node.root / "ids/6/generation.json"
    record.chmod(0o644)
    record.write_text("{")
    listed = [(each.number, each.damaged) for each in node.generations.listed()]
    assert listed == [(7, False), (6, True)]
    assert not node.generations.verify(6).sound
    node.generations.build(node.lock(6, SIX))
    assert node.generations.verify(6).sound


@pytest.mark.parametrize("harm", ["remove", "shorten", "touch", "unrecord"])
def test_a_harmed_generation_is_not_ready(node: Node, harm: str) -> None:
    node.generations.build(node.lock(6, SIX))
    path = node.root / "ids/6/files/vae/model.safetensors"
    if harm == "remove":
        path.unlink()
    elif harm == "shorten":
        os.truncate(path, 10)
    elif harm == "touch":
        os.utime(path)
    else:
        (node.root / "ids/6/generation.json").write_text("{}")
    found = node.generations.ready(6)
    assert not found.ready
    assert ("generation.json" if harm == "unrecord" else "vae/model.safetensors") in found.why


def test_latest_obeys_the_maximum_and_never_points_to_what_is_gone(node: Node) -> None:
    for number in (6, 7, 8):
        node.generations.build(node.lock(number, SIX))
    assert os.readlink(node.root / "latest") == "ids/8"
    node.generations.build(node.lock(6, SIX), maximum=7)
    assert os.readlink(node.root / "latest") == "ids/7"


# --------------------------------------------------------------------------------- pins and room


def test_eviction_keeps_what_a_generation_holds_and_says_so(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    node.cache.ensure(node.url(OTHER))
    size = len(UNET) + len(VAE)
    assert node.cache.totals().pinned == size
    with opened(node.root / "cache", max_bytes=size) as small:
        small.evict()
        assert [entry.record.size for entry in small.entries()] != []
        assert small.totals().stored == size
        with pytest.raises(CacheFullError, match=f"pins {size}"):
            small.evict(1)


def test_pruning_removes_the_pins(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    node.generations.build(node.lock(7, {"unet": UNET}))
    assert node.pinned() == 3
    assert node.generations.prune(keep=1).removed == (6,)
    assert node.pinned() == 1
    assert node.files(7) == {"unet": UNET}
    assert node.left_over() == []


def disk_usage(root: Path) -> int:
    """Return what everything below a folder takes on the disk, each inode once."""
    found = {}
    for path in (root, *root.rglob("*")):
        status = path.lstat()
        found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def test_the_next_generation_takes_what_has_changed_and_little_more(node: Node) -> None:
    same = {f"models/{number}": weights(1000, number) for number in range(50)}
    changed = weights(8 << 20, "changed")
    node.generations.build(node.lock(6, {**same, "unet": weights(1000, "unet")}))
    before = disk_usage(node.root)
    node.generations.build(node.lock(7, {**same, "unet": changed}))
    taken = disk_usage(node.root) - before
    assert len(changed) <= taken <= 1.01 * len(changed) + 4096


# ----------------------------------------------------------------------------------- not linkable


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_what_cannot_be_linked_is_copied_only_if_asked(
    node: Node, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = node.lock(6, SIX)
    for data in SIX.values():
        node.cache.ensure(node.url(data))
    node.cache.settle()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(NotOneFileSystemError, match="--copy") as caught:
        node.generations.build(lock)
    assert caught.value.errno == code
    assert node.left_over() == []
    Generations(node.root, node.cache, copies=True, fsync=False).build(lock)
    assert node.files(6) == SIX
    assert (node.root / "ids/6/files/unet/model.safetensors").stat().st_nlink == 1


# ---------------------------------------------------------------------------------------- readers


def test_a_reader_gets_the_files_and_keeps_them(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    with use(node.root, {}) as files:
        node.generations.build(node.lock(7, SEVEN))
        pruned = node.generations.prune(keep=1)
        assert pruned.removed == ()
        assert [each.number for each in pruned.in_use] == [6]
        assert (files / "vae/model.safetensors").read_bytes() == VAE
        with use(node.root, {"PGET_GENERATION": "7"}) as others:
            assert (others / "vae/model.safetensors").read_bytes() == OTHER
    assert node.generations.prune(keep=1) == Pruned((6,), ())


def test_a_reader_may_name_a_number_or_a_digest(node: Node) -> None:
    six = node.generations.build(node.lock(6, SIX))
    node.generations.build(node.lock(7, SEVEN))
    for name in ("6", six.digest, f"sha256:{six.digest}"):
        with hold(node.root, {"PGET_GENERATION": name}) as held:
            assert held.digest == six.digest
    with use(None, {"PGET_GENERATION_ROOT": str(node.root)}) as files:
        assert (files / "config.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", ["8", "a" * 64, "../trees", "latest"])
def test_a_reader_of_what_is_not_there_is_told(node: Node, name: str) -> None:
    with pytest.raises(GenerationIncompleteError, match="is not there"):
        hold(node.root, {"PGET_GENERATION": name})


def test_a_pruner_says_who_reads(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    node.generations.build(node.lock(7, SEVEN))
    code = (
        "import sys; from pgetpy.generations import hold; "
        "held = hold(sys.argv[1], {'PGET_GENERATION': '6'}); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(node.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        (kept,) = node.generations.prune(keep=1).in_use
        assert kept.number == 6
        assert len(kept.readers) == 1
        assert kept.readers[0].startswith(f"{reader.pid} (")
        (listed,) = (each for each in node.generations.listed() if each.number == 6)
        assert listed.readers == kept.readers
        reader.kill()
        reader.wait()
    assert node.generations.prune(keep=1).removed == (6,)


def test_a_reader_that_keeps_others_out_is_named(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgetpy.generations.readers._WAIT_SECONDS", 0.05)
    node.generations.build(node.lock(6, SIX))
    code = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); "
        "fcntl.flock(fd, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(node.root / "ids/6/.in-use")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as greedy:
        assert greedy.stdout is not None
        greedy.stdout.readline()
        with pytest.raises(GenerationError, match=rf"kept from other readers by {greedy.pid} "):
            hold(node.root, {"PGET_GENERATION": "6"})
        with pytest.raises(GenerationError, match=rf"kept from other readers by {greedy.pid} "):
            node.generations.build(node.lock(6, SIX))
        greedy.kill()


def test_pruning_needs_a_rule(node: Node) -> None:
    with pytest.raises(UsageError):
        node.generations.prune()


# ----------------------------------------------------------------------------------------- damage


def poison(path: Path) -> None:
    """Change a byte in place, and nothing that a glance shows."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_poisoned_file_is_named_with_the_generations_that_share_it(node: Node) -> None:
    for number, files in ((6, SIX), (7, SEVEN), (8, {"only": OTHER})):
        node.generations.build(node.lock(number, files))
    poison(node.root / "ids/6/files/unet/model.safetensors")
    assert node.generations.ready(6, 8).ready, "a glance does not show it"
    found = node.generations.verify(6)
    (fault,) = found.faults
    assert fault.path == "files/unet/model.safetensors"
    assert fault.poisons == (7,)
    assert not node.generations.ready(6, 6).ready, "from now on it is known"
    assert "same file as one of generation 6" in node.generations.ready(7, 7).why
    assert node.generations.verify(8).sound
    node.generations.build(node.lock(7, SEVEN))
    assert node.generations.verify(7).sound
    assert node.generations.ready(7, 8).ready
    assert not node.generations.ready(6, 6).ready, "it still has the old file"


def test_what_was_written_to_is_not_whole_although_its_bytes_are_the_same(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    os.utime(node.root / "ids/6/files/unet/model.safetensors")
    assert not node.generations.ready(6).ready
    (fault,) = node.generations.verify(6).faults
    assert "its bytes are the same" in fault.reason
    node.generations.build(node.lock(6, SIX))
    assert node.generations.verify(6).sound


def test_a_damaged_generation_is_built_again_from_the_origin(node: Node) -> None:
    lock = node.lock(6, SIX)
    node.generations.build(lock)
    poison(node.root / "ids/6/files/unet/model.safetensors")
    assert not node.generations.verify(6).sound
    node.generations.build(lock)
    assert node.files(6) == SIX
    assert node.generations.verify(6).sound
    assert node.generations.ready(6).ready
    assert node.pinned() == 2


def test_a_damaged_generation_is_not_replaced_while_it_is_read(node: Node) -> None:
    lock = node.lock(6, SIX)
    node.generations.build(lock)
    os.utime(node.root / "ids/6/files/unet/model.safetensors")
    with use(node.root, {}), pytest.raises(GenerationInUseError, match="is read by"):
        node.generations.build(lock)
    node.generations.build(lock)
    assert node.generations.ready(6).ready


def test_an_added_file_is_found(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    (node.root / "ids/6/files/new").write_text("x")
    assert [str(fault) for fault in node.generations.verify(6).faults] == ["files/new was added"]


# ------------------------------------------------------------------------------------- comparing


def test_the_difference_is_told_in_words(node: Node) -> None:
    node.generations.build(node.lock(6, SIX))
    node.generations.build(node.lock(7, SEVEN))
    found = node.generations.diff(6, 7)
    assert [str(change) for change in found.changes] == [
        f"added config.json: {digest(b'{}')}",
        f"changed vae/model.safetensors: {digest(VAE)} to {digest(OTHER)}",
    ]
    assert found.same == 1
