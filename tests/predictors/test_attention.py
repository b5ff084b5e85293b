"""Attention backends are chosen through the real diffusers, with stand-ins for flash-attn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgetpy.pipelines import attention

from .pipelines import make_pipeline

ROOT = Path(__file__).parents[2]
RIGHT = """\
import torch
def flash_attn_func(q, k, v, *_, **__):
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2){after}
flash_attn_varlen_func = flash_attn_func
"""
STAND_INS = {
    "good": ("2.8.3", RIGHT.format(after="")),
    "wrong": ("2.8.3", RIGHT.format(after=" * 1.1")),
    "old": ("2.0.0", RIGHT.format(after="")),
    "raising": (
        "2.8.3",
        "def flash_attn_func(*_, **__):\n    raise RuntimeError('no kernel')\n"
        "flash_attn_varlen_func = flash_attn_func\n",
    ),
    "bad ABI": ("2.8.3", "raise ImportError('flash_attn_2_cuda.so: undefined symbol: _ZN3c10')\n"),
}


def install(folder: Path, kind: str) -> None:
    """Put a distribution named flash-attn into a folder."""
    version, code = STAND_INS[kind]
    package = folder / "flash_attn"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"__version__ = '{version}'\n{code}")
    (package / "flash_attn_interface.py").write_text(
        "from flash_attn import flash_attn_func\n"
        "_wrapped_flash_attn_forward = _wrapped_flash_attn_backward = flash_attn_func\n"
    )
    info = folder / f"flash_attn-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: flash-attn\nVersion: {version}\n")


def choose(*names: str, folder: Path | None = None, **env: str) -> dict[str, Any]:
    """Return what a process of its own has chosen; diffusers looks for packages at import."""
    paths = [str(ROOT), *([str(folder)] if folder is not None else [])]
    done = subprocess.run(
        [sys.executable, "-m", "tests.predictors.attention", *names],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # Other models, the default of the process and its random numbers are as they were.
    assert found["default"][0] == found["default"][1]
    assert found["others"]
    assert found["random"]
    return found


@pytest.mark.parametrize("kind", [None, *STAND_INS])
def test_flash_attn_is_used_only_if_it_computes_the_right_thing(
    kind: str | None, tmp_path: Path
) -> None:
    if kind is not None:
        install(tmp_path, kind)
    found = choose("flash", "native", "half", folder=tmp_path)
    assert found["backend"] == ("flash" if kind == "good" else "native")
    assert ("flash" in found["refused"]) is (kind != "good")
    assert found["processors"] == 2


def test_all_that_a_cpu_has_passes_in_the_order_of_preference() -> None:
    found = choose("_native_math", "native")
    assert found["backend"] == "_native_math"
    assert choose("_native_flash", "_native_math", "half")["backend"] == "_native_flash"
    refused = choose("_flash_3", "sage", "xformers", "_native_cudnn", "flash_hub", "native")
    assert refused["backend"] == "native"
    assert set(refused["refused"]) >= {"_flash_3", "sage", "xformers", "_native_cudnn", "flash_hub"}


def test_a_unet_keeps_its_own() -> None:
    choice = attention.choose(make_pipeline().unet)
    assert (choice.name, choice.processors) == ("", 0)
