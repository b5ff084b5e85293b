"""What is decided about files of weights: whether they are safetensors, and of which shards.

What opens the files is in weights/.
"""
