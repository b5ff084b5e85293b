"""The content of configuration files, without what changes when they are loaded and saved again.

diffusers and transformers note in a configuration from which path and by which release it was
saved, and with which flags. None of that changes the result, with one exception: pipelines of
Stable Diffusion take a UNet saved before diffusers 0.9.0 for one whose `sample_size` is wrong, and
correct it (`is_unet_version_less_0_9_0`). So such a version is kept as "old".
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import Any

from pgetpy.errors import IntegrityError

MODEL_INDEX = "model_index.json"
_IGNORED = frozenset({"_name_or_path", "is_local", "local_files_only"})
_VERSION = "_diffusers_version"
_OLD = (0, 9, 0)
_NUMBERS = re.compile(r"\d{1,9}(?:\.\d{1,9})*")
# What a file says that it was built as; the class that is really loaded has its own place in keys.
_CLASS = "_class_name"
LONGEST_CONFIG = 16 << 20


def is_config(name: str) -> bool:
    """Whether a file, by its name, is a configuration; tokenizers' vocabularies are not."""
    last = PurePosixPath(name).name
    return last == MODEL_INDEX or last.endswith("config.json")


def parse_config(data: bytes, name: str) -> dict[str, Any]:
    """Return the values of a configuration.

    Args:
        data: the file's bytes.
        name: the file's name, for errors.

    Raises:
        IntegrityError: it is not a JSON object, or too long.
    """
    if len(data) > LONGEST_CONFIG:
        raise IntegrityError(f"{name} is too long for a configuration: {len(data)} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise IntegrityError(f"{name} is not JSON") from None
    if not isinstance(found, dict):
        raise IntegrityError(f"{name} is not a JSON object")
    return found


def config_digest(data: bytes, name: str) -> str:
    """Return the sha256, in hex, of what matters in a configuration.

    Raises:
        IntegrityError: it is not a JSON object.
    """
    found = parse_config(data, name)
    if PurePosixPath(name).name == MODEL_INDEX:
        found.pop(_CLASS, None)
    try:
        return hashlib.sha256(canonical(_normal(found))).hexdigest()
    except RecursionError:
        raise IntegrityError(f"{name} is nested too deeply") from None


def canonical(value: object) -> bytes:
    """Return JSON values in one form: keys sorted, no spaces, ASCII.

    Infinity and NaN are allowed, because schedulers are saved with them.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _normal(value: Any) -> Any:
    """Return `value` without what does not matter, at any depth."""
    if isinstance(value, list):
        return [_normal(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _normal(each) for name, each in value.items() if name not in _IGNORED}
    if _VERSION in kept and not _is_old(kept[_VERSION]):
        del kept[_VERSION]
    elif _VERSION in kept:
        kept[_VERSION] = "old"
    return kept


def _is_old(version: object) -> bool:
    """Whether a release is older than 0.9.0; one that cannot be read counts as old."""
    found = _NUMBERS.match(version) if isinstance(version, str) else None
    if found is None:
        return True
    numbers = tuple(int(part) for part in found[0].split("."))
    return numbers + (0,) * (3 - len(numbers)) < _OLD
