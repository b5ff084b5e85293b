"""Origin and nodes that misbehave together, at random: with a checksum the right bytes arrive."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.support.bodies import body
from tests.support.faults import (
    Encoded,
    Fault,
    FinAfter,
    Garbage,
    IgnoreRange,
    NoContentRange,
    OtherRange,
    Replaced,
    ResetAfter,
    ShorterRange,
    StatedTotal,
    Status,
    WeakEtag,
    When,
    at_least,
)
from tests.support.fleet import BODY, Fleet

CHECKSUM = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
OTHER = body(len(BODY), "v2")
WHEN = (When(), When(request=1), When(request=at_least(3)), When(request=range(2, 99, 2)))
NODE_FAULTS = (
    lambda when: Status(503, when=when),
    lambda when: Status(404, when=when),
    lambda when: Status(416, when=when),
    lambda when: IgnoreRange(when=when),
    lambda when: ShorterRange(100, when=when),
    lambda when: NoContentRange(when=when),
    lambda when: StatedTotal("*", when=when),
    lambda when: StatedTotal(17, when=when),
    lambda when: Encoded(when=when),
    lambda when: ResetAfter(1000, when=when),
    lambda when: FinAfter(0, when=when),
    lambda when: Garbage(when=when),
    lambda when: OtherRange(when=when),
    lambda when: OtherRange(start_by=7, stop_by=7, claims_asked=True, when=when),
    lambda when: Replaced(OTHER, '"v2"', when=when),
    lambda when: Replaced(OTHER, when=when),
    lambda when: WeakEtag(when=when),
)
# What an origin may do as well, and a plain download gets over.
ORIGIN_FAULTS = (
    lambda when: Status(503, when=when),
    lambda when: ResetAfter(1000, when=when),
    lambda when: FinAfter(5000, when=when),
    lambda when: WeakEtag(when=when),
)
# Seeds of which `make test` runs a few.
SEEDS = [*range(4), *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(4, 60))]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_right_bytes_arrive(fleet: Fleet, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    for node in fleet.nodes:
        faults: list[Fault] = [
            dice.choice(NODE_FAULTS)(dice.choice(WHEN)) for _ in range(dice.choice((0, 1, 2)))
        ]
        fleet.set(node, *faults)
    if dice.random() < 0.5:
        fleet.set(fleet.origin, dice.choice(ORIGIN_FAULTS)(When(request=range(1, 3))))
    result = fleet.fetch(
        tmp_path / "got", checksum=CHECKSUM, concurrency=dice.choice((1, 4)), retries=6
    )
    assert (tmp_path / "got").read_bytes() == BODY
    # Every byte is received at most twice, but for what is cut off.
    assert sum(result.bytes_by_source.values()) <= 3 * len(BODY)
    assert sum(len(server.requests) for server in fleet.servers) <= 120
