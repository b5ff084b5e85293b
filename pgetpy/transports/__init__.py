"""Ways to carry bytes from a server into a sink, all of one interface (base.py)."""
