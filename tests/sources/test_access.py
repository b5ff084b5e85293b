"""Private stays private: what one caller's token has fetched is given to those who may have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgetpy.errors import GatedError, NotFoundError, PgetError, ServiceError, UnauthorizedError

from ..fetching import contents
from ..support.hub import Hub
from ..weights.made import only_record, weights
from .conftest import OTHER_TOKEN, TOKEN
from .hubs import opened_at, others

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
    with opened_at(hub, root, TOKEN, hf_offline=True) as cache:
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
