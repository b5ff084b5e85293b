"""What a signal raises, and what becomes of the handlers of whoever calls us."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pgetpy.cli import main
from pgetpy.cli.terminal import Terminated, terminable

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RAISED = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
    signal.SIGHUP: Terminated,
}


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """Python's own for Ctrl-C; for SIGTERM one that fails the test instead of ending the run.

    SIGHUP has the system's: any other is left alone.
    """
    before = [signal.getsignal(number) for number in ENDING]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _not_handled)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in zip(ENDING, before, strict=True):
        signal.signal(number, handler)


def _not_handled(number: int, _: object) -> None:
    raise AssertionError(f"signal {number} was not handled")


def interrupted_twice(first: signal.Signals, second: signal.Signals) -> None:
    with terminable():
        try:
            signal.raise_signal(first)
        finally:
            signal.raise_signal(second)


@pytest.mark.parametrize("second", ENDING, ids=lambda number: number.name)
@pytest.mark.parametrize("first", ENDING, ids=lambda number: number.name)
def test_the_first_signal_raises_and_a_second_one_is_passed_over(
    first: signal.Signals, second: signal.Signals
) -> None:
    with pytest.raises(RAISED[first]) as caught:
        interrupted_twice(first, second)
    assert caught.type is RAISED[first]
    # A second exception would have the first one as its context.
    assert caught.value.__context__ is None


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_the_handlers_are_put_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in ENDING]
    with terminable():
        assert signal.getsignal(number) not in before
    assert [signal.getsignal(each) for each in ENDING] == before
    with pytest.raises(RAISED[number]), terminable():
        signal.raise_signal(number)
    assert [signal.getsignal(each) for each in ENDING] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_callers_own_handler_stays(number: signal.Signals) -> None:
    seen: list[int] = []
    signal.signal(number, lambda number, frame: seen.append(number))
    with terminable():
        signal.raise_signal(number)
    assert seen == [number]


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with terminable():
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_every_command_ends_with_the_status_of_its_signal(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
) -> None:
    def interrupted(*_: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr("pgetpy.cli.dispatch._run_command", interrupted)
    assert main(["cache", "ls"]) == status
    assert capsys.readouterr().err == "pgetpy: interrupted\n"


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_after_the_end_does_not_change_the_status(number: signal.Signals) -> None:
    program = (
        "import os, sys; import pgetpy.cli.dispatch as dispatch; from pgetpy.cli import main;"
        "dispatch.run = lambda *_, **__: 130;"
        f"status = main(); os.kill(os.getpid(), {number.value}); sys.exit(status)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, b"")
