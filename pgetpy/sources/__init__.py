"""Where references lead: one module for each service, and the table in which they are tried.

What a service calls its files, where their bytes are and what its errors mean belongs here. A
source moves no bytes and touches no disk: the engine sends its requests.
"""
