"""Marks that several files of tests give by hand."""

from __future__ import annotations

import pytest

# For tests of what is the engine's alone, whichever transport carries the bytes.
ONCE = pytest.mark.parametrize("transport", ["direct"], indirect=True)
