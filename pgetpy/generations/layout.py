"""The folder of generations on disk. Whatever has a name here got it complete.

    trees/DIGEST/files/...          the files of a generation, as hard links into the cache
    trees/DIGEST/environments/NAME  its Python environments
    trees/DIGEST/generation.json    what it was when it was published (core/generations/record)
    trees/DIGEST/.in-use            a shared lock for each reader; its content is the pins' owner
    ids/N -> ../trees/DIGEST        the numbers
    latest -> ids/N                 what readers get who name none
    staging/TOKEN                   a tree that is being built or removed, locked by who does that
    damaged/DIGEST                  what `verify` has found of a tree, until it is built again
    cache/                          the cache, unless another folder is named
    uv/                             the cache of uv, if there are environments
    id -> MARK                      how the owners of this folder's pins begin

Links are relative, so the folder can be mounted anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from functools import cached_property
from pathlib import Path

from pgetpy.cache.layout import discard, token
from pgetpy.core.generations.record import ENVIRONMENTS, GenerationRecord, parse_generation_record
from pgetpy.errors import DiskFullError, GenerationError, IntegrityError
from pgetpy.errors.reasons import system_reason
from pgetpy.system.filesystem import FULL, free_bytes, map_os_errors, names_in, read_regular

LATEST = "latest"
IN_USE = ".in-use"
RECORD = "generation.json"
_FOLDERS = ("trees", "ids", "staging", "damaged")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OWNER = re.compile(r"[0-9a-f]{32}")
_MARK = re.compile(r"[0-9a-f]{16}")
_MARK_LENGTH = 16


class GenerationPaths:
    """The paths below one folder of generations."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(os.path.abspath(root))

    def tree(self, digest: str) -> Path:
        """Return where the tree of `digest` is."""
        return self.root / "trees" / digest

    def number(self, number: int) -> Path:
        """Return the link of `number`."""
        return self.root / "ids" / str(number)

    def stage(self, name: str) -> Path:
        """Return a folder for work under way."""
        return self.root / "staging" / name

    def damage(self, digest: str) -> Path:
        """Return where what is wrong with `digest` is noted."""
        return self.root / "damaged" / digest

    @property
    def latest(self) -> Path:
        return self.root / LATEST

    @property
    def uv_cache(self) -> Path:
        return self.root / "uv"

    def environments(self) -> list[Path]:
        """Return the folders of all Python environments, unfinished ones included."""
        above = (self.root / "trees", self.root / "staging")
        return [path for folder in above for path in folder.glob(f"*/{ENVIRONMENTS}/*")]

    def check(self) -> None:
        """Check that there is a folder: what is asked of a wrong one would seem to succeed.

        Raises:
            GenerationError: there is none.
        """
        if not (self.root / "trees").is_dir():
            hint = "name the folder that generations are built in"
            raise GenerationError(str(self.root), "", "is not there", hint=hint)

    def make(self) -> None:
        """Create what is missing of the folder."""
        for folder in (self.root, *(self.root / name for name in _FOLDERS)):
            if not folder.is_dir():
                os.makedirs(folder, exist_ok=True)
                open_to_all(folder)

    @cached_property
    def mark(self) -> str:
        """How the owners of this folder's pins begin: several folders may share a cache.

        Raises:
            IntegrityError: it is damaged.
        """
        path = self.root / "id"
        # The text of a link: written whole, and by one process alone.
        with contextlib.suppress(FileExistsError):
            os.symlink(token(), path)
        mark = _end_of(path, _MARK)
        if not mark:
            raise IntegrityError(f"{path} is damaged; remove it")
        return mark

    def owner(self, stage: str) -> str:
        """Return the owner of the pins of the tree that is built in `stage`."""
        return self.mark + stage

    def stage_of(self, owner: str) -> str:
        """Return the name of the stage in which the pins of `owner` were made."""
        return owner[_MARK_LENGTH:]

    # ------------------------------------------------------------------------------ what is there

    def numbers(self) -> dict[int, str]:
        """Return the digests by number, in order; also of trees that are gone."""
        found = {}
        for name in names_in(str(self.root / "ids")):
            if _NUMBER.fullmatch(name) and (digest := self.digest_of(int(name))):
                found[int(name)] = digest
        return dict(sorted(found.items()))

    def digest_of(self, number: int) -> str:
        """Return the digest that `number` is bound to; empty if it is free."""
        return _end_of(self.number(number), _DIGEST)

    def latest_number(self) -> int | None:
        """Return the number that `latest` leads to."""
        found = _end_of(self.latest, _NUMBER)
        return int(found) if found else None

    def digests(self) -> list[str]:
        """Return the digests of all trees."""
        return sorted(n for n in names_in(str(self.root / "trees")) if _DIGEST.fullmatch(n))

    def resolve(self, name: str) -> str:
        """Return the digest of the generation that `name` means: a number, a digest, or nothing or
        `latest` for the latest one; empty if there is none."""
        name = name.strip() or LATEST
        if name == LATEST:
            latest = self.latest_number()
            return "" if latest is None else self.digest_of(latest)
        if _NUMBER.fullmatch(name):
            return self.digest_of(int(name))
        name = name.removeprefix("sha256:").lower()
        return name if _DIGEST.fullmatch(name) else ""

    def record(self, digest: str) -> GenerationRecord:
        """Return what the tree of `digest` was when it was published.

        Raises:
            IntegrityError: it is not there, or its record is damaged.
        """
        path = self.tree(digest) / RECORD
        try:
            record = parse_generation_record(read_regular(path), str(path))
        except OSError as error:
            raise IntegrityError(f"{path} cannot be read: {system_reason(error)}") from None
        if record.digest != digest:
            raise IntegrityError(f"{path} is that of another generation")
        return record

    # ------------------------------------------------------------------------------------ changes

    def bind(self, number: int, digest: str) -> str:
        """Give `digest` the number; return the digest that has it now, which may be another."""
        path = self.number(number)
        # Unlike a rename this never replaces: of two builders one has the number.
        with contextlib.suppress(FileExistsError):
            os.symlink(f"../trees/{digest}", path)
        return self.digest_of(number)

    def release(self, number: int, digest: str) -> None:
        """Free the number of a tree that is gone."""
        own = self.stage(f"id.{token()}")
        try:
            os.rename(self.number(number), own)
        except FileNotFoundError:
            return
        # Another process may have built the tree again, or something else under the number.
        there = _end_of(own, _DIGEST)
        if there and (there != digest or self.tree(there).is_dir()):
            self.bind(number, there)
        discard(str(own))

    def point_latest(self, maximum: int | None = None) -> int | None:
        """Let `latest` lead to the highest number that is published; return it.

        Several processes may do this at once: each looks again after its rename, so the last one
        to rename has seen all numbers that were bound before.

        Args:
            maximum: higher numbers do not count.
        """
        while True:
            wanted = self._highest(maximum)
            if wanted is None or wanted == self.latest_number():
                return wanted
            own = self.stage(f"{LATEST}.{token()}")
            os.symlink(f"ids/{wanted}", own)
            os.replace(own, self.latest)

    def _highest(self, maximum: int | None) -> int | None:
        bound = [
            number
            for number, digest in self.numbers().items()
            if (maximum is None or number <= maximum) and self.tree(digest).is_dir()
        ]
        return bound[-1] if bound else None

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Raise the system's errors about this folder as errors of ours."""
        return map_os_errors(self._error_of)

    def _error_of(self, error: OSError) -> GenerationError | DiskFullError:
        if error.errno in FULL:
            try:
                free = free_bytes(self.root / "trees")
            except OSError:
                free = 0
            return DiskFullError(str(self.root), None, free)
        at = f" at {error.filename}" if error.filename else ""
        hint = _HINTS.get(error.errno or 0, "")
        reason = f"cannot be used{at}: {system_reason(error)}"
        return GenerationError(str(self.root), "", reason, hint=hint)


_HINTS = {
    errno.EACCES: "open it to this user",
    errno.EPERM: "open it to this user",
    errno.EROFS: "run this where it is mounted for writing",
}


def open_to_all(folder: str | Path) -> None:
    """Let all users read a folder, whatever the umask is."""
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    if mode & 0o555 != 0o555:
        os.chmod(folder, mode | 0o555)  # noqa: S103  that is its purpose


def owner_at(tree: Path) -> str:
    """Return the owner of the pins of a tree; empty if it cannot be read."""
    try:
        owner = read_regular(tree / IN_USE, 100).decode(errors="replace")
    except OSError:
        return ""
    return owner if _OWNER.fullmatch(owner) else ""


def _end_of(link: Path, pattern: re.Pattern[str]) -> str:
    """Return the last name of what a link leads to; empty unless it has the right form."""
    try:
        name = os.path.basename(os.readlink(link))
    except OSError:
        return ""
    return name if pattern.fullmatch(name) else ""
