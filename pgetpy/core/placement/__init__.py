"""Which cache node serves which piece of an object: pget's way by index, and by name.

Only arithmetic belongs here. Which nodes there are is found out in fleet/; whether one may be asked
is decided in core/fleet.
"""
