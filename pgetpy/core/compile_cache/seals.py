"""Seals: what says which files a pack holds, and that they are whole.

    v1/KEY/env.json                    what the key was made of
    v1/KEY/packs/SHA256.zst            the files, one after the other, in zstd frames
    v1/KEY/seals/TIME-SHA256.json      the pack's digest, and where in it each file is

Each is named by its content and never changed. So there is nothing to lock and nothing to compare
and swap: eight processes may save at once, over NFS or in an object store. A pack is written before
its seal, and what has no seal does not exist. A reader takes the seals that it sees:

    same path, same bytes     once
    same path, other bytes    the first seal's, as two compilers' .so are equally good; a machine
                              that lacks what a .so may need takes a later one, or saves its own
    a table (`is_merged`)     united
    a seal whose pack is not to be seen yet, or damaged      left out, and saved anew by the next

With a secret each seal carries an HMAC-SHA256 (RFC 2104), and seals without it are left out.
A digest beside the data protects from accidents only: who can write one can write the other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pgetpy.core.compile_cache.environments import CompileEnvironment, canonical, environment_of
from pgetpy.core.compile_cache.layouts import is_merged, may_hold, unit_place
from pgetpy.errors import IntegrityError

# Raw bytes in a frame of zstd: a reader has one in memory at a time.
FRAME_BYTES = 4 << 20
# A seal for half a million files; one that is larger is not read.
LARGEST_SEAL = 128 << 20
SEAL_NAME = re.compile(r"([0-9]{20})-([0-9a-f]{64})\.json")
PACK_NAME = re.compile(r"([0-9a-f]{64})\.zst")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class SealedFile:
    """One file of a pack.

    Attributes:
        kind: of the folder that it belongs to.
        path: in that folder.
        size: in bytes.
        sha256: of its bytes, in hex.
        offset: where it begins among the raw bytes of the pack.
        executable: whether its owner may execute it.
        mtime_ns: when it was changed, in nanoseconds since the epoch. Some compilers compare times.
    """

    kind: str
    path: str
    size: int
    sha256: str
    offset: int = 0
    executable: bool = False
    mtime_ns: int = 0

    @property
    def place(self) -> tuple[str, str]:
        """What identifies it."""
        return self.kind, self.path


def pack_order(file: SealedFile) -> tuple[int, int]:
    """Return where a file comes in its pack; an empty one comes before what begins there."""
    return file.offset, file.size


@dataclass(frozen=True)
class Seal:
    """The content of one pack.

    Attributes:
        pack: sha256 of the pack.
        pack_size: its size in bytes.
        files: in the order of their offsets.
        environment: where they were compiled.
        name: of the seal's own file; empty before it has one.
    """

    pack: str
    pack_size: int
    files: Sequence[SealedFile] = field(repr=False)
    environment: CompileEnvironment
    name: str = ""

    @property
    def pack_name(self) -> str:
        return f"{self.pack}.zst"

    def to_json(self, secret: bytes | None) -> bytes:
        """Return the content of its file, signed if there is a `secret`."""
        kinds: dict[str, list[list[Any]]] = {}
        for each in self.files:
            row = [each.path, each.size, each.sha256, each.offset, int(each.executable)]
            kinds.setdefault(each.kind, []).append([*row, each.mtime_ns])
        body = {
            "pack": self.pack,
            "pack_size": self.pack_size,
            "files": kinds,
            "required": self.environment.required,
            "facts": self.environment.facts,
        }
        if secret is None:
            return canonical({"seal": body})
        return canonical({"seal": body, "hmac": _signature(body, secret)})


def seal_name(data: bytes, time_ns: int) -> str:
    """Return the name of a seal's file; they sort by the time when they were made."""
    return f"{time_ns:020d}-{hashlib.sha256(data).hexdigest()}.json"


def parse_seal(data: bytes, name: str, key: str, secret: bytes | None) -> Seal:
    """Return the seal of a file, all of whose names are ones that may be laid down.

    Args:
        data: the file's content.
        name: of the file, which says the digest of the content.
        key: of the cache that it lies in.
        secret: what it must be signed with; None if it need not be.

    Raises:
        IntegrityError: it is damaged, belongs to another key, or is not signed with `secret`.
    """
    wanted = SEAL_NAME.fullmatch(name)
    if wanted is None or hashlib.sha256(data).hexdigest() != wanted[2]:
        raise IntegrityError(f"{name} is damaged: its name does not fit its content")
    try:
        found = json.loads(data)
        body = found["seal"]
        signature = found.get("hmac", "")
        if secret is not None and not hmac.compare_digest(signature, _signature(body, secret)):
            raise IntegrityError(f"{name} is not signed with our secret")
        seal = _read_body(body, name)
    except (ArithmeticError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise IntegrityError(f"{name} is damaged: it is not a seal") from None
    if seal.environment.key != key:
        raise IntegrityError(f"{name} belongs to another key")
    return seal


def _read_body(body: Mapping[str, Any], name: str) -> Seal:
    """Return the seal in `body`; ValueError and its like if it is none."""
    environment = environment_of(body)
    files: list[SealedFile] = []
    for kind, rows in body["files"].items():
        for path, size, sha256, offset, executable, mtime_ns in rows:
            if not SHA256.fullmatch(sha256) or not all(
                isinstance(number, int) and 0 <= number < 1 << 62
                for number in (size, offset, executable, mtime_ns)
            ):
                raise ValueError(path)
            # A name that no compiler writes: left out, whatever it is.
            if may_hold(kind, path):
                files.append(
                    SealedFile(kind, path, size, sha256, offset, bool(executable), mtime_ns)
                )
    if not SHA256.fullmatch(body["pack"]):
        raise ValueError("pack")
    files.sort(key=pack_order)
    return Seal(body["pack"], int(body["pack_size"]), files, environment, name)


def _signature(body: object, secret: bytes) -> str:
    return hmac.new(secret, canonical(body), hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Holding:
    """A file, and the seal of the pack that holds it."""

    file: SealedFile
    seal: Seal


def unite(
    seals: Iterable[Seal], broken: Iterable[str] = (), machine: CompileEnvironment | None = None
) -> dict[tuple[str, str], list[Holding]]:
    """Return what each path is held as: once, but for tables, of which all versions count.

    Args:
        seals: all that are to be seen.
        broken: packs that cannot be used.
        machine: leave out units whose shared objects may need more than it has, so that it takes
            those of another seal, or saves its own; None for none.
    """
    united: dict[tuple[str, str], list[Holding]] = {}
    bad = set(broken)
    for seal in sorted(seals, key=lambda each: each.name):
        if seal.pack in bad:
            continue
        unusable = {unit_place(file.place) for file in shared_objects(seal, machine)}
        for file in seal.files:
            if unusable and unit_place(file.place) in unusable:
                continue
            held = united.setdefault(file.place, [])
            if not held or (
                is_merged(*file.place) and all(file.sha256 != h.file.sha256 for h in held)
            ):
                held.append(Holding(file, seal))
    return united


def shared_objects(seal: Seal, machine: CompileEnvironment | None) -> list[SealedFile]:
    """Return the shared objects of `seal` if they may need more than `machine` has.

    Those of GPUs are not among them: the names of the GPUs are in the key.
    """
    if machine is None or not machine.lacks(seal.environment):
        return []
    return [file for file in seal.files if file.path.endswith(".so")]


def moved_file(file: SealedFile, offset: int) -> SealedFile:
    """Return `file` as it is in another pack, at `offset`."""
    return replace(file, offset=offset)
