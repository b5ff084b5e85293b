"""The secrets that tests hand to the package, and the watch over what it logs of them.

A test that needs a password, a token, a signature or a cookie takes one of these: then no record of
any test may have it, nor what a child process says to standard error.
"""

from __future__ import annotations

import logging
import re

PASSWORD = "hunter2"  # also signatures and tokens in URLs
COOKIE = "opensesame"
SIGNATURE = "secretmark"
TOKEN = "tokenmarkthatmustneverleak"
STORED_LOGIN = "hf_storedlogin"
FIELD = "s3cret"
HUB_TOKEN = "hf_secret"

SECRETS = (PASSWORD, COOKIE, SIGNATURE, TOKEN, STORED_LOGIN, FIELD, HUB_TOKEN)
# What test servers sign is made anew in each test.
_SIGNED = re.compile(r"[?&](?:X-Amz-\w+|X-Goog-\w+|sig|signature|token)=(?!\*\*\*)", re.IGNORECASE)


def holds_secret(text: str) -> bool:
    """Whether `text` has one of the secrets, or a signature that was not redacted."""
    return _SIGNED.search(text) is not None or any(secret in text for secret in SECRETS)


class LeakWatch(logging.Handler):
    """Looks at all that a record holds, not only at the line it makes.

    Attributes:
        seen: how many records there have been.
    """

    def __init__(self) -> None:
        super().__init__(level=0)
        self.seen = 0
        self._leaks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += 1
        held = f"{record.getMessage()} {vars(record)}"
        if holds_secret(held):
            self._leaks.append(held[:500])

    def begin(self) -> None:
        """Take note of every record from now on, those of the lowest level included."""
        self._leaks.clear()
        logger = logging.getLogger("pgetpy")
        logger.setLevel(logging.DEBUG)
        if self not in logger.handlers:
            logger.addHandler(self)

    def check(self) -> None:
        """Fail if a record since `begin` has had a secret."""
        leaks, self._leaks = self._leaks, []
        assert leaks == [], "log records with secrets"
