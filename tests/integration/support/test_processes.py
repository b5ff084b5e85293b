"""What the helper for child processes promises to the tests that use it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.bodies import body
from tests.support.children import after
from tests.support.delivery import Gate
from tests.support.faults import GateAfter
from tests.support.processes import NOBODY, Run, forking, run
from tests.support.resources import Resource
from tests.support.secrets import PASSWORD
from tests.support.server import Server


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


# ------------------------------------------------------------------------ a new process, or a fork


@pytest.fixture(params=["new", "forked"])
def kind(request: pytest.FixtureRequest, forks: None) -> Iterator[str]:
    """Both kinds of runs, of which the second has to be like the first."""
    if request.param == "new":
        yield "new"
        return
    with forking():
        yield "forked"


def test_a_run_ends_with_a_code_and_what_it_said(kind: str, tmp_path: Path) -> None:
    assert run("--version").code == 0
    ended = run("--no-such-flag")
    assert (ended.code, ended.out) == (2, "")
    assert "unknown flag: --no-such-flag" in ended.err


def test_a_run_has_its_own_folder_and_environment(
    kind: str, server: Server, tmp_path: Path
) -> None:
    url = server.add("/x", Resource(body(1000)))
    assert run(url, "here", cwd=tmp_path, env={"PGET_CONCURRENCY": "odd"}).code == 2
    assert run(url, "here", cwd=tmp_path).code == 0
    assert (tmp_path / "here").read_bytes() == body(1000)


def test_a_run_may_be_preceded_by_code(kind: str) -> None:
    ended = run("--version", program=after("print('first')"))
    assert ended.code == 0
    assert ended.out.startswith("first\npgetpy ")


_SAY_LIMITS = """
import os, resource
print(os.geteuid(), os.getgroups(),
      *(resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_NOFILE", "RLIMIT_FSIZE")))
"""


def test_a_run_has_the_limits_and_rights_that_it_is_given(kind: str) -> None:
    ended = run(
        "--version",
        program=after(_SAY_LIMITS),
        descriptors=99,
        file_size=1 << 20,
        unprivileged=True,
    )
    user, groups = (NOBODY, []) if os.geteuid() == 0 else (os.geteuid(), os.getgroups())
    limits = "(99, 99) (1048576, 1048576)"
    assert ended.out.splitlines()[0] == f"{user} {groups} {limits}"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_run_is_ended_by_signals(
    kind: str, server: Server, tmp_path: Path, number: int, code: int
) -> None:
    gate = Gate()
    url = server.add("/x", Resource(body(100_000), faults=[GateAfter(1000, gate)]))
    with Run(url, tmp_path / "x") as running, Run(url, tmp_path / "y") as other:
        gate.wait_reached()
        running.wait_until(lambda: len(server.requests) >= 2)
        assert os.getsid(running.process.pid) == running.process.pid
        assert running.process.poll() is None
        running.send(number)
        assert running.wait().code == code
        running.send(number)  # it is gone, and nothing happens
        gate.open()
        assert other.wait().code == 0
    assert (tmp_path / "y").read_bytes() == body(100_000)
