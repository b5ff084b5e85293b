"""`pgetpy node check` against scripted nodes: each fault is named, with what to change."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest

from tests.support.bodies import body
from tests.support.faults import (
    FinAfter,
    IgnoreRange,
    Late,
    OtherRange,
    Redirect,
    Status,
    When,
)
from tests.support.processes import Ended, run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("forked_runs")

DATA = body(300_000)


@pytest.fixture
def node() -> Iterator[Server]:
    """A scripted node: it is sent another server's name as Host, which servers do not expect."""
    with Server() as server:
        yield server


def check(url: str, node: Server, *flags: str, **environ: str) -> Ended:
    return run("node", "check", url, "--node", f"127.0.0.1:{node.port}", *flags, env=environ)


def trials(ended: Ended) -> dict[str, tuple[str, str, str]]:
    """The verdict, words and remedy of each trial, by its name."""
    rows = json.loads(ended.out)["trials"]
    return {row["trial"]: (row["verdict"], row["words"], row["remedy"]) for row in rows}


@dataclass(frozen=True)
class Case:
    """How a node is wrong, and what is said of it."""

    name: str
    resource: Resource
    trial: str
    words: str


RIGHT = Resource(DATA)
CASES = [
    Case("redirect", Resource(faults=[Redirect("http://127.0.0.1:1/x")]), "answer", "a redirect"),
    Case("out of order", Resource(faults=[Status(503, "busy")]), "answer", "out of order: 503"),
    Case("no way", Resource(faults=[Status(502)]), "answer", "does not reach the origin"),
    Case("no token", Resource(DATA, authorization="x"), "answer", "refuses this client: 401"),
    Case("500", Resource(faults=[Status(500)]), "answer", "otherwise than the origin: 500"),
    Case("whole", replace(RIGHT, faults=[IgnoreRange()]), "range", "whole object (200)"),
    Case("other range", replace(RIGHT, faults=[OtherRange(1)]), "range", "bytes 0-0 were asked"),
    Case("older", Resource(body(300_000, "v0"), etag='"v0"'), "version", 'version "v0"'),
    Case("smaller", Resource(DATA[:-1]), "version", "299999 bytes where the origin has 300000"),
    Case("no ETag", replace(RIGHT, etag=None), "version", "leaves out"),
    Case("other bytes", Resource(body(300_000, "v0")), "bytes", "other bytes than the origin's"),
    Case("short", replace(RIGHT, faults=[FinAfter(100_000)]), "later",
         "ended after 100000 of 300000 bytes"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault_is_named(case: Case, server: Server, node: Server) -> None:
    url = server.add("/x", RIGHT)
    node.add("/x", case.resource)
    ended = check(url, node, "--json")
    assert ended.code == 1, ended.out + ended.err
    verdict, words, remedy = trials(ended)[case.trial]
    assert (verdict, case.words in words, bool(remedy)) == ("fault", True, True), words
    assert json.loads(ended.out)["sound"] is False


def test_a_node_without_faults_is_sound_even_if_it_does_not_say_what_it_had(
    server: Server, node: Server
) -> None:
    url = server.add("/x", RIGHT)
    node.add("/x", RIGHT)
    ended = check(url, node, "--json")
    found = trials(ended)
    assert ended.code == 0, ended.out + ended.err
    assert (found["header"][0], found["bytes"][0]) == ("note", "fine")
    assert found["header"][2] == "add_header X-Cache $upstream_cache_status always;"


def test_what_is_fetched_again_and_again_is_found(
    server: Server, node: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgetpy.core.http.urls import parse_link
    from pgetpy.fleet import node_check
    from pgetpy.fleet.node_probe import NodeProbe

    monkeypatch.setattr(node_check, "_STORE_SECONDS", 0.2)
    url = server.add("/x", RIGHT)
    node.add("/x", replace(RIGHT, headers=(("X-Cache", "MISS"),)))
    probe = NodeProbe("http", "127.0.0.1", node.port, lambda: pytest.fail("no TLS here"))
    report = node_check.check_node(probe, None, parse_link(url))
    assert [each.trial for each in report.findings if each.verdict.name == "FAULT"] == ["storing"]


def test_people_read_what_is_wrong_and_what_to_change(server: Server, node: Server) -> None:
    url = server.add("/x", RIGHT)
    node.add("/x", Resource(faults=[Redirect("http://127.0.0.1:1/x")]))
    ended = check(url, node)
    assert (ended.code, ended.err) == (1, "")
    head, answer, change, sum_ = ended.out.splitlines()
    assert head == f"127.0.0.1:{node.port} for {url}"
    assert answer == "FAULT  answer     passes a redirect on (302): clients leave it"
    assert change.strip().startswith("change: follow redirects in the node: error_page 301")
    assert sum_ == "1 fault"


def test_a_node_that_does_not_run_is_a_fault_and_not_a_crash(server: Server) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        name = f"127.0.0.1:{unused.getsockname()[1]}"
        ended = run("node", "check", server.add("/x", RIGHT), "--node", name)
    assert ended.code == 1
    assert "does not answer: connection refused" in ended.out


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("Content-Length", "\xb2", "answers ranges"),
        ("Content-Range", f"bytes 0-0/{'9' * 5000}", "the answer is 206, bytes 0-0/999"),
        ("Transfer-Encoding", "chunked", "answers ranges"),
    ],
)
def test_numbers_that_are_none_are_faults_and_not_crashes(
    name: str, value: str, words: str
) -> None:
    head = {"Content-Length": "1", "Content-Range": "bytes 0-0/9", name: value}
    lines = [f"{each}: {head[each]}" for each in head]
    answer = "\r\n".join(["HTTP/1.1 206 -", *lines, "", "-5"]).encode("latin-1") + b"\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answer_all, args=(listener, answer), daemon=True).start()
        name = f"127.0.0.1:{listener.getsockname()[1]}"
        ended = run("node", "check", "http://127.0.0.1:1/x", "--node", name)
    assert ended.code == 1
    assert words in ended.out
    assert "Traceback" not in ended.err


def _answer_all(listener: socket.socket, answer: bytes) -> None:
    """Give `answer` to each request until the listener is closed."""
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)


def test_an_object_that_the_origin_does_not_have_is_the_url_s_fault(
    server: Server, node: Server
) -> None:
    ended = check(server.url("/none"), node)
    assert ended.code == 1
    assert "the origin answers 404 not found" in ended.out
    assert "change: check the URL" in ended.out


def test_an_empty_object_is_tried_as_one(server: Server, node: Server) -> None:
    url = server.add("/x", Resource(b""))
    node.add("/x", Resource(b""))
    assert trials(check(url, node, "--json"))["empty"][0] == "fine"
    node.add("/x", Resource(b"", faults=[Status(416, when=When(ranged=False))]))
    assert trials(check(url, node, "--json"))["empty"][:2] == (
        "fault", "answers 416 for an empty object",
    )  # fmt: skip


def test_the_token_goes_to_the_node_and_not_to_the_origin(server: Server, node: Server) -> None:
    url = server.add("/x", RIGHT)
    node.add("/x", replace(RIGHT, authorization="Bearer t", headers=(("X-Cache", "HIT"),)))
    ended = check(url, node, "--json", PGET_PROXY_AUTH_HEADER="Bearer t")
    assert ended.code == 0, ended.out
    assert {seen.header("Authorization") for seen in server.requests} == {None}
    assert "Bearer t" not in ended.out


def test_the_nodes_of_the_environment_are_checked_where_none_is_given(
    server: Server, node: Server
) -> None:
    url = server.add("/x", RIGHT)
    node.add("/x", RIGHT)
    names = f"127.0.0.1:{node.port},127.0.0.1:{server.port}"
    ended = run("node", "check", url, "--json", env={"PGET_CACHE_NODES": names})
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [(each["node"], each["sound"]) for each in found] == [
        (name, True) for name in names.split(",")
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("node",), "expected one of config, check, got nothing"),
        (("node", "chek"), "expected one of config, check, got chek"),
        (("node", "check"), "expected one URL, got nothing"),
        (("node", "check", "http://a/x"), "expected --node HOST[:PORT], or nodes in PGET_CACHE"),
        (("node", "config"), "expected --origins URL"),
        (("node", "config", "x"), "takes no arguments, got x"),
        (("node", "config", "--origins", "ftp://a"), "scheme 'ftp' is not supported"),
        (("node", "config", "--origins", "http://a", "--piece", "16MiB"), "is not one of 4MiB"),
        (("node", "config", "--origins", "http://a", "--listen", "x"), "is not a port"),
        (("node", "config", "--origins", "http://a", "--folder", "/a b;"), "has blanks, quotes"),
        (("node", "config", "--origins", "http://a", "--certificate", "c"), "TLS needs both"),
        # What nginx would refuse, or read as something else.
        (("node", "config", "--origins", "https://a;b"), "has no valid host"),
        (("node", "config", "--origins", "https://*.a"), "has no valid host"),
        (("node", "config", "--origins", "https://a/b"), "is more than scheme, host and port"),
        (("node", "config", "--origins", "https://u:hunter2@a"), "is more than scheme, host"),
        (("node", "config", "--origins", "https://a,http://a"), "has the same Host as https://a"),
        (("node", "config", "--origins", "http://a", "--listen", "65536"), "is not a port"),
        (("node", "config", "--origins", "http://a", "--folder", "b"), "not an absolute path"),
        (("node", "check", "http://a/x", "--node", "a b c!"), "is neither srv://NAME nor HOST"),
    ],
)
def test_mistakes_in_the_arguments_are_usage_errors(arguments: tuple[str, ...], words: str) -> None:
    ended = run(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert "hunter2" not in ended.err


def test_addresses_of_ipv6_are_written_as_nginx_reads_them() -> None:
    origins, resolver = "https://[::1]:8443", "2001:db8::1"
    ended = run("node", "config", "--origins", origins, "--resolver", resolver)
    assert "[::1]:8443 https://[::1]:8443;" in ended.out
    assert "resolver [2001:db8::1] valid=30s" in ended.out


def test_the_nodes_of_a_name_are_looked_up() -> None:
    ended = run("node", "check", "http://a/x", "--node", "srv://nodes.invalid")
    assert (ended.code, ended.out) == (1, "")
    assert "srv://nodes.invalid" in ended.err


def test_help_has_an_example_of_each_command() -> None:
    for command in ("config", "check"):
        assert f"  pgetpy node {command} --" in run("node", command, "--help").out or (
            f"  pgetpy node {command} http" in run("node", command, "--help").out
        )
    assert "\n  check " in run("node", "--help").out


def test_the_configuration_comes_as_json_too() -> None:
    flags = ("--origins", "http://a", "--resolver", "10.0.0.1")
    text = run("node", "config", *flags).out
    assert json.loads(run("node", "config", *flags, "--json").out) == {
        "configuration": text.rstrip("\n")
    }


def test_what_times_alone_tell_is_a_note(server: Server, node: Server) -> None:
    # The second new object is that of the trial of pieces; from then on all is fast.
    url = server.add("/x", RIGHT)
    node.add("/x", replace(RIGHT, faults=[Late(0.5, when=When(request=2))]))
    ended = check(url, node, "--json")
    found = trials(ended)
    assert ended.code == 0, ended.out
    assert found["storing"][0] == "fine"
    assert found["secrets"][:2] == (
        "note",
        "gives to everyone what it has fetched with someone's Authorization, as far as times tell",
    )
