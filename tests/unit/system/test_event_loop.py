"""Waiting for the engine's thread, where what is waited for ends between two looks."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from pgetpy.system.event_loop import EngineThread, run_blocking


class EndsMeanwhile(concurrent.futures.Future[str]):
    """A future that ends just after a look at it has run out of time."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self._late_error = error

    def result(self, timeout: float | None = None) -> str:
        if not self.done():
            if self._late_error is not None:
                self.set_exception(self._late_error)
            else:
                self.set_result("it")
            raise concurrent.futures.TimeoutError
        return super().result(timeout)


def waited_for(future: EndsMeanwhile, monkeypatch: pytest.MonkeyPatch) -> str:
    def start(work: Coroutine[Any, Any, str]) -> EndsMeanwhile:
        work.close()
        return future

    async def work() -> str:
        return "it"

    monkeypatch.setattr(EngineThread, "get", lambda: SimpleNamespace(start=start))
    return run_blocking(work())


def test_a_result_that_comes_between_two_looks_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited_for(EndsMeanwhile(), monkeypatch) == "it"


def test_an_error_that_comes_between_two_looks_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="late"):
        waited_for(EndsMeanwhile(ValueError("late")), monkeypatch)


def test_a_timeout_of_the_work_itself_is_raised() -> None:
    async def work() -> None:
        raise concurrent.futures.TimeoutError("its own")

    with pytest.raises(concurrent.futures.TimeoutError, match="its own"):
        run_blocking(work())


def test_work_that_a_check_ends_has_ended_before_its_error_is_raised() -> None:
    begun, cleaned = asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            cleaned.append("the file is closed")

    def check() -> None:
        if begun.is_set():
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        run_blocking(work(), check)
    assert cleaned == ["the file is closed"]
