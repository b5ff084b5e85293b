"""Tiny pipelines around diffusion transformers, as Flux and Wan have them, and LoRAs of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import save_file

WIDTH = 32
# Modules of the Flux-like transformer, and their widths.
X_EMBEDDER = "x_embedder"
TO_Q = "transformer_blocks.0.attn.to_q"
# And one of each Wan-like transformer.
WAN_TO_Q = "blocks.0.attn1.to_q"


def make_flux(seed: int = 0, *, inputs: int = 4) -> FluxPipeline:
    """Return a pipeline whose transformer takes so many inputs, and which has nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=inputs,
            out_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            axes_dims_rope=(4, 4, 8),
        ).eval()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )


@torch.no_grad()
def flux_bits(pipeline: Any) -> bytes:
    """Return what the transformer makes of numbers that depend on nothing but its inputs."""
    transformer = pipeline.transformer
    generator = torch.Generator("cpu").manual_seed(5)
    numbers = torch.randn((1, 6, 64), generator=generator)[..., : transformer.config.in_channels]
    out = transformer(
        hidden_states=numbers,
        encoder_hidden_states=torch.randn((1, 3, WIDTH), generator=generator),
        pooled_projections=torch.randn((1, WIDTH), generator=generator),
        timestep=torch.tensor([0.5]),
        img_ids=torch.zeros(6, 3),
        txt_ids=torch.zeros(3, 3),
    ).sample
    return bytes(out.numpy().tobytes())


def make_wan(seed: int = 0) -> WanPipeline:
    """Return a pipeline of two transformers, and nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first, second = (
            WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=2,
                attention_head_dim=16,
                in_channels=4,
                out_channels=4,
                text_dim=WIDTH,
                freq_dim=16,
                ffn_dim=WIDTH,
                num_layers=1,
                cross_attn_norm=True,
                rope_max_seq_len=8,
            ).eval()
            for _ in range(2)
        )
    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=first,
        transformer_2=second,
    )


@torch.no_grad()
def wan_bits(pipeline: Any) -> tuple[bytes, bytes]:
    """Return what both transformers make of the same numbers."""
    generator = torch.Generator("cpu").manual_seed(5)
    frames = torch.randn((1, 4, 1, 4, 4), generator=generator)
    words = torch.randn((1, 3, WIDTH), generator=generator)
    found = [
        each(hidden_states=frames, timestep=torch.tensor([5]), encoder_hidden_states=words).sample
        for each in (pipeline.transformer, pipeline.transformer_2)
    ]
    return bytes(found[0].numpy().tobytes()), bytes(found[1].numpy().tobytes())


def save_adapter(
    path: Path,
    seed: int,
    modules: Mapping[str, tuple[int, int]],
    *,
    rank: int = 4,
    prefix: str = "transformer.",
    norms: tuple[str, ...] = (),
) -> Path:
    """Save a LoRA for modules of these inputs and outputs, and for norms of 16."""
    generator = torch.Generator("cpu").manual_seed(seed)
    tensors = {}
    for name, (inputs, outputs) in modules.items():
        for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            numbers = torch.randn(shape, generator=generator) * 0.2
            tensors[f"{prefix}{name}.lora_{side}.weight"] = numbers
    for name in norms:
        tensors[f"{prefix}{name}.weight"] = torch.rand(16, generator=generator)
    save_file(tensors, path, metadata={"format": "pt"})
    return path
