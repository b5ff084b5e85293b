"""Text to values and back: sizes, durations, what flags and variables may say.

Knows nothing of what the values are for, and reads no environment: settings and cli/ do.
"""
