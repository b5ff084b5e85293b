"""The options of `pgetpy generation`, and what they set.

They have a table of their own because no download needs them: the parser looks for a flag here only
if it is not in `settings.options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pgetpy.core.text.values import count_reader, read_bool, read_text
from pgetpy.settings.folders import expand_user
from pgetpy.settings.options import GENERATIONS, Option
from pgetpy.settings.sections import Section


def _path(text: str, name: str) -> Path:
    return expand_user(text, name)


# fmt: off
ROWS: tuple[Option, ...] = (
    Option("root", "", "DIR", "GenerationSettings.root", _path, "folder of the generations",
           GENERATIONS, environ="PGET_GENERATION_ROOT"),
    Option("generation", "", "NAME", "GenerationSettings.name", read_text,
           "number or digest of the generation to use (default: the latest)",
           ("generation exec",), environ="PGET_GENERATION"),
    Option("min", "", "N", "GenerationOptions.minimum", count_reader(0),
           "the lowest number that has to be there; prune keeps it and higher ones",
           ("generation ready", "generation prune")),
    Option("max", "", "N", "GenerationOptions.maximum", count_reader(0),
           "the highest number that has to be there; latest leads to none above it",
           ("generation ready", "generation build")),
    Option("keep", "", "N", "GenerationOptions.keep", count_reader(0),
           "how many of the highest numbers to keep", ("generation prune",)),
    Option("copy", "", "", "GenerationOptions.copies", read_bool,
           "copy files that cannot be linked, which takes space for each generation",
           ("generation build",)),
)
# fmt: on


@dataclass(frozen=True)
class GenerationSettings(Section):
    """Which generations a command is about.

    Attributes:
        root: their folder; None if none was named.
        name: a number or a digest; empty for the latest.
    """

    options: ClassVar[tuple[Option, ...]] = ROWS

    root: Path | None = None
    name: str = ""


@dataclass(frozen=True)
class GenerationOptions(Section):
    """What one run of a command asks for.

    Attributes:
        minimum: the lowest number; None for any.
        maximum: the highest number; None for any.
        keep: how many generations stay; None if that says nothing.
        copies: copy what cannot be linked.
    """

    options: ClassVar[tuple[Option, ...]] = ROWS

    minimum: int | None = None
    maximum: int | None = None
    keep: int | None = None
    copies: bool = False
