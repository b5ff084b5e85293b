"""Which files of a manifest an unfinished run has finished, as lines of its journal.

The journal is named by a digest of its manifest, and each of its lines has a checksum:

    pgetpy manifest 1 BOOT CRC            a run on this boot of the machine wrote what follows
    {"job": 3, "path": …, "size": …} CRC  a file that is about to get its name, or has it

A file is noted before and after it gets its name. Before, only its inode can be told. So even a run
that is killed between the rename and the second note has said what it did. The last note of a file
that is still true counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

from pgetpy.core.destinations.checked_lines import checked_line, text_of

_MAGIC = "pgetpy manifest 1"
_JSON = {True: "true", False: "false"}


class FinishedFile(NamedTuple):
    """What a run has made of one line of its manifest.

    Attributes:
        job: its place in the manifest, from 0.
        path: where it is, absolute; empty where its name was not known yet.
        size, mtime: of the file (nanoseconds); of a folder the sum of its members, and 0.
        inode: of a file; 0 of a folder.
        named: whether it had its name.
        flushed: whether it was on stable storage.
        boot: the boot of the machine on which this was noted; empty where that is not known.
        members: of a folder, the names of the files in it.
        fingerprint: of a folder, a hash of its members' names, sizes and times.
    """

    job: int
    path: str
    size: int
    mtime: int
    inode: int = 0
    named: bool = True
    flushed: bool = False
    boot: str = ""
    members: tuple[str, ...] = ()
    fingerprint: str = ""

    def is_certain(self, boot: str) -> bool:
        """Whether its content is there, seen from `boot`: a power cut may have lost it."""
        return self.flushed or (boot != "" and self.boot == boot)


def manifest_digest(lines: Iterable[tuple[str, ...]]) -> str:
    """Return what names a manifest: a hash of what its lines ask for."""
    whole = hashlib.sha256()
    for line in lines:
        whole.update(json.dumps(line).encode() + b"\n")
    return whole.hexdigest()


def manifest_journal_name(digest: str) -> str:
    """Return the name of the journal's file."""
    return f".{digest[:24]}.pgetpy-manifest"


def boot_line(boot: str) -> bytes:
    """Return the line with which a run begins."""
    return checked_line(f"{_MAGIC} {boot}")


def file_line(file: FinishedFile) -> bytes:
    """Return the line that says `file` is finished."""
    # Two lines are written for each of thousands of files: JSON by hand takes a third of the time.
    text = (
        f'{{"job": {file.job}, "path": {encode_basestring_ascii(file.path)}, "size": {file.size}, '
        f'"mtime": {file.mtime}, "inode": {file.inode}, "named": {_JSON[file.named]}'
    )
    if file.flushed:
        text += ', "flushed": true'
    if file.members or file.fingerprint:
        text += f', "members": {json.dumps(file.members)}, "fingerprint": "{file.fingerprint}"'
    return checked_line(f"{text}}}")


def unnamed_line(line: bytes) -> bytes:
    """Return the line for the time before a file has its name, given the `line` for after it."""
    before = line.rpartition(b'"named": true')[0]
    return checked_line(f'{before.decode("ascii")}"named": false}}')


def parse_manifest_journal(data: bytes) -> dict[int, list[FinishedFile]]:
    """Return what was noted of each line of the manifest, the latest last.

    Damaged lines are skipped, and what follows them still counts, unlike in the journal of a file:
    two runs may have appended at the same time.
    """
    found: dict[int, list[FinishedFile]] = {}
    boot: str | None = None
    for raw in data.split(b"\n"):
        text = text_of(raw)
        if text is None:
            continue
        if text.startswith(_MAGIC):
            boot = text[len(_MAGIC) :].strip()
            continue
        file = _file(text) if boot is not None else None
        if file is not None:
            found.setdefault(file.job, []).append(file._replace(boot=boot or ""))
    return found


def _file(text: str) -> FinishedFile | None:
    try:
        noted = json.loads(text)
        members = tuple(noted.pop("members", ()))
        usual = {"job": 0, "path": "", "size": 0, "mtime": 0, "named": False}
        return FinishedFile(**{**usual, **noted}, members=members)
    except (AttributeError, TypeError, ValueError):
        return None  # another release wrote it
