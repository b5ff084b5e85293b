"""Sources that a test adds to the table, as if they were pgetpy's own."""

from __future__ import annotations

import sys
from itertools import count
from types import ModuleType

import pytest

from pgetpy.sources import table

_NUMBERS = count()


def add_source(monkeypatch: pytest.MonkeyPatch, source: table.AnySource) -> None:
    """Have `source` asked about references whose scheme is its name."""
    module = ModuleType(f"added_source_{next(_NUMBERS)}")
    monkeypatch.setattr(module, "Added", lambda: source, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    row = table.SourceRow(source.name, f"{module.__name__}:Added", (source.name,))
    monkeypatch.setattr(table, "ROWS", (row, *table.ROWS))
