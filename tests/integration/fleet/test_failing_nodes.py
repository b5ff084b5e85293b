"""Whatever a cache node does, the right bytes arrive; and what that costs is counted."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import pytest

from pgetpy.core.report.events import Remarked
from pgetpy.engine.node_attempt import _MOST_REFUSALS
from tests.support.bodies import body
from tests.support.delivery import Gate
from tests.support.faults import (
    Encoded,
    Fault,
    FinAfter,
    Garbage,
    GateAfter,
    IgnoreRange,
    NoContentRange,
    OtherRange,
    Replaced,
    ResetAfter,
    ShorterRange,
    SilenceAfter,
    SilenceBeforeHead,
    StatedTotal,
    Status,
    WeakEtag,
    When,
)
from tests.support.fetching import Events
from tests.support.fleet import BODY, PATH, PIECE, Fleet, black_hole

CHECKSUM = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
OTHER = body(len(BODY), "v2")
CONNECTIONS = 4
REFUSALS: list[Fault] = [
    Status(500),
    Status(502),
    Status(503),
    Status(504),
    Status(404),
    Status(416),
    IgnoreRange(),
    ShorterRange(100),
    NoContentRange(),
    StatedTotal("*"),
    ResetAfter(0),
    ResetAfter(1000),
    FinAfter(1000),
    Garbage(),
]


def test_all_comes_from_the_nodes_in_ranges_within_pieces(fleet: Fleet, tmp_path: Path) -> None:
    result = fleet.fetch(tmp_path / "got", concurrency=CONNECTIONS)
    assert (tmp_path / "got").read_bytes() == BODY
    assert fleet.origin.requests == []
    assert sum(result.bytes_by_source.values()) == len(BODY)
    assert set(result.bytes_by_source) <= {fleet.name(node) for node in fleet.nodes}
    for node in fleet.nodes:
        for start, stop in fleet.asked(node):
            assert start // PIECE == (stop - 1) // PIECE


def test_a_warning_of_a_dead_node_blames_nothing_else(
    fleet: Fleet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = fleet.nodes[0]
    dead.stop()
    with caplog.at_level(logging.WARNING, "pgetpy.fleet"):
        fleet.fetch(tmp_path / "got", concurrency=CONNECTIONS)
    [told] = [record.getMessage() for record in caplog.records]
    assert told == (
        f"cache node {fleet.name(dead)} is not asked for now: connection failed: connection refused"
    )


@pytest.mark.parametrize("fault", REFUSALS, ids=repr)
def test_a_node_that_fails_is_replaced_by_the_next(
    fleet: Fleet, tmp_path: Path, fault: Fault
) -> None:
    fleet.set(fleet.nodes[0], fault)
    result = fleet.fetch(tmp_path / "got", concurrency=CONNECTIONS)
    assert (tmp_path / "got").read_bytes() == BODY
    assert fleet.origin.requests == []
    # It is asked no more after some refusals; others may be under way by then.
    assert len(fleet.asked(fleet.nodes[0])) <= _MOST_REFUSALS + CONNECTIONS
    assert result.bytes_by_source.get(fleet.name(fleet.nodes[0]), 0) < len(BODY) / 3


@pytest.mark.parametrize("fault", REFUSALS, ids=repr)
def test_the_origin_delivers_where_all_nodes_fail(
    lone: Fleet, tmp_path: Path, fault: Fault
) -> None:
    lone.set(lone.nodes[0], fault)
    lone.fetch(tmp_path / "got", concurrency=CONNECTIONS)
    assert (tmp_path / "got").read_bytes() == BODY
    assert len(lone.asked(lone.nodes[0])) <= _MOST_REFUSALS + CONNECTIONS
    assert lone.origin.peak <= 2


def test_what_a_node_has_delivered_before_it_broke_is_kept(lone: Fleet, tmp_path: Path) -> None:
    lone.set(lone.nodes[0], ResetAfter(1000))
    result = lone.fetch(tmp_path / "got", concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
    assert sum(result.bytes_by_source.values()) == len(BODY)
    assert result.bytes_by_source[lone.name(lone.nodes[0])] > 0


def test_only_the_origins_word_is_final(fleet: Fleet, tmp_path: Path) -> None:
    for server in fleet.servers:
        fleet.set(server, Status(404))
    with pytest.raises(Exception, match="404"):
        fleet.fetch(tmp_path / "got")
    assert len(fleet.origin.requests) >= 1
    assert all(len(node.requests) == 1 for node in fleet.nodes)


def test_an_empty_object_is_what_the_origin_says(fleet: Fleet, tmp_path: Path) -> None:
    fleet.hold(b"")
    assert fleet.fetch(tmp_path / "got").size == 0
    assert (tmp_path / "got").read_bytes() == b""


# ------------------------------------------------------------------------------ lost and silent


def test_a_node_that_resets_connections_is_asked_once_a_process(
    fleet: Fleet, tmp_path: Path
) -> None:
    """dragonflyoss/dragonfly#1677: a node that has gone is still chosen."""
    node = fleet.nodes[0]
    node.refuse(1000)
    for number in range(3):
        fleet.fetch(tmp_path / f"got{number}", concurrency=1)
        assert (tmp_path / f"got{number}").read_bytes() == BODY
    assert fleet.origin.requests == []
    assert node.connections == 1


def test_a_node_that_has_gone_costs_nothing_but_its_time_out(fleet: Fleet, tmp_path: Path) -> None:
    """spegel-org/spegel#739: a dead mirror."""
    with black_hole() as gone:
        result = fleet.fetch(tmp_path / "got", gone, concurrency=CONNECTIONS)
        again = fleet.fetch(tmp_path / "again", gone, concurrency=CONNECTIONS)
    assert (tmp_path / "got").read_bytes() == (tmp_path / "again").read_bytes() == BODY
    assert fleet.origin.requests == []
    assert gone not in {*result.bytes_by_source, *again.bytes_by_source}
    # Known to the process: no request has failed this time.
    assert again.retries == 0


def test_a_stopped_node_is_left_and_its_bytes_are_kept(fleet: Fleet, tmp_path: Path) -> None:
    """Alluxio/alluxio#16295: a worker stops in mid-read."""
    node = fleet.nodes[0]
    fleet.set(node, SilenceAfter(1000))  # less than the last, short piece
    fleet.deafen(node)
    result = fleet.fetch(tmp_path / "got", concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
    assert fleet.origin.requests == []
    assert len(fleet.asked(node)) == 1
    assert sum(result.bytes_by_source.values()) == len(BODY)


def test_a_node_that_never_answers_is_left(fleet: Fleet, tmp_path: Path) -> None:
    node = fleet.nodes[0]
    fleet.set(node, SilenceBeforeHead())
    fleet.deafen(node)
    fleet.fetch(tmp_path / "got", concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
    assert len(fleet.asked(node)) == 1


def test_a_node_that_is_filling_is_waited_for(lone: Fleet, tmp_path: Path) -> None:
    """A second node would fetch the same piece from the origin."""
    gate = Gate()
    node = lone.nodes[0]
    lone.set(node, GateAfter(None, gate, when=When(request=2)))

    def opens(event: object) -> None:
        # It answers probes, the first of which says that the client has become impatient.
        if node.seen("*"):
            gate.open()

    lone.fetch(tmp_path / "got", concurrency=1, progress=opens)
    assert (tmp_path / "got").read_bytes() == BODY
    assert lone.origin.requests == []


# --------------------------------------------------------------------------- what contradicts


@pytest.mark.parametrize(
    "fault",
    [
        Replaced(OTHER, '"v2"'),
        Replaced(OTHER + b"more", '"v2"'),
        Replaced(OTHER[:-100], '"v1"'),
        OtherRange(),
        OtherRange(start_by=-5, stop_by=0),
        Encoded(),
    ],
    ids=["version", "longer", "shorter", "shifted", "earlier", "coded"],
)
def test_a_node_that_contradicts_the_others_is_named_and_left_for_the_run(
    fleet: Fleet, tmp_path: Path, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """dragonflyoss/client#1970: another version from one node."""
    liar, events = fleet.nodes[0], Events()
    fleet.set(liar, fault)
    with caplog.at_level(logging.WARNING, "pgetpy.fleet"):
        fleet.fetch(tmp_path / "got", concurrency=1, progress=events)
    assert (tmp_path / "got").read_bytes() == BODY
    assert fleet.name(liar) in caplog.text
    assert any(fleet.name(liar) in event.remark for event in events.of(Remarked))
    assert fleet.origin.sent(PATH) <= len(BODY) / 3
    before = len(liar.requests)
    fleet.fetch(tmp_path / "again", concurrency=1)
    assert len(liar.requests) == before
    assert (tmp_path / "again").read_bytes() == BODY


def test_where_all_but_one_are_stale_the_origins_version_arrives(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.hold(OTHER, etag='"v2"')
    for node in fleet.nodes[1:]:
        fleet.set(node)
    fleet.fetch(tmp_path / "got", concurrency=1)
    assert (tmp_path / "got").read_bytes() == OTHER


@pytest.mark.parametrize("concurrency", [1, CONNECTIONS])
def test_wrong_bytes_under_right_headers_are_caught_by_a_digest(
    fleet: Fleet, tmp_path: Path, concurrency: int
) -> None:
    """dragonflyoss/client#1932: wrong content of the right size."""
    fleet.set(fleet.nodes[0], Replaced(OTHER))
    fleet.set(fleet.nodes[1], OtherRange(start_by=3, stop_by=3, claims_asked=True))
    result = fleet.fetch(tmp_path / "got", checksum=CHECKSUM, concurrency=concurrency)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.verified == "digest"
    assert result.bytes_by_source["origin"] == len(BODY)
    assert fleet.origin.sent(PATH) == len(BODY)


def test_a_digest_that_the_origin_does_not_match_either_is_an_error(
    fleet: Fleet, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="sha256"):
        fleet.fetch(tmp_path / "got", checksum=f"sha256:{'0' * 64}")
    assert not (tmp_path / "got").exists()
    assert fleet.origin.sent(PATH) == len(BODY)


def test_without_a_digest_the_result_says_that_nothing_was_verified(
    fleet: Fleet, tmp_path: Path
) -> None:
    assert fleet.fetch(tmp_path / "got").verified == "none"
    assert fleet.fetch(tmp_path / "checked", checksum=CHECKSUM).verified == "digest"


def test_without_a_strong_etag_nodes_are_used_only_with_a_checksum(
    fleet: Fleet, tmp_path: Path
) -> None:
    for server in fleet.servers:
        fleet.set(server, WeakEtag())
    result = fleet.fetch(tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert set(result.bytes_by_source) == {"origin"}
    result = fleet.fetch(tmp_path / "checked", checksum=CHECKSUM)
    assert (tmp_path / "checked").read_bytes() == BODY
    assert "origin" not in result.bytes_by_source


def test_a_node_that_comes_back_with_another_version_is_found_out(
    fleet: Fleet, tmp_path: Path
) -> None:
    """ai-dynamo/modelexpress#502: a worker restarts, and its address serves something else."""
    node = fleet.nodes[0]
    fleet.set(node, Replaced(OTHER, '"v2"', when=When(request=range(2, 100))))
    fleet.fetch(tmp_path / "got", concurrency=1)
    assert (tmp_path / "got").read_bytes() == BODY
