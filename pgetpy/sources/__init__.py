"""Where references lead: one module for each service, and the table in which they are tried.

A source knows names and where their bytes are; it moves none.
"""
