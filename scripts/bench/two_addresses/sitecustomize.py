"""Gives the host `half.example` two addresses, ::1 and 127.0.0.1.

Python imports this at its start where the folder is on its path.
"""

import socket
from typing import Any

_getaddrinfo = socket.getaddrinfo


def _look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
    if host not in ("half.example", b"half.example"):
        return _getaddrinfo(host, port, *arguments, **options)
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    return [
        (socket.AF_INET6, *tcp, ("::1", port, 0, 0)),
        (socket.AF_INET, *tcp, ("127.0.0.1", port)),
    ]


socket.getaddrinfo = _look_up
