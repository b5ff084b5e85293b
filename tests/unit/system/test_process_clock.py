"""The age of the process includes the interpreter's own start."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pgetpy.system.process_clock import seconds_running


def test_time_goes_on() -> None:
    before = seconds_running()
    assert 0.0 < before <= seconds_running()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says when it began")
def test_what_ran_before_the_import_counts() -> None:
    code = (
        "import time; began = time.monotonic(); time.sleep(0.2)\n"
        "from pgetpy.system.process_clock import seconds_running\n"
        "print(seconds_running() - (time.monotonic() - began))"
    )
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # What is left is the interpreter's start; the system counts in hundredths of a second.
    assert -0.02 <= float(run.stdout) <= time.monotonic() - started
