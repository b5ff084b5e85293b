"""Private stays private: what one caller's token has fetched is given to those who may have it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pgetpy.core.http.pace import ConcurrencyController
from pgetpy.core.http.urls import opened_link, parse_link
from pgetpy.core.references.jobs import Job
from pgetpy.engine.hosts import Host
from pgetpy.engine.transports.base import Address, Request
from pgetpy.errors import GatedError, NotFoundError, PgetError, ServiceError, UnauthorizedError
from pgetpy.settings import Proxies, Settings, SourceSettings
from pgetpy.sources.base import Located, RemoteFile
from pgetpy.sources.civitai import CivitaiSettings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.table import parse_reference
from tests.integration.sources.conftest import OTHER_TOKEN, TOKEN
from tests.support.faults import Status
from tests.support.fetching import contents
from tests.support.hub import Hub
from tests.support.hub_caches import opened_at, others
from tests.support.resources import Resource
from tests.support.weights import flip, only_record, partials, weights

LORA = weights()
FILES = {"lora.safetensors": LORA, "config.json": b"{}"}
STRANGER = f"{OTHER_TOKEN}-stranger"
# One file, the only one of its kind, and all of them.
WAYS = pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hf://o/n/lora.safetensors", "auto"),
        ("hf://o/n/config.json", "file"),
        ("hf://o/n", "auto"),
        ("hf://o/n", "folder"),
    ],
)


@pytest.fixture(autouse=True)
def strangers(hub: Hub) -> None:
    hub.tokens.add(STRANGER)


@WAYS
@pytest.mark.parametrize("kind", ["gated", "private"])
def test_only_who_may_have_it_is_given_it(
    hub: Hub, root: Path, kind: str, text: str, wanted: str
) -> None:
    fields: dict[str, Any] = {kind: True, "readers": {TOKEN, OTHER_TOKEN}}
    hub.repo("o/n", FILES, **fields)
    refusal = GatedError if kind == "gated" else NotFoundError
    with opened_at(hub, root, any_file=True) as cache:
        path = cache.ensure(text, wanted=wanted, hf_api_token=TOKEN)
        for token, error in [(None, refusal), (STRANGER, refusal), ("wrong", UnauthorizedError)]:
            for _ in range(2):
                with pytest.raises(error):
                    cache.ensure(text, wanted=wanted, hf_api_token=token)
        assert cache.lookup(text, wanted=wanted) is None
        with pytest.raises(refusal), cache.lease(text, wanted=wanted):
            pass
        with pytest.raises(refusal):
            cache.ensure_many([text], wanted=wanted)
        sent = hub.cdn.requests[:]
        # Who may have it shows that by a few small requests, and need not do so again for a while.
        assert cache.ensure(text, wanted=wanted, hf_api_token=OTHER_TOKEN) == path
        assert sum(seen.sent for seen in hub.cdn.requests[len(sent) :]) <= 1
        asked = len(hub.requests)
        for token in (OTHER_TOKEN, TOKEN):
            assert cache.ensure(text, wanted=wanted, hf_api_token=token) == path
        assert len(hub.requests) == asked
        assert len(cache.entries()) == 1
    assert others(hub) == []


@WAYS
def test_what_is_public_is_anybodys_who_shows_it(
    hub: Hub, root: Path, text: str, wanted: str
) -> None:
    hub.tokens.add(TOKEN)
    hub.repo("o/n", FILES)
    with opened_at(hub, root, any_file=True) as cache:
        path = cache.ensure(text, wanted=wanted, hf_api_token=TOKEN)
        assert only_record(cache).about.scope
        for token in (None, STRANGER, None, STRANGER):
            assert cache.ensure(text, wanted=wanted, hf_api_token=token) == path
        asked = len(hub.requests)
        assert cache.ensure(text, wanted=wanted) == path
        assert len(hub.requests) == asked


@WAYS
def test_what_was_fetched_without_a_token_is_anybodys(
    hub: Hub, root: Path, text: str, wanted: str
) -> None:
    hub.repo("o/n", FILES)
    with opened_at(hub, root, any_file=True) as cache:
        path = cache.ensure(text, wanted=wanted)
        asked = len(hub.requests)
        assert cache.ensure(text, wanted=wanted, hf_api_token="wrong") == path
        assert len(hub.requests) == asked


@pytest.mark.parametrize("wanted", ["auto", "folder"])
def test_offline_nobody_can_show_that_he_may_have_it(hub: Hub, root: Path, wanted: str) -> None:
    hub.repo("o/n", FILES, gated=True, readers={TOKEN, OTHER_TOKEN})
    with opened_at(hub, root, TOKEN) as cache:
        path = cache.ensure("hf://o/n", wanted=wanted)
    asked = len(hub.requests)
    with opened_at(hub, root, TOKEN, offline=True) as cache:
        assert cache.ensure("hf://o/n", wanted=wanted) == path
        with pytest.raises(PgetError, match="HF_HUB_OFFLINE"):
            cache.ensure("hf://o/n", wanted=wanted, hf_api_token=OTHER_TOKEN)
    assert len(hub.requests) == asked


def test_who_is_shut_out_later_is_not_given_what_is_new(hub: Hub, root: Path) -> None:
    repo = hub.repo("o/n", FILES, gated=True, readers=[TOKEN])
    with opened_at(hub, root, TOKEN, refresh="check") as cache:
        cache.ensure("hf://o/n", wanted="folder")
        repo.readers = ()
        with pytest.raises(ServiceError):
            cache.ensure("hf://o/n", wanted="folder")


@pytest.mark.parametrize("wanted", ["auto", "folder"])
def test_a_new_version_is_fetched_where_that_is_asked_for(
    hub: Hub, root: Path, wanted: str
) -> None:
    repo = hub.repo("o/n", FILES)

    def found(path: Path) -> bytes:
        return contents(path)["lora.safetensors"] if path.is_dir() else path.read_bytes()

    with opened_at(hub, root, refresh="check") as cache:
        first = cache.ensure("hf://o/n", wanted=wanted)
        assert cache.ensure("hf://o/n", wanted=wanted) == first
        repo.revisions["main"] = {**FILES, "lora.safetensors": weights(seed="new")}
        assert found(cache.ensure("hf://o/n", wanted=wanted)) == weights(seed="new")


# ------------------------------------------------------------------ what is told to everybody


def test_what_another_has_begun_is_no_way_around_the_gate(hub: Hub, root: Path) -> None:
    files = {"a.safetensors": LORA, "z": b"3"}
    repo = hub.repo("o/n", files, gated=True, readers={TOKEN, OTHER_TOKEN})
    # The last file fails, and is one that the gate lets through: all others are there then.
    last = f"/o/n/resolve/{repo.commit('main')}/z"
    hub.add(last, Resource(faults=[Status(500, "trouble")]))
    with opened_at(hub, root, retries=0, max_concurrent_files=1) as cache:
        with pytest.raises(PgetError, match="trouble"):
            cache.ensure("hf://o/n", wanted="folder", hf_api_token=TOKEN)
        assert any(path.name == "a.safetensors" for path in partials(root))
        hub.remove(last)
        hub.add(last, Resource(files["z"]))
        for token, error in [(None, GatedError), (STRANGER, GatedError)]:
            with pytest.raises(error):
                cache.ensure("hf://o/n", wanted="folder", hf_api_token=token)
        assert cache.entries() == []
        folder = cache.ensure("hf://o/n", wanted="folder", hf_api_token=OTHER_TOKEN)
        assert contents(folder) == files


def test_a_page_that_anybody_may_read_opens_no_weights(hub: Hub, root: Path) -> None:
    files = {"README.md": b"# A model", "lora.safetensors": LORA}
    repo = hub.repo("o/n", files, gated=True, readers={TOKEN, OTHER_TOKEN})
    hub.add(f"/o/n/resolve/{repo.commit('main')}/README.md", Resource(files["README.md"]))
    with opened_at(hub, root) as cache:
        path = cache.ensure("hf://o/n", wanted="folder", hf_api_token=TOKEN)
        for token in (None, STRANGER):
            with pytest.raises(GatedError):
                cache.ensure("hf://o/n", wanted="folder", hf_api_token=token)
        assert cache.ensure("hf://o/n", wanted="folder", hf_api_token=OTHER_TOKEN) == path


def test_who_was_shown_one_version_has_to_show_it_for_the_next(hub: Hub, root: Path) -> None:
    repo = hub.repo("o/n", FILES)
    hub.tokens.add(TOKEN)
    text = "hf://o/n/lora.safetensors"
    with opened_at(hub, root) as cache, opened_at(hub, root, TOKEN, refresh="check") as owner:
        path = owner.ensure(text)
        assert cache.ensure(text) == path == cache.lookup(text)
        repo.revisions["main"] = {"lora.safetensors": weights(seed="secret")}
        repo.private, repo.readers = True, {TOKEN}
        assert owner.ensure(text) != path
        assert cache.lookup(text) is None
        with pytest.raises(NotFoundError):
            cache.ensure(text)


# ------------------------------------------------------------------------------- every call


def test_every_call_takes_a_token(hub: Hub, root: Path) -> None:
    hub.repo("o/n", FILES, private=True, readers={TOKEN, OTHER_TOKEN})
    text = "hf://o/n/lora.safetensors"
    with opened_at(hub, root) as cache:
        (path,) = cache.ensure_many([text], hf_api_token=TOKEN)
        assert cache.lookup(text, hf_api_token=TOKEN) == path
        assert cache.lookup(text) is None
        assert cache.lookup(text, hf_api_token=OTHER_TOKEN) is None  # not shown yet
        with cache.lease(text, hf_api_token=OTHER_TOKEN) as leased:
            assert leased == path == cache.lookup(text, hf_api_token=OTHER_TOKEN)
        flip(path)
        with pytest.raises(NotFoundError):
            cache.verify(text)
        cache.verify(text, hf_api_token=TOKEN)
        mended = cache.lookup(text, hf_api_token=TOKEN)
        assert mended is not None
        assert mended.read_bytes() == LORA
        found = asyncio.run(cache.ensure_many_async([text], hf_api_token=TOKEN))
        assert found == [mended]
        cache.pin(text, hf_api_token=TOKEN)
        assert cache.unpin(text)
        assert cache.remove(text) is not None


def test_a_server_that_repeats_a_token_does_not_show_it(hub: Hub, root: Path) -> None:
    hub.tokens.add(TOKEN)
    said = f"no such thing for Authorization: Bearer {TOKEN}"
    hub.add("/o/n/resolve/main/lora.safetensors", Resource(faults=[Status(403, said)]))
    with opened_at(hub, root, TOKEN) as cache, pytest.raises(PgetError, match="no such thing"):
        cache.ensure("hf://o/n/lora.safetensors")


def test_no_value_shows_what_opens_something() -> None:
    signed = f"https://user:{TOKEN}@host/a?X-Amz-Signature={TOKEN}"
    address = Address(2, ("127.0.0.1", 80))
    header = ("Authorization", f"Bearer {TOKEN}")
    proxy = f"http://user:{TOKEN}@proxy"
    settings = Settings(
        headers=dict([header]),
        authorization=header[1],
        proxies=Proxies(proxy, proxy),
        sources=SourceSettings((HubSettings(token=TOKEN), CivitaiSettings(token=TOKEN))),
        metrics_endpoint=signed,
    )
    link = parse_link(signed)
    values = [
        settings,
        link,
        parse_reference(signed),
        parse_reference("hf://o/n", settings=settings.sources),
        Job(signed, "a", mirrors=(signed,), link=opened_link(signed, header[1], trusted=False)),
        RemoteFile(signed, authorization=header[1]),
        Located((RemoteFile(signed),)),
        Request(signed, (header,), (address,), proxy, None, 1.0),
        Host(link.origin, (address,), proxy, ConcurrencyController(1, 1)),
    ]
    assert [value for value in values if TOKEN in repr(value)] == []
