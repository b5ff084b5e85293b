"""Bytes may run far ahead of a tar's headers, unless making members takes all of the time."""

import pytest

from pgetpy.archives import room_ahead
from pgetpy.archives.room_ahead import RoomAhead


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room_ahead, "time", clock)
    return clock


def let_pass(room: RoomAhead, clock: Clock, seconds: float, working: float) -> int:
    with room.working():
        clock.now += working
    clock.now += seconds - working
    room.adapt()
    return room.size


def test_bytes_that_wait_for_a_slow_connection_keep_the_room_large(clock: Clock) -> None:
    room = RoomAhead()
    most = room.size
    assert let_pass(room, clock, 0.1, working=0.05) == most


def test_members_that_are_made_slowly_make_the_room_small_and_then_large_again(
    clock: Clock,
) -> None:
    room = RoomAhead()
    most = room.size
    sizes = [let_pass(room, clock, 0.1, working=0.09) for _ in range(6)]
    assert sizes[:2] == [most // 2, most // 4]
    assert sizes[-1] == sizes[-2] == 2 << 20
    for _ in range(3):
        let_pass(room, clock, 0.1, working=0.01)
    assert room.size == most


def test_calls_in_quick_succession_change_nothing(clock: Clock) -> None:
    room = RoomAhead()
    most = room.size
    assert let_pass(room, clock, 0.01, working=0.01) == most
