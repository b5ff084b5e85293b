"""A tiny, real Stable Diffusion pipeline and LoRAs of it, made up from seeds.

Everything has the classes, the names and the file formats of the models that people use; only the
widths are small. The same seed gives the same bits, in any process.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

PROMPT = "a b c"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def make_pipeline(seed: int = 0, *, width: int = 32) -> StableDiffusionPipeline:
    """Return a pipeline of random weights; `width` is that of its text encoder and its UNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = CLIPTextModel(_text_config(width)).eval()
        unet = UNet2DConditionModel(
            block_out_channels=(width, 2 * width),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=8,
            norm_num_groups=8,
        ).eval()
        vae = AutoencoderKL(
            block_out_channels=(16, 32),
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=16,
        ).eval()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pipeline(folder: Path, seed: int = 0, *, width: int = 32) -> Path:
    """Save `make_pipeline` in `folder`, as `StableDiffusionPipeline.from_pretrained` reads it."""
    make_pipeline(seed, width=width).save_pretrained(folder, safe_serialization=True)
    return folder


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Return the pipeline that `save_pipeline` has put in `folder`."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_composed(folder: Path, *loras: tuple[Path, float]) -> StableDiffusionPipeline:
    """Return the pipeline in `folder` with LoRAs, as diffusers loads them by itself."""
    pipeline = load_pipeline(folder)
    names = [f"lora{number}" for number, _ in enumerate(loras)]
    for name, (path, _) in zip(names, loras, strict=True):
        pipeline.load_lora_weights(str(path), adapter_name=name)
    if loras:
        pipeline.set_adapters(names, adapter_weights=[scale for _, scale in loras])
    return pipeline


def image_of(pipeline: Any, prompt: str = PROMPT, *, seed: int = 7, steps: int = 2) -> bytes:
    """Return the bits of an image; equal bytes are equal pictures, float for float."""
    generator = torch.Generator("cpu").manual_seed(seed)
    out = pipeline(
        prompt,
        num_inference_steps=steps,
        height=16,
        width=16,
        output_type="np",
        generator=generator,
    )
    return bytes(out.images.tobytes())


def save_lora(path: Path, seed: int, *, rank: int = 4, width: int = 32, text: bool = True) -> Path:
    """Save a LoRA of `make_pipeline` at `path`, a .safetensors, in diffusers' own format."""
    unet, encoder = _lora_tensors(seed, rank, width)
    StableDiffusionPipeline.save_lora_weights(
        path.parent,
        unet_lora_layers=unet,
        text_encoder_lora_layers=encoder if text else None,
        weight_name=path.name,
        safe_serialization=True,
    )
    return path


def save_kohya_lora(path: Path, seed: int, *, rank: int = 4, width: int = 32) -> Path:
    """Save the LoRA of `save_lora` with the names that kohya's trainer gives (lora_unet_...)."""
    unet, encoder = _lora_tensors(seed, rank, width)
    named = {f"unet.{name}": tensor for name, tensor in unet.items()}
    named |= {f"text_encoder.{name}": tensor for name, tensor in encoder.items()}
    converted = convert_state_dict_to_kohya(named)
    kohya = {name: tensor.contiguous() for name, tensor in converted.items()}
    save_file(kohya, path, metadata={"ss_network_module": "networks.lora"})
    return path


def save_transformer_lora(path: Path, seed: int, *, rank: int = 4, width: int = 32) -> Path:
    """Save a LoRA whose keys are a diffusion transformer's, which a UNet pipeline has none of."""
    generator = torch.Generator("cpu").manual_seed(seed)
    tensors = {}
    for block in range(2):
        for name in ATTENTION:
            module = f"transformer.transformer_blocks.{block}.attn.{name}"
            tensors[f"{module}.lora_A.weight"] = _noise((rank, width), generator)
            tensors[f"{module}.lora_B.weight"] = _noise((width, rank), generator)
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def _lora_tensors(seed: int, rank: int, width: int) -> tuple[dict[str, Any], dict[str, Any]]:
    pipeline = make_pipeline(width=width)
    pipeline.unet.add_adapter(_config(rank, ATTENTION))
    pipeline.text_encoder.add_adapter(_config(rank, TEXT_ATTENTION))
    generator = torch.Generator("cpu").manual_seed(seed)
    found = []
    for model in (pipeline.unet, pipeline.text_encoder):
        # Adapters begin at zero, which would be no change at all.
        state: Mapping[str, Any] = get_peft_model_state_dict(model)
        found.append({name: _noise(state[name].shape, generator) for name in sorted(state)})
    return found[0], found[1]


def _config(rank: int, modules: tuple[str, ...]) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(modules))


def _noise(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * 0.2


def _text_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        hidden_size=width,
        intermediate_size=width + 5,
        layer_norm_eps=1e-05,
        num_attention_heads=4,
        num_hidden_layers=2,
        vocab_size=64,
        max_position_embeddings=16,
        projection_dim=width,
    )


def _tokenizer() -> CLIPTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
