"""Errors of the network, of servers and services, and refusals by a policy.

Whether an error is tried again is not decided here but in `core/http/retry`, by class and field: an
error says what happened, not what to do about it.

A service's refusal has a class of its own (`ServiceError`) because the same status means different
things: a 404 of the Hub may be a private repository, a 403 of a store an object that is missing.
"""

from __future__ import annotations

from pgetpy.errors.base import PgetError
from pgetpy.errors.redact import redact, redact_text


class TransferError(PgetError):
    """The network or the server failed.

    Attributes:
        url: redacted.
        reason: a clause, with the URLs in it redacted.
        attempts: how many tries were made, the first one included.
    """

    def __init__(self, url: str, reason: str = "", *, hint: str = "") -> None:
        self.url = redact(url)
        self.reason = redact_text(reason)
        super().__init__(self.url, self.reason, hint=hint)
        self.attempts = 1

    def sentence(self) -> str:
        tries = f" (after {self.attempts} attempts)" if self.attempts > 1 else ""
        return f"{self.what()} for {self.url}{tries}"

    def what(self) -> str:
        """The failure itself, without the URL."""
        return self.reason


class ConnectionFailedError(TransferError):
    """No connection, a connection that broke, or bytes on it that are not HTTP.

    Attributes:
        permanent: another try would fail the same way: an expired certificate, a name that does
            not exist.
    """

    def __init__(
        self, url: str, reason: str = "", *, hint: str = "", permanent: bool = False
    ) -> None:
        super().__init__(url, reason, hint=hint)
        self.permanent = permanent

    def what(self) -> str:
        return f"connection failed: {self.reason}"


class StalledError(TransferError):
    """A connection delivered nothing, or next to nothing, for too long.

    Attributes:
        seconds: `--stall-timeout`, or longer if the server's answers usually take longer.
    """

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(url, hint="raise --stall-timeout if the server is known to pause")
        self.seconds = seconds

    def what(self) -> str:
        return f"connection stalled: no bytes for {self.seconds:g} s"


class TooSlowError(TransferError):
    """All connections together were slower than `--speed-limit` for longer than `--speed-time`.

    Attributes:
        rate: bytes a second, the limit.
        seconds: the time over which it was measured (`--speed-time`).
    """

    def __init__(self, url: str, rate: float, seconds: float) -> None:
        super().__init__(url, hint="run it again to continue; --speed-limit 0 turns the limit off")
        self.rate = rate
        self.seconds = seconds

    def what(self) -> str:
        return f"too slow: less than {self.rate:g} bytes a second for {self.seconds:g} s"


class HttpStatusError(TransferError):
    """The server answered with a status other than success.

    `.status` is the number, `.retry_after` seconds or None, `.words` what the server said (the
    first 200 characters of its reason and body), `.code` its own name for the failure, as the
    Hub's X-Error-Code.
    """

    _HINTS = {  # noqa: RUF012  a table, never written
        202: "the server is still preparing the object; try again later",
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
    """A service such as the Hub refused, for a reason that its source module recognises.

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
    """The service requires a token, or did not accept the one it was given."""

    saying = "did not accept the token, or requires one"


class AccessDeniedError(UnauthorizedError):
    """An object store refuses the request: its keys, their rights, or that there are none."""

    saying = "refused access"


class GatedError(ServiceError):
    """The account has to be given access by the owner, or to accept the conditions, first."""

    saying = "requires access to be requested first"


class NotFoundError(ServiceError):
    """It does not exist, or the service hides it from these credentials."""

    saying = "did not find it"


class RangeNotHonouredError(TransferError):
    """A range was asked for and something else came. `.asked` and `.got` are header values.

    `.whole` says whether what came was the whole object.
    """

    def __init__(self, url: str, asked: str, got: str, *, whole: bool = False) -> None:
        super().__init__(url, hint="the bytes were discarded; a cache or proxy may be at fault")
        self.asked = asked
        self.got = got
        self.whole = whole

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


class ObjectExistsError(TransferError):
    """There is an object of this name, and it was to be created only if there is none.

    Raised by an upload with `--if-absent`; the object is unchanged.
    """

    def what(self) -> str:
        return "an object of this name exists already"


class NotAllowedError(TransferError):
    """A limit or policy of the caller forbids it. No byte was kept.

    Attributes:
        rule: the field of `Policy` or the option that forbids it, such as `allow_networks`.
    """

    def __init__(self, url: str, rule: str, reason: str, *, hint: str = "") -> None:
        super().__init__(url, reason, hint=hint)
        self.rule = rule

    def what(self) -> str:
        return f"not allowed by {self.rule}: {self.reason}"
