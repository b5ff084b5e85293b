"""A resolver whose answers a test makes up; what it does not know is asked of the system's."""

import socket
from typing import Any


class Names:
    """Stands in for socket.getaddrinfo.

    Each look-up of a name takes the next of its answers, and the last one stays. An answer is a
    list of addresses, or the error that is raised.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers: dict[str, list[list[str] | OSError]] = {}
        self._real = socket.getaddrinfo

    def answer(self, name: str, *answers: list[str] | OSError) -> None:
        """Give `answers` to the look-ups of `name` from now on."""
        self._answers[name] = list(answers)

    def __call__(self, name: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = name.decode() if isinstance(name, bytes) else name
        if name not in self._answers:
            return self._real(name, port, *args, **options)
        self.asked.append(name)
        answers = self._answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, OSError):
            raise answer
        return [_found(address, port) for address in answer]


def _found(address: str, port: int) -> tuple[int, int, int, str, tuple[str | int, ...]]:
    kind = socket.SOCK_STREAM
    if ":" in address:
        return socket.AF_INET6, kind, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, kind, socket.IPPROTO_TCP, "", (address, port)
