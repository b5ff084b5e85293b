"""What goes through cache nodes and what does not: credentials, policies, proxies, redirects, and
every kind of download."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

import pgetpy
from pgetpy import tensors
from pgetpy.core.fleet.node_list import NodeList
from pgetpy.core.references.policy import Policy
from pgetpy.errors import NotAllowedError
from pgetpy.settings import Proxies, Settings
from pgetpy.weights.cache import WeightsDownloadCache
from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.checkpoints import file_of, floats, same
from tests.support.faults import Late, Redirect, ResetAfter, Status, When, at_least
from tests.support.fetching import fetch, impatient
from tests.support.fleet import BODY, HOST, PATH, PIECE, Fleet
from tests.support.proxy import Proxy
from tests.support.resources import Resource
from tests.support.server import Server

CHECKSUM = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
SECRET = "Bearer of-the-user"


def sent_to_nodes(fleet: Fleet) -> list[dict[str, str]]:
    return [
        {name.lower(): value for name, value in seen.headers}
        for node in fleet.nodes
        for seen in node.seen(PATH)
    ]


# ------------------------------------------------------------------------------- the requests


def test_nodes_get_the_origins_host_and_nothing_that_ties_ranges(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.fetch(tmp_path / "got", headers={"X-Trace": "7"})
    sent = sent_to_nodes(fleet)
    assert {headers["host"] for headers in sent} == {f"{HOST}:{fleet.origin.port}"}
    assert all("if-range" not in headers and "range" in headers for headers in sent)
    assert all(headers["x-trace"] == "7" for headers in sent)


@pytest.mark.parametrize(
    "options",
    [
        {"authorization": SECRET},
        {"headers": {"Cookie": "session=of-the-user"}},
        {"headers": {"X-Api-Key": "of-the-user"}},
    ],
    ids=["authorization", "cookie", "key"],
)
def test_what_needs_credentials_bypasses_the_nodes(
    fleet: Fleet, tmp_path: Path, options: dict[str, object]
) -> None:
    fleet.fetch(tmp_path / "got", **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert sent_to_nodes(fleet) == []


def test_a_user_in_the_url_bypasses_the_nodes(fleet: Fleet, tmp_path: Path) -> None:
    url = fleet.origin.url(PATH, host=HOST, user="ann:word")
    fetch(url, tmp_path / "got", **fleet.settings())
    assert sent_to_nodes(fleet) == []


def test_the_nodes_own_credentials_go_to_them_and_never_to_the_origin(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.set(fleet.nodes[0], Status(503))
    fleet.set(fleet.nodes[1], Status(503))
    fleet.set(fleet.nodes[2], Status(503))
    fleet.fetch(tmp_path / "got", proxy_authorization="Bearer of-the-fleet")
    assert {headers["authorization"] for headers in sent_to_nodes(fleet)} == {"Bearer of-the-fleet"}
    assert fleet.origin.requests
    assert all(seen.header("authorization") is None for seen in fleet.origin.requests)


def test_nodes_are_not_reached_through_a_proxy(fleet: Fleet, tmp_path: Path, proxy: Proxy) -> None:
    fleet.fetch(tmp_path / "got", proxies=Proxies(http=proxy.url()))
    assert (tmp_path / "got").read_bytes() == BODY
    assert proxy.requests == []


def test_a_policy_judges_the_origin_before_a_node_is_asked(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(NotAllowedError):
        fleet.fetch(tmp_path / "got", policy=Policy(deny_hosts=(HOST,)))
    assert sent_to_nodes(fleet) == []


def test_what_a_policy_allows_comes_from_nodes_whose_addresses_it_would_forbid(
    fleet: Fleet, tmp_path: Path
) -> None:
    """The origin is at a public address in earnest; nodes are the operator's."""
    with pytest.raises(NotAllowedError):
        fleet.fetch(tmp_path / "got", policy=Policy())
    fleet.fetch(tmp_path / "got", policy=Policy(allow_networks=("127.0.0.1/32",)))
    assert (tmp_path / "got").read_bytes() == BODY
    assert fleet.origin.requests == []


def test_what_no_prefix_covers_goes_to_the_origin(fleet: Fleet, tmp_path: Path) -> None:
    other = fleet.origin.add("/other", Resource(BODY))
    fetch(other, tmp_path / "got", **fleet.settings())
    assert (tmp_path / "got").read_bytes() == BODY
    assert all(node.requests == [] for node in fleet.nodes)


# ---------------------------------------------------------------------------------- redirects


def test_a_redirect_that_a_node_passes_on_is_followed_by_the_origins_word(
    fleet: Fleet, tmp_path: Path, other_server: Server
) -> None:
    target = other_server.add("/there", Resource(BODY))
    for server in fleet.servers:
        fleet.set(server, Redirect(target))
    result = fleet.fetch(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.final_url == target
    assert len(fleet.origin.requests) == 1
    assert all(len(node.requests) <= 1 for node in fleet.nodes)


@pytest.mark.parametrize("leads_somewhere", [False, True])
def test_a_redirect_of_a_node_alone_is_not_followed(
    fleet: Fleet, tmp_path: Path, other_server: Server, leads_somewhere: bool
) -> None:
    """A login page, or a proxy that is set up wrongly, answers for every host."""
    login = other_server.add("/login", Resource(b"<html>Who are you?</html>"))
    for node in fleet.nodes:
        fleet.set(node, Redirect(login if leads_somewhere else "http://127.0.0.1:1/x"))
    result = fleet.fetch(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert set(result.bytes_by_source) == {"origin"}
    assert other_server.requests == []


def test_one_node_that_redirects_is_left_for_the_others(fleet: Fleet, tmp_path: Path) -> None:
    fleet.set(fleet.nodes[0], Redirect("http://127.0.0.1:1/x"))
    result = fleet.fetch(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert fleet.origin.requests == []
    assert set(result.bytes_by_source) == {fleet.name(node) for node in fleet.nodes[1:]}


def test_a_redirect_to_what_nodes_cover_goes_through_them(fleet: Fleet, tmp_path: Path) -> None:
    target = fleet.origin.url("/there", host=HOST)
    for server in fleet.servers:
        fleet.set(server, Redirect(target))
        server.add("/there", Resource(BODY))
    result = fleet.fetch(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.final_url == target
    assert len(fleet.origin.requests) == 1
    # All but the first range, which the origin would have sent as well, is of the nodes.
    assert {seen.path for node in fleet.nodes for seen in node.requests} == {PATH, "/there"}


@pytest.mark.parametrize("name", ["localhost", HOST])
def test_a_node_with_tls_needs_a_certificate_for_its_own_name(
    fleet: Fleet, tmp_path: Path, ca: Authority, name: str
) -> None:
    # The origin's name in the certificate of a node would prove nothing.
    with Server(tls=ca.context((name,))) as node:
        node.add(PATH, Resource(BODY))
        nodes = NodeList(names=(f"https://localhost:{node.port}",))
        settings = fleet.settings(cacert=str(ca.pem), proxy_authorization=SECRET)
        settings["fleet"] = replace(settings["fleet"], given=nodes)
        fetch(fleet.url, tmp_path / "got", **settings)
        assert (tmp_path / "got").read_bytes() == BODY
        served = name == "localhost"
        assert (node.requests != [], fleet.origin.requests == []) == (served, served)
        assert all(seen.header("Authorization") == SECRET for seen in node.requests)
        assert node.violations == []


# --------------------------------------------------------------------- every kind of download


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(40):
            data = body(7000, f"member {number}")
            info = tarfile.TarInfo(f"m{number}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("broken", [False, True], ids=["well", "one fails"])
def test_an_archive_is_extracted_through_nodes(fleet: Fleet, tmp_path: Path, broken: bool) -> None:
    fleet.hold(archive())
    if broken:
        fleet.set(fleet.nodes[0], ResetAfter(5000), data=archive())
    fleet.extract(tmp_path / "out")
    for number in range(40):
        assert (tmp_path / "out" / f"m{number}").read_bytes() == body(7000, f"member {number}")
    assert fleet.origin.requests == []


def test_many_small_files_go_through_nodes(fleet: Fleet, tmp_path: Path) -> None:
    for server in fleet.servers:
        for number in range(12):
            server.add(f"/f{number}", Resource(body(3000, f"file {number}")))
    files = [(fleet.origin.url(f"/f{n}", host=HOST), tmp_path / f"f{n}") for n in range(12)]
    outcomes = pgetpy.download_many(files, settings=impatient(**fleet.settings()))
    assert len(outcomes) == 12
    assert all((tmp_path / f"f{n}").read_bytes() == body(3000, f"file {n}") for n in range(12))
    assert fleet.origin.requests == []


def test_tensors_and_parts_of_them_come_through_nodes(fleet: Fleet, tmp_path: Path) -> None:
    made = {"a": floats(1000, "a"), "b": floats(50_000, "b"), "c": floats(1000, "c")}
    fleet.hold(file_of(made))
    fleet.set(fleet.nodes[0], ResetAfter(5000), data=file_of(made))
    cache = WeightsDownloadCache(tmp_path / "cache", settings=impatient(**fleet.settings()))
    part = tensors.load(fleet.url, only=["c"], cache=cache, framework="numpy")
    assert same(part, {"c": made["c"]})
    assert same(tensors.load(fleet.url, cache=cache, framework="numpy"), made)
    assert fleet.origin.requests == []


@pytest.mark.parametrize("signed", [False, True])
def test_objects_of_a_store_come_through_nodes_unless_requests_are_signed(
    fleet: Fleet, tmp_path: Path, signed: bool
) -> None:
    for server in fleet.servers:
        server.add("/bucket/x", Resource(BODY))
    store = pgetpy.S3(
        endpoint_url=fleet.origin.url("/", host=HOST).rstrip("/"),
        region="us-east-1",
        access_key_id="key",
        secret_access_key="secret",
        addressing="path",
        sign="always" if signed else "never",
    )
    settings = impatient(**fleet.settings())
    pgetpy.download("s3://bucket/x", tmp_path / "got", settings=settings, s3=store)
    assert (tmp_path / "got").read_bytes() == BODY
    sent = [seen for node in fleet.nodes for seen in node.seen("/bucket/x")]
    assert bool(sent) is not signed
    assert all(seen.header("authorization") is None for seen in sent)


def test_the_cache_is_filled_through_nodes(fleet: Fleet, tmp_path: Path) -> None:
    cache = WeightsDownloadCache(tmp_path / "cache", settings=impatient(**fleet.settings()))
    path = cache.ensure(fleet.url, digest=CHECKSUM)
    assert Path(path).read_bytes() == BODY
    assert fleet.origin.requests == []


# Smaller objects have no journal.
LARGE = body(26 * PIECE)


def leave_a_part(fleet: Fleet, dest: Path) -> None:
    """Have a run end with a failure that leaves a part of `LARGE`."""
    for server in fleet.servers:
        fleet.set(server, Status(503, when=When(request=at_least(3))), data=LARGE)
    with pytest.raises(Exception, match="503"):
        fleet.fetch(dest, concurrency=1, retries=0)
    for server in fleet.servers:
        fleet.set(server, data=LARGE)
        server.requests.clear()


def test_what_a_run_has_left_is_completed_through_nodes(fleet: Fleet, tmp_path: Path) -> None:
    leave_a_part(fleet, tmp_path / "got")
    result = fleet.fetch(tmp_path / "got", concurrency=1)
    assert (tmp_path / "got").read_bytes() == LARGE
    assert result.resumed > 0
    assert sum(node.sent(PATH) for node in fleet.nodes) == len(LARGE) - result.resumed
    assert fleet.origin.requests == []


def test_a_stale_node_does_not_undo_what_a_run_has_left(fleet: Fleet, tmp_path: Path) -> None:
    leave_a_part(fleet, tmp_path / "got")
    fleet.set(fleet.nodes[0], data=body(len(LARGE), "v2"), etag='"v2"')
    result = fleet.fetch(tmp_path / "got", concurrency=1)
    assert (tmp_path / "got").read_bytes() == LARGE
    assert result.resumed > 0
    assert fleet.origin.sent(PATH) <= 1


def test_a_mirror_takes_over_where_nodes_and_origin_fail(
    fleet: Fleet, tmp_path: Path, other_server: Server
) -> None:
    """ai-dynamo/dynamo#14315: the cache cannot be reached."""
    mirror = other_server.add("/copy", Resource(BODY))
    for server in fleet.servers:
        fleet.set(server, Status(503))
    result = fleet.fetch(tmp_path / "got", mirrors=[mirror], retries=0)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.bytes_by_source == {"127.0.0.1": len(BODY)}


def test_the_origin_is_asked_over_few_connections_in_place_of_nodes(
    fleet: Fleet, tmp_path: Path
) -> None:
    for node in fleet.nodes:
        node.refuse(1000)
    fleet.set(fleet.origin, Late(0.02))
    fleet.fetch(tmp_path / "got", concurrency=8)
    assert (tmp_path / "got").read_bytes() == BODY
    assert fleet.origin.peak <= 2


# --------------------------------------------------------------------------- in step, or not


def test_machines_begin_at_different_pieces(fleet: Fleet) -> None:
    from pgetpy.core.placement.rotation import starting_piece

    begun = {starting_piece(f"machine {n}", fleet.url, 9) for n in range(50)}
    assert len(begun) > 5


def test_the_result_is_json_with_bytes_by_source(fleet: Fleet, tmp_path: Path) -> None:
    from pgetpy.cli.results import json_outcome

    record = json.loads(json_outcome(fleet.fetch(tmp_path / "got")))
    assert sum(record["bytes_by_source"].values()) == len(BODY)
    assert record["verified"] == "none"


def test_two_engines_of_a_process_share_what_they_know_of_a_node(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.nodes[0].refuse(1000)
    settings = Settings(**fleet.settings(concurrency=1))

    async def both() -> None:
        for number in range(2):
            await pgetpy.download_async(fleet.url, tmp_path / f"got{number}", settings=settings)

    asyncio.run(both())
    assert fleet.nodes[0].connections == 1
