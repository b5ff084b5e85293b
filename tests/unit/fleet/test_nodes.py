"""Which nodes are chosen, and when they are looked up; the look-ups are scripted."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pgetpy.core.fleet.node_list import Node, NodeList, node_of
from pgetpy.core.placement.jump import place, places
from pgetpy.fleet.nodes import MOST_CHOICES, NAMED_PIECE, CacheNodes, shared_nodes
from pgetpy.fleet.srv_lookup import NodeLookupError
from pgetpy.settings.fleet_settings import FleetSettings

URL = "https://weights.replicate.delivery/model.tar"
LOOKED_UP = FleetSettings(srv_name="cache.example.com")
LISTED = FleetSettings(given=NodeList(names=tuple(f"node-{n}:8080" for n in range(10))))


@dataclass
class Lookups:
    """Answers look-ups one after the other, the last answer for ever; an error is raised."""

    answers: list[Any]
    count: int = 0
    now: float = 1000.0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, name: str) -> tuple[str, ...]:
        assert name == "cache.example.com"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        with self.changed:
            self.count += 1
            self.changed.notify_all()
        if isinstance(answer, Exception):
            raise answer
        return tuple(answer)

    def nodes(self) -> CacheNodes:
        return CacheNodes(LOOKED_UP, self, lambda: self.now)


def names(nodes: CacheNodes, piece: int = 0, failed: frozenset[str] = frozenset()) -> list[str]:
    return [each.name for each in asyncio.run(nodes.choices(URL, piece, failed))]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged for the user to see."""
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does; the test's time limit is the only one."""
    while not condition():
        threading.Event().wait(0.001)


# ------------------------------------------------------------------------------------- the choice


def test_looked_up_nodes_are_placed_as_by_pget_and_the_second_choice_is_pgets_too() -> None:
    hosts = [f"cache-{number}.c" for number in range(8)]
    nodes = Lookups([hosts]).nodes()
    for piece in range(20):
        first, second, *_ = names(nodes, piece)
        assert hosts.index(first) == place(URL, piece, 8)
        assert hosts.index(second) == place(URL, piece, 8, [hosts.index(first)])


def test_the_index_is_the_place_in_the_list() -> None:
    hosts = ["", "cache-1.c:8080", "", "cache-3.c"]
    found = asyncio.run(Lookups([hosts]).nodes().choices(URL, 0))
    assert {(each.name, each.host, each.port, each.index) for each in found} == {
        ("cache-1.c:8080", "cache-1.c", 8080, 1),
        ("cache-3.c", "cache-3.c", 80, 3),
    }


def test_a_hole_in_the_list_counts_as_a_node_that_has_failed() -> None:
    hosts = ["" if number % 2 else f"cache-{number}.c" for number in range(12)]
    order = [hosts[index] for index in places(URL, 4, 12) if hosts[index]]
    assert names(Lookups([hosts]).nodes(), 4) == order[:MOST_CHOICES]


@pytest.mark.parametrize("lists", [True, False])
def test_lost_nodes_are_left_out_and_the_order_of_the_others_stays(lists: bool) -> None:
    nodes = CacheNodes(LISTED) if lists else Lookups([[f"c-{n}.c" for n in range(10)]]).nodes()
    best = names(nodes, 7)
    assert len(best) == MOST_CHOICES
    left = names(nodes, 7, frozenset(best[:2]))
    assert left[:2] == best[2:]
    assert not set(best[:2]) & set(left)


def test_nodes_of_a_list_are_placed_by_name_without_a_look_up() -> None:
    assert LISTED.given is not None
    shuffled = FleetSettings(given=NodeList(names=LISTED.given.names[::-1]))
    assert names(CacheNodes(LISTED), 3) == names(CacheNodes(shuffled), 3)


def test_a_signature_does_not_move_an_object_between_listed_nodes() -> None:
    nodes = CacheNodes(LISTED)
    signed = f"{URL}?X-Amz-Algorithm=a&X-Amz-Credential=b&X-Amz-Date=c&X-Amz-Expires=1"
    signed += "&X-Amz-SignedHeaders=host&X-Amz-Signature="
    first, second = (asyncio.run(nodes.choices(f"{signed}{sign}", 0)) for sign in "ab")
    assert first == second


def test_pieces_are_pgets_slices_unless_nodes_are_listed_or_a_size_is_given() -> None:
    assert Lookups([["c-0.c"]]).nodes().piece_size == 500 << 20
    assert CacheNodes(LISTED).piece_size == NAMED_PIECE
    assert CacheNodes(FleetSettings(srv_name="c", piece=1 << 20)).piece_size == 1 << 20


@pytest.mark.parametrize("prefix", ["example.com", "example.com:80/x", "http://",
                                    "https://a.example,https://b.example"])  # fmt: skip
def test_a_prefix_that_covers_nothing_is_told(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    CacheNodes(FleetSettings(given=LISTED.given, prefixes=(prefix, "https://c.example/a,b")))
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"cache prefix {prefix} covers nothing: write it as https://HOST/PATH")


def test_only_urls_under_a_prefix_are_covered() -> None:
    nodes = CacheNodes(LISTED)
    assert [nodes.covers(url) for url in (URL, "https://example.com/x", "not a URL")] == [
        True,
        False,
        False,
    ]


def test_doubled_slashes_do_not_go_through_a_path_proxy_which_drops_them() -> None:
    url = URL.replace("/model", "//model")
    proxied = FleetSettings(given=LISTED.given, path_proxy=True)
    assert CacheNodes(LISTED).covers(url)
    assert not CacheNodes(proxied).covers(url)


def test_a_request_names_the_origin_in_its_host_or_in_its_path() -> None:
    proxied = FleetSettings(given=LISTED.given, path_proxy=True)
    plain, below = CacheNodes(LISTED).request(URL), CacheNodes(proxied).request(URL)
    assert (plain.target, plain.host) == ("/model.tar", "weights.replicate.delivery")
    assert below.target == "/weights.replicate.delivery/model.tar"


# ------------------------------------------------------------------------------------ the look-up


def test_many_ranges_make_one_look_up() -> None:
    lookups = Lookups([["c-0.c"]])
    nodes = lookups.nodes()

    async def ask() -> list[tuple[Node, ...]]:
        return await asyncio.gather(*(nodes.choices(URL, piece) for piece in range(50)))

    assert {each[0].name for each in asyncio.run(ask())} == {"c-0.c"}
    assert lookups.count == 1


def test_a_list_is_renewed_after_30_seconds_and_used_until_then() -> None:
    lookups = Lookups([["c-0.c", "c-1.c"], ["c-0.c"]])
    nodes = lookups.nodes()
    assert len(names(nodes)) == 2
    lookups.now += 29
    assert (len(names(nodes)), lookups.count) == (2, 1)
    lookups.now += 2
    names(nodes)
    until(lambda: names(nodes) == ["c-0.c"])
    assert lookups.count == 2


def test_a_lost_node_has_the_list_renewed_soon_and_not_at_once_again() -> None:
    lookups = Lookups([["c-0.c", "c-1.c"], ["c-0.c"]])
    nodes = lookups.nodes()
    (lost, *_) = asyncio.run(nodes.choices(URL, 0))
    nodes.report_lost(lost)
    assert (len(names(nodes)), lookups.count) == (2, 1)
    lookups.now += 6
    names(nodes)
    until(lambda: names(nodes) == ["c-0.c"])
    for _ in range(10):
        nodes.report_lost(lost)
        names(nodes)
    assert lookups.count == 2


def test_a_failed_look_up_means_the_origin_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups([NodeLookupError("there is no such name")])
    nodes = lookups.nodes()
    assert names(nodes) == []
    (warning,) = warnings_in(caplog)
    assert "cache.example.com" in warning
    assert "there is no such name" in warning
    assert "origin" in warning
    lookups.now += 31
    names(nodes)
    until(lambda: lookups.count == 2)
    assert len(warnings_in(caplog)) == 1


def test_while_name_servers_are_down_only_the_first_range_waits() -> None:
    lookups = Lookups([NodeLookupError("no name server answered")])
    nodes = lookups.nodes()
    for _ in range(20):
        assert names(nodes) == []
    assert lookups.count == 1


def test_a_renewal_that_fails_leaves_the_last_list_in_use(caplog: pytest.LogCaptureFixture) -> None:
    lookups = Lookups([["c-0.c"], NodeLookupError("no name server answered"), ["c-0.c", "c-1.c"]])
    nodes = lookups.nodes()
    assert names(nodes) == ["c-0.c"]
    lookups.now += 31
    names(nodes)
    until(lambda: any("the last list is used" in message for message in warnings_in(caplog)))
    assert names(nodes) == ["c-0.c"]
    lookups.now += 31
    until(lambda: len(names(nodes)) == 2)


def test_a_range_that_is_cancelled_does_not_end_the_wait_of_the_others() -> None:
    release = threading.Event()

    def look_up(_: str) -> tuple[str, ...]:
        release.wait()
        return ("c-0.c",)

    nodes = CacheNodes(LOOKED_UP, look_up)

    async def ask() -> tuple[Node, ...]:
        first = asyncio.ensure_future(nodes.choices(URL, 0))
        second = asyncio.ensure_future(nodes.choices(URL, 0))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        release.set()
        return await second

    assert [each.name for each in asyncio.run(ask())] == ["c-0.c"]


def test_a_process_has_one_set_of_nodes_for_its_settings() -> None:
    assert shared_nodes(FleetSettings(srv_name="a")) is shared_nodes(FleetSettings(srv_name="a"))
    assert shared_nodes(FleetSettings(srv_name="a")) is not shared_nodes(
        FleetSettings(srv_name="b")
    )


# ---------------------------------------------------------------------------------- the addresses


def test_addresses_are_kept_until_the_node_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, 1, 6, "", (f"10.0.0.{len(asked)}", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    nodes, node = CacheNodes(LISTED), node_of("node-1:8080", 1)

    def address() -> str:
        ((_, sockaddr),) = asyncio.run(nodes.addresses(node))
        return str(sockaddr[0])

    assert [address(), address()] == ["10.0.0.1", "10.0.0.1"]
    # A pod that restarts has its old name and a new address; the old one may be another pod's.
    nodes.report_lost(node)
    assert [address(), address()] == ["10.0.0.2", "10.0.0.2"]
