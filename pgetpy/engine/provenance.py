"""Where the bytes of a transfer came from in the end, and what vouches for them.

That ranges were taken from one version of the object is certain with a strong ETag (`strong`). With
a weak one, or none, size and Last-Modified agreed each time (`weak`), which misses a file that was
replaced by one of the same size within a second. A single answer with everything needs no
validator (`none`).
"""

from __future__ import annotations

from pgetpy.core.http.answers import Answer
from pgetpy.core.lazy_dataclass import dataclass


@dataclass(frozen=True)
class Provenance:
    """The source of a transfer that has ended.

    Attributes:
        url: where redirects led.
        answer: the first answer that was believed.
        single: whether one request at a time was made for everything.
        shared: whether another run had fetched and published it.
    """

    url: str
    answer: Answer
    single: bool = False
    shared: bool = False

    @property
    def single_stream(self) -> bool:
        """Whether the bytes came in one stream."""
        return self.single or not self.answer.ranged

    @property
    def validator(self) -> str:
        """What tied the ranges to one version; see `DownloadResult`."""
        if not self.answer.ranged or (self.single and self.answer.whole):
            return "none"
        return "strong" if self.answer.identity.strong else "weak"
