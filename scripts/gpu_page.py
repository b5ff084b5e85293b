"""The page of scripts/gpu.sh: what it ran on, and what each step found."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.machine import describe, revision

_SHOWN = 80
_PACKAGES = ("torch", "triton", "diffusers", "peft", "transformers", "safetensors")
PAGE = Path("docs/gpu.md")


@dataclass(frozen=True)
class Ended:
    """A step that has ended: its name and heading, how that went, whether all of it is done."""

    name: str
    title: str
    state: str
    is_done: bool


def write(work: Path, ended: Sequence[Ended], scale: float, device: str) -> Path:
    """Write the page and return where: beside the output in `work` if this was a trial."""
    trial = _trial(scale, device)
    target = work / "gpu.md" if trial else PAGE
    target.write_text("\n\n".join(_parts(work, ended, trial, device)) + "\n")
    return target


def _trial(scale: float, device: str) -> str:
    """Return why figures do not count; empty where they do."""
    reasons = [] if device else ["on the CPU (torch has no GPU here)"]
    if scale != 1:
        reasons.append(f"at {scale:g} of the sizes that are said")
    return " and ".join(reasons)


def _parts(work: Path, ended: Sequence[Ended], trial: str, device: str) -> Iterator[str]:
    yield "# A trial without figures" if trial else "# On a machine with a GPU"
    yield "`scripts/gpu.sh` makes this page."
    if trial:
        yield f"**All of it ran {trial}: no figure below says anything about a GPU.**"
    machine = {
        "GPU": device or "none",
        **describe({"disk": Path()}),
        **_versions(),
        "commit": f"{revision()}, {datetime.date.today().isoformat()}",
    }
    yield "\n".join(f"- {name}: {value}" for name, value in machine.items())
    for one in ended:
        yield f"## {one.title}"
        yield f"{one.state[0].upper()}{one.state[1:]}."
        yield _shown((work / f"{one.name}.txt").read_text(errors="replace"))
    if not ended:
        yield "It was interrupted before the first step had ended."


def _shown(output: str) -> str:
    """Return a step's output: a table as it is, the end of anything else as a block of text."""
    lines = [line for line in output.strip().splitlines() if not _is_one_run(line)][-_SHOWN:]
    if not lines:
        return "It printed nothing."
    return "\n".join(lines) if lines[0].startswith("|") else "\n".join(["```", *lines, "```"])


def _is_one_run(line: str) -> bool:
    """Whether the benchmark says here how one run of many went, as `    2 name: 0.1 s`."""
    number, _, rest = line.strip().partition(" ")
    return line.startswith("    ") and number.isdigit() and rest.endswith(" s")


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "CUDA": _cuda()} if os.environ.get("BENCH_GPU") != "cpu" else found


def _cuda() -> str:
    import torch

    return str(torch.version.cuda)
