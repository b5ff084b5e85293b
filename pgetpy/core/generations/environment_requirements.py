"""Requirements with hashes, as uv writes and reads them, and the identity of an environment."""

from __future__ import annotations

import hashlib
import re

from pgetpy.core.generations.lock import LockedEnvironment, LockedRequirement
from pgetpy.errors import UsageError
from pgetpy.errors.redact import redact_text

_CONTINUED = re.compile(r"\\\n\s*")
_HASH = re.compile(r"\s+--hash=(\S+)")
_SHA256 = "sha256:"


def parse_requirements(text: str) -> tuple[LockedRequirement, ...]:
    """Return the packages of a requirements.txt that uv has locked.

    Raises:
        UsageError: a package has no sha256, or its URL contains a secret: locks are handed around.
    """
    found = []
    for line in _CONTINUED.sub(" ", text).splitlines():
        requirement = _HASH.sub("", line).strip()
        if not requirement or requirement.startswith("#"):
            continue
        if redact_text(requirement) != requirement:
            raise UsageError(
                f"{redact_text(requirement)} contains a secret, and locks are handed around"
            )
        hashes = [each for each in _HASH.findall(line) if each.startswith(_SHA256)]
        if not hashes:
            raise UsageError(f"there is no sha256 for {requirement}")
        found.append(LockedRequirement(requirement, tuple(sorted(hashes))))
    return tuple(found)


def requirements_text(environment: LockedEnvironment) -> str:
    """Return the requirements.txt of an environment, with all hashes."""
    lines = (
        " ".join([each.text, *(f"--hash={digest}" for digest in sorted(each.hashes))])
        for each in environment.requirements
    )
    return "".join(f"{line}\n" for line in lines)


def environment_digest(environment: LockedEnvironment) -> str:
    """Return what identifies the content of an environment: 64 hex digits. Its name has no part."""
    text = f"python {environment.python}\n{requirements_text(environment)}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def short_version(python: str) -> str:
    """Return major and minor version of a Python, which is all that wheels depend on."""
    return ".".join(python.split(".")[:2])
