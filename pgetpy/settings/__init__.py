"""Options: the table of flags and variables, the dataclasses that they set, and default folders.

No source is named here: each has its options in its own module. The environment is passed as an
argument; only `folders` looks at the home folder of the process's user.
"""

from __future__ import annotations

from pgetpy.settings.sections import (
    Console,
    Proxies,
    Section,
    Settings,
    SourceSection,
    SourceSettings,
)

__all__ = [
    "Console",
    "Proxies",
    "Section",
    "Settings",
    "SourceSection",
    "SourceSettings",
]
