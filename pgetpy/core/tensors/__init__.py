"""What is decided about tensors: which of a checkpoint are wanted.

What makes them is in tensors/.
"""
