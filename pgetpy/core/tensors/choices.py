"""Which tensors of a checkpoint are wanted: all, some by name, or those with a prefix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgetpy.errors import BadSettingError


@dataclass(frozen=True)
class Choice:
    """A choice of tensors: by `names`, else by the `prefix` of their names, else all of them."""

    names: frozenset[str] | None = None
    prefix: str = ""

    @classmethod
    def of(cls, only: str | Iterable[str] | None) -> Choice:
        """Return the choice for a caller's `only`: a prefix, names, or None for all."""
        if only is None or isinstance(only, str):
            return cls(prefix=only or "")
        return cls(frozenset(only))

    def __bool__(self) -> bool:
        return self.names is not None or bool(self.prefix)

    def __contains__(self, name: str) -> bool:
        return name in self.names if self.names is not None else name.startswith(self.prefix)

    def check(self, available: Iterable[str], where: str) -> None:
        """Check that the wanted tensors are among those `available`.

        Args:
            where: what to call the checkpoint in the error.

        Raises:
            BadSettingError: one is missing, or no name begins with the prefix.
        """
        if not self:
            return
        there = set(available)
        if self.names is not None:
            missing = sorted(self.names - there)
            if missing:
                what = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
                raise BadSettingError("only", what, f"is not in {where}")
        elif not any(name in self for name in there):
            raise BadSettingError(
                "only", self.prefix, f"is not the beginning of a tensor's name in {where}"
            )
