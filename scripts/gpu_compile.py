"""A small model compiled by one user, and loaded by another on an empty machine: seconds of each.

Prints one table in Markdown. The program is that of tests/predictors/test_compile_cache.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Of the characters that a failed program has printed.
_SHOWN = 2000


def main() -> None:
    """Run the program twice, each time with a home and folders of its own, and print the table."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        sys.exit("torch.compile needs a C compiler, and there is none here.")
    found: dict[str, dict[str, Any]] = {}
    print("| start | first call | load of the cache | new files | graphs compiled |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="pgetpy-compile-") as folder:
        for name in ("cold", "warm, another user"):
            one = found[name] = _start(
                Path(folder, "location"), Path(folder, name.partition(",")[0])
            )
            seconds = f"{one['seconds']:.2f} s | {one['loaded']['seconds']:.2f} s"
            print(f"| {name} | {seconds} | {one['new_files']} | {one['misses']} |", flush=True)
    cold, warm = found.values()
    if warm["new_files"] or warm["output"] != cold["output"]:
        sys.exit("\nThe second start compiled something, or had another output.")


def _start(location: Path, home: Path) -> dict[str, Any]:
    """Run the program on a machine whose home is `home`; return what it says."""
    home.mkdir()
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_CACHE_DIR"}
    folders = {"HOME": home, "TMPDIR": home, "TORCHINDUCTOR_CACHE_DIR": home / "inductor"}
    environ |= {name: str(folder) for name, folder in folders.items()}
    done = subprocess.run(
        [sys.executable, "-m", "tests.predictors.compiled", str(location)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"\nIt ended with exit {done.returncode}:\n\n{done.stderr.strip()[-_SHOWN:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
