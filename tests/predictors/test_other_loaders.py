"""What pgetpy puts where other loaders look is found there by themselves, without a network."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pgetpy.cli import main

from ..support.hub import Hub
from ..support.resources import Resource
from ..support.server import Server
from .pipelines import image_of, load_pipeline, save_pipeline

ROOT = Path(__file__).parents[2]
# In a process of its own: huggingface_hub reads its variables when it is imported.
_BY_NAME = """
import hashlib, json
from huggingface_hub import hf_hub_download, snapshot_download
from diffusers import StableDiffusionPipeline
from tests.predictors.pipelines import image_of

pipeline = StableDiffusionPipeline.from_pretrained("owner/name")
pipeline.set_progress_bar_config(disable=True)
print(json.dumps({
    "file": hf_hub_download("owner/name", "unet/config.json"),
    "folder": snapshot_download("owner/name"),
    "image": hashlib.sha256(image_of(pipeline)).hexdigest(),
}))
"""


def pgetpy(*argv: str, **environ: str) -> None:
    assert main(argv, environ={"PGET_MIN_DISK_FREE": "0", **environ}) == 0


def test_a_snapshot_is_found_by_from_pretrained_in_hf_hub_cache(
    other_server: Server, tmp_path: Path
) -> None:
    base = save_pipeline(tmp_path / "base")
    files = {
        path.relative_to(base).as_posix(): path.read_bytes()
        for path in base.rglob("*")
        if path.is_file()
    }
    hub_cache = tmp_path / "hub"
    with Hub(other_server) as hub:
        hub.repo("owner/name", files)
        pgetpy(
            "snapshot", "--progress=none", f"--hub-cache-dir={hub_cache}", "hf://owner/name",
            HF_ENDPOINT=hub.url(""),
        )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", _BY_NAME],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_CACHE": str(hub_cache),
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(tmp_path / "elsewhere"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["file"]).read_bytes() == files["unet/config.json"]
    assert Path(found["folder"]).is_relative_to(hub_cache)
    assert found["image"] == hashlib.sha256(image_of(load_pipeline(base))).hexdigest()


def test_a_file_is_found_by_torch_hub_in_torch_home(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"weight": torch.arange(4.0)}
    torch.save(state, tmp_path / "saved.pth")
    data = (tmp_path / "saved.pth").read_bytes()
    # torch.hub compares the digits in the name with the sha256.
    name = f"model-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    url = server.add(f"/{name}", Resource(data))
    pgetpy("--progress=none", url, f"{tmp_path}/torch/hub/checkpoints/")
    asked = len(server.requests)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    found = torch.hub.load_state_dict_from_url(url, check_hash=True, progress=False)
    assert torch.equal(found["weight"], state["weight"])
    assert len(server.requests) == asked
