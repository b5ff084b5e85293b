"""Places for bytes to go, all of one interface (base.py)."""
