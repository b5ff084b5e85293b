"""Generations as containers see them: behind a read-only mount, on a full disk, as another user."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgetpy.errors import DiskFullError, NotOneFileSystemError
from pgetpy.generations import Generations
from tests.support.children import in_namespace
from tests.support.entries import said
from tests.support.generations import Node
from tests.support.processes import (
    NOBODY,
    demotion,
    environment,
    folder_of_nobody,
    limited_tmpfs,
    missing,
    run,
)
from tests.support.server import Server
from tests.support.weights import opened, weights

UNET, OTHER = weights(3000, "unet"), weights(3000, "other")
# Holds the generation that is asked for until its input ends, and tries to write.
_READER = """
import os, sys
files = os.environ["PGET_GENERATION_FILES"]
with open(files + "/unet", "rb") as file:
    data = file.read()
try:
    os.open(files + "/unet", os.O_RDWR)
    written = "writable"
except OSError as error:
    written = error.strerror
print(len(data), written, flush=True)
sys.stdin.read()
"""


@contextmanager
def container(node: Node, mount: Path, *, user: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A program that has the folder of generations mounted read-only at `mount`, and uses 6."""
    mount.mkdir()
    order = f"mount --bind {node.root} {mount}; mount -o remount,bind,ro {mount}"
    if user:
        order += f'; exec {" ".join(demotion())} "$@"'
    command = [*in_namespace(order), "generation", "exec", "--root", str(mount)]
    env = environment({"PGET_GENERATION": "6"})
    with subprocess.Popen(
        [*command, "--", sys.executable, "-c", _READER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
    ) as program:
        try:
            yield program
        finally:
            program.kill()


@pytest.mark.parametrize("user", [False, True], ids=["same user", "nobody"])
def test_a_reader_behind_a_read_only_mount_is_seen(node: Node, tmp_path: Path, user: bool) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    node.generations.build(node.lock(6, {"unet": UNET}))
    node.generations.build(node.lock(7, {"unet": OTHER}))
    with container(node, tmp_path / "mount", user=user) as program:
        size, _, refused = said(program).partition(" ")
        assert int(size) == len(UNET)
        assert refused in (os.strerror(errno.EROFS), os.strerror(errno.EACCES))
        (kept,) = node.generations.prune(keep=1).in_use
        assert kept.number == 6
        assert kept.readers[0].startswith(f"{program.pid} (")
        program.kill()
        program.wait()
    assert node.generations.prune(keep=1).removed == (6,)


def test_a_folder_that_may_not_be_read_is_an_error_in_words(node: Node) -> None:
    if os.geteuid() != 0:
        missing("it takes another user")
    node.generations.build(node.lock(6, {"unet": UNET}))
    with folder_of_nobody() as theirs:
        closed = theirs / "closed"
        node.root.rename(closed)
        code = (
            f"import os, sys; os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); "
            f"os.setresuid(*[{NOBODY}] * 3); "
            "from pgetpy.cli import main; sys.exit(main(sys.argv[1:]))"
        )
        prepared = f"import pgetpy.cli.generation, pgetpy.cli.dispatch, pgetpy.cli.help; {code}"
        (closed / "ids").chmod(0o700)
        for command in ("ready", "ls"):
            ended = subprocess.run(
                [sys.executable, "-c", prepared, "generation", command, "--root", str(closed)],
                capture_output=True, text=True, check=False, env=environment(),
            )  # fmt: skip
            assert ended.returncode == 1, ended.stderr
            assert "cannot be used" in ended.stderr
            assert "permission denied" in ended.stderr
            assert "Traceback" not in ended.stderr
        closed.rename(node.root)


def test_overlayfs_is_recognised_and_said(node: Node, tmp_path: Path) -> None:
    node.generations.build(node.lock(6, {"unet": UNET}))
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={node.root},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    order = f"mount -t overlay overlay -o {layers} {tmp_path}/merged"
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", order], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        missing(f"overlayfs cannot be mounted: {tried.stderr.strip()}")
    command = [*in_namespace(order), "generation", "exec", "--root", f"{tmp_path}/merged"]
    program = [sys.executable, "-c", "print('read')"]
    ended = subprocess.run(
        [*command, "--", *program], capture_output=True, text=True, check=False, env=environment()
    )
    assert ended.stdout == "read\n", ended.stderr
    assert "is on overlayfs" in ended.stderr


def test_a_full_disk_publishes_nothing_and_is_named(server: Server) -> None:
    with limited_tmpfs(4 << 20) as disk, opened(disk / "cache") as cache:
        node = Node(disk, cache, server)
        node.generations.build(node.lock(6, {"unet": UNET}))
        names = {f"{number}/{'n' * 200}": UNET for number in range(200)}
        lock = node.lock(7, names)
        cache.ensure(node.url(UNET))
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass
        with pytest.raises(DiskFullError, match="is full"):
            node.generations.build(lock)
        assert node.left_over() == []
        assert node.generations.ready(6, 6).ready
        filler.unlink()
        node.generations.build(lock)
        assert node.generations.ready(6, 7).ready


def test_two_file_systems_are_an_error_and_copies_a_choice(server: Server, tmp_path: Path) -> None:
    with limited_tmpfs(4 << 20) as disk, opened(tmp_path / "cache") as cache:
        node = Node(disk, cache, server)
        lock = node.lock(6, {"unet": UNET})
        with pytest.raises(NotOneFileSystemError, match="different file systems") as caught:
            node.generations.build(lock)
        assert caught.value.errno == errno.EXDEV
        Generations(disk, cache, copies=True).build(lock)
        assert node.generations.verify(6).sound


def test_another_users_files_are_not_linked(server: Server) -> None:
    """fs.protected_hardlinks: only the owner may link a file that others may not write."""
    protected = Path("/proc/sys/fs/protected_hardlinks")
    if os.geteuid() != 0 or not protected.exists() or protected.read_text().strip() != "1":
        missing("it takes another user, and a kernel that protects their files")
    with folder_of_nobody() as theirs:
        with opened(theirs / "cache") as cache:
            node = Node(theirs, cache, server)
            lock = theirs / "6.lock"
            lock.write_text(node.lock(6, {"unet": UNET}).text)
            cache.ensure(node.url(UNET)).chmod(0o444)
            cache.settle()
        for path in theirs.rglob("*"):
            if path.is_dir() or "entries" not in path.parts:
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        ended = run(
            "generation", "build", "--root", theirs, "--json", "--min-disk-free", "0", lock,
            unprivileged=True, env={"HOME": str(theirs)},
        )  # fmt: skip
    assert ended.code == 1, ended.err
    assert json.loads(ended.out)["error_type"] == "NotOneFileSystemError"
    assert "belongs to another user" in ended.err
