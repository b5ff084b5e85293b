"""Wheels made by the tests, and a configuration of uv that knows no others."""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, bytes],
    *,
    scripts: Mapping[str, str] | None = None,
    executable: tuple[str, ...] = (),
    requires: tuple[str, ...] = (),
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel.

    Args:
        folder: where.
        name: of the package.
        version: of the package.
        files: the content of its files.
        scripts: the functions that commands call, as `package:function`.
        executable: the paths of files that are programs.
        requires: what it depends on.
        tag: what it fits.
    """
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    whole = dict(files) | {
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode()
        ),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    if scripts:
        lines = "".join(f"{command} = {target}\n" for command, target in scripts.items())
        whole[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}".encode()
    record = "".join(f"{path},{_digest(data)},{len(data)}\n" for path, data in whole.items())
    whole[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in whole.items():
            member = zipfile.ZipInfo(each)
            member.external_attr = (0o100755 if each in executable else 0o100644) << 16
            archive.writestr(member, data)
    return path


def _digest(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def configure_uv(path: Path, wheels: Path) -> Path:
    """Write the configuration of uv to `path`: there are the wheels of a folder, and no network."""
    links = json.dumps([str(wheels)])
    path.write_text(f"[pip]\nno-index = true\nfind-links = {links}\n")
    return path
