"""Every code block of README.md and docs that can run does, against servers of the tests.

The blocks of a page run in order and share a folder; Python blocks share their names too. A block
that cannot run has a line above it that says why: `<!-- not run: REASON -->`. The commands of
pgetpy in console blocks run; others are for the reader.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.hub import Hub
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import tar_of, weights, zip_of

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.*?) -->\n)?^```(?P<kind>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# What is neither a program nor a file that one reads.
_NOT_PROGRAMS = {"text", "yaml", "dockerfile", ""}
MODEL = weights(50_000)


@dataclass(frozen=True)
class Block:
    """One fenced block; `reason` says why it is not run, and `title` which file it is."""

    kind: str
    text: str
    reason: str | None
    title: str | None


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found = _BLOCK.finditer(text)
    return [Block(each["kind"], each["text"], each["reason"], each["title"]) for each in found]


def program_of(blocks: list[Block]) -> str:
    """Return the blocks as one Python program.

    It runs as a program of its own: pages may set up logging, import torch, and so on.
    """
    parts = ["import pathlib as _pathlib, subprocess as _subprocess"]
    for block in blocks:
        if block.reason is not None:
            continue
        if block.title:
            parts.append(f"_pathlib.Path({block.title!r}).write_text({block.text!r})")
        elif block.kind == "python":
            parts.append(f"exec(compile({block.text!r}, 'block', 'exec'), globals())")
        elif block.kind == "console":
            parts += [
                f"_subprocess.run(['bash', '-c', {command!r}], check=True)"
                for command in re.findall(r"^\$ (pgetpy .*)$", block.text, re.MULTILINE)
            ]
    return "\n".join(parts)


@pytest.fixture
def hosts(server: Server) -> Iterator[Mapping[str, str]]:
    """What the examples name, and what it is for the tests."""
    files = {"model.safetensors": MODEL, "config.json": b"{}"}
    for name in ("model", "lora", "style"):
        server.add(f"/{name}.safetensors", Resource(MODEL))
    server.add("/model.tar", Resource(tar_of(files)))
    server.add("/model.zip", Resource(zip_of(files)))
    server.add("/tokenizer.tar.gz", Resource(tar_of({"vocab.json": b"{}"}, "w:gz")))
    with Hub(server) as hub:
        hub.repo("OWNER/NAME", {**files, "model.safetensors": weights(50_000, "hub")})
        yield {
            "https://example.com": server.url("").rstrip("/"),
            '"text_encoder."': '"weight"',
            "sha256:HEX": f"sha256:{hashlib.sha256(MODEL).hexdigest()}",
            "HF_ENDPOINT": hub.url("").rstrip("/"),
        }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_run(page: Path, hosts: Mapping[str, str], tmp_path: Path) -> None:
    program = program_of(blocks_of(page.read_text()))
    for name, real in hosts.items():
        program = program.replace(name, real)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "pgetpy"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pgetpy "$@"\n')
    command.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    env = {
        **{
            name: text for name, text in os.environ.items() if not name.startswith(("PGET_", "HF_"))
        },
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "HF_ENDPOINT": hosts["HF_ENDPOINT"],
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "PGET_CACHE_DIR": str(tmp_path / "cache"),
        "PGET_MIN_DISK_FREE": "0",
        "NO_PROXY": "*",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    text = page.read_text()
    blocks = blocks_of(text)
    assert len(blocks) * 2 == len(re.findall(r"^```", text, re.MULTILINE))
    for block in blocks:
        assert block.kind in _NOT_PROGRAMS | {"python", "console"}, block.kind
        assert block.reason is None or len(block.reason.split()) > 2


def test_blocks_are_found_with_their_reasons_and_titles() -> None:
    page = '<!-- not run: needs a GPU -->\n```python\nx\n```\n\n```text title="m.txt"\ny\n```\n'
    assert blocks_of(page) == [
        Block("python", "x\n", "needs a GPU", None),
        Block("text", "y\n", None, "m.txt"),
    ]


def test_a_failing_block_fails_its_page() -> None:
    program = program_of(blocks_of("```python\nraise ValueError\n```\n"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    assert "false" in program_of(blocks_of("```console\n$ pgetpy false\n```\n"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
