"""examples/concurrent on a real Cog server: several callers at a time, one of them waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.weights import opened, serve, weights

from ..support.delivery import Gate
from ..support.faults import GateAfter, When
from ..support.hub import Hub
from ..support.secrets import TOKEN as MARK
from ..support.server import Server
from .cogs import CogServer, running

SIZE = 10_000
TOKEN = f"hf_{MARK}"
SAID = {"tensors": {"U8": 1}, "parameters": SIZE, "metadata": {}}


@pytest.fixture(scope="module")
def cog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    """One predictor for all tests of this module, whose callers are trusted."""
    cache = tmp_path_factory.mktemp("cache")
    env = {"COG_MAX_CONCURRENCY": "4", "TRUST_LORA_URLS": "1", "PGET_CACHE_DIR": cache}
    with running("concurrent", **env) as server:
        yield server


def gated(server: Server, gate: Gate, path: str) -> str:
    """Serve weights of which half comes before the gate is opened."""
    return serve(
        server, weights(SIZE), path, faults=[GateAfter(SIZE // 2, gate, when=When(times=1))]
    )


def test_a_second_prediction_finds_what_the_first_has_fetched(
    cog: CogServer, server: Server
) -> None:
    url = serve(server, weights(SIZE), "/twice.safetensors")
    first, second = cog.predict(lora=url), cog.predict(lora=url)
    assert [json.loads(reply.output) for reply in (first, second)] == [SAID, SAID]
    assert [first.cache, second.cache] == [(0, 1), (1, 0)]


def test_two_at_once_that_want_the_same_file_have_it_fetched_once(
    cog: CogServer, server: Server
) -> None:
    gate = Gate()
    url = gated(server, gate, "/shared.safetensors")
    first = cog.begin(lora=url)
    gate.wait_reached()
    second = cog.begin(lora=url)
    # Neither of them keeps others from being served.
    assert cog.predict(lora=serve(server, path="/other.safetensors")).status == "succeeded"
    gate.open()
    assert [json.loads(each.reply().output) for each in (first, second)] == [SAID, SAID]
    assert server.sent("/shared.safetensors") == len(weights(SIZE))


def test_a_caller_who_gives_up_takes_nothing_from_the_one_who_waits_too(
    cog: CogServer, server: Server
) -> None:
    gate = Gate()
    url = gated(server, gate, "/given-up.safetensors")
    impatient = cog.begin(lora=url)
    gate.wait_reached()
    patient = cog.begin(lora=url)
    impatient.cancel()
    assert impatient.reply().status == "canceled"
    gate.open()
    assert json.loads(patient.reply().output) == SAID


def test_a_failed_download_fails_its_own_prediction_alone(cog: CogServer, server: Server) -> None:
    page = serve(server, b"<html>no such file</html>", "/page.safetensors")
    bad, good = cog.begin(lora=page), cog.begin(lora=serve(server, path="/good.safetensors"))
    assert (bad.reply().status, good.reply().status) == ("failed", "succeeded")
    assert "not a weights file" in bad.reply().error
    assert cog.predict(lora=page).status == "failed"


def test_urls_that_lead_inside_are_refused_unless_callers_are_trusted(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    with running("concurrent", PGET_CACHE_DIR=tmp_path) as cog:
        reply = cog.predict(lora=url)
    assert reply.status == "failed"
    assert "NotAllowedError" in reply.error
    assert server.requests == []


def test_a_token_opens_what_is_gated_for_its_caller_alone_and_is_seen_nowhere(
    other_server: Server, tmp_path: Path
) -> None:
    with Hub(other_server) as hub:
        hub.repo("o/n", {"lora.safetensors": weights(SIZE)}, gated=True, readers={TOKEN})
        env = {"HF_ENDPOINT": hub.url(""), "HF_HUB_OFFLINE": "0", "TRUST_LORA_URLS": "1"}
        with running("concurrent", **env, PGET_CACHE_DIR=tmp_path) as cog:
            before = cog.predict(lora="hf://o/n")
            mistaken = cog.predict(lora="hf://o/n", hf_api_token=f"{TOKEN}wrong")
            granted = cog.predict(lora="hf://o/n", hf_api_token=TOKEN)
            after = cog.predict(lora="hf://o/n")
            said = cog.log
    assert (hub.violations, hub.errors) == ([], [])
    assert json.loads(granted.output) == SAID
    assert [each.status for each in (before, mistaken, after)] == ["failed"] * 3
    assert "GatedError" in before.error
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN not in f"{before} {mistaken} {granted} {after} {said}"
    assert TOKEN.encode() not in kept


def test_what_is_fetched_is_a_whole_entry_of_a_cache_that_others_can_open(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    env = {"TRUST_LORA_URLS": "1", "PGET_CACHE_DIR": tmp_path / "cache"}
    with running("concurrent", **env) as cog:
        assert cog.predict(lora=url).status == "succeeded"
    with opened(tmp_path / "cache") as cache:
        found = cache.lookup(url)
        assert found is not None
        assert found.read_bytes() == weights()
