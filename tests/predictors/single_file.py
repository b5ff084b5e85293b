"""A Stable Diffusion in one file, with the names that its first implementation gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_UNET = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}


def save_single_file(pipeline: Any, path: Path) -> Path:
    """Save the weights of a pipeline of two blocks with one layer each in one file."""
    parts: tuple[tuple[str, Any, Callable[[str], str]], ...] = (
        ("model.diffusion_model.", pipeline.unet, _unet_name),
        ("first_stage_model.", pipeline.vae, _vae_name),
        ("cond_stage_model.transformer.text_model.", pipeline.text_encoder, str),
    )
    tensors = {
        prefix + rename(name): _shaped(name, tensor).contiguous().clone()
        for prefix, module, rename in parts
        for name, tensor in module.state_dict().items()
    }
    save_file(tensors, path)
    return path


def _shaped(name: str, tensor: Any) -> Any:
    """Attention of the first VAEs was a convolution."""
    linear = "mid_block.attentions.0.to_" in name and name.endswith(".weight") and tensor.dim() == 2
    return tensor[:, :, None, None] if linear and "transformer_blocks" not in name else tensor


def _unet_name(name: str) -> str:
    for ours, theirs in _UNET.items():
        if name.startswith(ours):
            return theirs + _inner(name.removeprefix(ours))
    kind, block, part, layer, rest = name.split(".", 4)
    at = 2 * int(block) + int(layer)
    if kind == "down_blocks":
        if part == "downsamplers":
            return f"input_blocks.{2 * (int(block) + 1)}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{at + 1}.{int(part == 'attentions')}.{_inner(rest)}"
    if part == "upsamplers":
        # The first block has attention before it.
        return f"output_blocks.{2 * int(block) + 1}.2.{rest}"
    return f"output_blocks.{at}.{int(part == 'attentions')}.{_inner(rest)}"


def _inner(rest: str) -> str:
    stem, _, last = rest.rpartition(".")
    return f"{_RESNET[stem]}.{last}" if stem in _RESNET else rest


def _vae_name(name: str) -> str:
    for block in range(2):
        name = name.replace(f"encoder.down_blocks.{block}.resnets.", f"encoder.down.{block}.block.")
        name = name.replace(
            f"encoder.down_blocks.{block}.downsamplers.0.", f"encoder.down.{block}.downsample."
        )
        name = name.replace(f"decoder.up_blocks.{block}.resnets.", f"decoder.up.{1 - block}.block.")
        name = name.replace(
            f"decoder.up_blocks.{block}.upsamplers.0.", f"decoder.up.{1 - block}.upsample."
        )
        name = name.replace(f"mid_block.resnets.{block}.", f"mid.block_{block + 1}.")
    if "mid_block.attentions.0." in name:
        for ours, theirs in _ATTENTION.items():
            name = name.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
