"""Text to values and back: sizes, durations, values of flags and variables, checked lines.

Knows nothing of what the values are for, so that all of core may use it.
"""
