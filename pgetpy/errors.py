"""Every error pgetpy raises, in one tree.

    PgetError
      UsageError (ValueError)       BadReferenceError  BadSettingError  BadManifestError
      TransferError                 ConnectionFailedError  StalledError  HttpStatusError
                                    RangeNotHonouredError  ObjectChangedError  NotAllowedError
                                    ServiceError: UnauthorizedError  GatedError  NotFoundError
      IntegrityError                SizeMismatchError  DigestMismatchError  NotWeightsError
                                    BadSafetensorsError
      ArchiveError                  UnsafeMemberError  TruncatedArchiveError  LimitExceededError
                                    NotOneFileError
      DestinationError (OSError)    what stands at the destination, or cannot be made there
      DiskFullError (OSError)
      CacheError (OSError)          CacheFullError
      InterruptedTransferError      Ctrl-C or SIGTERM: what is held is kept

Errors carry fields; the sentence is made in `__str__`: what failed, where, and what to try. A URL
in a field is redacted before it is stored.
"""

from __future__ import annotations

import errno as _errno

from pgetpy.redact import redact, redact_text

ALL_OF_IT = 'ask for all of it with wanted="folder" (pgetpy ensure --wanted folder)'


class PgetError(Exception):
    """Root of the tree. `hint` is what to try, one clause without a full stop."""

    hint: str = ""

    def sentence(self) -> str:
        """What failed and where, without the hint."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return f"{self.sentence()}; {self.hint}" if self.hint else self.sentence()

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is pickled as a call of its class with `args`, which fits none of ours.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[PgetError], args: tuple[object, ...]) -> PgetError:
    error = kind.__new__(kind, *args)
    super(PgetError, error).__init__(*args)
    return error


class UsageError(PgetError, ValueError):
    """The caller asked for something that makes no sense, whatever the network says."""


class BadReferenceError(UsageError):
    """A URL or reference that cannot be understood. `.reference` is redacted."""

    def __init__(self, reference: str, reason: str) -> None:
        self.reference = redact(reference)
        super().__init__(self.reference, reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"cannot use {self.reference!r}: {self.reason}"


class BadSettingError(UsageError):
    """A flag, environment variable or argument with a value it cannot have."""

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(name, value, reason)
        self.name = name
        self.value = value
        self.reason = reason

    def sentence(self) -> str:
        return f"{self.name} {self.value!r}: {self.reason}"


class BadManifestError(UsageError):
    """A manifest that cannot be used. `.line` counts from 1; 0 stands for the file as a whole."""

    def __init__(self, path: str, line: int, reason: str) -> None:
        self.reason = redact_text(reason)
        super().__init__(path, line, self.reason)
        self.path = path
        self.line = line

    def sentence(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.reason}"


class TransferError(PgetError):
    """The network or the server failed. `.url` is redacted, `.attempts` counts the tries made."""

    def __init__(self, url: str, reason: str = "", *, hint: str = "") -> None:
        self.url = redact(url)
        self.reason = redact_text(reason)
        super().__init__(self.url, self.reason)
        self.attempts = 1
        if hint:
            self.hint = hint

    def sentence(self) -> str:
        tries = f" (after {self.attempts} attempts)" if self.attempts > 1 else ""
        return f"{self.what()} for {self.url}{tries}"

    def what(self) -> str:
        """The failure itself, without the URL."""
        return self.reason


class ConnectionFailedError(TransferError):
    """No connection, a connection that broke, or bytes on it that are not HTTP.

    `.permanent` where another try would fail the same way.
    """

    def __init__(
        self, url: str, reason: str = "", *, hint: str = "", permanent: bool = False
    ) -> None:
        super().__init__(url, reason, hint=hint)
        self.permanent = permanent

    def what(self) -> str:
        return f"connection failed: {self.reason}"


class StalledError(TransferError):
    """A connection delivered nothing, or next to nothing, for `.seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(url, hint="raise --stall-timeout if the server is known to pause")
        self.seconds = seconds

    def what(self) -> str:
        return f"connection stalled: no bytes for {self.seconds:g} s"


class HttpStatusError(TransferError):
    """The server answered with a status that is no success.

    `.status` is the number, `.retry_after` seconds or None, `.words` what the server said (the
    first 200 characters of its reason and body), `.code` its own name for the failure, as the
    Hub's X-Error-Code.
    """

    _HINTS = {  # noqa: RUF012  a table, never written
        401: "give credentials with -H 'Authorization: Bearer …', --netrc or PGET_HEADERS",
        403: "the link may have expired or need credentials (-H, --netrc)",
        404: "check the URL",
        410: "the object is gone; check the URL",
        407: "give the proxy's user and password in HTTP_PROXY or HTTPS_PROXY",
        429: "the server limits its clients; lower -c or try later",
    }

    def __init__(
        self,
        url: str,
        status: int,
        words: str = "",
        *,
        retry_after: float | None = None,
        code: str = "",
    ) -> None:
        super().__init__(url, hint=self._HINTS.get(status, ""))
        self.code = code
        self.status = status
        self.words = redact_text(words)
        self.retry_after = retry_after

    def what(self) -> str:
        words = f" ({self.words})" if self.words else ""
        return f"HTTP status {self.status}{words}"


class ServiceError(TransferError):
    """A service such as the Hub said no, for a reason that it is known for.

    `.url` is the reference without its secrets, `.service` is what people call the service,
    `.status` what it answered with and `.words` what it said.
    """

    saying = "refused"

    def __init__(
        self, reference: str, service: str, status: int, words: str = "", *, hint: str = ""
    ) -> None:
        super().__init__(reference, hint=hint)
        self.service = service
        self.status = status
        self.words = redact_text(words)

    def what(self) -> str:
        words = f": {self.words}" if self.words else ""
        return f"{self.service} {self.saying} (HTTP status {self.status}{words})"


class UnauthorizedError(ServiceError):
    """It wants to know who asks, or does not accept what it was told."""

    saying = "did not accept the token, or wants one,"


class GatedError(ServiceError):
    """Who asks has to be let in by the owner, or to accept his conditions, first."""

    saying = "has not given access, which has to be asked for,"


class NotFoundError(ServiceError):
    """There is no such thing, or it is not shown to who asks."""

    saying = "knows of no such thing"


class RangeNotHonouredError(TransferError):
    """A range was asked for and something else came. `.asked` and `.got` are header values."""

    def __init__(self, url: str, asked: str, got: str) -> None:
        super().__init__(url, hint="the bytes were thrown away; a cache or proxy may be at fault")
        self.asked = asked
        self.got = got

    def what(self) -> str:
        return f"asked for {self.asked}, got {self.got},"


class ObjectChangedError(TransferError):
    """The object is another one than it was when the transfer began."""

    def __init__(self, url: str, before: str, after: str) -> None:
        super().__init__(url, hint="run it again to get the new version")
        self.before = before
        self.after = after

    def what(self) -> str:
        return f"the object changed while it was read (was {self.before}, is {self.after})"


class NotAllowedError(TransferError):
    """A limit or policy of the caller's said no. `.rule` names it."""

    def __init__(self, url: str, rule: str, reason: str, *, hint: str = "") -> None:
        super().__init__(url, reason, hint=hint)
        self.rule = rule

    def what(self) -> str:
        return f"not allowed by {self.rule}: {self.reason}"


class IntegrityError(PgetError):
    """The bytes that came are not the bytes that were meant. Nothing was published."""


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
    """What came is no weights file but `.what`, a noun. `.words` is what it says."""

    hint = "check the URL and what it needs to be opened"

    def __init__(self, url: str, what: str, words: str = "", *, hint: str = "") -> None:
        self.url = redact(url)
        self.what = what
        self.words = redact_text(words)
        super().__init__(self.url, what, self.words)
        if hint:
            self.hint = hint

    def sentence(self) -> str:
        says = f", which says {self.words!r}" if self.words else ""
        return f"{self.url} is no weights file but {self.what}{says}"


class BadSafetensorsError(IntegrityError):
    """A safetensors file whose header, offsets and size contradict one another. `.reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"the safetensors file is malformed: {self.reason}"


class ArchiveError(PgetError):
    """What came is no archive that can be extracted. `.reason` is a clause."""

    hint = "nothing was written at the destination"

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        if hint:
            self.hint = hint

    def sentence(self) -> str:
        return f"the archive cannot be extracted: {self.reason}"


class UnsafeMemberError(ArchiveError):
    """A member would reach beyond the folder, or cannot stand in it. `.member` is its name."""

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


class DestinationError(PgetError, OSError):
    """The destination stands in the way or cannot be written. `.dest`, `.reason`."""

    def __init__(self, dest: str, reason: str, *, hint: str = "", code: int = _errno.EIO) -> None:
        super().__init__(code, reason, dest)
        self.dest = dest
        self.reason = reason
        if hint:
            self.hint = hint

    def sentence(self) -> str:
        return f"destination {self.dest} {self.reason}"


class DiskFullError(PgetError, OSError):
    """No room: `.needed` and `.free` bytes; `.needed` is None when the disk filled up midway."""

    hint = "free some space and run it again: what has arrived is kept and goes on from there"

    def __init__(self, dest: str, needed: int | None, free: int, *, keep: int = 0) -> None:
        super().__init__(_errno.ENOSPC, "no space left", dest)
        self.dest = dest
        self.needed = needed
        self.free = free
        self.keep = keep
        if needed is not None:
            self.hint = "free some space or choose another destination"

    def sentence(self) -> str:
        if self.needed is None:
            return f"the disk of {self.dest} is full ({self.free} bytes free)"
        keep = f" with {self.keep} to stay free" if self.keep else ""
        return (
            f"not enough space for {self.dest}: {self.needed} bytes needed{keep}, {self.free} free"
        )


class CacheError(PgetError, OSError):
    """The cache in folder `.root` cannot do what was asked of it. `.reason` is a clause."""

    def __init__(self, root: str, reason: str, *, hint: str = "", code: int = _errno.EIO) -> None:
        super().__init__(code, reason, root)
        self.root = root
        self.reason = reason
        if hint:
            self.hint = hint

    def sentence(self) -> str:
        return f"the cache at {self.root} {self.reason}"


class CacheFullError(CacheError):
    """What may leave the cache does not make enough room.

    `.needed` bytes were asked for and `.free` could be had; `.held` names who keeps how many bytes,
    the most first. `.cause` says why what left gave no room, where that is so.
    """

    hint = "release leases, unpin entries, or give the cache more room"

    def __init__(
        self,
        root: str,
        needed: int,
        free: int,
        held: tuple[tuple[str, int], ...] = (),
        *,
        cause: str = "",
    ) -> None:
        super().__init__(root, "is full", code=_errno.ENOSPC)
        self.needed = needed
        self.free = free
        self.held = held
        self.cause = cause

    def sentence(self) -> str:
        by = "".join(f", {who} {size}" for who, size in self.held[:5])
        cause = f" ({self.cause})" if self.cause else ""
        what = f"{self.needed} bytes needed, {self.free} can be had"
        if not self.needed:
            what = "what may leave does not bring it back to its bounds"
        return (
            f"the cache at {self.root} is full: {what}{f'; held by{by[1:]}' if by else ''}{cause}"
        )


class InterruptedTransferError(PgetError):
    """The transfer was told to stop. `.held` bytes are kept for the next run."""

    def __init__(self, dest: str, held: int, total: int | None) -> None:
        super().__init__(dest, held, total)
        self.dest = dest
        self.held = held
        self.total = total

    def sentence(self) -> str:
        of = f" of {self.total}" if self.total is not None else ""
        return f"interrupted: {self.held}{of} bytes of {self.dest} are kept"
