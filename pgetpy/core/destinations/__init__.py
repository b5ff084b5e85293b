"""What is decided about files that are being written: their names, and what a part file holds.

What writes them is in destinations/.
"""
