"""Trees as torch, Triton and vLLM leave them, made up: names, contents and references are right."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgetpy.compile_cache import CompileCache

TORCH_VERSION = "__version__ = '2.13.0+made.up'\ngit_version = 'abc'\ncuda = None\nhip = None\n"


def install_torch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = TORCH_VERSION
) -> None:
    """Have a torch on the path that cannot be imported: only its version may be read."""
    package = folder / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('nothing may import torch here')\n")
    (package / "version.py").write_text(version)
    monkeypatch.syspath_prepend(str(folder))


def elf(payload: bytes) -> bytes:
    """Return a file with the header of a 64-bit ELF, whose section table is at its end."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 40, 64 + len(payload))
    struct.pack_into("<HH", header, 58, 64, 1)
    return bytes(header) + payload + bytes(64)


def content_name(data: bytes) -> str:
    return base64.b32encode(hashlib.sha256(data).digest())[:51].decode().lower()


class Tree:
    """Writes files as compilers do, from a seed."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = root
        self._random = random.Random(seed)

    def write(self, path: str, data: bytes) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target

    def _bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def graph(self, size: int = 3000) -> list[Path]:
        """One graph of Inductor: wrapper, kernel, and the two pickles that refer to them."""
        name = "c" + content_name(self._bytes(8))
        text = f"# {self._bytes(size // 2).hex()}\n".encode()
        pickled = b"\x80\x04" + self._bytes(size)
        key = content_name(self._bytes(8))
        return [
            self.write(f"{name[1:3]}/{name}.py", text),
            self.write(f"{name[2:4]}/{name}.cpp", text),
            self.write(f"{name[2:4]}/{name}.so", elf(self._bytes(size))),
            self.write(f"fxgraph/{key[1:3]}/f{key}/{content_name(pickled)}", pickled),
            self.write(f"aotautograd/a{key}/{content_name(pickled)}", pickled),
        ]

    def kernel(self, prefix: str = "", size: int = 2000) -> Path:
        """One kernel of Triton; returns its folder."""
        name = content_name(self._bytes(8)).upper()
        folder = self.root / prefix / name
        children = {}
        for suffix in ("source", "ttir", "ptx", "json"):
            data = b"{}" if suffix == "json" else self._bytes(size // 3)
            path = self.write(f"{prefix}{name}/kernel.{suffix}", data)
            children[path.name] = str(path)
        group = {"child_paths": children}
        self.write(f"{prefix}{name}/__grp__kernel.json", json.dumps(group).encode())
        return folder

    def table(self, name: str, content: dict[str, object]) -> Path:
        return self.write(f"cache/{name}", json.dumps(content).encode())


class Machine:
    """Live folders that `CompileCache` finds by the environment, as another start or host has them.

    Args:
        home: everything is below this folder.
        monkeypatch: sets the variables.
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._monkeypatch = monkeypatch
        self.inductor = Tree(home / "inductor")
        self.triton = Tree(home / "triton", seed=1)

    def cache(self, location: Path | str, **options: object) -> CompileCache:
        """Return a cache of this machine."""
        self.boot()
        return CompileCache(location, **options)  # type: ignore[arg-type]

    def boot(self) -> None:
        """Have the environment name the folders of this machine."""
        self.home.mkdir(parents=True, exist_ok=True)
        for name, value in {
            "HOME": self.home,
            "TMPDIR": self.home,
            "TORCHINDUCTOR_CACHE_DIR": self.inductor.root,
            "TRITON_CACHE_DIR": self.triton.root,
            "VLLM_CACHE_ROOT": self.home / "vllm",
        }.items():
            self._monkeypatch.setenv(name, str(value))
        self._monkeypatch.setattr("tempfile.tempdir", None)


def contents(root: Path) -> dict[str, bytes]:
    """Return all regular files below `root` but staged ones; group files without the folder's own
    path."""
    found = {}
    for path in _files(root):
        data = path.read_bytes()
        if path.name.startswith("__grp__"):
            data = json.dumps(json.loads(data), sort_keys=True).encode()
            data = data.replace(str(root).encode(), b"ROOT")
        found[str(path.relative_to(root))] = data
    return found


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and ".pgetpy-stage-" not in str(path):
            yield path
