"""Log records hold no secret, reach whoever configures logging, and no one else."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from pgetpy.system.logs import RoomLog
from tests.support.secrets import PASSWORD, LeakWatch

PACKAGE = Path(__file__).parents[3] / "pgetpy"
LOG = RoomLog("test")
# The one module that wraps logging, and the one that shows records on the terminal.
# Beside them, b10_transfer has a function that returns a logger.
MAY_USE_LOGGING = {"system/logs.py", "cli/progress.py", "compile_cache/b10/caches.py"}


@pytest.mark.parametrize(
    "value",
    [
        f"http://me:{PASSWORD}@h/x",
        f"socks5://me:{PASSWORD}@proxy:1080",
        f"cannot read https://h/x?X-Amz-Signature={PASSWORD}&a=1: closed",
        ValueError(f"https://h/x?token={PASSWORD}"),
        [f"https://h/x?token={PASSWORD}"],
        f"Authorization: Bearer {PASSWORD}-and-so-on-0123",
    ],
)
def test_no_part_of_a_record_has_a_secret(value: object, caplog: pytest.LogCaptureFixture) -> None:
    LOG.debug("%s, and again %r", value, value)
    LOG.warning("%s", value)
    assert len(caplog.records) == 2
    assert all(PASSWORD not in f"{vars(record)}" for record in caplog.records)
    assert "***" in caplog.text


def test_a_server_cannot_begin_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    LOG.debug("%s", "refused\r\nERROR all is lost")
    assert caplog.messages == ["refused ERROR all is lost"]


def test_a_name_that_is_not_utf_8_can_be_written_to_any_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    LOG.debug("%s", "m\u00f6del\udcff")
    assert caplog.messages == ["m\u00f6del\\udcff"]


def test_numbers_stay_numbers_and_the_caller_is_named(caplog: pytest.LogCaptureFixture) -> None:
    LOG.debug("%d bytes, %.1f s", 3, 0.25)
    record = caplog.records[0]
    assert record.getMessage() == "3 bytes, 0.2 s"
    assert (record.name, record.filename) == ("pgetpy.test", "test_logs.py")


def test_what_is_not_wanted_is_not_even_written_as_text() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    logging.getLogger("pgetpy").setLevel(logging.INFO)
    LOG.debug("%s", Costly())
    assert not LOG.wants_debug()


def test_the_watch_over_all_tests_finds_a_secret_in_the_arguments() -> None:
    watch = LeakWatch()
    watch.emit(logging.makeLogRecord({"msg": "%.1s", "args": (PASSWORD,)}))
    with pytest.raises(AssertionError, match="log records with secrets"):
        watch.check()


@pytest.mark.parametrize("first", ["import logging", "", "import logging; logging.lastResort"])
def test_an_application_that_configures_nothing_sees_nothing(first: str) -> None:
    script = f"{first}\nfrom pgetpy.system.logs import RoomLog\nRoomLog('x').warning('%s', 1)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"", b"")


def test_logging_is_not_imported_for_a_record_that_reaches_no_one() -> None:
    script = (
        "from pgetpy.system.logs import RoomLog\nRoomLog('x').warning('%s', 1)\n"
        "import sys\nsys.exit('logging' in sys.modules)"
    )
    subprocess.run([sys.executable, "-S", "-c", script], check=True, cwd=PACKAGE.parent)


def test_an_application_that_configures_logging_sees_what_happens() -> None:
    script = (
        "import logging\nlogging.basicConfig(level=10)\n"
        "from pgetpy.system.logs import RoomLog\nRoomLog('x').debug('%s', 1)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert run.stderr.strip() == b"DEBUG:pgetpy.x:1"


def test_rooms_log_by_a_room_log_alone_and_with_constant_messages() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if "logging" in names and name not in MAY_USE_LOGGING:
                wrong.append(f"{name}:{node.lineno} imports logging")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                by = node.func.value
                if isinstance(by, ast.Name) and by.id == "_LOG" and node.args:
                    first = node.args[0]
                    if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
                        wrong.append(f"{name}:{node.lineno} has a message made up as it goes")
    assert wrong == []
