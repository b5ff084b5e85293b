"""Independent judges and second processes for the tests.

Everything here is written from the specifications and imports nothing of the package under test:
a judge that shared the client's arithmetic would share its mistakes.
"""
