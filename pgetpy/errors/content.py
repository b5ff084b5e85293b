"""The bytes that arrived are not what was asked for."""

from __future__ import annotations

from pgetpy.errors.base import PgetError
from pgetpy.errors.redact import redact, redact_text

ALL_OF_IT = 'ask for all of it with wanted="folder" (pgetpy ensure --wanted folder)'


class IntegrityError(PgetError):
    """The bytes that arrived are not those that were asked for. Nothing was published."""


class SizeMismatchError(IntegrityError):
    """`.expected` and `.actual` bytes differ."""

    def __init__(self, url: str, expected: int, actual: int) -> None:
        self.url = redact(url)
        super().__init__(self.url, expected, actual)
        self.expected = expected
        self.actual = actual

    def sentence(self) -> str:
        return f"expected {self.expected} bytes, got {self.actual} from {self.url}"


class DigestMismatchError(IntegrityError):
    """`.expected` and `.actual` are `algorithm:hex`."""

    hint = "nothing was written at the destination; check the URL and the checksum"

    def __init__(self, url: str, expected: str, actual: str) -> None:
        self.url = redact(url)
        super().__init__(self.url, expected, actual)
        self.expected = expected
        self.actual = actual

    def sentence(self) -> str:
        return f"checksum mismatch for {self.url}: expected {self.expected}, got {self.actual}"


class NotWeightsError(IntegrityError):
    """What arrived is not weights but `.what`, a noun; `.words` is its beginning if it is text."""

    hint = "check the URL, and whether it needs a token or a login"

    def __init__(self, url: str, what: str, words: str = "", *, hint: str = "") -> None:
        self.url = redact(url)
        self.what = what
        self.words = redact_text(words)
        super().__init__(self.url, what, self.words, hint=hint)

    def sentence(self) -> str:
        says = f", which says {self.words!r}" if self.words else ""
        return f"{self.url} is not a weights file but {self.what}{says}"


class BadSafetensorsError(IntegrityError):
    """A safetensors file whose header, offsets and size contradict one another. `.reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"the safetensors file is malformed: {self.reason}"

    def of(self, url: str) -> NotWeightsError:
        """Return it as what is wrong with the weights at `url`."""
        return NotWeightsError(url, f"a broken safetensors file: {self.reason}")


class BadLoraError(IntegrityError):
    """What is given for slot `.slot` is not a LoRA that can be loaded. `.reason` is a clause."""

    hint = "check the URL: it has to be that of a LoRA's .safetensors file"

    def __init__(self, slot: str, url: str, reason: str) -> None:
        self.url = redact(url)
        super().__init__(slot, self.url, reason)
        self.slot = slot
        self.reason = reason

    def sentence(self) -> str:
        return f"slot {self.slot!r} cannot take {self.url}: {self.reason}"


class WrongBaseModelError(BadLoraError):
    """It is a LoRA for another base model than the pipeline's; `.reason` says what shows it."""

    hint = "use a LoRA that was made for the pipeline's base model"


class NotRestoredError(PgetError):
    """A pipeline could not be restored to its base model. `.reason` is a clause."""

    hint = "load the pipeline again: its output may differ from its base model's"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"the pipeline could not be restored to its base model: {self.reason}"


class ArchiveError(PgetError):
    """What arrived is not an archive that can be extracted. `.reason` is a clause."""

    hint = "nothing was written at the destination"

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.reason = reason

    def sentence(self) -> str:
        return f"the archive cannot be extracted: {self.reason}"


class UnsafeMemberError(ArchiveError):
    """A member would reach beyond the folder, or cannot be made in it. `.member` is its name."""

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(reason)
        self.args = (member, reason)
        self.member = member

    def sentence(self) -> str:
        return f"refused to extract member {self.member!r}: {self.reason}"


class TruncatedArchiveError(ArchiveError):
    """The archive ends before its end. `.position` is the byte where it does."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.args = (position, reason)
        self.position = position

    def sentence(self) -> str:
        return f"the archive is cut off at byte {self.position}: {self.reason}"


class LimitExceededError(ArchiveError):
    """The archive is larger than is allowed. `.limit` names the limit, `.allowed` its value."""

    def __init__(self, limit: str, allowed: float, found: float, member: str = "") -> None:
        super().__init__(limit)
        self.args = (limit, allowed, found, member)
        self.limit = limit
        self.allowed = allowed
        self.found = found
        self.member = member

    def sentence(self) -> str:
        at = f" at member {self.member!r}" if self.member else ""
        return f"the archive exceeds {self.limit} ({self.allowed}){at}: {self.found}"


class NotOneFileError(ArchiveError):
    """Of a repository or archive one file is wanted, and it has none or several such: `.found`,
    their names.

    `.reference` is the whole's, `.suffix` what the name of the file would end with.
    """

    def __init__(
        self, reference: str, suffix: str, found: tuple[str, ...] = (), *, hint: str = ""
    ) -> None:
        super().__init__(f"there are {len(found)} {suffix} files", hint=hint)
        self.reference = redact(reference)
        self.args = (self.reference, suffix, found)
        self.suffix = suffix
        self.found = found

    def sentence(self) -> str:
        if not self.found:
            return f"{self.reference} holds no {self.suffix} file"
        names = ", ".join(self.found[:5]) + (", ..." if len(self.found) > 5 else "")
        return f"{self.reference} holds {len(self.found)} {self.suffix} files: {names}"
