"""What is decided about LoRAs: whether one fits its model, and what to load, keep and unload.

What touches a pipeline is in lora/.
"""
