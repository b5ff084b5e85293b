"""Zip archives: by zipfile, by Info-ZIP's zip, and put together of fields that may be wrong."""

import io
import stat
import struct
import subprocess
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# "Version made by": the host in the upper byte.
UNIX, DOS, NTFS = 3 << 8 | 20, 20, 11 << 8 | 20


@dataclass(frozen=True)
class Entry:
    """Fields for `made`, which believes them all."""

    name: bytes = b"name"
    data: bytes = b"data"
    host: int = DOS
    external: int = 0
    extra: bytes = b""
    flags: int = 0
    method: int = zipfile.ZIP_STORED
    date: int = 40 << 9 | 5 << 5 | 6
    time: int = 0
    size: int | None = None
    crc32: int | None = None
    compressed_size: int | None = None
    disk: int = 0
    position: int | None = None
    local_name: bytes | None = None
    local_method: int | None = None
    local_flags: int | None = None
    local_size: int | None = None
    local_extra: bytes = b""


def field(tag: int, content: bytes) -> bytes:
    return struct.pack("<HH", tag, len(content)) + content


def end(
    count: int, size: int, offset: int, comment: bytes = b"", disk: int = 0, here: int | None = None
) -> bytes:
    here = count if here is None else here
    fields = (disk, disk, here, count, size, offset, len(comment))
    return struct.pack("<4s4H2IH", b"PK\5\6", *fields) + comment


def end64(position: int, count: int, size: int, offset: int, **other: int) -> bytes:
    """The zip64 end record and its locator."""
    needed = other.get("needed", 45)
    more = bytes(other.get("more", 0))
    fields = (44 + len(more), 45, needed, 0, 0, count, count, size, offset)
    record = struct.pack("<4sQ2H2I4Q", b"PK\6\6", *fields) + more
    disks = other.get("disks", 1)
    return record + struct.pack("<4sIQI", b"PK\6\7", 0, other.get("stated", position), disks)


def parts(*entries: Entry) -> tuple[bytes, bytes]:
    """Return the members' bytes and the central directory."""
    body = directory = b""
    for e in entries:
        position = len(body) if e.position is None else e.position
        compressed = len(e.data) if e.compressed_size is None else e.compressed_size
        size = len(e.data) if e.size is None else e.size
        crc = zlib.crc32(e.data) if e.crc32 is None else e.crc32
        name = e.name if e.local_name is None else e.local_name
        method = e.method if e.local_method is None else e.local_method
        flags = e.flags if e.local_flags is None else e.local_flags
        local_size = size if e.local_size is None else e.local_size
        local = (20, flags, method, e.time, e.date, crc, compressed, local_size)
        body += struct.pack("<4s5H3I2H", b"PK\3\4", *local, len(name), len(e.local_extra))
        body += name + e.local_extra + e.data
        central = (e.host, 20, e.flags, e.method, e.time, e.date, crc, compressed, size)
        rest = (len(e.name), len(e.extra), 0, e.disk, 0, e.external, position)
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", *central, *rest) + e.name + e.extra
    return body, directory


def made(*entries: Entry, comment: bytes = b"") -> bytes:
    body, directory = parts(*entries)
    return body + directory + end(len(entries), len(directory), len(body), comment)


def by_zipfile(
    files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = comment
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def zipped(folder: Path, *arguments: str, stream: bool = False) -> bytes:
    """What `zip` makes of the folder, as a file or through a pipe."""
    target = folder.parent / "made.zip"
    command = ["zip", "-qr", *arguments, "-" if stream else str(target), "."]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
    return done.stdout if stream else target.read_bytes()


def deflated(data: bytes, level: int = 6) -> bytes:
    """What stands in an archive of a member that is deflated: the raw stream."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


def deflated_entry(name: bytes, content: bytes, **changes: Any) -> Entry:
    """A deflated member as it should be, but for the changes."""
    size, crc32 = len(content), zlib.crc32(content)
    data = changes.pop("data") if "data" in changes else deflated(content)
    right = Entry(name, data, UNIX, method=8, size=size, crc32=crc32)
    return replace(right, **changes)


@dataclass(frozen=True)
class Member:
    """What `packed` makes a member of: a name that ends in a slash is a folder's."""

    name: str
    data: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    method: int = zipfile.ZIP_STORED
    date_time: tuple[int, int, int, int, int, int] = (2023, 11, 14, 22, 13, 20)
    extra: bytes = b""

    @property
    def info(self) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(self.name, self.date_time)
        # As writers on Unix do, on whichever system this runs.
        info.create_system = 3
        info.external_attr = self.mode << 16
        info.compress_type = self.method
        info.extra = self.extra
        return info


def link(name: str, target: str) -> Member:
    return Member(name, target.encode(errors="surrogateescape"), stat.S_IFLNK | 0o777)


def packed(members: Iterable[Member], prefix: bytes = b"") -> bytes:
    """An archive of the members in their order, by zipfile."""
    made = io.BytesIO()
    made.write(prefix)
    with warnings.catch_warnings():
        # It warns of names that are there already.
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(made, "a" if prefix else "w") as archive:
            for member in members:
                archive.writestr(member.info, member.data)
    return made.getvalue()


def spans_of(archive: bytes) -> dict[str, tuple[int, int]]:
    """Where each member, with its header, stands in an archive that zipfile made."""
    with zipfile.ZipFile(io.BytesIO(archive)) as reader:
        infos = sorted(reader.infolist(), key=lambda info: info.header_offset)
        stops = [info.header_offset for info in infos[1:]] + [reader.start_dir]
    return {
        info.filename: (info.header_offset, stop) for info, stop in zip(infos, stops, strict=True)
    }
