"""What differs between two generations, by their locks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pgetpy.core.generations.lock import FileLine, GenerationLock, LockedEnvironment


@dataclass(frozen=True)
class Change:
    """One path or environment that differs.

    Attributes:
        kind: `added`, `removed` or `changed`.
        name: the path, or `env NAME`.
        before: the digest, or what was different; empty if it was added.
        after: the same, afterwards; empty if it was removed.
    """

    kind: str
    name: str
    before: str
    after: str

    def __str__(self) -> str:
        if self.kind == "changed":
            return f"changed {self.name}: {self.before} to {self.after}"
        return f"{self.kind} {self.name}: {self.before or self.after}"


@dataclass(frozen=True)
class GenerationDiff:
    """What differs from `before` to `after`, both numbers of generations."""

    before: int
    after: int
    changes: tuple[Change, ...]
    same: int


def diff_of(before: GenerationLock, after: GenerationLock) -> GenerationDiff:
    """Return what differs from one lock to another; where a file comes from does not count."""
    old, new = _contents(before), _contents(after)
    changes = tuple(_changes(old, new))
    same = sum(old[name] == new.get(name) for name in old)
    return GenerationDiff(before.number, after.number, changes, same)


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name, ""), new.get(name, "")
        if was != now:
            kind = "changed" if was and now else "added" if now else "removed"
            yield Change(kind, name, was, now)


def _contents(lock: GenerationLock) -> dict[str, str]:
    found = {each.dest: _content(each) for each in lock.files}
    for environment in lock.environments:
        name = f"env {environment.name}"
        found[name] = f"Python {environment.python}"
        found |= {f"{name} {key}": value for key, value in _packages(environment).items()}
    return found


def _content(file: FileLine) -> str:
    return f"{file.digest} -x" if file.extract else file.digest


def _packages(environment: LockedEnvironment) -> dict[str, str]:
    """Return the version of each package, as far as the requirement pins it."""
    found = {}
    for each in environment.requirements:
        name, _, version = each.text.partition("==")
        found[name.strip()] = version.strip() or each.text
    return found
