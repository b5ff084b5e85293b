"""The roads to a server: plain or over TLS, directly or through a proxy of either kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from pgetpy.settings import Proxies
from tests.support.authority import Authority

T = TypeVar("T")
ROADS = ("plain", "TLS", "proxy", "TLS through a proxy", "TLS proxy", "TLS through a TLS proxy")


@dataclass(frozen=True)
class Road:
    """Whether the server speaks TLS, and the settings that lead to it."""

    secure: bool
    settings: dict[str, Any]


@pytest.fixture(params=ROADS)
def road(request: pytest.FixtureRequest, ca: Authority) -> Road:
    """Each road in turn; the proxies fail the test if they are asked for nonsense."""
    name: str = request.param
    settings: dict[str, Any] = {"cacert": str(ca.pem)}
    if name.endswith("proxy"):
        proxy = request.getfixturevalue("tls_proxy" if name.endswith("TLS proxy") else "proxy")
        settings["proxies"] = Proxies(http=proxy.url(), https=proxy.url())
    return Road(name.startswith("TLS") and name != "TLS proxy", settings)


def on_roads(
    argument: str, values: Iterable[T], ids: Callable[[T], str] = str
) -> pytest.MarkDecorator:
    """Parametrize a test with each of `values` on each road.

    `make test` runs each value on the plain road and on one of the others, which take turns: what a
    value is about does not depend on the road, and each road has a share of the values. `make soak`
    runs the rest.
    """
    pairs = [
        pytest.param(
            road,
            value,
            id=f"{road}-{ids(value)}",
            marks=[pytest.mark.soak] if index not in (0, 1 + turn % (len(ROADS) - 1)) else [],
        )
        for turn, value in enumerate(values)
        for index, road in enumerate(ROADS)
    ]
    return pytest.mark.parametrize(("road", argument), pairs, indirect=["road"])
