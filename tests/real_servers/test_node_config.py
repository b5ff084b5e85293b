"""`pgetpy node config` with the real nginx: every output is accepted, and serves as it should."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgetpy.core.nodes.nginx_config import MIB, PIECES
from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.faults import Redirect, Status, When
from tests.support.judges import free_port, require_judge
from tests.support.name_server import NameServer
from tests.support.nginx_nodes import Node, configuration, nginx_command, nginx_node
from tests.support.plain_client import Got, ask
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.judge("nginx")
SIZE = 9 * MIB
DATA = body(SIZE)
RANGES = [(0, 4 * MIB), (4 * MIB, 8 * MIB), (8 * MIB, 12 * MIB)]


def through(node: Node, server: Server, path: str = "/x", **headers: str) -> Got:
    """Ask a node as a client does: with the origin's name as Host."""
    return ask(node, path, Host=f"127.0.0.1:{server.port}", **headers)


# ------------------------------------------------------------------- nginx accepts each output


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("with_tls", [False, True])
@pytest.mark.parametrize("with_token", [False, True])
def test_nginx_accepts_the_configuration(
    piece: int, with_tls: bool, with_token: bool, tmp_path: Path, ca: Authority
) -> None:
    changes: dict[str, object] = {"piece": piece}
    if with_tls:
        chain, key = ca.files(tmp_path)
        changes |= {"certificate": str(chain), "certificate_key": str(key)}
    if with_token:
        tokens = tmp_path / "tokens"
        tokens.write_text(f'"Bearer {"x" * 200}" 1;\n')
        changes |= {"token_file": str(tokens)}
    origins = ["https://weights.example", "http://10.0.0.1:8080", "http://[fd00::1]:8080",
               f"https://{'a' * 60}.example"]  # fmt: skip
    text = configuration(origins, tmp_path, free_port(), **changes)
    command = nginx_command(tmp_path, text)[:-2]
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert (tried.returncode, "warn" in tried.stderr) == (0, False), tried.stderr


def test_the_command_prints_what_nginx_accepts(tmp_path: Path) -> None:
    ended = run(
        "node", "config", "--origins", "https://a.example,http://b.example:81", "--size", "900GiB",
        "--piece", "50MiB", "--listen", f"127.0.0.1:{free_port()}", "--folder", tmp_path,
        "--resolver", "10.0.0.53", "--resolver", "10.0.0.54:5353",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    (tmp_path / "nginx.conf").write_text(ended.out)
    command = [require_judge("nginx"), "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tried.returncode == 0, tried.stderr


# -------------------------------------------------------------------------------- what it serves


def test_a_piece_is_fetched_once_however_many_clients_wait_for_it(server: Server) -> None:
    url = server.add("/x", Resource(DATA))
    with nginx_node(url) as node, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: through(node, server), range(8)))
    assert [answer.body == DATA for answer in answers] == [True] * 8
    assert sorted(server.asked("/x")) == RANGES


def test_a_range_costs_its_pieces_and_no_more(server: Server) -> None:
    url = server.add("/x", Resource(DATA))
    with nginx_node(url) as node:
        first = through(node, server, Range=f"bytes={5 * MIB}-{5 * MIB + 9}")
        again = through(node, server, Range=f"bytes={6 * MIB}-{6 * MIB + 9}")
        health = ask(node, "/-/health")
    assert (first.status, first.body) == (206, DATA[5 * MIB : 5 * MIB + 10])
    assert (first["X-Cache"], again["X-Cache"], health.body) == ("MISS", "HIT", b"ok\n")
    assert server.asked("/x") == [(4 * MIB, 8 * MIB)]


def test_arguments_name_an_object_and_those_of_a_signature_do_not(server: Server) -> None:
    url = server.add("/x", Resource(DATA))
    signed = "/x?versionId={}&X-Amz-Date=1&X-Amz-Signature={}"
    paths = [signed.format("a", "1"), signed.format("a", "2"), signed.format("b", "3"),
             "/x?part=1", "/x?part=2", "/x?part=2", "/x", "/x?Key-Pair-Id=k&Signature=s&Policy=p",
             "/x?Policy=q&Signature=t&Key-Pair-Id=k"]  # fmt: skip
    with nginx_node(url) as node:
        states = [through(node, server, path, Range="bytes=0-0")["X-Cache"] for path in paths]
    hit, miss = "HIT", "MISS"
    assert states == [miss, hit, miss, miss, miss, hit, miss, miss, hit]


@pytest.mark.parametrize("name", ["Authorization", "Cookie"])
def test_what_was_fetched_with_credentials_is_not_stored(server: Server, name: str) -> None:
    url = server.add("/x", Resource(DATA))
    with nginx_node(url) as node:
        private = through(node, server, Range="bytes=5-9", **{name: "Bearer secret"})
        public = through(node, server, Range="bytes=5-9")
        again = through(node, server, Range="bytes=5-9", **{name: "Bearer secret"})
    assert [each.body for each in (private, public, again)] == [DATA[5:10]] * 3
    assert [each["X-Cache"] for each in (private, public, again)] == ["BYPASS", "MISS", "BYPASS"]
    assert server.asked("/x") == [(5, 10), (0, 4 * MIB), (5, 10)]
    assert [seen.header(name) for seen in server.requests] == [
        "Bearer secret", None, "Bearer secret",
    ]  # fmt: skip


def test_redirects_are_followed_and_what_they_lead_to_is_kept(
    server: Server, other_server: Server
) -> None:
    last = other_server.add("/blob", Resource(DATA))
    server.add("/next", Resource(faults=[Redirect(last, 307)]))
    url = server.add("/x", Resource(faults=[Redirect("/next")]))
    with nginx_node(url) as node:
        first = through(node, server)
        again = through(node, server)
    assert [(each.status, each.body == DATA) for each in (first, again)] == [(200, True)] * 2
    assert sorted(other_server.asked("/blob")) == RANGES
    assert len(server.seen("/x")) == len(RANGES)


def test_what_is_behind_a_redirect_is_fetched_once_for_all_who_wait(
    server: Server, other_server: Server
) -> None:
    target = other_server.add("/blob", Resource(DATA))
    url = server.add("/x", Resource(faults=[Redirect(target)]))
    with nginx_node(url) as node, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: through(node, server), range(8)))
    assert [answer.body == DATA for answer in answers] == [True] * 8
    assert sorted(other_server.asked("/blob")) == RANGES


def test_pieces_behind_a_redirect_follow_those_that_are_there(server: Server) -> None:
    """nginx's slices lose their place where a location passes a later one on to another."""
    server.add("/blob", Resource(DATA))
    url = server.add("/x", Resource(faults=[Redirect("/blob")]))
    border = 4 * MIB
    with nginx_node(url) as node:
        first = through(node, server, Range="bytes=0-3")
        across = through(node, server, Range=f"bytes={border - 10}-{border + 9}")
        whole = through(node, server)
    assert (first.body, across.body) == (DATA[:4], DATA[border - 10 : border + 10])
    assert whole.body == DATA
    assert sorted(server.asked("/blob")) == RANGES


def test_where_a_redirect_leads_on_and_on_it_is_passed_on(server: Server) -> None:
    for number in range(3):
        server.add(f"/{number}", Resource(faults=[Redirect(f"/{number + 1}")]))
    server.add("/3", Resource(DATA))
    with nginx_node(server.url("/")) as node:
        answer = through(node, server, "/0")
    assert (answer.status, answer["Location"]) == (302, "/3")


def test_an_empty_object_and_a_range_behind_the_end_are_the_origins_business(
    server: Server,
) -> None:
    server.add("/empty", Resource(b""))
    url = server.add("/x", Resource(DATA))
    with nginx_node(url) as node:
        empty = through(node, server, "/empty")
        behind = through(node, server, "/x", Range=f"bytes={SIZE + 20 * MIB}-")
    assert (empty.status, empty.body) == (200, b"")
    assert (behind.status, behind["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert server.sent("/x") == 0


def test_errors_come_to_all_who_wait_at_once(server: Server) -> None:
    with nginx_node(server.url("/")) as node, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: through(node, server, "/none"), range(8)))
    assert [answer.status for answer in answers] == [404] * 8
    assert len(server.seen("/none")) == 1


def test_an_error_in_a_later_piece_cuts_the_answer_and_is_not_kept(server: Server) -> None:
    first = When(start=4 * MIB, times=1)
    url = server.add("/x", Resource(DATA, faults=[Status(503, when=first)]))
    with nginx_node(url) as node:
        part = through(node, server, Range="bytes=0-3")
        with pytest.raises(Exception, match="IncompleteRead"):
            through(node, server)

        def complete() -> bool:
            return through(node, server, Range=f"bytes={4 * MIB}-{4 * MIB + 3}").status == 206

        server.wait_until(complete)
    assert part.body == DATA[:4]


def test_other_origins_are_refused_with_what_makes_clients_go_to_them(server: Server) -> None:
    server.add("/x", Resource(DATA))
    with nginx_node("https://weights.example") as node:
        refused = through(node, server)
    assert (refused.status, server.requests) == (503, [])
    assert b"does not serve 127.0.0.1" in refused.body


def test_a_path_proxy_s_paths_name_the_same_objects(server: Server) -> None:
    url = server.add("/a/x", Resource(DATA))
    with nginx_node(url) as node:
        first = through(node, server, f"/127.0.0.1:{server.port}/a/x", Range="bytes=0-3")
        again = through(node, server, "/a/x", Range="bytes=0-3")
    assert (first.body, first["X-Cache"], again["X-Cache"]) == (DATA[:4], "MISS", "HIT")


def test_only_who_sends_the_token_is_served_and_the_origin_never_sees_it(
    server: Server, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text('"Bearer old" 1;\n"Bearer new" 1;\n')
    url = server.add("/x", Resource(DATA))
    with nginx_node(url, token_file=str(tokens)) as node:
        refused = [through(node, server), through(node, server, Authorization="Bearer none")]
        served = through(node, server, Range="bytes=0-3", Authorization="Bearer new")
        again = through(node, server, Range="bytes=0-3", Authorization="Bearer old")
    assert [each.status for each in refused] == [401, 401]
    assert (served.body, served["X-Cache"], again["X-Cache"]) == (DATA[:4], "MISS", "HIT")
    assert [seen.header("Authorization") for seen in server.requests] == [None]


def test_an_origin_is_found_by_name_and_its_certificate_is_checked(ca: Authority) -> None:
    with Server(ca.context()) as server, NameServer() as names:
        server.add("/x", Resource(DATA))
        origin = server.url("/", "weights.example")
        host = f"weights.example:{server.port}"
        with nginx_node(origin, resolvers=(names.address,), ca_file=str(ca.pem)) as node:
            trusted = ask(node, "/x", Range="bytes=0-3", Host=host)
        with nginx_node(origin, resolvers=(names.address,)) as node:
            refused = ask(node, "/x", Range="bytes=0-3", Host=host)
    assert (trusted.body, refused.status) == (DATA[:4], 502)
    assert set(names.names) == {"weights.example"}
