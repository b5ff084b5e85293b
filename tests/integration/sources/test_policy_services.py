"""References to services under a policy: its lists of hosts hold for them, and so do its ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import pgetpy
from pgetpy import Policy, WeightsDownloadCache
from pgetpy.errors import (
    NotAllowedError,
    NotFoundError,
    PgetError,
    TransferError,
    UnauthorizedError,
)
from pgetpy.settings import Settings, SourceSettings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.table import parse_reference
from tests.integration.sources.conftest import OTHER_TOKEN, TOKEN
from tests.integration.sources.test_policy_content import Folder
from tests.support.faults import Redirect
from tests.support.fetching import contents
from tests.support.hub import Hub
from tests.support.hub_caches import opened_at, others
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.sources import add_source
from tests.support.weights import opened, serve, weights

OPEN = Policy(allow_networks=("127.0.0.1",))
LORA = weights()
FILES = {"lora.safetensors": LORA, "second.safetensors": weights(seed=2)}
SERVICES = {
    "hf://o/n/lora.safetensors": "huggingface.co",
    "https://huggingface.co/o/n": "huggingface.co",
    "urn:air:sdxl:lora:civitai:1@5": "civitai.com",
    "owner/model": "replicate.com",
}


@pytest.fixture(params=[None, OPEN], ids=["no policy", "policy"])
def policy(request: pytest.FixtureRequest) -> Policy | None:
    found: Policy | None = request.param
    return found


@pytest.fixture
def folder_of_theirs(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reference to a folder of a source of somebody else's."""
    urls = [serve(server, data, f"/{name}") for name, data in FILES.items()]
    add_source(monkeypatch, Folder(urls, sized=False))
    return "folder:theirs"


# ------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize(("text", "host"), SERVICES.items())
def test_the_lists_of_hosts_hold_for_services(
    tmp_path: Path, root: Path, text: str, host: str
) -> None:
    for policy, rule in (
        (Policy(deny_hosts=(host,)), "deny_hosts"),
        (Policy(allow_hosts=("weights.example",)), "allow_hosts"),
        (Policy(deny_hosts=(host,), allow_hosts=(host,)), "deny_hosts"),
    ):
        settings = Settings(policy=policy)
        with WeightsDownloadCache(root, 0, settings=settings) as cache:
            for asked in (cache.ensure, cache.lookup, lambda text: cache.ensure_many([text])):
                with pytest.raises(NotAllowedError) as caught:
                    asked(text)
                assert caught.value.rule == rule
        with pytest.raises(NotAllowedError, match=rule):
            pgetpy.download(text, tmp_path / "got", settings=settings)
    others = [Policy(), Policy(allow_hosts=(host,)), Policy.public(), Policy(deny_hosts=("x.y",))]
    for policy in others:
        policy.check_reference(parse_reference(text))


def test_where_a_service_leads_the_lists_hold_too(hub: Hub, root: Path) -> None:
    hub.repo("o/n", FILES)
    named = SourceSettings((HubSettings(endpoint=f"http://localhost:{hub.port}"),))
    allowed = replace(OPEN, allow_hosts=("localhost",))
    with opened(root, sources=named, policy=allowed) as cache:
        with pytest.raises(NotAllowedError) as caught:
            cache.ensure("hf://o/n/lora.safetensors")
        assert caught.value.rule == "allow_hosts"
    both = replace(OPEN, allow_hosts=("localhost", "127.0.0.1"))
    with opened(root, sources=named, policy=both) as cache:
        assert cache.ensure("hf://o/n/lora.safetensors").read_bytes() == LORA


def test_a_hit_of_a_service_that_is_denied_is_none(hub: Hub, root: Path) -> None:
    hub.repo("o/n", FILES)
    with opened_at(hub, root) as cache:
        cache.ensure("hf://o/n/lora.safetensors")
    denied = replace(OPEN, deny_hosts=("127.0.0.1",))
    with opened_at(hub, root, policy=denied) as cache, pytest.raises(NotAllowedError):
        cache.lookup("hf://o/n/lora.safetensors")


def test_what_a_source_of_others_fetched_without_the_policy_is_shown_first(
    server: Server, root: Path, folder_of_theirs: str
) -> None:
    with opened(root) as cache:
        path = cache.ensure(folder_of_theirs)
    with opened(root, policy=OPEN) as cache:
        assert cache.lookup(folder_of_theirs) is None
        assert cache.ensure(folder_of_theirs) == path
    with opened(root, policy=Policy()) as cache, pytest.raises(NotAllowedError):
        cache.ensure(folder_of_theirs)


@pytest.mark.parametrize("order", [1, -1])
def test_of_such_a_folder_every_host_is_judged(
    server: Server, inside: Server, root: Path, monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    urls = [serve(server), serve(inside)][::order]
    add_source(monkeypatch, Folder(urls, sized=False))
    with opened(root) as cache:
        cache.ensure("folder:both")
    asked = len(inside.requests)
    with opened(root, policy=OPEN) as cache, pytest.raises(NotAllowedError):
        cache.ensure("folder:both")
    assert len(inside.requests) == asked


# --------------------------------------------------------------------------------------- listings


def test_a_repository_is_listed_without_the_environments_proxies(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hub.repo("o/n", FILES)
    huggingface_hub.close_session()  # the next one would go by the environment
    try:
        with opened_at(hub, root, policy=OPEN) as cache:
            assert contents(cache.ensure("hf://o/n", wanted="folder")) == FILES
    finally:
        huggingface_hub.close_session()
    assert len(hub.asked_of_api()) == 1


def test_a_listing_leads_nowhere_inside(hub: Hub, inside: Server, root: Path) -> None:
    target = inside.add("/listing", Resource(b'{"id": "o/n", "siblings": []}'))
    hub.add("/api/models/o/n/revision/main", Resource(faults=[Redirect(target)]))
    with opened_at(hub, root, TOKEN, policy=replace(OPEN, own_tokens=True)) as cache:
        with pytest.raises(NotAllowedError) as caught:
            cache.ensure("hf://o/n", wanted="folder")
        assert caught.value.rule == "allow_networks"
    assert inside.connections == 0
    assert others(hub) == []


def test_a_repository_is_listed_at_the_address_that_was_given(hub: Hub, root: Path) -> None:
    hub.repo("o/n", FILES)
    named = SourceSettings((HubSettings(endpoint=f"http://hub.example:{hub.port}"),))
    resolve = {("hub.example", hub.port): "127.0.0.1"}
    with opened(root, sources=named, resolve=resolve, retries=0) as cache:
        assert contents(cache.ensure("hf://o/n", wanted="folder")) == FILES


def test_a_refused_listing_means_the_same(hub: Hub, root: Path, policy: Policy | None) -> None:
    hub.tokens |= {TOKEN}
    hub.repo("o/private", FILES, private=True, readers={OTHER_TOKEN})
    with opened_at(hub, root, policy=policy) as cache:
        refusals: list[tuple[str, str | None, type[PgetError]]] = [
            ("hf://o/private", None, NotFoundError),
            ("hf://o/private", TOKEN, NotFoundError),
            ("hf://o/missing", None, NotFoundError),
            ("hf://o/private@nothing", OTHER_TOKEN, NotFoundError),
            ("hf://o/private", "wrong", UnauthorizedError),
        ]
        for text, token, error in refusals:
            with pytest.raises(error):
                cache.ensure(text, wanted="folder", hf_api_token=token)
        found = cache.ensure("hf://o/private", wanted="folder", hf_api_token=OTHER_TOKEN)
        assert contents(found) == FILES


@pytest.mark.parametrize(
    "listing",
    [
        b"", b"<html>", b"[]", b"{}", b"[" * 100_000, b'{"id": 1, "siblings": 3}',
        b'{"siblings": [3]}', b'{"siblings": [{}]}', b'{"siblings": [{"rfilename": ""}]}',
        b'{"siblings": [{"rfilename": "a", "size": -1}]}',
        b'{"siblings": [{"rfilename": "a", "size": "x"}]}',
        b'{"siblings": [{"rfilename": "a", "size": 1.5}]}',
        b'{"siblings": [{"rfilename": "a", "lfs": 3}]}',
    ],
    ids=range(13),
)  # fmt: skip
def test_a_listing_that_makes_no_sense_is_told(hub: Hub, root: Path, listing: Any) -> None:
    hub.add("/api/models/o/n/revision/main", Resource(listing, content_type="application/json"))
    with (
        opened_at(hub, root, policy=OPEN) as cache,
        pytest.raises(TransferError, match="cannot be read"),
    ):
        cache.ensure("hf://o/n", wanted="folder")
