"""Some tensors of a file instead of all: what is asked for, and what is said where that fails."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgetpy import Policy, WeightsDownloadCache, tensors
from pgetpy.errors import (
    BadSettingError,
    NotAllowedError,
    NotFoundError,
    NotWeightsError,
    TransferError,
)
from tests.support.checkpoints import file_of, floats, same
from tests.support.delivery import Gate
from tests.support.faults import (
    EtagPerRequest,
    Fault,
    GateAfter,
    IgnoreRange,
    NoLength,
    Replaced,
    ResetAfter,
    WeakEtag,
    When,
    at_least,
)
from tests.support.hub import Hub
from tests.support.hub_caches import opened_at
from tests.support.server import Server
from tests.support.weights import MIB, opened, partials, serve

PATH = "/model.safetensors"
MADE = {f"{block}.{part}": floats(MIB // 4, f"{block}.{part}") for block in "abc" for part in "xyz"}
DATA = file_of(MADE)
HEADER = len(DATA) - sum(len(made.data) for made in MADE.values())
FIRST = 16 << 10


def loaded(url: str, cache: WeightsDownloadCache, only: Any, **options: Any) -> dict[str, Any]:
    return tensors.load(url, only=only, cache=cache, framework="numpy", **options)


def spans(server: Server, path: str = PATH) -> list[tuple[int, int]]:
    """The ranges that were asked of it, from low to high."""
    return sorted((start or 0, stop or 0) for start, stop in filter(None, server.asked(path)))


def place(name: str) -> tuple[int, int]:
    start = HEADER + sum(len(MADE[each].data) for each in list(MADE)[: list(MADE).index(name)])
    return start, start + len(MADE[name].data)


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (["b.y"], ["b.y"]),
        ("b.", ["b.x", "b.y", "b.z"]),
        (["a.y", "c.x", "c.y"], ["a.y", "c.x", "c.y"]),
        ({"c.z"}, ["c.z"]),
    ],
    ids=str,
)
def test_only_the_head_and_what_is_wanted_is_asked_for(
    server: Server, cache: WeightsDownloadCache, only: Any, names: list[str]
) -> None:
    url = serve(server, DATA, PATH)
    found = loaded(url, cache, only)
    assert list(found) == names
    assert same(found, {name: MADE[name] for name in names})
    wanted = sum(len(MADE[name].data) for name in names)
    asked = spans(server)
    assert asked[0] == (0, FIRST)
    assert sum(stop - start for start, stop in asked) <= 1.02 * (HEADER + wanted)
    places = [place(name) for name in names]
    assert all(
        any(a <= start and stop <= b for a, b in _joined(places)) for start, stop in asked[1:]
    )
    assert len(server.seen(PATH)) == len(asked)
    assert cache.lookup(url) is None
    assert cache.entries() == []
    assert partials(cache.path) == []


def _joined(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for start, stop in places:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


def test_no_names_cost_the_head_alone(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server, DATA, PATH)
    assert loaded(url, cache, []) == {}
    assert spans(server) == [(0, FIRST)]


@pytest.mark.parametrize("only", [["b.x", "b.q"], "q."])
def test_what_is_not_there_is_said_before_anything_else_is_fetched(
    server: Server, cache: WeightsDownloadCache, only: Any
) -> None:
    url = serve(server, DATA, PATH) + "?token=secretmark"
    for _ in range(2):
        with pytest.raises(BadSettingError, match="only") as caught:
            loaded(url, cache, only)
        assert "secretmark" not in str(caught.value)
        assert sum(stop - start for start, stop in spans(server)) <= 2 * FIRST
        server.requests.clear()


def test_a_head_that_is_longer_than_the_first_answer_is_fetched_to_its_end(
    server: Server, cache: WeightsDownloadCache
) -> None:
    for pad in (FIRST - HEADER - 1, FIRST - HEADER, FIRST - HEADER + 1, 100_000, 3 * MIB):
        url = serve(server, file_of(MADE, pad=pad), f"/{pad}.safetensors")
        assert same(loaded(url, cache, ["c.z"]), {"c.z": MADE["c.z"]})
        asked = spans(server, f"/{pad}.safetensors")
        size = sum(stop - start for start, stop in asked)
        assert size <= max(FIRST, HEADER + pad) + len(MADE["c.z"].data)


def test_a_file_that_is_smaller_than_the_first_question_is_no_exception(
    server: Server, cache: WeightsDownloadCache
) -> None:
    made = {"a": floats(3), "b": floats(2, "b"), "c": floats(0)}
    url = serve(server, file_of(made), PATH)
    assert same(loaded(url, cache, ["b", "c"]), {"b": made["b"], "c": made["c"]})
    url = serve(server, file_of({}), "/none.safetensors")
    assert loaded(url, cache, []) == {}


def test_what_is_kept_is_not_asked_for(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server, DATA, PATH)
    cache.ensure(url)
    server.requests.clear()
    assert same(loaded(url, cache, ["b.y"]), {"b.y": MADE["b.y"]})
    with pytest.raises(BadSettingError, match="q"):
        loaded(url, cache, ["q"])
    assert server.requests == []


def test_parts_have_no_digest(server: Server, cache: WeightsDownloadCache) -> None:
    url = serve(server, DATA, PATH)
    with pytest.raises(BadSettingError, match="digest"):
        loaded(url, cache, ["b.y"], digest="0" * 64)
    assert server.requests == []


@pytest.mark.parametrize("faults", [[IgnoreRange()], [NoLength(), IgnoreRange()]], ids=str)
def test_a_server_without_ranges_gives_the_whole_which_is_kept(
    server: Server, cache: WeightsDownloadCache, faults: list[Fault]
) -> None:
    url = serve(server, DATA, PATH, faults=faults)
    assert same(loaded(url, cache, ["b.y"]), {"b.y": MADE["b.y"]})
    assert cache.lookup(url) is not None


@pytest.mark.parametrize(
    "fault",
    [
        ResetAfter(1000, when=When(times=3)),
        WeakEtag(),
        NoLength(),
        IgnoreRange(when=When(request=2)),
    ],
    ids=str,
)
def test_faults_of_the_network_change_no_part(
    server: Server, cache: WeightsDownloadCache, fault: Fault
) -> None:
    url = serve(server, DATA, PATH, faults=[fault])
    assert same(loaded(url, cache, "b."), {name: MADE[name] for name in MADE if "b." in name})


@pytest.mark.parametrize("etag", ['"v2"', None], ids=["new", "none"])
def test_parts_of_two_versions_are_not_mixed(
    server: Server, cache: WeightsDownloadCache, etag: str | None
) -> None:
    other = {name: floats(MIB // 4, f"other {name}") for name in MADE}
    replaced = Replaced(file_of(other), etag=etag, when=When(request=at_least(2)))
    url = serve(server, DATA, PATH, faults=[replaced])
    assert same(loaded(url, cache, ["a.y", "c.y"]), {name: other[name] for name in ("a.y", "c.y")})


def test_a_stream_of_parts_gives_what_has_come_while_others_are_held_back(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    held = When(covers=place("c.z")[0] + 5000)
    url = serve(server, DATA, PATH, faults=[GateAfter(1000, gate, when=held)])
    with opened(tmp_path / "cache") as cache:
        coming = tensors.stream(url, only=["a.x", "c.z"], cache=cache, framework="numpy")
        name, array = next(coming)
        assert (name, array.tobytes()) == ("a.x", MADE["a.x"].data)
        gate.open()
        assert [name for name, _ in coming] == ["c.z"]


def test_to_change_a_part_as_it_comes_changes_no_other(server: Server, tmp_path: Path) -> None:
    """Parts that are wanted share pages with one another, be there others between them."""
    made = {f"{at:03}": floats(100, f"t{at}") for at in range(200)}
    made["large"] = floats(MIB)
    url = serve(server, file_of(made), PATH)
    wanted = [*list(made)[::2], "large"]
    with opened(tmp_path / "cache") as cache:
        for name, array in tensors.stream(url, only=wanted, cache=cache, framework="numpy"):
            assert array.tobytes() == made[name].data
            array[:] = 0


# ---------------------------------------------------------------------------------- who may have it


def test_the_policy_holds_for_parts(server: Server, tmp_path: Path) -> None:
    url = serve(server, DATA, PATH)
    rules = replace(Policy.public(), schemes=("http",))
    with opened(tmp_path / "cache", policy=rules) as cache, pytest.raises(NotAllowedError):
        loaded(url, cache, ["b.y"])
    assert server.requests == []
    allowing = replace(rules, allow_networks=("127.0.0.1",))
    with opened(tmp_path / "cache", policy=allowing) as cache:
        assert same(loaded(url, cache, ["b.y"]), {"b.y": MADE["b.y"]})
    small = replace(allowing, max_bytes=len(DATA) - 1)
    with opened(tmp_path / "cache", policy=small) as cache, pytest.raises(NotAllowedError):
        loaded(url, cache, ["b.y"])


def test_a_stranger_s_head_is_no_longer_than_it_may_be(server: Server, tmp_path: Path) -> None:
    url = serve(server, file_of(MADE, pad=5 * MIB), PATH)
    rules = replace(Policy.public(), schemes=("http",), allow_networks=("127.0.0.1",))
    with opened(tmp_path / "cache", policy=rules) as cache:
        with pytest.raises(NotWeightsError, match="header"):
            loaded(url, cache, ["b.y"])
        assert spans(server) == [(0, FIRST)]
        with pytest.raises(NotAllowedError):
            loaded(url, cache, None)
    with opened(tmp_path / "cache") as cache:
        assert same(loaded(url, cache, ["b.y"]), {"b.y": MADE["b.y"]})


@pytest.fixture
def hub(other_server: Server) -> Iterator[Hub]:
    with Hub(other_server) as hub:
        yield hub
    assert hub.violations == []
    assert hub.errors == []


def test_parts_come_from_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.repo("owner/name", {"model.safetensors": DATA, "config.json": b"{}"})
    hub.repo("owner/closed", {"model.safetensors": DATA}, private=True, readers={"token"})
    with opened_at(hub, tmp_path / "cache") as cache:
        for reference in ("hf://owner/name/model.safetensors", "hf://owner/name"):
            assert same(loaded(reference, cache, ["b.y"]), {"b.y": MADE["b.y"]})
        with pytest.raises(NotFoundError):
            loaded("hf://owner/name/none.safetensors", cache, ["b.y"])
        closed = "hf://owner/closed/model.safetensors"
        with pytest.raises(TransferError):
            loaded(closed, cache, ["b.y"])
        assert same(loaded(closed, cache, ["b.y"], hf_api_token="token"), {"b.y": MADE["b.y"]})
        assert cache.entries() == []
    (path,) = {seen.path for seen in hub.cdn.requests}
    asked = [stop - start for start, stop in spans(hub.cdn, path)]
    assert sum(asked) <= 3 * 1.02 * (HEADER + len(MADE["b.y"].data))


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b'{"a": 1}', "not described"),
        (b"[1]", "brace"),
        (b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', "shape"),
        (b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}}', "gap"),
        (b'{"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}', "bytes"),
    ],
)
def test_a_head_that_contradicts_itself_is_said_to(
    server: Server, cache: WeightsDownloadCache, head: bytes, what: str
) -> None:
    url = serve(server, struct.pack("<Q", len(head)) + head + bytes(4), PATH)
    with pytest.raises(NotWeightsError, match=what):
        loaded(url, cache, ["a"])


def test_offsets_that_are_enormous_are_refused(server: Server, cache: WeightsDownloadCache) -> None:
    tensor = {"dtype": "U8", "shape": [1 << 60], "data_offsets": [0, 1 << 60]}
    head = json.dumps({"a": tensor}).encode()
    url = serve(server, struct.pack("<Q", len(head)) + head + bytes(4), PATH)
    with pytest.raises(NotWeightsError):
        loaded(url, cache, ["a"])


def test_what_has_changed_between_head_and_parts_is_fetched_as_a_whole(
    server: Server, cache: WeightsDownloadCache
) -> None:
    replaced = Replaced(file_of(MADE, pad=8), etag='"v2"', when=When(request=at_least(2)))
    url = serve(server, DATA, PATH, faults=[replaced])
    assert same(loaded(url, cache, ["c.z"]), {"c.z": MADE["c.z"]})


def test_servers_that_disagree_about_the_version_give_the_whole(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, DATA, PATH, faults=[EtagPerRequest(2)])
    assert same(loaded(url, cache, ["a.y", "c.y"]), {name: MADE[name] for name in ("a.y", "c.y")})
