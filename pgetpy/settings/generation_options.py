"""The options of `pgetpy generation`, and what they set.

They have a table of their own because no download needs them: the parser looks for a flag here only
if it is not in `settings.options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pgetpy.core.text.values import count_reader, read_bool, read_duration, read_text
from pgetpy.errors import BadSettingError
from pgetpy.settings.folders import expand_user
from pgetpy.settings.options import GENERATIONS, Option
from pgetpy.settings.sections import Section


def _bind(text: str, name: str) -> tuple[str, int]:
    address, _, port = text.strip().rpartition(":")
    number = _PORT(port, name)
    if number > _HIGHEST_PORT:
        raise BadSettingError(name, text, f"has no port from 0 to {_HIGHEST_PORT}")
    return address.strip("[]") or _LOOPBACK, number


_HIGHEST_PORT = 65535
_PORT = count_reader(0)
_LOOPBACK = "127.0.0.1"
_BUILD, _DAEMON = "generation build", "generation daemon"

# fmt: off
ROWS: tuple[Option, ...] = (
    Option("root", "", "DIR", "GenerationSettings.root", expand_user, "folder of the generations",
           GENERATIONS, environ="PGET_GENERATION_ROOT"),
    Option("generation", "", "NAME", "GenerationSettings.name", read_text,
           "number or digest of the generation to use (default: the latest)",
           ("generation exec",), environ="PGET_GENERATION"),
    Option("env", "", "NAMES", "GenerationSettings.environments", read_text,
           "Python environments to use, separated by commas (default: by R8_*_VERSION, or none)",
           ("generation exec",), environ="PGET_ENV"),
    Option("min", "", "N", "GenerationOptions.minimum", count_reader(0),
           "the lowest number that has to be there; prune keeps it and higher ones",
           ("generation ready", "generation prune", _DAEMON)),
    Option("max", "", "N", "GenerationOptions.maximum", count_reader(0),
           "the highest number that has to be there; latest leads to none above it",
           ("generation ready", _BUILD, _DAEMON)),
    Option("keep", "", "N", "GenerationOptions.keep", count_reader(0),
           "how many of the highest numbers to keep", ("generation prune", _DAEMON)),
    Option("copy", "", "", "GenerationOptions.copies", read_bool,
           "copy files that cannot be linked, which takes space for each generation",
           (_BUILD, _DAEMON)),
    Option("interval", "", "TIME", "GenerationOptions.interval", read_duration,
           "how often to look at the folder of locks", (_DAEMON,), default="10s"),
    Option("bind", "", "[ADDRESS:]PORT", "GenerationOptions.bind", _bind,
           "where to answer /ready and /metrics; port 0 is any that is free", (_DAEMON,),
           default="127.0.0.1:8373"),
    Option("clean-uv-cache", "", "", "GenerationOptions.clean_uv_cache", read_bool,
           "empty the cache of uv first, so that packages are downloaded again",
           (_BUILD,)),
)
# fmt: on


@dataclass(frozen=True)
class GenerationSettings(Section):
    """Which generations a command is about.

    Attributes:
        root: their folder; None if none was named.
        name: a number or a digest; empty for what MONOBASE_GEN_ID says, or the latest.
        environments: names of Python environments, as PGET_ENV has them; empty for what the
            variables of monobase say.
    """

    options: ClassVar[tuple[Option, ...]] = ROWS

    root: Path | None = None
    name: str = ""
    environments: str = ""


@dataclass(frozen=True)
class GenerationOptions(Section):
    """What one run of a command asks for.

    Attributes:
        minimum: the lowest number; None for any.
        maximum: the highest number; None for any.
        keep: how many generations stay; None if that says nothing.
        copies: copy what cannot be linked.
        interval: seconds between two looks at a folder of locks.
        bind: address and port of the daemon's server.
        clean_uv_cache: empty the cache of uv before environments are built.
    """

    options: ClassVar[tuple[Option, ...]] = ROWS

    minimum: int | None = None
    maximum: int | None = None
    keep: int | None = None
    copies: bool = False
    interval: float = 10.0
    bind: tuple[str, int] = (_LOOPBACK, 8373)
    clean_uv_cache: bool = False
