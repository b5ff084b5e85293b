"""`pgetpy node check` with the real nginx: what `node config` prints is sound, others are not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgetpy.core.nodes.nginx_config import MIB
from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.faults import Crawl, Fault, Redirect, Status, When
from tests.support.nginx_nodes import Node, nginx_node
from tests.support.processes import Ended, run
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = [pytest.mark.judge("nginx"), pytest.mark.timeout(120)]
SIZE = 52 * MIB


def check(url: str, node: Node, *flags: object, **environ: str) -> Ended:
    return run("node", "check", url, "--node", node.name, "--json", *flags, env=environ)


def found(ended: Ended) -> dict[str, list[str]]:
    """The names of the trials, by their verdict."""
    verdicts: dict[str, list[str]] = {}
    for row in json.loads(ended.out)["trials"]:
        verdicts.setdefault(row["verdict"], []).append(row["trial"])
    return verdicts


def words(ended: Ended, trial: str) -> str:
    rows = json.loads(ended.out)["trials"]
    return next(f"{row['words']} {row['remedy']}" for row in rows if row["trial"] == trial)


@pytest.fixture(scope="module")
def data() -> bytes:
    return body(SIZE)


@pytest.mark.parametrize("piece", [4, 20, 50])
def test_what_node_config_prints_has_no_fault(piece: int, server: Server, data: bytes) -> None:
    url = server.add("/x", Resource(data))
    with nginx_node(url, piece=piece * MIB) as node:
        ended = check(url, node)
        log = node.log.read_text()
    assert (ended.code, log) == (0, ""), ended.out
    assert found(ended).keys() <= {"fine", "note", "skipped"}
    assert found(ended)["skipped"] == ["redirect"]
    assert words(ended, "pieces").startswith(f"fetches pieces of {piece} MiB")
    assert words(ended, "lock").startswith("8 parallel reads of one piece asked the origin once")


def without(*texts: str) -> Callable[[str], str]:
    def spoil(text: str) -> str:
        for each in texts:
            assert each in text
            text = text.replace(each, "")
        return text

    return spoil


def larger(text: str) -> str:
    return re.sub(r"slice \d+m;", "slice 500m;", text)


def odd(text: str) -> str:
    return re.sub(r"slice \d+m;", "slice 7m;", text)


def no_slices(text: str) -> str:
    text = re.sub(r"slice \d+m?;", "", text).replace("$slice_range;", ";")
    return text.replace("Range ;", 'Range "";').replace("valid 206", "valid 200 206")


def no_range_in_key(text: str) -> str:
    return text.replace("$object_args$slice_range", "$object_args")


def signed_key(text: str) -> str:
    return text.replace("$origin$object_path$object_args", "$origin$request_uri")


def secrets_kept(text: str) -> str:
    passed = text.replace("if ($private) { return 418; }", "")
    return passed.replace('Authorization ""', "Authorization $http_authorization")


@dataclass(frozen=True)
class Case:
    """A wrong configuration, the trial that finds it, and a directive that mends it."""

    name: str
    spoil: Callable[[str], str]
    trial: str
    remedy: str


CASES = [
    Case("500m", larger, "pieces", "slice 20m"),
    Case("7m", odd, "pieces", "slice 20m"),
    Case("no slices", no_slices, "pieces", "slice 20m"),
    Case("no lock", without("proxy_cache_lock on;"), "lock", "proxy_cache_lock on;"),
    Case("signature in key", signed_key, "signature", "proxy_cache_key"),
    Case("credentials kept", secrets_kept, "secrets", "proxy_no_cache $http_authorization"),
    Case("no range in key", no_range_in_key, "bytes", "$slice_range"),
    Case("nothing kept for those who wait for errors",
         without("proxy_cache_valid 404 410 5s;"), "errors", "proxy_cache_valid 404"),
    Case("redirects passed on", without("error_page 301 302 303 307 308 = @hop1;"), "answer",
         "error_page 301"),
    Case("empty objects refused", without("error_page 416 418 = @uncached;"), "empty",
         "error_page 416"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_configuration_is_found(case: Case, server: Server, data: bytes) -> None:
    url = server.add("/x", Resource(b"" if case.trial == "empty" else data))
    if case.trial == "answer":
        server.add("/x", Resource(faults=[Redirect("/y")]))
        server.add("/y", Resource(data))
    with nginx_node(url, spoil=case.spoil) as node:
        ended = check(url, node)
    assert ended.code == 1, ended.out
    assert case.trial in found(ended)["fault"], ended.out
    assert case.remedy in words(ended, case.trial)


def test_waiting_clients_that_are_sent_to_the_origin_after_5_seconds_are_found(
    server: Server,
) -> None:
    # The fifth request and those after it are those of the trial of locks.
    slow: list[Fault] = [Crawl(700_000, when=When(request=range(5, 13)))]
    url = server.add("/x", Resource(body(5 * MIB), faults=slow))
    spoil = without("proxy_cache_lock_timeout 15m; proxy_cache_lock_age 15m;")
    with nginx_node(url, spoil=spoil) as node:
        ended = check(url, node)
    assert found(ended)["fault"] == ["lock"], ended.out
    assert "some after waiting for 5s proxy_cache_lock_timeout 15m" in words(ended, "lock")


def test_locks_that_outlast_a_slow_piece_are_seen(server: Server) -> None:
    slow: list[Fault] = [Crawl(700_000, when=When(request=range(5, 13)))]
    url = server.add("/x", Resource(body(5 * MIB), faults=slow))
    with nginx_node(url) as node:
        ended = check(url, node)
    assert ended.code == 0, ended.out
    assert words(ended, "lock") == "8 parallel reads of one piece asked the origin once "


def test_an_origin_that_fails_in_a_later_piece_is_found(server: Server, data: bytes) -> None:
    failing = [Status(503, when=When(start=8 * MIB))]
    url = server.add("/x", Resource(data, faults=failing))
    with nginx_node(url) as node:
        ended = check(url, node)
    assert found(ended)["fault"] == ["later"], ended.out
    # What nginx had not sent yet when the later piece failed is lost.
    assert re.match(r"an answer ended after [1-8]\d{6} of 8454144 bytes", words(ended, "later"))


def test_redirects_that_the_node_follows_are_counted(server: Server, other_server: Server) -> None:
    target = other_server.add("/blob", Resource(body(5 * MIB)))
    server.add("/next", Resource(faults=[Redirect(target)]))
    url = server.add("/x", Resource(faults=[Redirect("/next")]))
    with nginx_node(url) as node:
        ended = check(url, node)
    assert ended.code == 0, ended.out
    assert words(ended, "redirect") == "follows the origin's redirects (2) "


def test_a_signed_url_is_checked_without_changing_what_it_signs(
    server: Server, data: bytes
) -> None:
    server.add("/x", Resource(data))
    url = server.url("/x?X-Amz-Date=1&X-Amz-Signature=0123abcd")
    with nginx_node(url) as node:
        ended = check(url, node)
    assert ended.code == 0, ended.out
    assert "signature" in found(ended)["fine"]
    assert "0123abcd" not in ended.out
    assert not [seen for seen in server.seen("/x") if "pgetpy-check" in seen.target]


def test_a_node_with_tls_and_a_token_is_checked(
    server: Server, data: bytes, ca: Authority, tmp_path: Path
) -> None:
    chain, key = ca.files(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text('"Bearer t" 1;\n')
    url = server.add("/x", Resource(data))
    tls = {"certificate": str(chain), "certificate_key": str(key), "token_file": str(tokens)}
    with nginx_node(url, **tls) as node:
        ended = run(
            "node", "check", url, "--node", f"https://{node.name}", "--json", "--cacert", ca.pem,
            env={"PGET_PROXY_AUTH_HEADER": "Bearer t"},
        )  # fmt: skip
    assert ended.code == 0, ended.out + ended.err
    assert "token" in found(ended)["fine"]
