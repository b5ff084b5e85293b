"""Artifacts: LoRAs fused or weights quantised once, and loaded by plain from_pretrained."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pgetpy.errors import BadLoraError, BadSettingError, IntegrityError
from pgetpy.pipelines import PipelineSpec, PipelineStore
from tests.support.weights import opened

from .pipelines import image_of, load_pipeline, save_lora, save_pipeline, save_transformer_lora


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base and two LoRAs of it."""
    folder = tmp_path_factory.mktemp("files")
    save_pipeline(folder / "base")
    for seed in (1, 2):
        save_lora(folder / f"{seed}.safetensors", seed)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PipelineStore]:
    with opened(tmp_path / "cache") as cache:
        yield PipelineStore(cache, device="cpu")


def fused_in_memory(files: Path) -> StableDiffusionPipeline:
    pipeline = load_pipeline(files / "base")
    for seed in (1, 2):
        pipeline.load_lora_weights(
            files, weight_name=f"{seed}.safetensors", adapter_name=f"l{seed}"
        )
    pipeline.set_adapters(["l1", "l2"], adapter_weights=[0.7, 0.4])
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return pipeline


def spec_of(files: Path) -> PipelineSpec:
    loras = [(str(files / "1.safetensors"), 0.7), (str(files / "2.safetensors"), 0.4)]
    return PipelineSpec(str(files / "base"), loras=loras)


def test_fused_loras_are_those_of_diffusers_bit_for_bit(files: Path, store: PipelineStore) -> None:
    with store.bake(spec_of(files)) as baked:
        path = baked.path
        found = image_of(load_pipeline(path))
    assert found == image_of(fused_in_memory(files))
    with store.pipeline(spec_of(files)) as composed:
        assert image_of(composed) != found  # fusing rounds
    assert not [each for each in path.rglob("*") if each.is_symlink()]


def test_an_artifact_is_made_once_and_its_key_has_the_versions(
    files: Path, store: PipelineStore
) -> None:
    with store.bake(spec_of(files)) as baked:
        manifest = baked.manifest
        inodes = {each: each.stat().st_ino for each in baked.path.rglob("*")}
    with store.bake(spec_of(files)) as again:
        assert again.manifest == manifest
        assert {each: each.stat().st_ino for each in again.path.rglob("*")} == inodes
    assert manifest.key == manifest.base_key != store.key(spec_of(files))
    for name in ("torch", "diffusers", "transformers", "peft"):
        assert manifest.versions[name] == importlib.metadata.version(name)
    assert [each.role for each in manifest.resolved] == ["base", "loras/0", "loras/1"]
    assert all(each.sha256 for each in manifest.resolved[1:])
    assert store.verify(manifest.key) == []
    # Nothing in it tells of this machine.
    texts = [each.read_text() for each in baked.path.rglob("*.json")]
    assert not [text for text in texts if str(files) in text]


def test_another_release_of_peft_makes_another_artifact(
    files: Path, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.bake(spec_of(files)) as baked:
        key = baked.manifest.key
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == "peft" else real(name)
    )
    with store.bake(spec_of(files)) as other:
        assert other.manifest.key != key


def test_a_damaged_artifact_is_found_and_made_again(files: Path, store: PipelineStore) -> None:
    with store.bake(spec_of(files)) as baked:
        path, key = baked.path, baked.manifest.key
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert store.verify(key) == ["unet/diffusion_pytorch_model.safetensors"]
    with store.bake(spec_of(files)):
        assert store.verify(key) == []


def test_what_fails_leaves_nothing(files: Path, store: PipelineStore, tmp_path: Path) -> None:
    wrong = save_transformer_lora(tmp_path / "wrong.safetensors", 3)
    with pytest.raises(BadLoraError):
        store.bake(PipelineSpec(str(files / "base"), loras=[str(wrong)]))
    with pytest.raises(BadSettingError, match="nothing to bake"):
        store.bake(PipelineSpec(str(files / "base")))
    assert len(store.pipelines()) == 1  # the links to the base
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_full_disk_while_saving_is_told(
    files: Path, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", full)
    with pytest.raises(IntegrityError, match=r"cannot be baked.*No space left"):
        store.bake(spec_of(files))
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_quantiser_that_is_not_installed_is_named(files: Path, store: PipelineStore) -> None:
    quantization = {"quant_backend": "bitsandbytes_8bit", "quant_kwargs": {"load_in_8bit": True}}
    spec = PipelineSpec(str(files / "base"), quantization=quantization)
    with pytest.raises((BadSettingError, IntegrityError), match="bitsandbytes"):
        store.bake(spec)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")
def test_prequantised_weights_are_those_quantised_at_boot(
    files: Path, store: PipelineStore
) -> None:
    kind = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}
    unet = {"quant_method": "torchao", "quant_type": {"default": kind}}
    quantization = {"quant_mapping": {"unet": unet}}
    spec = PipelineSpec(str(files / "base"), dtype="bfloat16", quantization=quantization)
    with store.pipeline(spec) as pipeline:
        at_boot = image_of(pipeline)
    with store.bake(spec) as baked:
        assert "torchao" in baked.manifest.versions
        config = json.loads((baked.path / "unet" / "config.json").read_text())
        assert "quantization_config" in config
        found = StableDiffusionPipeline.from_pretrained(
            baked.path, local_files_only=True, dtype=torch.bfloat16
        )
        found.set_progress_bar_config(disable=True)
        with torch.inference_mode():
            assert image_of(found) == at_boot
