"""Services played by loopback servers, and references that strangers give."""
