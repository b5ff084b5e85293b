"""Answers that a server takes its time to make: waited for longer with each try."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgetpy.errors import StalledError
from tests.support.bodies import body
from tests.support.faults import Late, SilenceAfter, SilenceBeforeHead
from tests.support.fetching import Events, fetch
from tests.support.resources import Resource
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("transport")

BODY = body(300_001)
STALL = 0.5


@pytest.mark.parametrize("late", [1.2, pytest.param(2.5, marks=pytest.mark.soak)])
def test_an_answer_that_takes_several_stalls_to_begin_is_waited_for(
    server: Server, tmp_path: Path, late: float
) -> None:
    url = server.add("/made", Resource(BODY, faults=[Late(late)]))
    fetch(url, tmp_path / "got", stall_timeout=STALL, retries=5, chunk_size=2 * len(BODY))
    assert (tmp_path / "got").read_bytes() == BODY


def test_who_never_answers_is_given_up(server: Server, tmp_path: Path) -> None:
    url = server.add("/made", Resource(BODY, faults=[SilenceBeforeHead()]))
    events = Events()
    with pytest.raises(StalledError) as caught:
        fetch(url, tmp_path / "got", stall_timeout=STALL / 4, retries=2, progress=events)
    # It says how long it waited the last time.
    assert caught.value.seconds == pytest.approx(3 * STALL / 4)


def test_silence_within_a_body_is_borne_no_longer_than_before(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/made", Resource(BODY, faults=[SilenceAfter(0)]))
    with pytest.raises(StalledError) as caught:
        fetch(url, tmp_path / "got", stall_timeout=STALL, retries=2)
    assert caught.value.seconds == STALL
