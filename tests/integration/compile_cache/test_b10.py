"""b10_transfer's names: its statuses and dictionaries, without its failures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgetpy.compile_cache import b10
from tests.support.compile_trees import Machine, contents
from tests.support.waiting import eventually

Machines = Callable[[str], Machine]
NAMES_OF_002 = {
    "load_compile_cache", "save_compile_cache", "clear_local_cache", "get_cache_info",
    "list_available_caches", "transfer", "start_transfer_async", "get_transfer_status",
    "is_transfer_complete", "wait_for_completion", "cancel_transfer", "list_active_transfers",
    "load_compile_cache_async", "save_compile_cache_async", "LoadStatus", "SaveStatus",
    "TransferStatus", "AsyncTransferStatus", "TransferProgress", "CacheError",
    "CacheValidationError", "CacheOperationInterrupted",
}  # fmt: skip
NAMES_OF_041 = {"OperationStatus", "save_vllm_compile_cache", "get_b10_logger"}


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("B10FS_CACHE_DIR", str(tmp_path / "b10fs"))
    monkeypatch.delenv("BASETEN_FS_ENABLED", raising=False)
    return tmp_path / "b10fs"


def booted(machine: Machine) -> Machine:
    machine.boot()
    return machine


def test_all_of_its_names_are_there() -> None:
    assert set(b10.__all__) == NAMES_OF_002 | NAMES_OF_041
    assert all(hasattr(b10, name) for name in b10.__all__)


def test_a_cache_goes_from_one_start_to_the_next(machine: Machines, location: Path) -> None:
    one = booted(machine("one"))
    assert b10.load_compile_cache() is b10.LoadStatus.DOES_NOT_EXIST
    # A save that writes nothing is not a success.
    assert b10.save_compile_cache() is b10.SaveStatus.SKIPPED
    assert not list(location.rglob("*.zst"))
    one.inductor.graph()
    assert b10.save_compile_cache() is b10.SaveStatus.SUCCESS
    two = booted(machine("two"))
    assert b10.load_compile_cache() is b10.LoadStatus.SUCCESS
    assert contents(two.inductor.root) == contents(one.inductor.root)


def test_a_damaged_location_costs_nothing_that_is_here(machine: Machines, location: Path) -> None:
    one = booted(machine("one"))
    one.inductor.graph()
    assert b10.save_compile_cache() is b10.SaveStatus.SUCCESS
    (pack,) = location.rglob("*.zst")
    pack.write_bytes(bytes(pack.stat().st_size))
    two = booted(machine("two"))
    two.inductor._random.seed(9)
    two.inductor.graph()
    before = contents(two.inductor.root)
    assert b10.load_compile_cache() is b10.LoadStatus.ERROR
    assert contents(two.inductor.root) == before


def test_a_truncated_archive_is_replaced(machine: Machines, location: Path) -> None:
    one = booted(machine("one"))
    one.inductor.graph()
    b10.save_compile_cache()
    (pack,) = location.rglob("*.zst")
    pack.write_bytes(pack.read_bytes()[:-10])
    assert b10.save_compile_cache() is b10.SaveStatus.SUCCESS
    booted(machine("two"))
    assert b10.load_compile_cache() is b10.LoadStatus.SUCCESS


def test_the_host_name_is_not_part_of_a_key(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    booted(machine("one")).inductor.graph()
    b10.save_compile_cache()
    monkeypatch.setattr("socket.gethostname", lambda: "another-host")
    monkeypatch.setenv("HOSTNAME", "another-host")
    booted(machine("two"))
    assert b10.load_compile_cache() is b10.LoadStatus.SUCCESS


def test_switched_off(machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    booted(machine("one")).inductor.graph()
    monkeypatch.setenv("BASETEN_FS_ENABLED", "0")
    assert b10.save_compile_cache() is b10.SaveStatus.SKIPPED
    assert b10.load_compile_cache() is b10.LoadStatus.SKIPPED
    assert b10.get_cache_info()["b10fs_enabled"] is False
    assert b10.list_available_caches()["caches"] == []


def test_the_variables_of_its_readme(
    machine: Machines, location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = booted(machine("one"))
    one.inductor.graph()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("TORCH_CACHE_DIR", str(one.inductor.root))
    monkeypatch.setenv("MAX_CACHE_SIZE_MB", "0.001")
    assert b10.save_compile_cache() is b10.SaveStatus.SKIPPED
    monkeypatch.setenv("MAX_CACHE_SIZE_MB", "10")
    assert b10.save_compile_cache() is b10.SaveStatus.SUCCESS
    monkeypatch.setenv("MAX_CACHE_SIZE_MB", "many")
    with pytest.raises(b10.CacheValidationError):
        b10.save_compile_cache()


def test_its_dictionaries(machine: Machines, location: Path) -> None:
    booted(machine("one")).inductor.graph()
    info = b10.get_cache_info()
    assert set(info) == {
        "environment_key", "local_cache_exists", "b10fs_enabled", "b10fs_cache_exists",
        "local_cache_size_mb", "b10fs_cache_size_mb",
    }  # fmt: skip
    assert info["local_cache_exists"] is True
    assert info["b10fs_cache_exists"] is False
    b10.save_compile_cache()
    assert b10.get_cache_info()["b10fs_cache_exists"] is True
    listed = b10.list_available_caches()
    assert set(listed) == {
        "caches", "current_environment", "total_caches", "current_cache_exists", "b10fs_enabled",
    }  # fmt: skip
    (cache,) = listed["caches"]
    assert set(cache) == {
        "filename", "environment_key", "size_mb", "is_current_environment", "created_time",
    }  # fmt: skip
    assert cache["is_current_environment"] is True
    assert b10.clear_local_cache() is True
    assert b10.get_cache_info()["local_cache_exists"] is False
    assert b10.clear_local_cache() is True


def test_vllm_is_saved_by_a_call_of_its_own(machine: Machines, location: Path) -> None:
    one = booted(machine("one"))
    assert b10.save_vllm_compile_cache() is b10.OperationStatus.SKIPPED
    folder = one.home / "vllm" / "torch_compile_cache" / "0abc" / "rank_0_0"
    folder.mkdir(parents=True)
    (folder / "model").write_bytes(b"x")
    assert b10.save_vllm_compile_cache() is b10.OperationStatus.SUCCESS


def test_loads_and_saves_in_the_background(machine: Machines, location: Path) -> None:
    booted(machine("one")).inductor.graph()
    told: list[str] = []
    saving = b10.save_compile_cache_async(told.append)
    assert b10.wait_for_completion(saving, 60)
    progress = b10.get_transfer_status(saving)
    assert progress is not None
    assert progress.status is b10.AsyncTransferStatus.SUCCESS
    assert progress.started_at is not None
    assert progress.completed_at is not None
    assert len(told) == 2
    booted(machine("two"))
    loading = b10.load_compile_cache_async()
    assert b10.wait_for_completion(loading, 60)
    assert b10.is_transfer_complete(loading)
    assert b10.cancel_transfer(loading) is False


# ------------------------------------------------------------------------------ generic transfers


def copy(source: Path, dest: Path, note: str = "") -> None:
    dest.write_bytes(source.read_bytes() + note.encode())


def test_a_transfer_calls_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    status = b10.transfer(tmp_path / "a", tmp_path / "b", copy, note="!")
    assert status is b10.TransferStatus.SUCCESS
    assert (tmp_path / "b").read_bytes() == b"x!"


def test_a_long_error_does_not_hang(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(source: Path, dest: Path) -> None:
        raise ValueError("x" * 200_000)

    with caplog.at_level(logging.ERROR):
        assert b10.transfer(tmp_path / "a", tmp_path / "b", fail) is b10.TransferStatus.ERROR
    operation = b10.start_transfer_async(tmp_path / "a", tmp_path / "b", fail, "copy")
    assert b10.wait_for_completion(operation, 60)
    progress = b10.get_transfer_status(operation)
    assert progress is not None
    assert progress.status is b10.AsyncTransferStatus.ERROR
    assert len(progress.error_message or "") == 200_000


def test_cancelling_stops_the_work(tmp_path: Path) -> None:
    begun, ended = threading.Event(), threading.Event()

    def endless(source: Path, dest: Path) -> None:
        begun.set()
        try:
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    operation = b10.start_transfer_async(tmp_path / "a", tmp_path / "b", endless, "endless")
    assert begun.wait(30)
    assert list(b10.list_active_transfers()) == [operation]
    assert b10.is_transfer_complete(operation) is False
    assert b10.wait_for_completion(operation, 0.01) is False
    assert b10.cancel_transfer(operation) is True
    assert ended.is_set()
    progress = b10.get_transfer_status(operation)
    assert progress is not None
    assert progress.status is b10.AsyncTransferStatus.CANCELLED
    assert b10.list_active_transfers() == {}


@pytest.mark.parametrize("watched", [True, False])
def test_a_disk_that_runs_full_interrupts_the_transfer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: bool
) -> None:
    free = [1 << 40]
    monkeypatch.setattr("pgetpy.compile_cache.b10.transfers.free_bytes", lambda path: free[0])
    monkeypatch.setattr("pgetpy.compile_cache.b10.transfers._WATCH_SECONDS", 0.05)
    stop = threading.Event()

    def slow(source: Path, dest: Path) -> None:
        free[0] = 0
        while not stop.wait(0.01):
            pass

    if not watched:
        threading.Timer(0.3, stop.set).start()
    status = b10.transfer(
        tmp_path / "a", tmp_path / "b", slow, monitor_local=watched, monitor_b10fs=watched
    )
    expected = b10.TransferStatus.INTERRUPTED if watched else b10.TransferStatus.SUCCESS
    assert status is expected


def test_listing_while_others_end_does_not_deadlock(tmp_path: Path) -> None:
    def at_once(source: Path, dest: Path) -> None:
        b10.list_active_transfers()

    operations = [
        b10.start_transfer_async(tmp_path / "a", tmp_path / "b", at_once, f"n{number}")
        for number in range(40)
    ]
    for operation in operations:
        b10.list_active_transfers()
        assert b10.wait_for_completion(operation, 60)
    eventually(lambda: b10.list_active_transfers() == {}, 30, "all to have ended")


def test_unknown_operations(machine: Machines) -> None:
    assert b10.get_transfer_status("none") is None
    assert b10.is_transfer_complete("none") is True
    assert b10.wait_for_completion("none") is False
    assert b10.cancel_transfer("none") is False


def test_loggers() -> None:
    assert b10.get_b10_logger("").name == "pgetpy.compile_cache"
    assert b10.get_b10_logger("mine").name == "mine"
