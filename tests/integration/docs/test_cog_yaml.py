"""Each cog.yaml of the page on images: its commands run, and its predictor finds the weights."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub import Hub
from tests.support.server import Server
from tests.support.weights import weights

from .test_examples import ROOT, blocks_of

PAGE = ROOT / "docs" / "how-to" / "images.md"
BLOCKS = blocks_of(PAGE.read_text())
YAMLS = [at for at, block in enumerate(BLOCKS) if block.text.startswith("build:")]
# What a predictor does with its lower cache: no server is there any more.
_PREDICTOR = """
import pgetpy
folder = pgetpy.WeightsDownloadCache().ensure("hf://OWNER/NAME", wanted="folder")
print(sorted(path.name for path in folder.iterdir()))
"""


def items(text: str, name: str) -> list[str]:
    """Return the items of a list in a YAML block."""
    found = re.search(rf"^ *{name}:\n((?: +- .*\n)+)", text, re.MULTILINE)
    return re.findall(r"- (.*)", found[1]) if found else []


@pytest.mark.parametrize("at", YAMLS)
def test_the_commands_run_and_the_predictor_needs_no_network(
    at: int, server: Server, tmp_path: Path
) -> None:
    source, image = tmp_path / "src", tmp_path / "image"
    for folder in (source, image, tmp_path / "bin"):
        folder.mkdir()
    command = tmp_path / "bin" / "pgetpy"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pgetpy "$@"\n')
    command.chmod(0o755)
    (source / "weights.txt").write_text("hf://OWNER/NAME folder\n")
    # What is done beside cog.yaml before the build, and what the build does.
    before = re.findall(r"^\$ (pgetpy .*)$", BLOCKS[at - 1].text, re.MULTILINE)
    during = items(BLOCKS[at].text, "run")
    assert before or during
    with Hub(server) as hub:
        hub.repo("OWNER/NAME", {"model.safetensors": weights(), "config.json": b"{}"})
        env = {
            "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "HF_ENDPOINT": hub.url(""),
            "PGET_MIN_DISK_FREE": "0",
        }
        for each in (*before, *during):
            inside = each.replace(" /weights", f" {image}/weights")
            subprocess.run(["bash", "-ec", inside], cwd=source, env=env, check=True)
    for each in items(BLOCKS[at].text, "environment"):
        name, value = each.split("=", 1)
        env[name] = value.replace("/src", str(source)) if "/src" in value else f"{image}{value}"
    asked = len(hub.requests)
    done = subprocess.run(
        [sys.executable, "-c", _PREDICTOR],
        cwd=source,
        env={**env, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['config.json', 'model.safetensors']\n"
    assert len(hub.requests) == asked


def test_the_page_has_both_ways() -> None:
    assert len(YAMLS) == 2
