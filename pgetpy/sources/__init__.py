"""Where references lead: one module for each service, and the table in which they are tried.

What a service calls its files, where their bytes are and what its refusals mean belongs here. A
source moves no bytes and touches no disk: what it wants to know of a server the engine asks.
"""
