"""Text to values and back: sizes, durations, what flags and variables may say.

Does not know what the values are for, and reads no environment: settings and cli/ do.
"""
