"""The bytes that arrived are not what was asked for."""

from __future__ import annotations

from pgetpy.errors.base import PgetError
from pgetpy.errors.redact import redact, redact_text

ALL_OF_IT = 'ask for all of it with wanted="folder" (pgetpy ensure --wanted folder)'


class IntegrityError(PgetError):
    """The bytes that arrived are not those that were asked for. Nothing was published."""


class SizeMismatchError(IntegrityError):
    """A response has another length than it announced, or than the service said.

    Attributes:
        url: redacted.
        expected: bytes.
        actual: bytes.
    """

    def __init__(self, url: str, expected: int, actual: int) -> None:
        self.url = redact(url)
        super().__init__(self.url, expected, actual)
        self.expected = expected
        self.actual = actual

    def sentence(self) -> str:
        return f"expected {self.expected} bytes, got {self.actual} from {self.url}"


class DigestMismatchError(IntegrityError):
    """The bytes have another checksum than the caller or the service gave.

    Bytes that an earlier run left, or that came from several answers, have been discarded and
    downloaded again before this is raised.

    Attributes:
        url: redacted.
        expected: `algorithm:hex`.
        actual: `algorithm:hex`.
    """

    hint = "nothing was written at the destination; check the URL and the checksum"

    def __init__(self, url: str, expected: str, actual: str) -> None:
        self.url = redact(url)
        super().__init__(self.url, expected, actual)
        self.expected = expected
        self.actual = actual

    def sentence(self) -> str:
        return f"checksum mismatch for {self.url}: expected {self.expected}, got {self.actual}"


class NotWeightsError(IntegrityError):
    """What arrived is not weights but something else.

    Usually it is a page that asks for a login, which a server sends with status 200.

    Attributes:
        url: redacted.
        what: a noun, such as `a page` or `a pickle, which may run any code when it is loaded`.
        words: a page's title or the beginning of a text; empty if it is neither.
    """

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
    """A safetensors file whose header, offsets and size contradict one another.

    Loaders trust the header: one that is wrong makes them read past the end of the file, or give
    out tensors that overlap. The rules are those of huggingface.co/docs/safetensors.

    Attributes:
        reason: a clause.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"the safetensors file is malformed: {self.reason}"

    def of(self, url: str) -> NotWeightsError:
        """Return it as what is wrong with the weights at `url`."""
        return NotWeightsError(url, f"a broken safetensors file: {self.reason}")


class BadLoraError(IntegrityError):
    """What is given for a slot is not a LoRA that can be loaded. The pipeline is unchanged.

    Attributes:
        slot: the name of the slot.
        url: the LoRA's reference, redacted.
        reason: a clause.
    """

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
    """A pipeline could not be restored to its base model: do not use it again.

    Attributes:
        reason: a clause that names the component or module.
    """

    hint = "load the pipeline again: its output may differ from its base model's"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"the pipeline could not be restored to its base model: {self.reason}"


class PoisonedProcessError(PgetError):
    """Two threads loaded models at once, and this process cannot load any correctly since then."""

    hint = (
        "restart it, and load models through a PipelineStore or within pgetpy.pipelines.loading()"
    )

    def sentence(self) -> str:
        return (
            "this process cannot load models any more: two threads loaded at once, and new modules "
            "have stayed on the meta device since then"
        )


class DeviceFaultError(PgetError):
    """A GPU failed while an attention backend was tried, and is unusable for this process.

    Attributes:
        backend: the one that was tried.
        reason: a clause with the device's words.
    """

    def __init__(self, backend: str, reason: str) -> None:
        hint = f"restart the process, and leave {backend} out of what is preferred"
        super().__init__(backend, reason, hint=hint)
        self.backend = backend
        self.reason = reason

    def sentence(self) -> str:
        return f"the GPU failed when the attention backend {self.backend} was tried: {self.reason}"


class ArchiveError(PgetError):
    """What arrived is not an archive that can be extracted. The folder is as it was before.

    Attributes:
        reason: a clause that names the member or the byte.
    """

    hint = "nothing was written at the destination"

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.reason = reason

    def sentence(self) -> str:
        return f"the archive cannot be extracted: {self.reason}"


class UnsafeMemberError(ArchiveError):
    """A member would reach beyond the folder, or cannot be made in it.

    Attributes:
        member: its name in the archive.
        reason: a clause.
    """

    def __init__(self, member: str, reason: str) -> None:
        super().__init__(reason)
        self.args = (member, reason)
        self.member = member

    def sentence(self) -> str:
        return f"refused to extract member {self.member!r}: {self.reason}"


class TruncatedArchiveError(ArchiveError):
    """The archive ends too early: it was cut off when it was made, or on the way.

    Attributes:
        position: the byte where it ends.
        reason: a clause: what was still to come.
    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(reason)
        self.args = (position, reason)
        self.position = position

    def sentence(self) -> str:
        return f"the archive is cut off at byte {self.position}: {self.reason}"


class LimitExceededError(ArchiveError):
    """The archive exceeds one of the caller's `Limits`: it may be a decompression bomb.

    Attributes:
        limit: the field of `Limits`, such as `bytes`, `members` or `ratio`.
        allowed: its value.
        found: what the archive has, or states to have.
        member: where that was noticed; empty for the archive as a whole.
    """

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
