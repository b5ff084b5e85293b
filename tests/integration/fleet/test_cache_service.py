"""A cache service in place of origins, and the path proxy: whole downloads against two servers."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pgetpy
from pgetpy import tensors
from pgetpy.core.fleet.health import NodeHealth
from pgetpy.core.fleet.node_list import NodeList
from pgetpy.core.references.policy import Policy
from pgetpy.engine import cache_service
from pgetpy.errors import (
    BadSettingError,
    DigestMismatchError,
    HttpStatusError,
    NotAllowedError,
)
from pgetpy.settings.fleet_settings import FleetSettings
from pgetpy.weights.cache import WeightsDownloadCache
from tests.support.bodies import body
from tests.support.checkpoints import file_of, floats, same
from tests.support.faults import (
    Fault,
    FinAfter,
    Redirect,
    SilenceAfter,
    SilenceBeforeHead,
    Status,
)
from tests.support.fetching import extract, fetch, impatient
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import tar_of, weights

BODY = body(3_000_000)
OTHER = body(3_000_000, "v2")
SECRET = "Bearer hunter2"


@pytest.fixture(autouse=True)
def no_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of different tests may get the same port."""
    monkeypatch.setattr(cache_service, "_HEALTH", NodeHealth())


@pytest.fixture
def origin(server: Server) -> Server:
    server.add("/model", Resource(BODY))
    return server


@pytest.fixture
def cache(other_server: Server) -> Server:
    other_server.add("/model", Resource(BODY))
    return other_server


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged for the user to see."""
    return [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]


def fleet(origin: Server, cache: Server, **changes: Any) -> FleetSettings:
    base = FleetSettings(service_base=cache.url(""), prefixes=(origin.url("/"),))
    return replace(base, **changes)


# --------------------------------------------------------------------------------- what is asked


def test_the_service_is_asked_in_place_of_the_origin(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    result = fetch(origin.url("/model"), tmp_path / "got", fleet=fleet(origin, cache))
    assert (tmp_path / "got").read_bytes() == BODY
    assert origin.requests == []
    assert result.final_url == cache.url("/model")
    assert result.url == origin.url("/model")


def test_the_path_proxy_has_the_origins_host_and_port_first(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    cache.add(f"/127.0.0.1:{origin.port}/a%20b", Resource(OTHER))
    settings = fleet(origin, cache, path_proxy=True)
    fetch(origin.url("/a%20b"), tmp_path / "got", fleet=settings)
    assert (tmp_path / "got").read_bytes() == OTHER
    assert origin.requests == []


def test_what_is_under_no_prefix_comes_from_its_origin_unless_all_is_forced(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    elsewhere = fleet(origin, cache, prefixes=("https://weights.replicate.delivery",))
    fetch(origin.url("/model"), tmp_path / "a", fleet=elsewhere)
    assert (len(origin.requests) > 0, cache.requests) == (True, [])
    asked = len(origin.requests)
    fetch(origin.url("/model"), tmp_path / "b", fleet=replace(elsewhere, force_service=True))
    assert (len(origin.requests), len(cache.requests) > 0) == (asked, True)


def test_doubled_slashes_are_kept_and_do_not_go_through_a_path_proxy(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    for server in (origin, cache):
        server.add("/a//b", Resource(OTHER))
    settings = fleet(origin, cache)
    fetch(origin.url("/a//b"), tmp_path / "a", fleet=settings)
    assert (origin.requests, len(cache.requests) > 0) == ([], True)
    asked = len(cache.requests)
    fetch(origin.url("/a//b"), tmp_path / "b", fleet=replace(settings, path_proxy=True))
    assert (tmp_path / "b").read_bytes() == OTHER
    assert len(cache.requests) == asked


@pytest.mark.parametrize("off", [{"disabled": True}, {"given": NodeList(names=("127.0.0.1:1",))}])
def test_without_the_service_or_with_nodes_it_is_not_asked(
    origin: Server, cache: Server, tmp_path: Path, off: dict[str, Any]
) -> None:
    fetch(origin.url("/model"), tmp_path / "got", fleet=fleet(origin, cache, **off))
    assert (tmp_path / "got").read_bytes() == BODY
    assert cache.requests == []


def test_no_request_to_the_service_ties_its_range_to_a_version(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    # nginx would fetch the first slice to compare, whatever range is asked for.
    settings = fleet(origin, cache)
    fetch(origin.url("/model"), tmp_path / "got", fleet=settings, chunk_size=300_000)
    assert len(cache.requests) > 3
    assert {seen.header("If-Range") for seen in cache.requests} == {None}


def test_pgets_variables_and_a_manifest_go_through_the_path_proxy(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    lines = []
    for number in range(5):
        cache.add(f"/127.0.0.1:{origin.port}/{number}", Resource(body(50_000, str(number))))
        lines.append(f"{origin.url(f'/{number}')} {tmp_path / str(number)}\n")
    (tmp_path / "manifest").write_text("".join(lines))
    environ = {
        "PGET_CACHE_SERVICE_HOSTNAME": cache.url(""),
        "PGET_CACHE_URI_PREFIXES": f"https://a.example {origin.url('')}",
        "PGET_CACHE_USE_PATH_PROXY": "true",
        "PGET_PROXY_AUTH_HEADER": SECRET,
    }
    ended = run("multifile", tmp_path / "manifest", env=environ)
    assert ended.code == 0, ended.err
    for number in range(5):
        assert (tmp_path / str(number)).read_bytes() == body(50_000, str(number))
    assert origin.requests == []
    assert {seen.header("Authorization") for seen in cache.requests} == {SECRET}


def test_an_archive_is_extracted_from_the_service(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    cache.add("/x.tar", Resource(tar_of({"a": BODY, "b/c": OTHER})))
    extract(origin.url("/x.tar"), tmp_path / "got", fleet=fleet(origin, cache))
    assert (tmp_path / "got/b/c").read_bytes() == OTHER
    assert origin.requests == []


def test_the_cache_of_weights_is_filled_from_the_service(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    data = weights()
    cache.add("/x.safetensors", Resource(data))
    settings = impatient(fleet=fleet(origin, cache))
    with WeightsDownloadCache(tmp_path, 0, settings=settings) as kept:
        assert kept.ensure(origin.url("/x.safetensors")).read_bytes() == data
    assert origin.requests == []


@pytest.mark.parametrize("broken", [False, True])
def test_tensors_of_a_file_come_from_the_service_or_from_the_origin(
    origin: Server, cache: Server, tmp_path: Path, broken: bool
) -> None:
    made = {name: floats(100_000, name) for name in "abc"}
    faults = [Status(503)] if broken else []
    cache.add("/x.safetensors", Resource(file_of(made), faults=faults))
    origin.add("/x.safetensors", Resource(file_of(made)))
    url, settings = origin.url("/x.safetensors"), impatient(fleet=fleet(origin, cache))
    with WeightsDownloadCache(tmp_path, 0, settings=settings) as kept:
        found = tensors.load(url, only=["b"], cache=kept, framework="numpy")
    assert same(found, {"b": made["b"]})
    assert bool(origin.requests) == broken


# ------------------------------------------------------------------------ whatever the service does


@pytest.mark.parametrize("status", [404, 403, 416, 500, 502, 503])
def test_a_refusal_of_the_service_is_not_final(
    origin: Server, cache: Server, tmp_path: Path, status: int
) -> None:
    cache.add("/model", Resource(BODY, faults=[Status(status)]))
    fetch(origin.url("/model"), tmp_path / "got", fleet=fleet(origin, cache))
    assert (tmp_path / "got").read_bytes() == BODY
    assert 0 < len(cache.requests) <= 6


def test_if_the_origin_fails_as_well_its_words_count(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    cache.add("/model", Resource(faults=[Status(503)]))
    origin.add("/model", Resource(faults=[Status(404)]))
    with pytest.raises(HttpStatusError) as caught:
        fetch(origin.url("/model"), tmp_path / "got", fleet=fleet(origin, cache))
    assert caught.value.status == 404


def test_bytes_that_came_before_the_service_broke_are_kept(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    cache.add("/model", Resource(BODY, faults=[FinAfter(1_000_000)]))
    settings = fleet(origin, cache)
    fetch(origin.url("/model"), tmp_path / "got", fleet=settings, concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
    spans = [span for span in origin.asked("/model") if span is not None]
    assert all(span[0] for span in spans)


def test_a_service_that_is_away_is_asked_by_one_file_and_not_by_each(
    origin: Server, cache: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.refuse(100)
    before = cache.connections
    for number in range(4):
        fetch(origin.url("/model"), tmp_path / str(number), fleet=fleet(origin, cache))
        assert (tmp_path / str(number)).read_bytes() == BODY
        if number == 0:
            tried = cache.connections - before
    assert cache.connections - before == tried > 0
    (warning,) = warnings_in(caplog)
    assert "is not asked for now" in warning


def test_a_service_that_is_back_gets_all_small_files_again(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    settings = fleet(origin, cache)
    # It failed long ago: the next file may try it, and the others once that has come.
    cache_service._HEALTH.lost(cache.url(""), time.monotonic() - 1000, time.monotonic() - 1000)
    files = []
    for number in range(5):
        cache.add(f"/{number}", Resource(body(20_000, number)))
        files.append((origin.url(f"/{number}"), tmp_path / str(number)))
    chosen = impatient(fleet=settings, max_concurrent_files=1)
    pgetpy.download_many(files, settings=chosen, fail_fast=True)
    assert origin.requests == []


@pytest.mark.parametrize("fault", [SilenceBeforeHead(), SilenceAfter(1_000_000)])
def test_a_service_that_falls_silent_gives_way_to_the_origin(
    origin: Server, cache: Server, tmp_path: Path, fault: Fault
) -> None:
    cache.add("/model", Resource(BODY, faults=[fault]))
    # It answers no probe either, as a stopped process does.
    cache.add("*", Resource(faults=[SilenceBeforeHead()]))
    settings = fleet(origin, cache)
    fetch(origin.url("/model"), tmp_path / "got", fleet=settings, stall_timeout=60.0)
    assert (tmp_path / "got").read_bytes() == BODY


def test_another_version_at_the_service_gives_one_version(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    cache.add("/model", Resource(OTHER, etag='"v0"', faults=[FinAfter(1_000_000)]))
    fetch(origin.url("/model"), tmp_path / "got", fleet=fleet(origin, cache))
    assert (tmp_path / "got").read_bytes() in (BODY, OTHER)


def test_wrong_bytes_are_found_by_their_digest_and_fetched_from_the_origin(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    cache.add("/model", Resource(OTHER))
    digest = hashlib.sha256(BODY).hexdigest()
    settings = fleet(origin, cache)
    fetch(origin.url("/model"), tmp_path / "got", fleet=settings, checksum=f"sha256:{digest}")
    assert (tmp_path / "got").read_bytes() == BODY


def test_bytes_that_are_wrong_at_the_origin_too_are_an_error(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    settings = fleet(origin, cache)
    with pytest.raises(DigestMismatchError):
        fetch(origin.url("/model"), tmp_path / "got", fleet=settings, checksum=f"sha256:{'0' * 64}")


# ------------------------------------------------------------------------- secrets and policies


def test_the_services_token_goes_to_no_other_host(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    cache.add("/model", Resource(faults=[Redirect(origin.url("/model"))]))
    settings = {"fleet": fleet(origin, cache), "proxy_authorization": SECRET}
    fetch(origin.url("/model"), tmp_path / "a", **settings)
    cache.add("/model", Resource(faults=[Status(404)]))
    fetch(origin.url("/model"), tmp_path / "b", **settings)
    assert {seen.header("Authorization") for seen in cache.requests} == {SECRET}
    assert {seen.header("Authorization") for seen in origin.requests} == {None}


@pytest.mark.parametrize(
    "given",
    [{"Authorization": SECRET}, {"Cookie": "session=hunter2"}, {"X-Api-Key": "hunter2"}],
)
def test_what_needs_credentials_does_not_go_through_the_service(
    origin: Server, cache: Server, tmp_path: Path, given: dict[str, str]
) -> None:
    settings = fleet(origin, cache)
    fetch(origin.url("/model"), tmp_path / "got", fleet=settings, headers=given)
    assert (tmp_path / "got").read_bytes() == BODY
    assert cache.requests == []


def test_a_login_in_the_url_does_not_go_through_the_service(
    origin: Server, cache: Server, tmp_path: Path
) -> None:
    fetch(origin.url("/model", user="me:hunter2"), tmp_path / "got", fleet=fleet(origin, cache))
    assert cache.requests == []


def test_headers_without_secrets_go_along(origin: Server, cache: Server, tmp_path: Path) -> None:
    headers = {"X-Team": "a"}
    fetch(origin.url("/model"), tmp_path / "got", fleet=fleet(origin, cache), headers=headers)
    assert {seen.header("X-Team") for seen in cache.requests} == {"a"}


@pytest.mark.parametrize("host", ["127.0.0.1", "weights.example"])
def test_a_policy_judges_the_origin_before_the_service_is_asked(
    origin: Server, cache: Server, tmp_path: Path, host: str
) -> None:
    settings = impatient(
        fleet=fleet(origin, cache, force_service=True),
        policy=Policy(),
        # A public name that leads to a host of this network.
        resolve={("weights.example", origin.port): "127.0.0.1"},
    )
    with pytest.raises(NotAllowedError):
        pgetpy.download(origin.url("/model", host=host), tmp_path / "got", settings=settings)
    assert (origin.requests, cache.requests) == ([], [])


# ------------------------------------------------------------------------------- the way to say it


def test_the_cache_of_weights_takes_nodes_as_arguments(tmp_path: Path) -> None:
    with WeightsDownloadCache(
        tmp_path,
        0,
        settings=impatient(),
        cache_nodes="srv://cache.example.com",
        cache_prefixes=["https://a.example"],
        cache_piece=4 << 20,
    ) as kept:
        given = kept.settings.fleet
    assert given is not None
    assert (given.nodes, given.prefixes, given.piece) == (
        NodeList(srv="cache.example.com"),
        ("https://a.example",),
        4 << 20,
    )


def test_an_empty_text_means_no_nodes_whatever_the_settings_say(tmp_path: Path) -> None:
    settings = impatient(fleet=FleetSettings(srv_name="a", service_base="http://b"))
    with WeightsDownloadCache(tmp_path, 0, settings=settings, cache_nodes="") as kept:
        given = kept.settings.fleet
    assert given is not None
    assert not given.configured


@pytest.mark.parametrize(
    ("name", "value"), [("cache_nodes", "http://a"), ("cache_nodes", "a:0"), ("cache_piece", 1000)]
)
def test_arguments_about_nodes_that_mean_nothing_are_refused_by_name(
    tmp_path: Path, name: str, value: Any
) -> None:
    with pytest.raises(BadSettingError) as caught:
        WeightsDownloadCache(tmp_path, 0, settings=impatient(), **{name: value})
    assert caught.value.name == name
