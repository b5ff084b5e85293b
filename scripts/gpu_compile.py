"""A small model compiled by one user, and loaded by another on an empty machine: seconds of each.

Prints one table in Markdown. The program is that of tests/predictors/test_compile_cache.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the program twice, each time with a home and folders of its own, and print the table."""
    with tempfile.TemporaryDirectory(prefix="pgetpy-compile-") as folder:
        location = Path(folder, "location")
        cold, warm = (_start(location, Path(folder, name)) for name in ("cold", "warm"))
    print("| start | first call | load of the cache | new files | graphs compiled |")
    print("| --- | --- | --- | --- | --- |")
    for name, found in {"cold": cold, "warm, another user": warm}.items():
        seconds = f"{found['seconds']:.2f} s | {found['loaded']['seconds']:.2f} s"
        print(f"| {name} | {seconds} | {found['new_files']} | {found['misses']} |")
    if warm["new_files"] or warm["output"] != cold["output"]:
        sys.exit("the second start compiled something, or had another output")


def _start(location: Path, home: Path) -> dict[str, Any]:
    """Run the program on a machine whose home is `home`; return what it says."""
    home.mkdir()
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_CACHE_DIR"}
    folders = {"HOME": home, "TMPDIR": home, "TORCHINDUCTOR_CACHE_DIR": home / "inductor"}
    environ |= {name: str(folder) for name, folder in folders.items()}
    said = subprocess.run(
        [sys.executable, "-m", "tests.predictors.compiled", str(location)],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found: dict[str, Any] = json.loads(said)
    return found


if __name__ == "__main__":
    main()
