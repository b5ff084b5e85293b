"""What the torch of this process is told and asked, without importing it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

from pgetpy.compile_cache.live import scan_folders
from pgetpy.compile_cache.stages import make_folder, staging
from pgetpy.system.logs import RoomLog

_LOG = RoomLog("compile_cache")


def set_cache_tag(tag: str) -> None:
    """Have torch mix the instruction set into its keys, which it does not do by itself.

    A tag that the user has set is kept, with ours behind it. Child processes, such as the ranks of
    a server, inherit it with the environment.
    """
    mine = os.environ.get("TORCH_COMPILE_CACHE_KEY_TAG", "")
    if tag not in mine.split("+"):
        mine = f"{mine}+{tag}" if mine else tag
        os.environ["TORCH_COMPILE_CACHE_KEY_TAG"] = mine
    # Read when that module is imported, so that the variable comes too late for one that is there.
    config = sys.modules.get("torch.compiler.config")
    if config is not None:
        with contextlib.suppress(AttributeError):
            config.cache_key_tag = mine  # type: ignore[attr-defined]


def torch_counters() -> dict[str, int] | None:
    """Return Inductor's counters, if torch has been imported."""
    utils = sys.modules.get("torch._dynamo.utils")
    counters = getattr(utils, "counters", None)
    return dict(counters["inductor"]) if counters is not None else None


def copy_to_own_folder(folder: Path) -> Path:
    """Return a folder of our own with what is in `folder`, which torch is then told to use.

    torch takes locks in its folder even when everything is there, and fails where it cannot.
    It is the same folder at each start, and for all ranks of a model.
    """
    own = _own_folder(folder)
    with staging(own) as stage:
        for number, each in enumerate(scan_folders({"inductor": folder}).files.values()):
            staged, target = stage / str(number), own / each.path
            with contextlib.suppress(OSError):
                if not target.exists():
                    shutil.copyfile(folder / each.path, staged)
                    make_folder(target.parent)
                    os.replace(staged, target)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(own)
    _LOG.warning("%s cannot be written: TORCHINDUCTOR_CACHE_DIR=%s is used instead", folder, own)
    return own


def _own_folder(folder: Path) -> Path:
    """Return a folder that only this user may read, the same one each time."""
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    own = Path(tempfile.gettempdir(), f"pgetpy-inductor-{os.geteuid()}-{digest}")
    with contextlib.suppress(FileExistsError):
        own.mkdir(mode=0o700)
    found = os.lstat(own)
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if private and found.st_uid == os.geteuid():
        return own
    # Another user has taken the name.
    return Path(tempfile.mkdtemp(prefix="pgetpy-inductor-"))
