"""What every error is, and those of the caller.

An error is a value with fields; its text is made when it is shown. So programs decide by class and
field, the command line can print the sentence and the hint in its own way, and a URL is redacted
once, when it is stored. Errors cross processes and threads (Cog, multiprocessing), hence pickling.
"""

from __future__ import annotations

from pgetpy.errors.redact import redact, redact_text


class PgetError(Exception):
    """Root of the tree: catch it for everything that pgetpy raises on purpose.

    Attributes:
        hint: what to try, one clause without a full stop; empty if there is nothing to suggest.
    """

    hint: str = ""

    def __init__(self, *args: object, hint: str = "") -> None:
        super().__init__(*args)
        if hint:
            self.hint = hint

    def sentence(self) -> str:
        """What failed and where, without the hint."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return f"{self.sentence()}; {self.hint}" if self.hint else self.sentence()

    def __reduce__(self) -> tuple[object, ...]:
        # An exception is pickled as a call of its class with `args`, which fits none of ours.
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[PgetError], args: tuple[object, ...]) -> PgetError:
    error = kind.__new__(kind, *args)
    super(PgetError, error).__init__(*args)
    return error


class UsageError(PgetError, ValueError):
    """The caller asked for something that cannot work, whatever the network says.

    It is raised before the first request. The command line exits with 2, so that a script can tell
    its own mistakes from failures that may be gone on the next try.
    """


class BadReferenceError(UsageError):
    """A URL or reference that cannot be understood, or that names something of the wrong kind.

    Attributes:
        reference: the text, redacted: it may be a URL with a signature.
        reason: a clause.
    """

    def __init__(self, reference: str, reason: str) -> None:
        self.reference = redact(reference)
        super().__init__(self.reference, reason)
        self.reason = reason

    def sentence(self) -> str:
        return f"cannot use {self.reference!r}: {self.reason}"


class BadSettingError(UsageError):
    """A flag, environment variable or argument with a value it cannot have.

    Attributes:
        name: as the caller wrote it: `--chunk-size`, `PGET_CHUNK_SIZE` or `chunk_size`.
        value: the value, `***` if it may be a secret, or None to leave it out of the message.
        reason: a clause that begins with a verb.
    """

    def __init__(self, name: str, value: object, reason: str) -> None:
        super().__init__(name, value, reason)
        self.name = name
        self.value = value
        self.reason = reason

    def sentence(self) -> str:
        if self.value is None:
            return f"{self.name} {self.reason}"
        return f"{self.name} {self.value!r}: {self.reason}"


class MissingPackageError(UsageError):
    """What was asked for needs a package that is not installed, or a newer one.

    Attributes:
        reason: a clause; the hint is the command that installs it.
    """

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.reason = reason

    def sentence(self) -> str:
        return self.reason


class BadManifestError(UsageError):
    """A manifest that cannot be used. Nothing of it has been downloaded.

    Attributes:
        path: the manifest; `standard input` for `-`.
        line: counted from 1; 0 stands for the file as a whole.
        reason: a clause.
    """

    def __init__(self, path: str, line: int, reason: str) -> None:
        self.reason = redact_text(reason)
        super().__init__(path, line, self.reason)
        self.path = path
        self.line = line

    def sentence(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.reason}"
