"""What the server remembers of each request: the test's evidence."""

from dataclasses import dataclass

from .delivery import Outcome
from .rfc9110 import Headers, Request


@dataclass(kw_only=True)
class Seen(Outcome):
    """One request and, while it is being answered and after, what became of the answer.

    ``sent`` counts body bytes handed to the kernel; ``cut`` is None, "reset", "fin", "silence" or
    "client" (it went away); ``done`` is true once the whole answer is out.
    """

    number: int
    connection: int
    request: Request
    time: float
    body: bytes = b""
    status: int = 0

    @property
    def method(self) -> str:
        return self.request.method

    @property
    def target(self) -> str:
        return self.request.target

    @property
    def path(self) -> str:
        return self.request.path

    @property
    def headers(self) -> Headers:
        return self.request.headers

    def header(self, name: str) -> str | None:
        return self.request.header(name)

    @property
    def asked(self) -> tuple[int | None, int | None] | None:
        """The range asked for, half-open, open ends None; None for all of it."""
        if not self.request.specs:
            return None
        spec = self.request.specs[0]
        return spec.first, None if spec.last is None or spec.first is None else spec.last + 1
