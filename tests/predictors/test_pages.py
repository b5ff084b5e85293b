"""Every Python block of the pages on pipelines runs as printed, with a tiny model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..integration.docs.test_examples import ROOT, blocks_of
from ..support.hub import Hub
from ..support.server import Server
from ..support.weights import serve
from .cogs import ONE_THREAD
from .pipelines import save_lora, save_pipeline

PAGES = ROOT / "docs" / "how-to"
# What a machine without a GPU does not have, or takes minutes for.
SMALLER = {
    "StableDiffusionXLPipeline": "StableDiffusionPipeline",
    "[1024, (768, 1344)]": "[16, (16, 32)]",
    '"cuda"': '"cpu"',
    "float16": "float32",
    'pipe("a fox")': 'pipe("a fox", num_inference_steps=2)',
    "s3://bucket/compiled": "compiled",
    "pipe.transformer": "pipe.unet",
    "compile_repeated_blocks()": "compile_repeated_blocks(backend='eager')",
}


@pytest.mark.parametrize("page", ["pipelines.md", "fast-starts.md"])
def test_the_python_of_a_page_runs(page: str, server: Server, tmp_path: Path) -> None:
    base = save_pipeline(tmp_path / "folder")
    lora = save_lora(tmp_path / "style.safetensors", 1)
    names = [each for each in base.rglob("*") if each.is_file()]
    files = {each.relative_to(base).as_posix(): each.read_bytes() for each in names}
    blocks = [each.text for each in blocks_of((PAGES / page).read_text()) if each.kind == "python"]
    assert len(blocks) > 1
    changes = {
        **SMALLER,
        "https://example.com/style.safetensors": serve(
            server, lora.read_bytes(), "/style.safetensors"
        ),
    }
    for name, ours in changes.items():
        blocks = [text.replace(name, ours) for text in blocks]
    program = "\n".join(f"exec(compile({text!r}, 'block', 'exec'), globals())" for text in blocks)
    with Hub(server) as hub:
        hub.repo("OWNER/NAME", files)
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={
                **os.environ,
                **ONE_THREAD,
                "PYTHONPATH": str(ROOT),
                "HOME": str(tmp_path),
                "HF_ENDPOINT": hub.url("").rstrip("/"),
                "PGET_CACHE_DIR": str(tmp_path / "cache"),
                "PGET_MIN_DISK_FREE": "0",
                "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
