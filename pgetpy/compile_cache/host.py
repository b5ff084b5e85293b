"""What this machine is: the facts that a key is made of, learned without importing torch.

torch takes seconds to import, and the load should run beside that. Its versions are in a file of
its own, `torch/version.py`, which is read as a syntax tree.

There are two kinds of facts. `required` ones make the key: another value means other machine code,
or other file formats. The rest (`facts`) only explain a miss, or are compared file by file, such as
processor flags for shared objects: part of the key, they would split caches that fit each other.
"""

from __future__ import annotations

import ast
import contextlib
import getpass
import glob
import os
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pgetpy.core.compile_cache.environments import FORMAT, CompileEnvironment, isa_tier
from pgetpy.core.compile_cache.layouts import KINDS

_TRITONS = ("triton", "pytorch-triton", "pytorch-triton-rocm")


def read_environment(name: str, environ: Mapping[str, str]) -> CompileEnvironment | None:
    """Return the environment of this process; None if torch is not installed.

    Args:
        name: the user's own part of the key, such as the model's name and version.
        environ: environment variables.
    """
    torch = _torch_version()
    if torch is None:
        return None
    flags = cpu_flags()
    machine = platform.machine()
    # What is here splits the cache, so only what makes code unusable or wrong elsewhere is: the
    # instruction set, the ABI that extensions are built for, the compilers themselves (torch with
    # its commit, as nightly builds share a version; Triton; CUDA or HIP), and the GPUs. The host's
    # name, its folders, the user and the number of processors are not: full hits were seen across
    # all of them, or torch has them in its own keys, and then it is torch that misses.
    required = {
        "format": FORMAT,
        "machine": machine,
        "isa": isa_tier(machine, flags, environ.get("ATEN_CPU_CAPABILITY", "")),
        "soabi": sysconfig.get_config_var("SOABI") or "",
        "torch": torch.get("__version__"),
        "torch_git": torch.get("git_version"),
        "cuda": torch.get("cuda"),
        "hip": torch.get("hip"),
        "triton": _triton_version(),
        "gpus": gpu_names(),
        "name": name,
    }
    # For explaining a miss, and for shared objects that need more than the tier of the key says.
    facts = {
        "cpu_flags": sorted(flags),
        "glibc": _glibc(),
        "compiler": environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or "",
        "prefix": sys.prefix,
        "threads": environ.get("OMP_NUM_THREADS") or str(os.cpu_count()),
        "driver": _driver(),
    }
    return CompileEnvironment(required, facts)


def _torch_version() -> dict[str, Any] | None:
    """Return the constants of torch/version.py; None without torch.

    `find_spec` of a package at the top runs nothing of it. Metadata of the distribution would lack
    the commit, and names the build differently.
    """
    try:
        found = util.find_spec("torch")
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        return None
    for folder in found.submodule_search_locations:
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            return _constants(Path(folder, "version.py").read_text())
    return None


def _constants(source: str) -> dict[str, Any]:
    """Return the constants that a module assigns at its top."""
    constants: dict[str, Any] = {}
    for node in ast.parse(source).body:
        targets: Sequence[ast.expr] = ()
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant):
            constants |= {each.id: value.value for each in targets if isinstance(each, ast.Name)}
    return constants


def _triton_version() -> str:
    for name in _TRITONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Return the flags of the processor, as Linux lists them; empty elsewhere."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            # "Features" on Arm.
            if name.strip() in ("flags", "Features"):
                return frozenset(value.split())
    return frozenset()


@lru_cache(maxsize=1)
def gpu_names() -> list[str]:
    """Return the names of the GPUs of this machine, each once, without asking a driver's library.

    Ranks of one model see one GPU each of the same kind: they have to find the same cache.
    """
    names = set()
    for path in glob.glob("/proc/driver/nvidia/gpus/*/information"):
        with contextlib.suppress(OSError):
            found = re.search(r"^Model:\s*(.+?)\s*$", Path(path).read_text(), re.MULTILINE)
            names |= {found[1]} if found else set()
    for path in glob.glob("/sys/class/kfd/kfd/topology/nodes/*/properties"):
        with contextlib.suppress(OSError):
            found = re.search(r"^gfx_target_version ([1-9]\d*)$", Path(path).read_text(), re.M)
            names |= {f"gfx{found[1]}"} if found else set()
    return sorted(names)


def _driver() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/driver/nvidia/version").read_text()
        found = re.search(r"\b(\d+\.\d+(\.\d+)?)\b", text)
        return found[1] if found else ""
    return ""


def _glibc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return ""


# ------------------------------------------------------------------------------- live folders


def live_folders(kinds: Sequence[str], environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the folders that compilers of `kinds` use, by the kind of their files."""
    base = default_inductor_folder()
    home = Path(environ.get("HOME") or os.path.expanduser("~"))
    named = {
        # Older versions of other tools name the first one TORCH_COMPILE_CACHE_DIR or
        # TORCH_CACHE_DIR; torch itself reads only this.
        "inductor": environ.get("TORCHINDUCTOR_CACHE_DIR") or base,
        "headers": base / "precompiled_headers",
        "triton": environ.get("TRITON_CACHE_DIR")
        or Path(environ.get("TRITON_HOME") or home, ".triton", "cache"),
        "vllm": Path(
            environ.get("VLLM_CACHE_ROOT") or home / ".cache" / "vllm", "torch_compile_cache"
        ),
    }
    return {each: Path(named[each]).absolute() for kind in kinds for each in KINDS[kind]}


def default_inductor_folder() -> Path:
    """Return the folder that torch uses without TORCHINDUCTOR_CACHE_DIR, and for headers always."""
    try:
        user = getpass.getuser()
    except (KeyError, ImportError, OSError):
        # A uid without a name, as in many containers.
        user = f"uid_{os.getuid()}"
    try:
        base = tempfile.gettempdir()
    except OSError:  # no folder can be written, which the load will say
        base = "/tmp"  # noqa: S108  it is where torch looks as well
    return Path(base, "torchinductor_" + re.sub(r'[\\/:*?"<>|]', "_", user))
