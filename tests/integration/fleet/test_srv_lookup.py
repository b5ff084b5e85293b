"""Cache nodes that are looked up: what a name server says, and what becomes of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("dns.resolver", reason="needs dnspython")
pytest.importorskip("dnslib", reason="needs dnslib")

import dns.resolver

from pgetpy.core.placement.jump import place
from pgetpy.fleet import srv_lookup
from pgetpy.fleet.nodes import CacheNodes
from pgetpy.fleet.srv_lookup import NodeLookupError, look_up_srv
from pgetpy.settings.fleet_settings import FleetSettings
from tests.support.scripted_dns import ScriptedDns, scripted_dns

NAME = "cache.example"
ASKED = f"_http._tcp.{NAME}"
URL = "https://weights.replicate.delivery/model.tar"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedDns]:
    # On a busy machine an answer may take longer than a download would wait for it.
    monkeypatch.setattr(srv_lookup, "LIFETIME", 30)
    with scripted_dns() as script:
        yield script


class Clock:
    now = 0.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


class LookUps:
    """Looks names up and counts how often."""

    count = 0

    def __call__(self, name: str) -> tuple[str, ...]:
        self.count += 1
        return look_up_srv(name)


@pytest.fixture
def look_ups() -> LookUps:
    return LookUps()


@pytest.fixture
def nodes(script: ScriptedDns, clock: Clock, look_ups: LookUps) -> CacheNodes:
    return CacheNodes(FleetSettings(srv_name=NAME), look_ups, lambda: clock.now)


def hosts(nodes: CacheNodes, piece: int = 0) -> list[str]:
    return [node.name for node in asyncio.run(nodes.choices(URL, piece))]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged for the user to see."""
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does; the test's time limit is the only one."""
    while not condition():
        threading.Event().wait(0.01)


# ---------------------------------------------------------------------------------- what is said


def test_records_make_the_list_in_the_order_of_their_indexes(script: ScriptedDns) -> None:
    script.serve(ASKED, ("cache-2.c.", 8080), ("cache-0.c.", 80))
    assert look_up_srv(NAME) == ("cache-0.c", "", "cache-2.c:8080")
    assert script.names == [ASKED]


def test_a_list_that_does_not_fit_into_a_datagram_is_asked_for_again(script: ScriptedDns) -> None:
    script.serve(ASKED, *((f"cache-{number}.nodes.example.com.", 8080) for number in range(200)))
    assert len(look_up_srv(NAME)) == 200
    assert len(script.names) == 2


def test_a_name_is_completed_by_the_search_domains(script: ScriptedDns) -> None:
    dns.resolver.get_default_resolver().search = [dns.name.from_text("ns.svc.cluster.local")]
    script.serve("_http._tcp.cache.ns.svc.cluster.local", ("cache-0.c.", 80))
    assert look_up_srv("cache") == ("cache-0.c",)


def refuse(script: ScriptedDns) -> str:
    return "no such name"


def fail(script: ScriptedDns) -> str:
    script.failure = "SERVFAIL"
    return "SERVFAIL"


def be_silent(script: ScriptedDns) -> str:
    script.silent = True
    return "no name server answered"


def answer_nothing(script: ScriptedDns) -> str:
    script.serve(ASKED)
    return "no SRV records"


def name_no_index(script: ScriptedDns) -> str:
    script.serve(ASKED, ("cache-0.c.", 80), ("cache.c.", 80))
    return "the name cache.c. has no index"


def name_a_huge_index(script: ScriptedDns) -> str:
    script.serve(ASKED, ("cache-4000000000.c.", 80))
    return "the index in the name"


FAILURES = [refuse, fail, be_silent, answer_nothing, name_no_index, name_a_huge_index]


@pytest.mark.parametrize("failing", FAILURES)
def test_a_failed_look_up_warns_once_and_means_the_origin(
    script: ScriptedDns,
    nodes: CacheNodes,
    clock: Clock,
    look_ups: LookUps,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: Callable[[ScriptedDns], str],
) -> None:
    reason = failing(script)
    with monkeypatch.context() as patched:
        if script.silent:
            patched.setattr(srv_lookup, "LIFETIME", 0.3)
        assert hosts(nodes) == []
    (warning,) = warnings_in(caplog)
    assert reason in warning
    assert NAME in warning
    # Until it is due again, no range asks, and none waits for a name server that is silent.
    for piece in range(20):
        assert hosts(nodes, piece) == []
    assert look_ups.count == 1
    script.silent, script.failure = False, ""
    script.serve(ASKED, ("cache-0.c.", 80))
    clock.now += 31
    until(lambda: hosts(nodes) == ["cache-0.c"])
    assert look_ups.count == 2
    assert len(warnings_in(caplog)) == 1


def test_a_name_server_that_is_away_is_a_failed_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srv_lookup, "LIFETIME", 0.3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    monkeypatch.setattr(dns.resolver, "default_resolver", resolver)
    with pytest.raises(NodeLookupError):
        look_up_srv(NAME)


# ------------------------------------------------------------------------------------ what changes


def test_a_list_that_shrinks_is_noticed_and_places_as_pget_does_now(
    script: ScriptedDns, nodes: CacheNodes, clock: Clock
) -> None:
    script.serve(ASKED, *((f"cache-{number}.c.", 80) for number in range(8)))
    assert hosts(nodes)[0] == f"cache-{place(URL, 0, 8)}.c"
    script.serve(ASKED, *((f"cache-{number}.c.", 80) for number in range(3)))
    clock.now += 31
    until(lambda: set(hosts(nodes)) == {"cache-0.c", "cache-1.c", "cache-2.c"})
    for piece in range(20):
        assert hosts(nodes, piece)[0] == f"cache-{place(URL, piece, 3)}.c"


def test_a_pod_that_restarts_leaves_a_hole_and_moves_nothing_else(
    script: ScriptedDns, nodes: CacheNodes, clock: Clock
) -> None:
    every = [(f"cache-{number}.c.", 80) for number in range(8)]
    script.serve(ASKED, *every)
    before = {piece: hosts(nodes, piece) for piece in range(40)}
    script.serve(ASKED, *every[:3], *every[4:])
    clock.now += 31
    until(lambda: all("cache-3.c" not in hosts(nodes, piece) for piece in before))
    for piece, best in before.items():
        left = [name for name in best if name != "cache-3.c"]
        assert hosts(nodes, piece)[: len(left)] == left


def test_an_address_that_another_node_has_got_is_asked_as_that_node(
    script: ScriptedDns, nodes: CacheNodes, clock: Clock
) -> None:
    # Node 1 is gone and node 0 has its port: what was known of the old name does not apply to it.
    script.serve(ASKED, ("cache-0.c.", 8000), ("cache-1.c.", 8001))
    first = asyncio.run(nodes.choices(URL, 0))
    assert {node.name for node in first} == {"cache-0.c:8000", "cache-1.c:8001"}
    nodes.report_lost(next(node for node in first if node.index == 1))
    script.serve(ASKED, ("cache-0.c.", 8001))
    clock.now += 6
    until(lambda: hosts(nodes) == ["cache-0.c:8001"])


def test_a_loss_has_the_list_looked_up_before_it_is_due(
    script: ScriptedDns, nodes: CacheNodes, clock: Clock
) -> None:
    script.serve(ASKED, ("cache-0.c.", 80))
    (node,) = asyncio.run(nodes.choices(URL, 0))
    for _ in range(100):
        nodes.report_lost(node)
        hosts(nodes)
    assert len(script.names) == 1
    clock.now += 6
    hosts(nodes)
    until(lambda: len(script.names) == 2)
