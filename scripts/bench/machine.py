"""What the figures were taken on: processor, memory, kernel, file systems. No names of hosts."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


def describe(places: Mapping[str, Path]) -> dict[str, str]:
    """Return the machine's description, with the file system of each of the named `places`."""
    described = {
        "processor": f"{len(os.sched_getaffinity(0))} cores, {_cpu_model()}",
        "memory": f"{_memory() / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": platform.python_version(),
        "nginx": _nginx_version(),
    }
    gpu = _gpu()
    if gpu:
        described["GPU"] = gpu
    return described | {name: file_system(path) for name, path in places.items()}


def revision() -> str:
    """Return the commit of the working tree, and whether the package differs from it."""
    head = _said("git", "rev-parse", "--short", "HEAD")
    changed = _said("git", "status", "--porcelain", "--", "pgetpy")
    return f"{head or 'unknown'}{' with changes' if changed else ''}"


def _said(*command: str) -> str:
    """Return what a program prints; nothing where it fails or is not there."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def core_counts(most: int = 16) -> list[int]:
    """Return 1, 2, 4 and so on, as far as there are processors for it."""
    there = len(os.sched_getaffinity(0))
    return [count for count in (1, 2, 4, 8, 16) if count <= min(most, there)]


def file_system(path: Path) -> str:
    """Return the type of the file system that `path` is on."""
    real = str(path.resolve())
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    holding = [
        (len(mount[1]), mount[2])
        for mount in mounts
        if real == mount[1] or real.startswith(mount[1].rstrip("/") + "/")
    ]
    return max(holding)[1] if holding else "unknown"


def _cpu_model() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gpu() -> str:
    """Return what the driver calls the GPU, and its version; empty where there is none."""
    asked = "--query-gpu=name,memory.total,driver_version"
    return _said("nvidia-smi", asked, "--format=csv,noheader")


def _nginx_version() -> str:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        return "not installed"
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"\d+(\.\d+)+", said)
    return f"{found[0]}, 2 workers, sendfile" if found else "unknown"
