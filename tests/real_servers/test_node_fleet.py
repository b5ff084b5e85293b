"""Many clients on nginx nodes: the origin sends each byte once, and warm nodes need no origin."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgetpy.core.nodes.nginx_config import MIB
from tests.support.bodies import body
from tests.support.faults import Fault, Late, Status, When
from tests.support.nginx_nodes import Node, nginx_node
from tests.support.processes import Ended, run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.judge("nginx")
# Pieces of the nodes' own cache are of 4 MiB, those of the clients of 8; both ends are odd.
DATA = body(53 * MIB + 12_345)
CLIENTS = 8


def fetch(server: Server, nodes: list[Node], dest: Path) -> Ended:
    base = server.url("/")
    names = ",".join(node.name for node in nodes)
    return run(f"{base}model", dest, "--cache-nodes", names, "--cache-prefixes", base,
               "--cache-piece", "8MiB")  # fmt: skip


def fetch_all(server: Server, nodes: list[Node], folder: Path, clients: int) -> None:
    with ThreadPoolExecutor(clients) as pool:
        dests = [folder / f"got{number}" for number in range(clients)]
        ended = list(pool.map(lambda dest: fetch(server, nodes, dest), dests))
    assert [each.code for each in ended] == [0] * clients, ended
    for dest in dests:
        assert dest.read_bytes() == DATA
        dest.unlink()


@pytest.mark.parametrize("faults", [[], [Late(0.3)]], ids=["near", "slow origin"])
def test_cold_clients_cost_the_origin_one_copy(
    server: Server, tmp_path: Path, faults: list[Fault]
) -> None:
    url = server.add("/model", Resource(DATA, faults=faults))
    with ExitStack() as stack:
        nodes = [stack.enter_context(nginx_node(url)) for _ in range(3)]
        fetch_all(server, nodes, tmp_path, CLIENTS)
        assert server.sent("/model") == len(DATA)
        # A client that comes later finds all of it.
        before = len(server.requests)
        fetch_all(server, nodes, tmp_path, 1)
        assert len(server.requests) == before


def test_what_the_origin_refuses_the_nodes_is_fetched_from_the_origin_itself(
    server: Server, tmp_path: Path
) -> None:
    """nginx/nginx#1065: an error in a later piece is a body that ends early."""
    # Every third request for a piece fails.
    refused = When(request=range(3, 200, 3))
    url = server.add("/model", Resource(DATA, faults=[Status(503, when=refused)]))
    with ExitStack() as stack:
        nodes = [stack.enter_context(nginx_node(url)) for _ in range(3)]
        fetch_all(server, nodes, tmp_path, 2)
