"""Log records under `pgetpy.*`, one logger a room, in which no secret can be.

Rooms log through a `RoomLog` and never through `logging` itself. It redacts every argument before
the record exists, so no handler of the application can store or send a secret. Messages are
constants. Exceptions are never attached, because a traceback quotes URLs unredacted.

Importing logging takes milliseconds, too long for a cache hit. If nothing has imported it yet, no
handler can have been configured, so a record would go nowhere and is not made.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, ClassVar

from pgetpy.errors.redact import HIDDEN, redact_text

if TYPE_CHECKING:
    import logging

ROOT = "pgetpy"
_DEBUG, _WARNING = 10, 30
# User and password of a URL of any scheme; `redact_text` knows those of http alone.
_LOGIN = r"(?<=://)[^\s/@'\"<>]*:[^\s/@'\"<>]*@"
# A server's words must not begin a line of their own in the user's log file.
_CONTROL = r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+"


class RoomLog:
    """The logger `pgetpy.<room>`."""

    _silent: ClassVar[logging.NullHandler | None] = None

    def __init__(self, room: str) -> None:
        self._name = f"{ROOT}.{room}"
        self._found: logging.Logger | None = None

    def debug(self, message: str, *args: object) -> None:
        """Log `message`, a constant, filled in with `args`: one step of the work."""
        if (logger := self._found or self._find()) is not None and logger.isEnabledFor(_DEBUG):
            logger.log(_DEBUG, message, *map(shown, args), stacklevel=2)

    def warning(self, message: str, *args: object) -> None:
        """As `debug`, for what the user should know although the work goes on."""
        if (logger := self._found or self._find()) is not None and logger.isEnabledFor(_WARNING):
            logger.log(_WARNING, message, *map(shown, args), stacklevel=2)

    def wants_debug(self) -> bool:
        """Whether `debug` writes anything: ask first where its arguments cost something."""
        logger = self._found or self._find()
        return logger is not None and logger.isEnabledFor(_DEBUG)

    def _find(self) -> logging.Logger | None:
        if "logging" in sys.modules:
            import logging

            # Without a handler Python itself would print warnings of ours on standard error.
            if RoomLog._silent is None:
                RoomLog._silent = logging.NullHandler()
            logging.getLogger(ROOT).addHandler(RoomLog._silent)
            self._found = logging.getLogger(self._name)
        return self._found


def shown(value: object) -> object:
    """Return `value` as a record may hold it: a number, or a text without secrets."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = re.sub(_CONTROL, " ", str(value))
    if not text.isascii():
        # A file's name may hold bytes that are not UTF-8, and no log file takes their surrogates.
        text = text.encode(errors="backslashreplace").decode()
    return redact_text(re.sub(_LOGIN, f"{HIDDEN}@", text))
