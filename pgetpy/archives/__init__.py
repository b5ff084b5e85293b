"""Archives that become folders while they arrive.

What takes an archive's bytes, undoes its compression and makes its members belongs here. What the
headers mean and which members may be made is decided in core/archives; which folder they end up in
is a matter of destinations/, and nothing here knows the network.
"""
