"""What may be in a compile cache: the names of each kind, and which files belong together.

An archive of compiled code is code. So a name is laid down only if it is one that the compiler
itself would have written: the patterns here say which, and everything else is left out, on saving
as on loading.

Kinds, and the folders whose files they are:

    inductor   TORCHINDUCTOR_CACHE_DIR         XX/NAME.so .py .cpp, fxgraph/, aotautograd/, cache/
    headers    precompiled C++ headers, which torch keeps in the default user's folder in any case
    triton     TRITON_CACHE_DIR                KERNEL/NAME
    vllm       VLLM_CACHE_ROOT/torch_compile_cache    HASH/rank_R_DP/...

A unit is what is only of use whole: a kernel of Triton, a rank's folder of vLLM. Files of Inductor
are units of their own, as any subset of them is a valid cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from re import Pattern

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}"
# What a compiler has for the moment only: locks, files that are being written, build folders.
_TRANSIENT = re.compile(
    r"(^|/)(locks|\.[^/]*|[^/]*_build|tmp[.\w-]*)(/|$)|\.(lock|tmp|pid)(\.[^/]*)?$|\.tmp\.",
)
_GROUP = re.compile(r"(^|/)__grp__[^/]*\.json$")
# A kernel of Triton inside of Inductor's folder: triton/DEVICE/KERNEL.
_INNER_KERNEL = re.compile(r"(triton/[0-9]+/[A-Za-z0-9_-]+)/")


@dataclass(frozen=True)
class Layout:
    """The names of one kind.

    To keep another compiler's cache, add a row to `LAYOUTS`, a kind to `KINDS`, and its folder to
    `compile_cache/host.live_folders`. What it stores must not depend on where it is, or has to be
    rewritten, as Triton's group files are.

    Attributes:
        names: matches the path of a file, relative to the kind's folder, with slashes.
        unit: matches the beginning of a path that belongs to a unit, which is its first group; None
            where each file is a unit.
        whole: whether a unit's folder that is there already is never added to.
    """

    names: Pattern[str]
    unit: Pattern[str] | None = None
    whole: bool = False


LAYOUTS = {
    "inductor": Layout(
        re.compile(
            rf"[a-z0-9_]{{2}}/{_NAME}|(fxgraph|aotautograd|dynamo|mega_cache)/({_NAME}/){{0,3}}{_NAME}"
            rf"|cache/({_NAME}/)?{_NAME}|triton/[0-9]+/[A-Za-z0-9_-]+/{_NAME}"
        ),
        _INNER_KERNEL,
    ),
    "headers": Layout(re.compile(rf"{_NAME}\.h(\.gch|\.pch)?")),
    "triton": Layout(re.compile(rf"[A-Za-z0-9_-]+/{_NAME}"), re.compile(r"([A-Za-z0-9_-]+)/")),
    "vllm": Layout(
        re.compile(rf"(torch_aot_compile/)?[0-9a-f]+/rank_[0-9]+_[0-9]+/({_NAME}/){{0,5}}{_NAME}"),
        re.compile(r"((?:torch_aot_compile/)?[0-9a-f]+/rank_[0-9]+_[0-9]+)/"),
        whole=True,
    ),
}
# What a user may ask for, and the kinds of folders that belong to it.
KINDS = {"inductor": ("inductor", "headers"), "triton": ("triton",), "vllm": ("vllm",)}


def may_hold(kind: str, path: str) -> bool:
    """Whether `path` is a name that a file of the kind has."""
    layout = LAYOUTS.get(kind)
    if layout is None or len(path) > 1024 or _TRANSIENT.search(path):
        return False
    return layout.names.fullmatch(path) is not None and ".." not in path.split("/")


def unit_of(kind: str, path: str) -> str:
    """Return the unit that a file belongs to: a folder, or its own path."""
    pattern = LAYOUTS[kind].unit
    found = pattern.match(path) if pattern else None
    return found[1] if found else path


def unit_place(place: tuple[str, str]) -> tuple[str, str]:
    """Return the kind and the path of the unit that the file at `place` belongs to."""
    kind, path = place
    return kind, unit_of(kind, path)


def is_merged(kind: str, path: str) -> bool:
    """Whether it is a table that Inductor rewrites in place, of which all versions are united."""
    return kind == "inductor" and path.startswith("cache/")


def is_group(kind: str, path: str) -> bool:
    """Whether it is the file by which Triton finds the others of a kernel; it has their paths."""
    return kind in ("triton", "inductor") and _GROUP.search(path) is not None


def rank_of(kind: str, path: str) -> int:
    """Return when a file is laid down: lower ones first.

    What others refer to comes before what refers to it. So a load that is killed leaves a smaller
    cache, not one with an entry whose files are missing.
    """
    if is_group(kind, path):
        return 2
    if kind == "inductor" and path.startswith(("fxgraph/", "aotautograd/", "dynamo/")):
        return 3
    return 0 if path.endswith((".so", ".h", ".cubin", ".hsaco")) else 1
