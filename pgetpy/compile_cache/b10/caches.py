"""b10_transfer's calls for compile caches, with its names, types and variables.

A program that imports them from pgetpy instead needs no other change. Three things differ on
purpose. What is stored has pgetpy's format, so the two do not read each other's caches. Saving adds
what is new instead of replacing an archive. And a load checks each file before it is in place.

Variables that it reads: B10FS_CACHE_DIR (the location), BASETEN_FS_ENABLED (0 turns it off),
MAX_CACHE_SIZE_MB, and TORCH_CACHE_DIR, which its README names and torch does not read. Failures are
statuses and log lines, never exceptions: callers run these calls at start-up, without a `try`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgetpy.compile_cache.b10.statuses import (
    AsyncTransferStatus,
    CacheValidationError,
    LoadStatus,
    OperationStatus,
    SaveStatus,
)
from pgetpy.compile_cache.b10.tasks import start_task
from pgetpy.compile_cache.cache import CompileCache
from pgetpy.compile_cache.host import live_folders, read_environment
from pgetpy.compile_cache.live import scan_folders
from pgetpy.compile_cache.locations import reason_of
from pgetpy.compile_cache.maintenance import LocationKeeper
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.results import CompileCacheResult
from pgetpy.errors import PgetError
from pgetpy.system.filesystem import remove_tree
from pgetpy.system.logs import shown

_DEFAULT_LOCATION = "/cache/model/compile_cache"
_MIB = 1 << 20


def load_compile_cache() -> LoadStatus:
    """Load the compile cache of this machine, before anything is compiled.

    Returns:
        SUCCESS if it was loaded, DOES_NOT_EXIST if nothing is saved for this machine,
        SKIPPED if BASETEN_FS_ENABLED is 0, else ERROR.
    """
    return _load_status(_load(CancelFlag()))


def save_compile_cache() -> SaveStatus:
    """Save what has been compiled.

    Returns:
        SUCCESS if something was saved, SKIPPED if nothing is new or it is turned off, else ERROR.
    """
    return _save_status(_save(CancelFlag(), ("inductor", "triton")))


def save_vllm_compile_cache() -> OperationStatus:
    """Save what vLLM has compiled (VLLM_CACHE_ROOT).

    To load it, use `CompileCache(..., kinds=("vllm",))`: b10_transfer has no call for that.

    Returns:
        As `save_compile_cache`, in the type that 0.4.1 has for it.
    """
    return OperationStatus(_save_status(_save(CancelFlag(), ("vllm",))).value)


def load_compile_cache_async(progress_callback: Callable[[str], None] | None = None) -> str:
    """Start `load_compile_cache`; return the operation's id.

    Args:
        progress_callback: is called with a sentence at the start and at the end, in a thread.
    """

    def work(flag: CancelFlag) -> AsyncTransferStatus:
        found = _load(flag)
        return _async_status(found, _load_status(found) is not LoadStatus.ERROR)

    return start_task("load_compile_cache", work, progress_callback)


def save_compile_cache_async(progress_callback: Callable[[str], None] | None = None) -> str:
    """Start `save_compile_cache`; return the operation's id.

    Args:
        progress_callback: see `load_compile_cache_async`.
    """

    def work(flag: CancelFlag) -> AsyncTransferStatus:
        found = _save(flag, ("inductor", "triton"))
        return _async_status(found, _save_status(found) is not SaveStatus.ERROR)

    return start_task("save_compile_cache", work, progress_callback)


def clear_local_cache() -> bool:
    """Remove the live folder of Inductor; True if it is gone, or was not there.

    A process that compiles meanwhile fails: this is for a start that shall be cold.
    """
    folder = _local_folder()
    try:
        remove_tree(folder)
    except OSError as error:
        _log().error("%s cannot be removed: %s", shown(folder), shown(reason_of(error)))
        return False
    return True


def get_cache_info() -> dict[str, Any]:
    """Return what is here and in the location.

    Sizes are in MB of 2**20 bytes, and None where there is nothing. A location that cannot be asked
    counts as one without a cache: this is a report, and no start may end because of it.
    """
    environment = read_environment("", os.environ)
    folder, keeper = _local_folder(), _keeper()
    local = scan_folders({"inductor": folder}).files.values()
    key = environment.key if environment is not None else ""
    size = next((each.size for each in _keys(keeper) if each.key == key and each.seals), None)
    return {
        "environment_key": key,
        "local_cache_exists": bool(local),
        "b10fs_enabled": keeper is not None,
        "b10fs_cache_exists": size is not None,
        "local_cache_size_mb": sum(each.size for each in local) / _MIB if local else None,
        "b10fs_cache_size_mb": size / _MIB if size is not None else None,
    }


def list_available_caches() -> dict[str, Any]:
    """Return the caches in the location, the last saved one first."""
    environment = read_environment("", os.environ)
    key = environment.key if environment is not None else ""
    keeper = _keeper()
    caches = [
        {
            "filename": each.key,
            "environment_key": each.key,
            "size_mb": each.size / _MIB,
            "is_current_environment": each.key == key,
            "created_time": each.saved,
        }
        for each in _keys(keeper)
    ]
    return {
        "caches": caches,
        "current_environment": key,
        "total_caches": len(caches),
        "current_cache_exists": any(each["is_current_environment"] for each in caches),
        "b10fs_enabled": keeper is not None,
    }


def _keys(keeper: LocationKeeper | None) -> list[Any]:
    with contextlib.suppress(PgetError, OSError):
        return keeper.listings() if keeper is not None else []
    return []


def _enabled() -> bool:
    return os.environ.get("BASETEN_FS_ENABLED", "1").strip().lower() not in ("0", "false", "no")


def _keeper() -> LocationKeeper | None:
    return _cache(("inductor",)).keeper() if _enabled() else None


def _local_folder() -> Path:
    _take_variable()
    return live_folders(("inductor",), os.environ)["inductor"]


def _take_variable() -> None:
    """Its README names TORCH_CACHE_DIR, which torch does not read."""
    named = os.environ.get("TORCH_CACHE_DIR")
    if named and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = named


def _cache(kinds: tuple[str, ...]) -> CompileCache:
    _take_variable()
    try:
        most = int(float(os.environ.get("MAX_CACHE_SIZE_MB") or 1024) * _MIB)
    except ValueError:
        raise CacheValidationError("MAX_CACHE_SIZE_MB is not a number") from None
    location = os.environ.get("B10FS_CACHE_DIR") or _DEFAULT_LOCATION
    return CompileCache(location, kinds=kinds, max_bytes=most)


def _load(flag: CancelFlag) -> CompileCacheResult:
    if not _enabled():
        return CompileCacheResult("skipped", "BASETEN_FS_ENABLED is 0")
    return _told("load", _cache(("inductor", "triton")).load(flag=flag))


def _save(flag: CancelFlag, kinds: tuple[str, ...]) -> CompileCacheResult:
    if not _enabled():
        return CompileCacheResult("skipped", "BASETEN_FS_ENABLED is 0")
    return _told("save", _cache(kinds).save(flag=flag))


def _told(what: str, result: CompileCacheResult) -> CompileCacheResult:
    _log().info("%s: %s %s", what, result.outcome, shown(result.reason))
    return result


def _load_status(result: CompileCacheResult) -> LoadStatus:
    if result.outcome == "partial":
        return LoadStatus.SUCCESS if result.entries else LoadStatus.ERROR
    return {
        "loaded": LoadStatus.SUCCESS,
        "miss": LoadStatus.DOES_NOT_EXIST,
        "skipped": LoadStatus.SKIPPED,
    }.get(result.outcome, LoadStatus.ERROR)


def _save_status(result: CompileCacheResult) -> SaveStatus:
    return {
        "saved": SaveStatus.SUCCESS,
        "unchanged": SaveStatus.SKIPPED,
        "skipped": SaveStatus.SKIPPED,
    }.get(result.outcome, SaveStatus.ERROR)


def _async_status(result: CompileCacheResult, good: bool) -> AsyncTransferStatus:
    if result.outcome == "cancelled":
        return AsyncTransferStatus.CANCELLED
    return AsyncTransferStatus.SUCCESS if good else AsyncTransferStatus.ERROR


def get_b10_logger(name: str) -> logging.Logger:
    """Return the logger `name`, or the one of this package's compile caches for an empty name."""
    return logging.getLogger(name or "pgetpy.compile_cache")


def _log() -> logging.Logger:
    return get_b10_logger("")
