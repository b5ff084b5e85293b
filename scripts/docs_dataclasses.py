"""What `make docs` adds to griffe: signatures of the classes that `core/lazy_dataclass` makes.

griffe reads the source and knows dataclasses by the decorator's name, as type checkers do.
"""

from __future__ import annotations

from typing import Any

from griffe import Extension

_OURS = "pgetpy.core.lazy_dataclass."


class LazyDataclasses(Extension):
    """Has griffe take our decorator for the standard library's."""

    def on_module_members(self, *, mod: Any, **_: object) -> None:
        for member in mod.members.values():
            if member.is_alias and member.target_path.startswith(_OURS):
                member.target_path = f"dataclasses.{member.target_path.removeprefix(_OURS)}"
