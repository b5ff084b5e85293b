"""The archives that cases extract: what is in them, how they are made, what they leave behind.

Everything follows from the recipe, so that every machine extracts the same tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import statistics
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from scripts.bench.measure import RunFailedError

_BLOCK = 1 << 20
_FOLDER = 1000
_MTIME = 1_700_000_000
# As people make them: at the programs' own levels.
_COMPRESSORS = {"gz": ("gzip", "-c"), "zst": ("zstd", "-q", "-c"), "lz4": ("lz4", "-q", "-c")}
# Weights are near to normally distributed about zero. That fixes a bfloat16's sign and all but one
# bit of its exponent, its upper byte, to about 2.8 bits of entropy; the lower byte is noise.
_WEIGHTS = statistics.NormalDist(0.0, 0.02)
_UPPER = bytes(
    struct.pack("<f", _WEIGHTS.inv_cdf((number + 0.5) / 256))[3] for number in range(256)
)


@dataclass(frozen=True)
class Files:
    """So many files of one size."""

    count: int
    size: int


@dataclass(frozen=True)
class Member:
    """A file in an archive; `seed` decides its bytes."""

    name: str
    size: int
    seed: int


@dataclass(frozen=True)
class Recipe:
    """What is in an archive, and its `kind`: tar, tar.gz, tar.zst, tar.lz4 or zip."""

    kind: str
    large: Files = Files(0, 0)
    small: Files = Files(0, 0)

    @property
    def name(self) -> str:
        parts = (f"{part.count}x{part.size}" for part in (self.large, self.small) if part.count)
        return f"{'-'.join(parts)}.{self.kind}"

    def scaled(self, by: Callable[[int], int]) -> Recipe:
        """Return the recipe with smaller large files and fewer small ones."""
        large = replace(self.large, size=by(self.large.size))
        small = replace(self.small, count=by(self.small.count) if self.small.count else 0)
        return replace(self, large=large, small=small)

    def members(self) -> list[Member]:
        """Return the files in archive order: the large ones stand between two halves of small."""
        small = [f"part-{n // _FOLDER:03}/{n:05}.bin" for n in range(self.small.count)]
        large = [f"model-{n:05}.safetensors" for n in range(self.large.count)]
        half = len(small) // 2
        ordered = (
            *((name, self.small.size) for name in small[:half]),
            *((name, self.large.size) for name in large),
            *((name, self.small.size) for name in small[half:]),
        )
        return [Member(name, size, seed) for seed, (name, size) in enumerate(ordered)]


def write_archive(path: Path, recipe: Recipe) -> str:
    """Make the archive at `path`; return the digest of the tree that it holds."""
    members = recipe.members()
    if recipe.kind == "zip":
        return _write_zip(path, members)
    compression = recipe.kind.partition(".")[2]
    with path.open("wb") as file, _compressed(compression, file) as out:
        return _write_tar(out, members)


def tree_digest(digests: Mapping[str, str]) -> str:
    """Return one digest for files, given the sha256 of each by its name."""
    lines = (f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _bfloat16(size: int, seed: int) -> Iterator[bytearray]:
    """Yield `size` bytes that compress as weights do: zstd to 0.78, gzip to 0.80, lz4 not at all.

    No block comes twice, as zstd would find the first one in its window.
    """
    noise = random.Random(seed)
    for start in range(0, size, _BLOCK):
        block = bytearray(noise.randbytes(min(_BLOCK, size - start)))
        block[1::2] = block[1::2].translate(_UPPER)
        yield block


def _write_member(member: Member, out: IO[bytes]) -> str:
    digest = hashlib.sha256()
    for block in _bfloat16(member.size, member.seed):
        digest.update(block)
        out.write(block)
    return digest.hexdigest()


def _write_tar(out: IO[bytes], members: Sequence[Member]) -> str:
    digests: dict[str, str] = {}
    folders = {""}
    for member in members:
        folder = member.name.rpartition("/")[0]
        if folder not in folders:
            folders.add(folder)
            out.write(_tar_header(folder, tarfile.DIRTYPE, 0o755, 0))
        out.write(_tar_header(member.name, tarfile.REGTYPE, 0o644, member.size))
        digests[member.name] = _write_member(member, out)
        out.write(bytes(-member.size % tarfile.BLOCKSIZE))
    out.write(bytes(tarfile.RECORDSIZE))
    return tree_digest(digests)


def _tar_header(name: str, kind: bytes, mode: int, size: int) -> bytes:
    header = tarfile.TarInfo(name)
    header.type, header.mode, header.size, header.mtime = kind, mode, size, _MTIME
    return header.tobuf(tarfile.GNU_FORMAT)


def _write_zip(path: Path, members: Sequence[Member]) -> str:
    """Write the members stored and deflated in turn."""
    digests: dict[str, str] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for number, member in enumerate(members):
            entry = zipfile.ZipInfo(member.name)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
            entry.file_size = member.size
            with archive.open(entry, "w") as out:
                digests[member.name] = _write_member(member, out)
    return tree_digest(digests)


@contextlib.contextmanager
def _compressed(kind: str, file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield what compresses into `file`; the file itself for no compression."""
    if not kind:
        yield file
        return
    command = _COMPRESSORS[kind]
    if shutil.which(command[0]) is None:
        raise RunFailedError(f"{command[0]}, which makes the archive, is not installed")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as process:
        assert process.stdin is not None
        yield process.stdin
    if process.returncode != 0:
        raise RunFailedError(f"{command[0]}, which makes the archive, failed")
