"""What is decided about files that are being written: their names, and the journal of one.

What writes them is in destinations/.
"""
