"""Cache nodes, which are nginx: how they are set up, and what shows that one is set up wrongly.

Belongs here: what can be said of nodes from texts, numbers and answers alone. They are asked in
`fleet/`.
"""
