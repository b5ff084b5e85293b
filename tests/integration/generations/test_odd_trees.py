"""Trees, folders and paths that nothing of ours makes: an error in words, or replaced."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from pgetpy.core.generations.lock import FileLine, GenerationLock
from pgetpy.errors import GenerationError, UnsafeMemberError
from pgetpy.generations import Generations, hold
from tests.support.generations import Node, digest
from tests.support.weights import tar_of, weights

UNET = weights(3000, "unet")


@pytest.mark.parametrize("name", [".in-use", "generation.json", "files/weights.safetensors"])
def test_a_fifo_in_a_generation_blocks_no_process_and_is_replaced(node: Node, name: str) -> None:
    lock = node.lock(6, {"weights.safetensors": UNET})
    node.generations.build(lock)
    path = node.root / "trees" / lock.digest / name
    path.unlink()
    os.mkfifo(path)
    assert not node.generations.ready(6).ready
    assert [each.number for each in node.generations.listed()] == [6]
    assert not node.generations.verify(6).sound
    node.generations.build(lock)
    assert node.generations.ready(6).ready
    hold(node.root, {"PGET_GENERATION": "6"}).close()


def test_a_generation_without_its_lock_file_is_not_ready_and_built_again(node: Node) -> None:
    node.generations.build(node.lock(6, {"unet": UNET}))
    (node.root / "ids/6/.in-use").write_bytes(b"")
    assert ".in-use is missing or damaged" in node.generations.ready(6).why
    node.generations.build(node.lock(6, {"unet": UNET}))
    assert node.generations.ready(6).ready


def test_a_folder_that_is_not_there_is_an_error_where_nothing_would_seem_fine(
    node: Node, tmp_path: Path
) -> None:
    wrong = Generations(tmp_path / "wrong", node.cache)
    for ask in (partial(wrong.prune, keep=1), wrong.listed):
        with pytest.raises(GenerationError, match="wrong is not there"):
            ask()
    assert not (tmp_path / "wrong").exists()
    assert not wrong.ready().ready


def test_an_archive_that_is_refused_is_named(node: Node) -> None:
    url = node.url(tar_of({"../x": b"1"}))
    line = FileLine(url, "x", digest(tar_of({"../x": b"1"})), extract=True)
    with pytest.raises(UnsafeMemberError, match=rf"'\.\./x'.*the archive is {url}"):
        node.generations.build(GenerationLock(6, (line,)))


def test_a_path_of_many_folders_is_built_and_removed(node: Node) -> None:
    node.generations.build(node.lock(6, {"x/" * 255 + "y": b"1"}))
    node.generations.build(node.lock(7, {"y": b"1"}))
    assert node.generations.ready(6).ready
    assert node.generations.prune(keep=1).removed == (6,)
