"""What is decided about archives: their format, where each member lies, which ones may be made.

Headers are read from bytes that are given; what makes files of them is in archives/.
"""
