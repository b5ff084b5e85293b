"""Sizes and durations as people write them, to numbers and back. Nothing here knows a clock.

Sizes: `k`, `M`, `G` are powers of 1000 and `Ki`, `Mi`, `Gi` of 1024, with or without a `B`, in any
case, as with pget. Output is in powers of 1000, as disks and networks are sold.

Durations are Go's, as with pget (`1m30s`), and a bare number is seconds. Ages know days and weeks
as well.
"""

from __future__ import annotations

import re

from pgetpy.errors import BadSettingError

_PREFIXES = "kmgtpe"
_SIZE_UNITS: dict[str, int] = {"": 1, "b": 1}
for _power, _prefix in enumerate(_PREFIXES, start=1):
    _SIZE_UNITS |= {_prefix: 1000**_power, f"{_prefix}b": 1000**_power}
    _SIZE_UNITS |= {f"{_prefix}i": 1024**_power, f"{_prefix}ib": 1024**_power}

_SIZE = r"(?a)([0-9,]*)(?:\.([0-9]*))?\s*([A-Za-z]*)"
_LARGEST_SIZE = 2**63 - 1  # what a file offset can be

# Both micro signs, as Go has it.
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_STEP = rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)"
_DURATION = rf"(?:{_STEP})+"
# Weeks, then days, at least one of them, then any duration.
_DAYS = rf"(?=[0-9]+[wd])(?:([0-9]+)w)?(?:([0-9]+)d)?((?:{_STEP})*)"


def parse_size(text: str, *, name: str) -> int:
    """Return the bytes of `125M`, `16MiB`, `16Mi`, `1.5 GB` or `4096`; fractions are cut off.

    Raises BadSettingError with `name`, the flag or variable it came from.
    """
    match = re.fullmatch(_SIZE, text.strip())
    whole, fraction, unit = match.groups(default="") if match else ("", "", "")
    digits = whole.replace(",", "") + fraction
    if not digits:
        raise BadSettingError(name, text, "is not a size such as 10M, 16MiB or a number of bytes")
    factor = _SIZE_UNITS.get(unit.lower())
    if factor is None:
        raise BadSettingError(name, text, f"{unit!r} is not a unit of size such as k, MB, MiB or G")
    size = int(digits) * factor // 10 ** len(fraction) if len(digits) < 40 else _LARGEST_SIZE + 1
    if size > _LARGEST_SIZE:
        raise BadSettingError(name, text, "is too large")
    return size


def parse_duration(text: str, *, name: str) -> float:
    """Return the seconds of `1m30s`, `500ms`, `.5h` or `15`, which is seconds.

    Raises BadSettingError with `name`, the flag or variable it came from.
    """
    stripped = text.strip()
    if re.fullmatch(_NUMBER, stripped):
        return float(stripped)
    if not re.fullmatch(_DURATION, stripped):
        raise BadSettingError(name, text, "is not a duration such as 10s, 1m30s or 500ms")
    return float(
        sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_STEP, stripped))
    )


def parse_age(text: str, *, name: str) -> float:
    """Return the seconds of `30d`, `2w`, `1d12h` or whatever `parse_duration` takes.

    Raises BadSettingError with `name`, the flag or variable it came from.
    """
    match = re.fullmatch(_DAYS, text.strip())
    if match is None:
        return parse_duration(text, name=name)
    days = 7 * int(match[1] or 0) + int(match[2] or 0)
    return 86400.0 * days + (parse_duration(match[3], name=name) if match[3] else 0.0)


def format_size(size: float) -> str:
    """Return `2.1 GB`: thousands, one decimal below ten."""
    value, unit = float(size), 0
    # 999.5 would be printed as 1000 of the smaller unit.
    while value >= 999.5 and unit < len(_PREFIXES):
        value /= 1000
        unit += 1
    if unit == 0:
        return f"{value:.0f} B"
    name = f"{_PREFIXES[unit - 1].upper() if unit > 1 else 'k'}B"
    return f"{value:.1f} {name}" if value < 9.95 else f"{value:.0f} {name}"


def format_rate(bytes_per_second: float) -> str:
    """Return `1.3 GB/s`."""
    return f"{format_size(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """Return `0.4s`, `12s`, `1m 30s`, `2h 05m` or `3d 4h`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_age(seconds: float) -> str:
    """Return `5s`, `12m`, `3h` or `40d`, cut off."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"
