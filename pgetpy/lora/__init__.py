"""LoRAs on a diffusers pipeline: any number of slots, each a reference and a scale.

    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": ("https://example.com/style.safetensors", 0.8)})

This package makes the calls that change a pipeline's adapters. Which adapters to load, keep and
unload, and whether a file fits the model, is decided in core/lora. Nothing here imports torch or
diffusers: a pipeline is anything with the right methods.
"""

from pgetpy.lora.composer import LoraComposer

__all__ = ["LoraComposer"]
