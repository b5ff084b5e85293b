"""What every error is, and those of the caller."""

from __future__ import annotations

from pgetpy.errors.redact import redact, redact_text


class PgetError(Exception):
    """Root of the tree. `hint` is what to try, one clause without a full stop."""

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


class MissingPackageError(UsageError):
    """What was asked for needs a package that is not installed, or a newer one. `.reason`."""

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason, hint=hint)
        self.reason = reason

    def sentence(self) -> str:
        return self.reason


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
