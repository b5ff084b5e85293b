"""An origin with three cache nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fleet import Fleet, fleet_of


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """Three nodes: enough for a next choice when one or two fail."""
    with fleet_of(3) as made:
        yield made


@pytest.fixture
def lone() -> Iterator[Fleet]:
    """One node: what it does is not hidden by others."""
    with fleet_of(1) as made:
        yield made
