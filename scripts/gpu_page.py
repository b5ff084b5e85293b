"""Writes docs/gpu.md from what scripts/gpu.sh left in a folder, its only argument."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from scripts.bench.machine import describe

_STEPS = {
    "tests": "Tests of tensors and LoRAs",
    "bench": "Tensors and LoRAs, timed",
    "compile": "A small model compiled, and loaded by another user",
    "network": "Downloads over loopback, by cores",
}
_SHOWN = 80


def main() -> None:
    """Write the page; where there is no GPU print it, as its figures are not a GPU's."""
    import torch

    work = Path(sys.argv[1])
    machine = {**describe({"disk": Path()}), "torch": torch.__version__}
    parts = [
        "# On a machine with a GPU",
        "`scripts/gpu.sh` makes this page.",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()),
    ]
    for name, title in _STEPS.items():
        said = (work / f"{name}.txt").read_text().strip().splitlines()[-_SHOWN:]
        table = bool(said) and said[0].startswith("|")
        state = (work / f"{name}.state").read_text().strip()
        shown = "\n".join(said) if table else "\n".join(["```", *said, "```"])
        parts += [f"## {title}", state, shown]
    page = "\n\n".join(parts) + "\n"
    trial = "BENCH_GPU" in os.environ
    target = work / "gpu.md" if trial else Path("docs/gpu.md")
    target.write_text(page)
    print(f"{target} written")


if __name__ == "__main__":
    main()
