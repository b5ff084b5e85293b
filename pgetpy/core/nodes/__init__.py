"""Cache nodes, which are nginx: how they are set up.

Belongs here: what can be said of nodes from texts and numbers alone.
"""
