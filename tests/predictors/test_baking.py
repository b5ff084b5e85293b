"""Artifacts: LoRAs fused or weights quantised once, and loaded by plain from_pretrained."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pgetpy.errors import BadLoraError, BadSettingError, IntegrityError
from pgetpy.pipelines import PipelineSpec, PipelineStore

from .pipelines import image_of, load_composed, load_pipeline, save_transformer_lora
from .stores import Shop


def fused_in_memory(shop: Shop) -> StableDiffusionPipeline:
    pipeline = load_composed(shop.base, (shop.first, 0.7), (shop.second, 0.4))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return pipeline


def spec_of(shop: Shop) -> PipelineSpec:
    return shop.spec((shop.first, 0.7), (shop.second, 0.4))


def test_fused_loras_are_those_of_diffusers_bit_for_bit(shop: Shop, store: PipelineStore) -> None:
    with store.bake(spec_of(shop)) as baked:
        path = baked.path
        found = image_of(load_pipeline(path))
    assert found == image_of(fused_in_memory(shop))
    with store.pipeline(spec_of(shop)) as composed:
        assert image_of(composed) != found  # fusing rounds
    assert not [each for each in path.rglob("*") if each.is_symlink()]


def test_an_artifact_is_made_once_and_its_key_has_the_versions(
    shop: Shop, store: PipelineStore
) -> None:
    with store.bake(spec_of(shop)) as baked:
        manifest = baked.manifest
        inodes = {each: each.stat().st_ino for each in baked.path.rglob("*")}
    with store.bake(spec_of(shop)) as again:
        assert again.manifest == manifest
        assert {each: each.stat().st_ino for each in again.path.rglob("*")} == inodes
    assert manifest.key == manifest.base_key != store.key(spec_of(shop))
    for name in ("torch", "diffusers", "transformers", "peft"):
        assert manifest.versions[name] == importlib.metadata.version(name)
    assert [each.role for each in manifest.resolved] == ["base", "loras/0", "loras/1"]
    assert all(each.sha256 for each in manifest.resolved[1:])
    assert store.verify(manifest.key) == []
    # Nothing in it tells of this machine.
    texts = [each.read_text() for each in baked.path.rglob("*.json")]
    assert not [text for text in texts if str(shop.base.parent) in text]


def test_another_release_of_peft_makes_another_artifact(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.bake(spec_of(shop)) as baked:
        key = baked.manifest.key
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == "peft" else real(name)
    )
    with store.bake(spec_of(shop)) as other:
        assert other.manifest.key != key


def test_a_damaged_artifact_is_found_and_made_again(shop: Shop, store: PipelineStore) -> None:
    with store.bake(spec_of(shop)) as baked:
        path, key = baked.path, baked.manifest.key
    weights = path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert store.verify(key) == ["unet/diffusion_pytorch_model.safetensors"]
    with store.bake(spec_of(shop)):
        assert store.verify(key) == []


def test_what_fails_leaves_nothing(shop: Shop, store: PipelineStore, tmp_path: Path) -> None:
    wrong = save_transformer_lora(tmp_path / "wrong.safetensors", 3)
    with pytest.raises(BadLoraError):
        store.bake(shop.spec((wrong, 1.0)))
    with pytest.raises(BadSettingError, match="nothing to bake"):
        store.bake(shop.spec())
    assert len(store.pipelines()) == 1  # the links to the base
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_full_disk_while_saving_is_told(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", full)
    with pytest.raises(IntegrityError, match=r"cannot be baked.*No space left"):
        store.bake(spec_of(shop))
    assert list((store.folder / "tmp").iterdir()) == []


def test_a_quantiser_that_is_not_installed_is_named(shop: Shop, store: PipelineStore) -> None:
    quantization = {"quant_backend": "bitsandbytes_8bit", "quant_kwargs": {"load_in_8bit": True}}
    spec = shop.spec(quantization=quantization)
    with pytest.raises((BadSettingError, IntegrityError), match="bitsandbytes"):
        store.bake(spec)


def test_prequantised_weights_are_those_quantised_at_boot(shop: Shop, store: PipelineStore) -> None:
    kind = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}
    unet = {"quant_method": "torchao", "quant_type": {"default": kind}}
    quantization = {"quant_mapping": {"unet": unet}}
    spec = shop.spec(dtype="bfloat16", quantization=quantization)
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
