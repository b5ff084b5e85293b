"""What is timed of tensors: a program that loads a checkpoint and prints the seconds it took.

python -m scripts.bench.loads tensors URL FOLDER DEVICE      into a new cache at FOLDER
python -m scripts.bench.loads download URL FOLDER DEVICE     pgetpy.download, then load_file
python -m scripts.bench.loads pget URL FOLDER DEVICE         pget -m 16M, then load_file
python -m scripts.bench.loads cached URL FOLDER DEVICE       out of a cache that has it
python -m scripts.bench.loads load_file PATH FOLDER DEVICE   safetensors' own
python -m scripts.bench.loads fastsafetensors PATH FOLDER DEVICE
python -m scripts.bench.loads runai PATH FOLDER DEVICE       runai-model-streamer

Every byte of every tensor is read once within the time, whoever loaded it: to map a file takes no
time, and to use it does. Imports and the start of the device are not counted. Printed as JSON: the
seconds, a sum over all bytes, and the most memory taken meanwhile that is no file's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

Tensors = dict[str, Any]
_SAMPLE_SECONDS = 0.005


def _tensors(url: str, folder: Path, device: str) -> Tensors:
    import pgetpy
    from pgetpy import tensors

    cache = pgetpy.WeightsDownloadCache(folder / "cache", min_disk_free=0)
    return tensors.load(url, device=device, cache=cache)


def _download(url: str, folder: Path, device: str) -> Tensors:
    import pgetpy

    dest = folder / "model.safetensors"
    pgetpy.download(url, dest)
    return _load_file(str(dest), folder, device)


def _pget(url: str, folder: Path, device: str) -> Tensors:
    dest = folder / "model.safetensors"
    subprocess.run(["pget", "-m", "16M", url, str(dest)], check=True, capture_output=True)
    return _load_file(str(dest), folder, device)


def _load_file(path: str, folder: Path, device: str) -> Tensors:
    from safetensors.torch import load_file

    return load_file(path, device=device)


def _fastsafetensors(path: str, folder: Path, device: str) -> Tensors:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    loader = SafeTensorsFileLoader(SingleGroup(), torch.device(device), nogds=True)
    loader.add_filenames({0: [path]})
    buffer = loader.copy_files_to_device()
    return {name: buffer.get_tensor(name) for name in loader.get_keys()}


def _runai(path: str, folder: Path, device: str) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        return {name: tensor.to(device) for name, tensor in streamer.get_tensors()}


_WAYS: dict[str, Callable[[str, Path, str], Tensors]] = {
    "tensors": _tensors,
    "cached": _tensors,
    "download": _download,
    "pget": _pget,
    "load_file": _load_file,
    "fastsafetensors": _fastsafetensors,
    "runai": _runai,
}


def main() -> None:
    """Load as the arguments say."""
    _, way, place, folder, device = sys.argv
    _prepare(way, device)
    with _memory_watched() as peak:
        begin = time.perf_counter()
        found = _WAYS[way](place, Path(folder), device)
        total = touched(found)
        seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "sum": total, "memory": peak[0]}))


def touched(tensors: Tensors) -> int:
    """Return the sum of all tensors' bytes, eight at a time, so that each has been read."""
    total = torch.zeros((), dtype=torch.int64, device=next(iter(tensors.values())).device)
    for tensor in tensors.values():
        flat = tensor.reshape(-1).view(torch.uint8)
        even = flat.numel() // 8 * 8
        # Sums wrap around; tensors need not begin where eight bytes at a time could be read.
        if flat.data_ptr() % 8:
            flat = flat.clone()
        total += flat[:even].view(torch.int64).sum() + flat[even:].sum(dtype=torch.int64)
    return int(total)


def _prepare(way: str, device: str) -> None:
    """Do what any process has to do once, whatever it loads and by whom."""
    theirs = {"fastsafetensors": "fastsafetensors", "runai": "runai_model_streamer"}
    modules = ["safetensors.torch", "pgetpy.api", "pgetpy.weights.fetch", "pgetpy.tensors"]
    for module in [theirs[way]] if way in theirs else modules:
        importlib.import_module(module)
    torch.zeros(1, device=device).sum().item()


@contextlib.contextmanager
def _memory_watched() -> Iterator[list[int]]:
    """Give the most bytes that this process takes beyond those at first, but for files' pages."""
    first, peak, ended = _memory(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_SAMPLE_SECONDS):
            peak[0] = max(peak[0], _memory() - first)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()


def _memory() -> int:
    fields = dict(
        line.split(":")
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":" in line
    )
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


if __name__ == "__main__":
    main()
