"""Which tensors of a checkpoint are wanted: all, some by name, or those whose names begin alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgetpy.errors import BadSettingError


@dataclass(frozen=True)
class Choice:
    """Tensors by `names`, or by the `prefix` of their names; all of them where neither is given."""

    names: frozenset[str] | None = None
    prefix: str = ""

    @classmethod
    def of(cls, only: str | Iterable[str] | None) -> Choice:
        """Return the choice that a caller spells as a prefix, as names, or as None for all."""
        if only is None or isinstance(only, str):
            return cls(prefix=only or "")
        return cls(frozenset(only))

    def __bool__(self) -> bool:
        return self.names is not None or bool(self.prefix)

    def __contains__(self, name: str) -> bool:
        return name in self.names if self.names is not None else name.startswith(self.prefix)

    def check(self, available: Iterable[str], where: str) -> None:
        """Check that what is wanted is among the tensors that are `available`.

        Raises:
            BadSettingError: it is not.
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
            raise BadSettingError("only", self.prefix, f"begins no tensor's name in {where}")
