"""Downloads as the tests of whole transfers make them: impatient, and deaf to the environment."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pgetpy
from pgetpy.core.report.events import Event, Progressed, StartedOver
from pgetpy.settings import Settings

E = TypeVar("E")
_CALL_ARGUMENTS = frozenset({"checksum", "headers", "mirrors", "force", "progress"})


def impatient(**changes: Any) -> Settings:
    """Settings under which a failure that is not seen at once is seen soon."""
    return Settings(**{"stall_timeout": 8.0, "retries": 3, **changes})


def fetch(url: str, dest: Path | str, **options: Any) -> pgetpy.DownloadResult:
    """Download `url`; options are those of `pgetpy.download` and fields of Settings."""
    call = {name: options.pop(name) for name in _CALL_ARGUMENTS & options.keys()}
    return pgetpy.download(url, dest, settings=impatient(**options), **call)


def extract(url: str, folder: Path | str, **options: Any) -> pgetpy.DownloadResult:
    """Extract `url`; options are those of `pgetpy.extract` and fields of Settings."""
    call = {name: options.pop(name) for name in _CALL_ARGUMENTS & options.keys()}
    return pgetpy.extract(url, folder, settings=impatient(**options), **call)


class Events:
    """A progress callback that keeps what it is told, and checks what must hold of all of it."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self.threads: set[int] = set()

    def __call__(self, event: Event) -> None:
        self.threads.add(threading.get_ident())
        self.all.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.all if isinstance(event, kind)]

    def assert_monotonic(self) -> None:
        """Progress never passes the total, and falls only after a start-over."""
        before: dict[int, int] = {}
        for event in self.all:
            if isinstance(event, StartedOver):
                before[event.key] = 0
            if isinstance(event, Progressed):
                assert event.done >= before.get(event.key, 0)
                assert event.total is None or event.done <= event.total
                before[event.key] = event.done


def names_in(folder: Path) -> list[str]:
    """What stands in `folder`, hidden files included."""
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of all files below `folder`."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Nothing below `folder` may be made, removed or written meanwhile."""
    before = _contents(folder)
    yield
    assert _contents(folder) == before


def _contents(folder: Path) -> dict[str, bytes | None]:
    paths: Iterable[Path] = folder.rglob("*")
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in paths
    }
