"""What is drawn, from events and a clock that the tests turn."""

import io
import json
import logging
import re
from dataclasses import replace

import pytest

from pgetpy.cli.progress import LogLines, Progress, open_progress
from pgetpy.cli.progress_bars import _finished_format
from pgetpy.core.report.events import (
    Event,
    Failed,
    Finished,
    Progressed,
    Queued,
    Remarked,
    Retrying,
    Started,
    StartedOver,
    Verifying,
    Waiting,
)
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import ConnectionFailedError, HttpStatusError

URL = "http://example.com/model.bin"
GB = 10**9
RESULT = DownloadResult(
    url=URL,
    final_url=URL,
    dest="/w/model.bin",
    size=2 * GB,
    digest=None,
    seconds=4.0,
    bytes_per_second=0.5 * GB,
    retries=0,
    connections=8,
    resumed=0,
    validator="strong",
    length_known=True,
    shared=False,
)


class Terminal:
    """A progress on a text stream, with a clock; `tell` gives it events."""

    def __init__(self, mode: str, *, columns: int = 100, endings: bool = True) -> None:
        self.stream = io.StringIO()
        self.now = 100.0
        self.progress: Progress = open_progress(
            mode,
            stream=self.stream,
            is_terminal=True,
            columns=columns,
            clock=lambda: self.now,
            endings=endings,
        )

    def tell(self, *events: Event, after: float = 1.0) -> None:
        for event in events:
            self.progress(event)
            self.now += after

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def drawn(self) -> list[str]:
        """Everything ever drawn, in order, without the moves of the cursor."""
        return [part for part in re.split(r"[\r\n]|\x1b\[A", self.text) if part.strip()]

    @property
    def percents(self) -> list[int]:
        return [int(found) for found in re.findall(r"(\d+)% \|", self.text)]


def started(total: int | None = 2 * GB, held: int = 0, key: int = 1) -> Started:
    return Started(key, URL, f"/w/model{key}.bin", total, held)


def test_nothing_is_shown_where_nothing_is_wanted() -> None:
    terminal = Terminal("none")
    with terminal.progress:
        terminal.tell(Queued(1), started(), Progressed(1, GB, 2 * GB, 4), Finished(1, RESULT))
    assert terminal.text == ""
    assert terminal.progress.tally.finished == 1


def test_a_bar_shows_bytes_rate_time_left_and_connections() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(started(), Progressed(1, GB // 2, 2 * GB, 3), Progressed(1, GB, 2 * GB, 16))
        last = terminal.drawn[-1]
    for part in ("model1.bin", " 50% |", "1.0 GB/2.0 GB", "500 MB/s", "2.0s left", "16 conn"):
        assert part in last


def test_what_an_earlier_run_left_fills_the_bar_and_not_the_rate() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(started(held=GB), Progressed(1, GB + GB // 10, 2 * GB, 4))
        assert "100 MB/s" in terminal.drawn[-1]
    assert "going on from 1.0 GB of 2.0 GB" in terminal.text
    assert terminal.percents[0] == 50


def test_a_bar_never_goes_back_but_when_the_transfer_starts_over_and_says_so() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(started(), *(Progressed(1, n * GB // 4, 2 * GB, 4) for n in (1, 4, 3, 9)))
        assert terminal.percents == sorted(terminal.percents)
        assert max(terminal.percents) == 100
        before = len(terminal.percents)
        terminal.tell(StartedOver(1, "/w/model1.bin", "the object changed"))
        terminal.tell(Progressed(1, GB // 2, 2 * GB, 4))
    assert "model1.bin: starting over: the object changed\n" in terminal.text
    after = terminal.percents[before:]
    assert after == sorted(after)
    assert (after[0], after[-1]) == (0, 25)


def test_a_size_that_is_not_known_has_no_bar_and_no_time_left() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(started(None), Progressed(1, GB, None, 1))
    assert "1.0 GB" in terminal.drawn[-1]
    assert "%" not in terminal.text
    assert "left" not in terminal.text


def test_checking_takes_the_place_of_the_rate() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(started(), Progressed(1, 2 * GB, 2 * GB, 0), Verifying(1, "", GB, 2 * GB))
    assert "checking  50%" in terminal.drawn[-1]


def test_a_finished_bar_stays_with_the_time_it_took() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(started(), Progressed(1, GB, 2 * GB, 4), Finished(1, RESULT))
    assert "100% |" in terminal.drawn[-1]
    assert "2.0 GB in 4.0s 500 MB/s" in terminal.drawn[-1]
    assert terminal.text.endswith("\n")


@pytest.mark.parametrize("columns", [30, 50, 70, 120])
def test_nothing_that_is_drawn_is_wider_than_the_terminal(columns: int) -> None:
    terminal = Terminal("bar", columns=columns)
    with terminal.progress:
        terminal.tell(Queued(2), started(), started(key=2), Progressed(1, GB, 2 * GB, 10))
        terminal.tell(Progressed(2, GB, 2 * GB, 10), Progressed(1, GB, 2 * GB, 10))
    assert max(map(len, terminal.drawn)) <= columns


def test_a_name_with_braces_and_controls_is_drawn_harmlessly() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(Started(1, URL, "/w/{0}\x1b]0;x\x07{bar}", 2 * GB, 0))
        terminal.tell(Progressed(1, GB, 2 * GB, 4))
    assert "{0} ]0;x {bar}" in terminal.drawn[-1]


def test_several_files_have_a_total_and_a_bar_each_in_flight() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(Queued(3), started(), started(key=2))
        terminal.tell(Progressed(1, GB, 2 * GB, 4), Progressed(2, GB, 2 * GB, 4))
        screen = "\n".join(terminal.drawn[-3:])
        assert "0/3 files" in screen
        assert "2.0 GB/~6.0 GB" in screen
        assert "8 conn" in screen
        assert "model1.bin" in screen
        assert "model2.bin" in screen
        terminal.tell(
            Finished(1, RESULT), Failed(2, URL, "/w/model2.bin", HttpStatusError(URL, 404))
        )
        assert "model2.bin: failed: HTTP status 404" in terminal.text
    assert "1/3 (1 failed)" in terminal.drawn[-1]


def test_the_total_of_files_never_goes_back_when_larger_ones_turn_up() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(Queued(2), started(1000), Progressed(1, 900, 1000, 1))
        terminal.tell(started(GB, key=2), Progressed(2, 10, GB, 1))
        terminal.tell(Finished(1, replace(RESULT, size=1000)), Progressed(2, GB, GB, 1))
        terminal.tell(Finished(2, replace(RESULT, size=GB)))
    totals = [int(found) for found in re.findall(r"files +(\d+)% \|", terminal.text)]
    assert totals == sorted(totals)
    assert totals[-1] == 100
    assert max(totals[:-1]) <= 100


def test_small_files_that_are_done_at_once_get_no_bars() -> None:
    terminal = Terminal("bar")
    with terminal.progress:
        terminal.tell(Queued(2000))
        for key in range(2000):
            terminal.tell(
                started(1000, key=key), Finished(key, replace(RESULT, size=1000)), after=0.001
            )
    assert "model7.bin" not in terminal.text
    assert terminal.text.count("\n") == 1
    assert len(terminal.text) < 10_000


def test_a_file_that_is_not_named_yet_is_called_as_its_url_is() -> None:
    terminal = Terminal("plain")
    with terminal.progress:
        terminal.tell(Retrying(1, "./", ConnectionFailedError("http://host/a.bin?x", "reset"), 0.0))
    assert terminal.lines[0].startswith("a.bin: connection failed")


def test_many_failures_at_one_time_are_one_line() -> None:
    terminal = Terminal("plain")
    error = ConnectionFailedError(URL, "reset by peer")
    with terminal.progress:
        terminal.tell(started())
        terminal.tell(*[Retrying(1, "/w/model1.bin", error, 2.0)] * 16, after=0.0)
        terminal.now += 60
        terminal.tell(Retrying(1, "/w/model1.bin", error, 0.0))
    retries = [line for line in terminal.lines if "trying again" in line]
    assert len(retries) == 2
    assert "reset by peer" in retries[0]
    assert retries[0].endswith("trying again in 2.0s")
    assert "at once (15 more" in retries[1]


def test_a_reason_to_wait_is_given_once() -> None:
    terminal = Terminal("plain")
    with terminal.progress:
        terminal.tell(*[Waiting(1, "/w/a", "another process writes it")] * 3)
    assert terminal.lines.count("a: another process writes it") == 1


def test_plain_lines_come_now_and_then() -> None:
    terminal = Terminal("plain")
    with terminal.progress:
        terminal.tell(started())
        terminal.tell(*(Progressed(1, n * GB // 100, 2 * GB, 8) for n in range(200)), after=0.1)
        terminal.tell(Finished(1, RESULT))
    assert terminal.lines[0] == "model1.bin: downloading, 2.0 GB"
    assert terminal.lines[1] == "model1.bin: 20% of 2.0 GB, 80 MB/s, 20s left, 8 connections"
    assert terminal.lines[-1] == "model.bin: done, 2.0 GB in 4.0s, 500 MB/s"
    assert 5 <= len(terminal.lines) <= 7


def test_plain_lines_leave_the_last_word_to_a_caller_who_wants_it() -> None:
    terminal = Terminal("plain", endings=False)
    with terminal.progress:
        terminal.tell(started(), Finished(1, RESULT))
    assert len(terminal.lines) == 1


def test_plain_lines_on_several_files_count_them() -> None:
    terminal = Terminal("plain")
    with terminal.progress:
        terminal.tell(Queued(2), started(), Progressed(1, GB, 2 * GB, 8), after=3.0)
        terminal.tell(Finished(1, RESULT), started(key=2))
    assert terminal.lines[0] == "downloading 2 files"
    assert terminal.lines[-1].startswith("1 of 2 files, 2.0 GB of 4.0 GB")


def test_json_is_one_object_an_event_without_secrets() -> None:
    terminal = Terminal("json")
    error = HttpStatusError(f"{URL}?token=hunter2", 503)
    with terminal.progress:
        terminal.tell(Queued(1), started(), Progressed(1, 5, 10, 2))
        terminal.tell(Retrying(1, "/w/a", error, 1.5), StartedOver(1, "/w/a", "changed"))
        terminal.tell(Waiting(1, "/w/a", "b"), Verifying(1, "/w/a", 1, 2))
        terminal.tell(Finished(1, RESULT), Failed(2, URL, "/w/b", error))
        terminal.tell(Remarked(1, "/w/a", "another way"))
    records = [json.loads(line) for line in terminal.lines]
    assert [record["event"] for record in records] == [
        "queued", "started", "progressed", "retrying", "started_over", "waiting", "verifying",
        "finished", "failed", "remarked",
    ]  # fmt: skip
    assert records[2] == {
        "event": "progressed", "seconds": 2.0, "key": 1, "done": 5, "total": 10,
        "connections": 2, "bytes_by_source": {},
    }  # fmt: skip
    assert records[7]["result"]["size"] == 2 * GB
    assert "hunter2" not in terminal.text


def test_auto_is_bars_on_a_terminal_and_lines_elsewhere() -> None:
    def kind(*, is_terminal: bool) -> str:
        stream = io.StringIO()
        return type(open_progress("auto", stream=stream, is_terminal=is_terminal)).__name__

    assert kind(is_terminal=True) == "BarProgress"
    assert kind(is_terminal=False) == "PlainProgress"


@pytest.mark.parametrize("mode", ["bar", "plain", "json", "none"])
def test_a_stream_that_is_gone_does_not_fail_the_transfer(mode: str) -> None:
    terminal = Terminal(mode)
    with terminal.progress:
        terminal.tell(started())
        terminal.stream.close()
        terminal.tell(Progressed(1, GB, 2 * GB, 4), Finished(1, RESULT))
        terminal.progress.line("x")
    assert terminal.progress.tally.finished == 1


@pytest.mark.parametrize("mode", ["bar", "plain"])
def test_events_after_the_end_draw_nothing(mode: str) -> None:
    terminal = Terminal(mode)
    with terminal.progress:
        terminal.tell(started())
    before = terminal.text
    terminal.tell(Progressed(1, GB, 2 * GB, 4), StartedOver(1, "/w/a", "x"), after=10)
    assert terminal.text == before


@pytest.mark.parametrize("mode", ["bar", "plain", "none"])
def test_log_lines_are_lines_of_their_own_and_redacted(mode: str) -> None:
    terminal = Terminal(mode)
    logger = logging.Logger("test")
    logger.addHandler(LogLines(terminal.progress))
    with terminal.progress:
        terminal.tell(started())
        logger.warning("slow: %s", f"{URL}?token=hunter2")
        terminal.tell(Progressed(1, GB, 2 * GB, 4))
    assert f"pgetpy: warning: slow: {URL}?token=***\n" in terminal.text
    assert "hunter2" not in terminal.text


def test_on_forty_columns_the_rate_is_not_cut_off() -> None:
    result = replace(RESULT, dest="/w/model.safetensors", shared=False)
    text = _finished_format(result, 38).replace("{bar}", "#")
    assert len(text) <= 38
    assert " in " in text
