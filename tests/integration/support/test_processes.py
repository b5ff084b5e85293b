"""What the helper for child processes promises to the tests that use it."""

from __future__ import annotations

import sys

import pytest

from tests.support.processes import Run, run
from tests.support.secrets import PASSWORD


def saying(words: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys; print({words!r}, file=sys.stderr)")


@pytest.mark.parametrize("words", [f"for {PASSWORD}", "at http://host/x?sig=abc&sv=1"])
def test_a_child_that_says_a_secret_fails_the_test(words: str) -> None:
    with pytest.raises(AssertionError, match="standard error has a secret"):
        run(program=saying(words))


def test_a_child_that_redacts_does_not() -> None:
    words = "at http://host/x?sig=***&sv=1"
    assert run(program=saying(words)).err == f"{words}\n"


def test_an_earlier_failure_of_the_test_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        _fail_during(Run(program=saying(PASSWORD)))


def _fail_during(running: Run) -> None:
    with running:
        running.wait()
        raise ZeroDivisionError
