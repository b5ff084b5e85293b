"""The roads to a server: plain or over TLS, directly or through a proxy of either kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pgetpy.settings import Proxies
from tests.support.authority import Authority

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
