"""How many files are fetched at a time follows from what they turn out to be."""

from __future__ import annotations

import asyncio

import pytest

from pgetpy.engine.file_slots import FileSlots


def at_a_time(most: int, sizes: str) -> int:
    """Return how many of `sizes` (s: small, l: large) were fetched at a time at most."""

    async def scenario() -> int:
        slots = FileSlots(most)
        under_way = highest = 0

        async def fetch(size: str) -> None:
            nonlocal under_way, highest
            async with slots:
                under_way += 1
                highest = max(highest, under_way)
                await asyncio.sleep(0)
                (slots.note_small if size == "s" else slots.note_large)()
                under_way -= 1

        await asyncio.gather(*map(fetch, sizes))
        return highest

    return asyncio.run(scenario())


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (7, 7), (64, 64)])
def test_small_files_reach_the_most_that_is_allowed(most: int, expected: int) -> None:
    assert at_a_time(most, "s" * 500) == expected


def test_large_files_stay_at_twenty() -> None:
    assert at_a_time(64, "l" * 500) == 20


def test_what_small_files_have_added_large_ones_take_away() -> None:
    async def scenario() -> bool:
        slots = FileSlots(64)
        for _ in range(100):
            slots.note_small()
        for _ in range(64):
            await slots.__aenter__()
            slots.note_large()
        for _ in range(64):
            await slots.__aexit__()
        for _ in range(20):
            await slots.__aenter__()
        return slots._free.locked()

    assert asyncio.run(scenario())


def test_a_file_counts_by_its_size_once_that_is_known() -> None:
    async def scenario(size: int | None) -> int:
        slots = FileSlots(64)
        for _ in range(100):
            slots.note(size)
        taken = 0
        while not slots._free.locked():
            await slots.__aenter__()
            taken += 1
        return taken

    sizes = (8 << 20, (8 << 20) + 1, None)
    assert [asyncio.run(scenario(size)) for size in sizes] == [64, 20, 20]
