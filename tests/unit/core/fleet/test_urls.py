"""Prefixes, rewritten URLs and SRV records, compared with what pget's own packages give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.fleet.go_urls import parse_go_url
from pgetpy.core.fleet.prefixes import parse_prefixes
from pgetpy.core.fleet.rewriting import CacheService, node_request
from pgetpy.core.fleet.srv import SrvNameError, nodes_of_srv
from pgetpy.errors import BadSettingError
from pgetpy.settings import Settings
from pgetpy.settings.fleet_settings import FleetSettings

VECTORS = json.loads(Path(__file__).with_name("pget_urls.json").read_text("utf-8"))
Row = dict[str, Any]


def fleet_of(**environ: str) -> FleetSettings:
    return Settings.from_environment(environ).fleet or FleetSettings()


def name_of(row: Row) -> str:
    return " ".join(str(value) for value in row.values())


@pytest.mark.parametrize("row", VECTORS["prefixes"], ids=name_of)
def test_a_url_is_covered_as_by_pget(row: Row) -> None:
    prefixes = parse_prefixes(fleet_of(PGET_CACHE_URI_PREFIXES=row["prefixes"]).prefixes)
    url = parse_go_url(row["url"])
    assert url is not None
    assert prefixes.cover(url) == row["covered"]


@pytest.mark.parametrize("row", VECTORS["rewritings"], ids=name_of)
def test_a_url_is_written_for_a_node_as_by_pget_or_differently_on_purpose(row: Row) -> None:
    url = parse_go_url(row["url"])
    assert url is not None
    request = node_request(url, path_proxy=row["path_proxy"])
    assert (request.target, request.host) == (row.get("ours", row["pget"]), row["host"])


@pytest.mark.parametrize("row", VECTORS["services"], ids=name_of)
def test_a_url_is_written_for_a_service_as_by_pget_or_differently_on_purpose(row: Row) -> None:
    prefixes = parse_prefixes(fleet_of(PGET_CACHE_URI_PREFIXES=row["prefixes"]).prefixes)
    service = CacheService(row["service"], prefixes, row["path_proxy"], row["force"])
    expected = row.get("ours", row["pget"])
    if expected is None:
        with pytest.raises(
            BadSettingError, match=r"PGET_CACHE_SERVICE_HOSTNAME.*http or https URL"
        ):
            service.url_for(row["url"])
    else:
        assert (service.url_for(row["url"]) or row["url"]) == expected


@pytest.mark.parametrize("row", VECTORS["srv"], ids=name_of)
def test_srv_records_make_the_list_that_pget_makes(row: Row) -> None:
    records = [(target, int(port)) for target, port in map(str.split, row["records"])]
    if row["hosts"] is None:
        with pytest.raises(SrvNameError):
            nodes_of_srv(records)
    else:
        assert list(nodes_of_srv(records)) == row["hosts"]


@pytest.mark.parametrize("index", ["100000", "99999999999999999999", "9" * 5000])
def test_an_index_cannot_make_a_list_of_billions(index: str) -> None:
    with pytest.raises(SrvNameError, match="100000 or more"):
        nodes_of_srv([(f"cache-{index}.c.", 80)])


def test_a_prefix_without_a_scheme_covers_nothing() -> None:
    url = parse_go_url("https://example.com/x")
    assert url is not None
    assert not parse_prefixes(["//example.com"]).cover(url)


@pytest.mark.parametrize(
    "url", ["https://example.com/%2e%2e/x", "https://example.com/a/%2E./../..", "https://e/..%2fx"]
)
def test_the_path_proxy_keeps_a_path_below_its_host(url: str) -> None:
    parsed = parse_go_url(url)
    assert parsed is not None
    target = node_request(parsed, path_proxy=True).target
    assert target.startswith(f"/{parsed.host}")
    assert "/../" not in target


@pytest.mark.parametrize(
    "text", ["https://example.com/%zz", "https://example.com:x/", "mailto:x", "https://e/\n"]
)
def test_what_go_refuses_is_not_a_url(text: str) -> None:
    assert parse_go_url(text) is None


URLS = st.text("ab/:?#@[]%2F.\\ ü\udc80\ud800\x00&=+,;'\"<>|^~*()!", max_size=20)


@given(URLS)
def test_any_text_is_refused_or_printed_in_a_form_that_stays(text: str) -> None:
    url = parse_go_url(f"https://example.com/{text}")
    if url is None:
        return
    again = parse_go_url(str(url))
    assert str(again) == str(url)
    target = node_request(url, path_proxy=True).target
    assert target.isascii()
    assert " " not in target
    assert target.startswith("/example.com")
    assert "/../" not in target
