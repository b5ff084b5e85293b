"""LoRAs on a pipeline of diffusers: any number of slots, each a reference and a scale.

    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": ("https://example.com/style.safetensors", 0.8)})

What touches a pipeline's adapters belongs here; which of them to load, keep and unload, and whether
a file fits the model, is decided in core/lora. Nothing here imports torch or diffusers.
"""

from pgetpy.lora.composer import LoraComposer

__all__ = ["LoraComposer"]
