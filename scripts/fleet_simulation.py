"""A thousand machines with a thousand cache nodes: load, what moves, and origin fetches; simulated.

What is simulated is the code that places pieces and decides on failures: `core/placement`, the
choices of `fleet/nodes`, and `core/fleet/health`. Time passes as if pieces took what the network
needs for them. `python -m scripts.fleet_simulation` prints the tables; `make fleet-simulation`
writes them into docs/fleet-simulation.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from statistics import fmean

from pgetpy.core.fleet.health import FIRST_PAUSE, NodeHealth
from pgetpy.core.fleet.node_list import NodeList
from pgetpy.core.placement.jump import SLICE, place, places
from pgetpy.core.placement.rendezvous import ranked
from pgetpy.core.placement.rotation import starting_piece
from pgetpy.fleet.nodes import MOST_CHOICES, CacheNodes
from pgetpy.settings.fleet_settings import FleetSettings

PAGE = Path("docs/fleet-simulation.md")
URLS = tuple(f"https://weights.example.com/model-{number}.safetensors" for number in range(2))
URL = URLS[0]
MIB = 1 << 20
SIZE = 40_000_000_000
# Bytes a second of each machine: 25 Gbit/s.
RATE = 25e9 / 8
PIECES = (4 * MIB, 20 * MIB, 50 * MIB, SLICE)
USUAL_PIECE = 20 * MIB
# A node that is dead costs a time-out of this many seconds.
TIME_OUT = 1.0
# Sets of dead nodes, over which outcomes are averaged.
SEEDS = range(10)

# The nodes for each piece, the most preferred first.
Choices = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Fleet:
    """Nodes by their index, and how many clients fetch one object through them."""

    nodes: int = 1000
    clients: int = 1000

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"pgetpy-node-{index}" for index in range(self.nodes))

    @cached_property
    def _by_name(self) -> CacheNodes:
        prefixes = ("https://weights.example.com",)
        return CacheNodes(FleetSettings(given=NodeList(names=self.names), prefixes=prefixes))

    def by_name(self, url: str, pieces: int) -> Choices:
        """Return the choices for a list of hosts, as downloads make them."""

        async def choose() -> Choices:
            found = [await self._by_name.choices(url, piece) for piece in range(pieces)]
            return [[node.index for node in each] for each in found]

        return asyncio.run(choose())

    def by_index(self, url: str, pieces: int) -> Choices:
        """Return the choices for nodes that are looked up: pget's first, then its next ones."""
        most = min(MOST_CHOICES, self.nodes)
        return [list(islice(places(url, piece, self.nodes), most)) for piece in range(pieces)]


def pieces_of(size: int, piece: int) -> int:
    return -(-size // piece)


# -------------------------------------------------------------------------------- load


def most_loaded(chosen: Choices) -> int:
    """Return the pieces of the node that serves most."""
    return max(Counter(each[0] for each in chosen).values())


def seconds_for_all(most: float, piece: int, clients: int) -> float:
    """Return how long the node with `most` pieces sends them to all clients."""
    return most * piece * clients / RATE


# ------------------------------------------------------------------------------- moves


def moved(before: Callable[[int], str], after: Callable[[int], str], pieces: int) -> float:
    """Return the part of the pieces that another node serves than before."""
    return sum(before(piece) != after(piece) for piece in range(pieces)) / pieces


def moves(fleet: Fleet, pieces: int) -> dict[str, tuple[float, float]]:
    """Return the parts of the pieces that move, and that have to, when a node leaves.

    The node is one in the middle. Its own pieces have to move.
    """
    names, gone = fleet.names, fleet.nodes // 2
    left = names[:gone] + names[gone + 1 :]

    def by_index(listed: Sequence[str]) -> Callable[[int], str]:
        return lambda piece: listed[place(URL, piece, len(listed)) or 0]

    def with_hole(piece: int) -> str:
        first, second, *_ = islice(places(URL, piece, fleet.nodes), 2)
        return names[second if first == gone else first]

    def by_name(listed: Sequence[str]) -> Callable[[int], str]:
        return lambda piece: ranked(URL, piece, listed, 1)[0]

    ways = {
        "by index, the list closes up": (by_index(names), by_index(left)),
        "by index, with a hole in its place": (by_index(names), with_hole),
        "by name": (by_name(names), by_name(left)),
    }
    return {
        way: (
            moved(before, after, pieces),
            sum(before(piece) == names[gone] for piece in range(pieces)) / pieces,
        )
        for way, (before, after) in ways.items()
    }


# ---------------------------------------------------------------------------- failures


@dataclass
class Outcome:
    """What the clients' downloads came to.

    Attributes:
        origin_fetches: bytes from the origin, divided by the object's size.
        time_outs: requests to dead nodes, of all clients.
    """

    origin_fetches: float
    time_outs: int


def with_dead_nodes(fleet: Fleet, chosen: Choices, dead: set[int]) -> Outcome:
    """Have all clients fetch all pieces, each with what it learns of the nodes' health.

    A piece whose first node lives costs one fetch: that node is asked by every client.
    """
    pieces, names = len(chosen), fleet.names
    troubled = [piece for piece, nodes in enumerate(chosen) if nodes[0] in dead]
    fetched = {(piece, nodes[0]) for piece, nodes in enumerate(chosen) if nodes[0] not in dead}
    past_nodes = time_outs = 0
    for client in range(fleet.clients):
        health, late = NodeHealth(), 0.0
        begin = starting_piece(f"client-{client}", URL, pieces)
        for piece in sorted(troubled, key=lambda piece: (piece - begin) % pieces):
            now = (piece - begin) % pieces * USUAL_PIECE / RATE + late
            for node in chosen[piece]:
                if not health.admits(names[node], now):
                    continue
                if node in dead:
                    health.lost(names[node], now + TIME_OUT, now)
                    time_outs, late, now = time_outs + 1, late + TIME_OUT, now + TIME_OUT
                    continue
                health.answered(names[node])
                fetched.add((piece, node))
                break
            else:
                past_nodes += 1
    return Outcome((len(fetched) + past_nodes) / pieces, time_outs)


def pget_with_dead_nodes(fleet: Fleet, chosen: Choices, dead: set[int]) -> Outcome:
    """The same for pget, which asks one other node, then the origin, and remembers nothing."""
    fetches = time_outs = 0
    for first, second, *_ in chosen:
        lost = (first in dead) + (first in dead and second in dead)
        time_outs += fleet.clients * lost
        fetches += fleet.clients if lost == 2 else 1
    return Outcome(fetches / len(chosen), time_outs)


# ------------------------------------------------------------------------------ report


def page(fleet: Fleet, size: int) -> str:
    """Return the page with all tables."""
    return "\n".join(_lines(fleet, size)) + "\n"


def _lines(fleet: Fleet, size: int) -> Iterator[str]:
    yield "<!-- Generated by `make fleet-simulation`. Do not edit it. -->"
    yield "# Fleets, simulated"
    yield ""
    yield (
        f"{fleet.clients:,} machines fetch the same {size / 1e9:.0f} GB through {fleet.nodes:,} "
        "[cache nodes](how-to/cache-nodes.md), each at 25 Gbit/s."
    )
    yield "What is simulated is the code that places pieces and decides on failures."
    yield ""
    yield "## Piece size and load"
    yield ""
    yield "The node that serves most pieces decides how long all take."
    yield ""
    yield from _row("piece", "pieces", "by index: max / mean", "s", "by name: max / mean", "s")
    yield from _row(*["---"] * 6)
    for piece in PIECES:
        count = pieces_of(size, piece)
        cells = []
        for choices in (fleet.by_index, fleet.by_name):
            most = fmean(most_loaded(choices(url, count)) for url in URLS)
            seconds = seconds_for_all(most, piece, fleet.clients)
            cells += [f"{most * fleet.nodes / count:.2f}", f"{seconds:.0f}"]
        yield from _row(f"{piece // MIB} MiB", f"{count:,}", *cells)
    least = size * fleet.clients / fleet.nodes / RATE
    yield ""
    yield f"With the same load on every node it would take {least:.0f} s."
    yield from _moves(fleet, size)
    yield from _failures(fleet, size)


def _moves(fleet: Fleet, size: int) -> Iterator[str]:
    yield ""
    yield "## A node leaves"
    yield ""
    yield "Pieces that another node serves afterwards, and so fetches once more, against the least."
    yield ""
    yield from _row("placement", "moved", "times the least")
    yield from _row("---", "---", "---")
    for way, (part, least) in moves(fleet, pieces_of(size, USUAL_PIECE)).items():
        yield from _row(way, f"{part:.2%}", f"{part / least:.0f}" if least else "-")


def _failures(fleet: Fleet, size: int) -> Iterator[str]:
    yield ""
    yield "## Dead nodes"
    yield ""
    yield (
        "Bytes from the origin, divided by the size of the object (1.00 is the least), and "
        f"time-outs of a client for each dead node; averages of {len(SEEDS)} sets of dead nodes."
    )
    yield ""
    yield from _row("dead", "pget", "time-outs", "by index", "time-outs", "by name", "time-outs")
    yield from _row(*["---"] * 7)
    pieces = pieces_of(size, USUAL_PIECE)
    by_index, by_name = fleet.by_index(URL, pieces), fleet.by_name(URL, pieces)
    for part in (0.05, 0.10):
        dead = int(part * fleet.nodes)
        sets = [set(random.Random(seed).sample(range(fleet.nodes), dead)) for seed in SEEDS]
        cells = []
        for outcomes in (
            [pget_with_dead_nodes(fleet, by_index, each) for each in sets],
            [with_dead_nodes(fleet, by_index, each) for each in sets],
            [with_dead_nodes(fleet, by_name, each) for each in sets],
        ):
            time_outs = fmean(each.time_outs for each in outcomes) / fleet.clients / dead
            cells += [f"{fmean(each.origin_fetches for each in outcomes):.2f}", f"{time_outs:.1f}"]
        yield from _row(f"{part:.0%}", *cells)
    yield ""
    yield (
        "pget asks one other node, then the origin, for each slice anew. pgetpy asks up to "
        f"{MOST_CHOICES} nodes, and leaves one that is dead alone for {FIRST_PAUSE:.0f} s at "
        "first, then for twice as long each time."
    )


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", action="store_true", help=f"write {PAGE}")
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--size", type=float, default=SIZE, help="bytes of the object")
    given = parser.parse_args()
    text = page(Fleet(given.nodes, given.clients), int(given.size))
    if given.docs:
        PAGE.write_text(text)
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
