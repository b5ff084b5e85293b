"""Archives that become folders while they arrive: from a server, through the whole engine."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pgetpy

from .fetching import impatient, names_in
from .support.bodies import body
from .support.resources import Resource
from .support.server import Server

MIB = 1 << 20


def extract(url: str, folder: Path, **options: Any) -> pgetpy.DownloadResult:
    """Extract `url`; options are those of `pgetpy.extract` and fields of Settings."""
    names = {"checksum", "headers", "mirrors", "force", "progress"}
    call = {name: options.pop(name) for name in names & options.keys()}
    return pgetpy.extract(url, folder, settings=impatient(**options), **call)


def tar_of(files: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mtime = 1_700_000_000
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


WEIGHTS = {
    "model/config.json": b'{"a": 1}',
    "model/weights-1.safetensors": body(9 * MIB),
    **{f"small/{n}": body(1000 + n) for n in range(50)},
    "model/weights-2.safetensors": body(7 * MIB + 17),
    "empty": b"",
}


def test_a_plain_tar_becomes_a_folder(server: Server, tmp_path: Path) -> None:
    url = server.add("/weights.tar", Resource(tar_of(WEIGHTS)))
    result = extract(url, tmp_path / "out")
    assert contents(tmp_path / "out") == WEIGHTS
    assert set(result.members) == set(WEIGHTS)
    assert names_in(tmp_path) == ["out"]
