"""Ways to carry bytes from a server into a sink: implementations of `base.Transport`."""
