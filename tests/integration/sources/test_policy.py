"""A stranger's URL reaches no host inside, however it is written, led on or looked up.

`server`, at 127.0.0.1, stands for the public internet: the policy here allows its address, and
nothing else of this machine. `inside`, at 127.0.0.2, stands for what nobody is to reach.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import pgetpy
from pgetpy import Job, Policy
from pgetpy.core.http.urls import Link, opened_link
from pgetpy.errors import (
    BadReferenceError,
    ConnectionFailedError,
    HttpStatusError,
    NotAllowedError,
    TransferError,
)
from pgetpy.settings import Proxies
from tests.integration.sources.conftest import TOKEN
from tests.support.bodies import body
from tests.support.faults import Chunked, Redirect, RequireSignature, Signer, Status, When, at_least
from tests.support.fetching import fetch, impatient, names_in
from tests.support.names import Names
from tests.support.proxy import Proxy
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("transport")

BODY = body(1_500_001)
CHUNK = 100_000
OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
METADATA = "169.254.169.254"
OPEN = Policy(allow_networks=(OUTSIDE,))
NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def serve(server: Server, path: str = "/model", **fields: Any) -> str:
    return server.add(path, Resource(BODY, **fields))


def lead(server: Server, to: str, path: str = "/start") -> str:
    """A URL of `server` that redirects to `to`."""
    return server.add(path, Resource(faults=[Redirect(to)]))


def got(url: str, folder: Path, policy: Policy = OPEN, **options: Any) -> None:
    """Download `url` under `policy`; all of it has to come."""
    fetch(url, folder / "got", policy=policy, chunk_size=CHUNK, **options)
    assert (folder / "got").read_bytes() == BODY


def refusal(url: str, folder: Path, policy: Policy = OPEN, **options: Any) -> NotAllowedError:
    """The error that `url` ends with; nothing is left of it."""
    with pytest.raises(NotAllowedError) as caught:
        fetch(url, folder / "got", policy=policy, **options)
    assert names_in(folder) == []
    return caught.value


# --------------------------------------------------------------------------- as it is written


def test_what_the_policy_allows_is_fetched(server: Server, tmp_path: Path) -> None:
    got(serve(server), tmp_path)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2", "127.2", "127.0.2", "0x7f.2", "0x7f000002", "0177.0.0.2", "2130706434",
        "127.0.0.2.", "\uff11\uff12\uff17.0.0.2", "127\u30020\u30020\u30022",
        "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "[0:0:0:0:0:ffff:127.0.0.2]",
        "[::127.0.0.2]", "[64:ff9b::127.0.0.2]", "[2002:7f00:2::]",
    ],
)  # fmt: skip
def test_an_address_inside_is_refused_in_every_spelling(
    inside: Server, tmp_path: Path, host: str
) -> None:
    serve(inside)
    error = refusal(f"http://{host}:{inside.port}/model", tmp_path)
    assert error.rule == "allow_networks"
    assert inside.connections == 0


@pytest.mark.parametrize("host", ["localhost", "localhost.", "LOCALHOST", "0", "[::1]", "[::]"])
def test_this_machine_is_inside(server: Server, names: Names, tmp_path: Path, host: str) -> None:
    names.answer("localhost.", [OUTSIDE])
    serve(server)
    error = refusal(f"http://{host}:{server.port}/model", tmp_path, Policy())
    assert error.rule == "allow_networks"
    assert server.connections == 0


def test_an_address_that_is_allowed_may_be_spelt_in_any_way(
    server: Server, tmp_path: Path, transport: str
) -> None:
    serve(server)
    hosts = ["[::ffff:127.0.0.1]"]
    # aiohttp takes no IPv4 address but in its usual spelling.
    hosts += ["127.1", "2130706433", "0x7f.1"] if transport == "direct" else []
    for number, host in enumerate(hosts):
        got(f"http://{host}:{server.port}/model", tmp_path / str(number))


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (replace(OPEN, schemes=("https",)), "schemes"),
        (replace(OPEN, allow_hosts=("weights.example",)), "allow_hosts"),
        (replace(OPEN, deny_hosts=("127.1",)), "deny_hosts"),
        (Policy.public(), "schemes"),
    ],
)
def test_every_rule_is_named_by_its_error(
    server: Server, tmp_path: Path, policy: Policy, rule: str
) -> None:
    assert refusal(serve(server), tmp_path, policy).rule == rule
    assert server.connections == 0


def test_a_file_of_this_machine_is_not_given(tmp_path: Path) -> None:
    assert refusal("file:///etc/passwd", tmp_path).rule == "schemes"


# ------------------------------------------------------------------------------- as it leads on


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.2:{port}/model",
        "//127.0.0.2:{port}/model",
        "http://127.2:{port}/model",
        "http://inside.example:{port}/model",
        "http://[::ffff:127.0.0.2]:{port}/model",
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "http://metadata.example/computeMetadata/v1/",
    ],
)
def test_a_redirect_leads_nowhere_inside(
    server: Server, inside: Server, names: Names, tmp_path: Path, target: str
) -> None:
    names.answer("inside.example", [INSIDE])
    names.answer("metadata.example", [METADATA])
    serve(inside)
    start = lead(server, target.format(port=inside.port))
    error = refusal(start, tmp_path)
    assert (error.rule, error.url) == ("allow_networks", start)
    assert all(told not in str(error) for told in (INSIDE, "inside.example", METADATA))
    assert inside.connections == 0


def test_the_last_of_many_redirects_is_judged_like_the_first(
    server: Server, inside: Server, tmp_path: Path
) -> None:
    url = lead(server, serve(inside), "/3")
    for number in (2, 1):
        url = lead(server, url, f"/{number}")
    assert refusal(url, tmp_path).rule == "allow_networks"
    assert len(server.requests) == 3
    assert inside.connections == 0


@pytest.mark.parametrize("target", ["file:///etc/passwd", "gopher://127.0.0.2/", "data:,x"])
def test_a_redirect_leads_to_no_other_scheme(server: Server, tmp_path: Path, target: str) -> None:
    with pytest.raises(TransferError):
        fetch(lead(server, target), tmp_path / "got", policy=OPEN)
    assert names_in(tmp_path) == []


def test_rules_about_hosts_hold_behind_a_redirect(
    server: Server, names: Names, tmp_path: Path
) -> None:
    names.answer("bad.example", [OUTSIDE])
    serve(server)
    start = lead(server, f"http://bad.example:{server.port}/model")
    got(start, tmp_path)
    (tmp_path / "got").unlink()
    policy = replace(OPEN, deny_hosts=("*.example",))
    assert refusal(start, tmp_path, policy).rule == "deny_hosts"
    assert refusal(start, tmp_path, replace(OPEN, allow_hosts=("127.0.0.1",))).rule == "allow_hosts"


def test_a_mirror_is_judged_like_the_url(server: Server, inside: Server, tmp_path: Path) -> None:
    gone = server.add("/gone", Resource(faults=[Status(404)]))
    error = refusal(gone, tmp_path, mirrors=[serve(inside)])
    assert error.rule == "allow_networks"
    assert inside.connections == 0
    got(gone, tmp_path, mirrors=[serve(server)])


def test_a_target_that_is_signed_anew_is_judged_anew(
    server: Server, inside: Server, tmp_path: Path
) -> None:
    signer = Signer(requests=4)
    target = serve(server, faults=[RequireSignature(signer)])
    first = Redirect(target, signer=signer, when=When(request=1))
    then = Redirect(serve(inside), when=When(request=at_least(2)))
    start = server.add("/start", Resource(faults=[first, then]))
    with pytest.raises(NotAllowedError) as caught:
        fetch(start, tmp_path / "got", policy=OPEN, chunk_size=CHUNK)
    assert caught.value.rule == "allow_networks"
    assert len(server.seen("/start")) == 2
    assert inside.connections == 0


# ---------------------------------------------------------------------------- as it is looked up


@pytest.mark.parametrize(
    "address", [INSIDE, METADATA, "10.0.0.1", "::1", "fd00::1", "::ffff:7f00:2"]
)
def test_a_name_that_leads_inside_is_refused(
    inside: Server, names: Names, tmp_path: Path, address: str
) -> None:
    names.answer("weights.example", [address])
    serve(inside)
    error = refusal(f"http://weights.example:{inside.port}/model", tmp_path)
    assert error.rule == "allow_networks"
    assert address not in str(error)
    assert inside.connections == 0


@pytest.mark.parametrize("faults", [(), (Chunked(),)])
def test_the_address_that_was_judged_is_the_one_that_is_asked(
    server: Server, inside: Server, names: Names, tmp_path: Path, faults: tuple[Chunked, ...]
) -> None:
    names.answer("weights.example", [OUTSIDE], [INSIDE])
    serve(server, faults=faults)
    serve(inside)
    got(f"http://weights.example:{server.port}/model", tmp_path)
    assert names.asked == ["weights.example"]
    assert inside.connections == 0


def test_a_name_that_is_judged_again_is_refused_then(
    server: Server, inside: Server, names: Names, tmp_path: Path
) -> None:
    names.answer("weights.example", [OUTSIDE], [INSIDE])
    serve(server)
    serve(inside)
    url = f"http://weights.example:{server.port}/model"
    got(url, tmp_path)
    (tmp_path / "got").unlink()
    refusal(url, tmp_path)
    assert inside.connections == 0


def test_of_several_addresses_only_those_that_are_allowed_are_asked(
    server: Server, inside: Server, names: Names, tmp_path: Path
) -> None:
    names.answer("weights.example", [INSIDE, METADATA, "::1", OUTSIDE, INSIDE])
    serve(server)
    serve(inside)
    got(f"http://weights.example:{server.port}/model", tmp_path)
    assert inside.connections == 0


def test_a_name_that_leads_inside_looks_like_one_that_does_not_exist(
    names: Names, tmp_path: Path
) -> None:
    names.answer("db.example", [METADATA])
    names.answer("no.example", NO_SUCH_NAME)
    there = refusal("http://db.example/a", tmp_path, retries=3)
    missing = refusal("http://no.example/a", tmp_path, retries=3)
    assert str(there).replace("db.", "no.") == str(missing)
    assert (there.rule, there.attempts) == (missing.rule, missing.attempts)
    assert names.asked == ["db.example", "no.example"]


def test_a_resolver_that_has_no_answer_for_the_moment_is_asked_again(
    server: Server, names: Names, tmp_path: Path
) -> None:
    busy = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    names.answer("weights.example", busy, [OUTSIDE])
    serve(server)
    got(f"http://weights.example:{server.port}/model", tmp_path)
    names.answer("weights.example", busy)
    with pytest.raises(ConnectionFailedError):
        fetch(f"http://weights.example:{server.port}/model", tmp_path / "x", policy=OPEN, retries=0)


def test_the_addresses_of_resolve_are_judged_like_the_resolvers(
    server: Server, inside: Server, tmp_path: Path
) -> None:
    serve(server)
    serve(inside)
    url = f"http://weights.example:{server.port}/model"
    pinned = MappingProxyType({("weights.example", server.port): INSIDE})
    assert refusal(url, tmp_path, resolve=pinned).rule == "allow_networks"
    assert inside.connections == 0
    got(url, tmp_path, resolve=MappingProxyType({("weights.example", server.port): OUTSIDE}))


# ------------------------------------------------------------------- what the operator has named


def trusted(url: str) -> Link:
    """A link as a source makes it for the operator's own endpoint."""
    return opened_link(url, None, trusted=True)


def several(jobs: list[Job]) -> list[Any]:
    """What becomes of `jobs`, made one after the other by one engine under the policy."""
    settings = impatient(policy=OPEN, max_concurrent_files=1)
    outcomes = pgetpy.download_many(jobs, settings=settings)
    return [getattr(outcome, "error", None) for outcome in outcomes]


@pytest.mark.parametrize("trusted_first", [True, False])
def test_the_operators_own_endpoint_is_asked_for_what_he_trusts_alone(
    inside: Server, tmp_path: Path, trusted_first: bool
) -> None:
    url = serve(inside)
    jobs = [
        Job(url, str(tmp_path / "his"), link=trusted(url)),
        Job(url, str(tmp_path / "strangers")),
    ]
    errors = several(jobs if trusted_first else jobs[::-1])
    his, strangers = errors if trusted_first else errors[::-1]
    assert his is None
    assert isinstance(strangers, NotAllowedError)
    assert names_in(tmp_path) == ["his"]


@pytest.mark.parametrize("faults", [(), (Chunked(),)])
def test_a_connection_of_the_operators_is_not_lent_to_a_stranger(
    server: Server, inside: Server, names: Names, tmp_path: Path, faults: tuple[Chunked, ...]
) -> None:
    names.answer("hub.example", [INSIDE], [OUTSIDE])
    serve(server, faults=faults)
    inside.add("/model", Resource(body(1000, "inside"), faults=faults))
    url = f"http://hub.example:{server.port}/model"
    jobs = [
        Job(url, str(tmp_path / "his"), link=trusted(url)),
        Job(url, str(tmp_path / "strangers")),
    ]
    assert several(jobs) == [None, None]
    assert (tmp_path / "his").read_bytes() == body(1000, "inside")
    assert (tmp_path / "strangers").read_bytes() == BODY
    assert names.asked == ["hub.example", "hub.example"]


@pytest.mark.parametrize("target", ["http://127.0.0.2:{port}/model", "/model"])
def test_where_the_operators_endpoint_redirects_to_is_judged(
    inside: Server, tmp_path: Path, target: str
) -> None:
    serve(inside)
    start = lead(inside, target.format(port=inside.port))
    (error,) = several([Job(start, str(tmp_path / "got"), link=trusted(start))])
    assert isinstance(error, NotAllowedError)
    assert [seen.path for seen in inside.requests] == ["/start"]


def test_where_the_operators_endpoint_redirects_to_may_be_public(
    server: Server, inside: Server, tmp_path: Path
) -> None:
    start = lead(inside, serve(server))
    assert several([Job(start, str(tmp_path / "got"), link=trusted(start))]) == [None]
    assert (tmp_path / "got").read_bytes() == BODY


def test_nothing_of_the_operators_is_sent_to_a_stranger(server: Server, tmp_path: Path) -> None:
    login = tmp_path.parent / f"{tmp_path.name}.netrc"
    login.write_text(f"machine 127.0.0.1 login me password {TOKEN}\n")
    own = {
        "headers": MappingProxyType({"X-Mine": TOKEN, "Cookie": TOKEN}),
        "authorization": f"Bearer {TOKEN}",
        "use_netrc": True,
        "netrc_file": str(login),
    }
    fetch(serve(server), tmp_path / "got", policy=OPEN, **own)
    login.unlink()
    sent = [seen.header(name) for seen in server.requests for name in ("X-Mine", "Authorization")]
    assert set(sent) == {None}


def test_what_a_stranger_writes_into_his_url_is_sent_for_him(
    server: Server, tmp_path: Path
) -> None:
    basic = "Basic bWU6bWluZQ=="
    serve(server, authorization=basic)
    got(server.url("/model", user="me:mine"), tmp_path)
    with pytest.raises(HttpStatusError):
        fetch(server.url("/model"), tmp_path / "other", policy=OPEN)


# -------------------------------------------------------------------------------------- proxies


def through(proxy: Proxy) -> Proxies:
    return Proxies(http=proxy.url(), https=proxy.url())


def test_the_proxies_of_the_environment_are_not_used(
    server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    got(serve(server), tmp_path, proxies=through(proxy))
    assert proxy.requests == []


def test_a_proxy_that_is_trusted_looks_names_up_itself(
    server: Server, proxy: Proxy, names: Names, tmp_path: Path
) -> None:
    names.answer("weights.example", [METADATA])
    serve(server)
    proxy.names["weights.example"] = (OUTSIDE, server.port)
    url = f"http://weights.example:{server.port}/model"
    got(url, tmp_path, Policy(trust_proxy=True), proxies=through(proxy))
    assert proxy.hosts
    assert names.asked == []


def test_rules_about_schemes_hosts_and_written_addresses_hold_with_a_proxy(
    server: Server, inside: Server, proxy: Proxy, tmp_path: Path
) -> None:
    trusting = Policy(trust_proxy=True, deny_hosts=("bad.example",))
    proxies = through(proxy)
    refused = {
        "http://bad.example:8080/a": "deny_hosts",
        serve(inside): "allow_networks",
        "http://[::ffff:169.254.169.254]/a": "allow_networks",
        "http://2852039166/latest/meta-data": "allow_networks",
    }
    for url, rule in refused.items():
        assert refusal(url, tmp_path, trusting, proxies=proxies).rule == rule
    only_https = replace(trusting, schemes=("https",))
    assert refusal(serve(server), tmp_path, only_https, proxies=proxies).rule == "schemes"
    assert proxy.requests == []


def test_what_needs_no_proxy_is_judged_by_its_addresses(
    inside: Server, proxy: Proxy, names: Names, tmp_path: Path
) -> None:
    names.answer("weights.example", [INSIDE])
    serve(inside)
    proxies = replace(through(proxy), no_proxy=("weights.example",))
    url = f"http://weights.example:{inside.port}/model"
    refusal(url, tmp_path, replace(OPEN, trust_proxy=True), proxies=proxies)
    assert inside.connections == 0


def test_nonsense_is_still_nonsense(tmp_path: Path) -> None:
    with pytest.raises(BadReferenceError):
        fetch("http://", tmp_path / "got", policy=OPEN)
