"""Byte code that can be shared: the same bytes wherever it lies and whenever it was made.

A .pyc file normally holds the path of its source and the source's time, and so differs in each
environment. Here it gets the path below the environment (Python puts the real one in its place when
it loads the file) and the digest of the source, which is not compared when it is loaded
(PEP 552, unchecked hash). What is published never changes, so there is nothing to compare.

Byte code is compiled by the Python that it is for. The compiler may write the same program in
different bytes, so byte code that exists for a source of the same path is taken instead.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

# It gets the paths on standard input. Wheels contain files that this Python cannot compile, such
# as templates; those have no byte code anywhere.
_PROGRAM = """
import os, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
os.chdir(sys.argv[1])
for line in sys.stdin:
    path = line.rstrip("\\n")
    try:
        py_compile.compile(path, dfile=path, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, UnicodeError, ValueError, RecursionError):
        pass
"""
_TAG = "import sys; print(sys.implementation.cache_tag)"
# Starting a Python takes as long as compiling some files.
_FILES_PER_PROCESS = 100


def cache_tag(python: str) -> str:
    """Return what the Python program `python` calls its byte code, such as `cpython-312`.

    It is empty if the program does not work.
    """
    try:
        done = subprocess.run(  # noqa: S603  a list, not a shell
            [python, "-I", "-S", "-c", _TAG], capture_output=True, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def compile_files(python: str, folder: Path, paths: Sequence[str]) -> None:
    """Compile files of an environment, on all processors.

    Args:
        python: the program to compile them with.
        folder: of the environment.
        paths: of the sources, below it.

    Raises:
        OSError: the program cannot be started.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    count = max(1, min(processors, len(paths) // _FILES_PER_PROCESS))
    running = []
    for first in range(count):
        process = subprocess.Popen(  # noqa: S603
            [python, "-I", "-S", "-W", "ignore", "-c", _PROGRAM, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
        )
        running.append((process, "".join(f"{path}\n" for path in paths[first::count])))
    for process, text in running:
        assert process.stdin is not None
        # One that has died leaves its files without byte code.
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(text)
    for process, _ in running:
        process.wait()
