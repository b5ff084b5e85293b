"""How bytes come: requests, connections, retries, and the transfers that are made of them.

What sends a request, moves a body or watches over either belongs here. Which bytes to ask for and
which answer to believe is decided in core/http; what a reference means is known to sources/, and
where bytes end up to destinations/.
"""
