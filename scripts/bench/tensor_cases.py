"""Cases of tensors and LoRAs, on the CPU and on a GPU."""

from __future__ import annotations

from dataclasses import replace

from scripts.bench import peers
from scripts.bench.comparison import FEW, Case, Entrant, Goal
from scripts.bench.peers import Peer
from scripts.bench.servers import nginx, origin
from scripts.bench.work import Loaded, Swapped
from scripts.origin import Behaviour

_GB = 1_000_000_000


def _loaded(name: str, way: str) -> Entrant:
    work = Loaded(way, 2 * _GB, nginx("plain"))
    return Entrant(replace(peers.TORCH, name=name), work.attempt)


def _on_gpu(name: str, way: str, size: int, peer: Peer = peers.CUDA) -> Entrant:
    # Of our own origin, as machines with a GPU seldom have nginx.
    file = way in ("load_file", "fastsafetensors", "runai")
    work = Loaded(way, size, origin(Behaviour()), peers.GPU, file)
    return Entrant(replace(peer, name=name), work.attempt)


def _gpu_case(name: str, title: str, size: int, *goals: Goal) -> Case:
    """Tensors on a GPU, from a URL and from a file that is there."""
    entrants = (
        _on_gpu("tensors.load", "tensors", size),
        _on_gpu("download, load_file", "download", size),
        _on_gpu("tensors.load, cached", "cached", size),
        _on_gpu("load_file, from disk", "load_file", size),
        _on_gpu("fastsafetensors, from disk", "fastsafetensors", size, peers.FASTSAFETENSORS),
        _on_gpu("runai-model-streamer, from disk", "runai", size, peers.RUNAI),
    )
    about = "The first two begin with a URL, the others with a file that is in memory."
    return Case(name, title, entrants, goals, about, FEW)


def _swap_case(name: str, title: str, device: str, peer: Peer) -> Case:
    ways = {
        "LoraComposer, cached": "apply",
        "load_lora_weights": "load",
        "LoraComposer, by URL": "cold",
        "download, load_lora_weights": "download",
        "another scale, beyond set_adapters": "scale",
    }
    site = origin(Behaviour())
    return Case(
        name,
        title,
        tuple(
            Entrant(replace(peer, name=said), Swapped(way, device, site).attempt)
            for said, way in ways.items()
        ),
        (
            Goal("wall", "load_lora_weights", 1.1, "LoraComposer, cached"),
            Goal("wall", None, 0.005, "another scale, beyond set_adapters"),
        ),
        "Time is that of the swap alone; CPU and memory are of the whole process, with its model.",
        FEW,
    )


TENSORS = (
    Case(
        "tensors",
        "URL to 2 GB of tensors on the CPU and in the cache, every byte read",
        (
            _loaded("tensors.load", "tensors"),
            _loaded("download, load_file", "download"),
            _loaded("pget -m 16M, load_file", "pget"),
            _loaded("tensors.load, cached", "cached"),
        ),
        (
            Goal("wall", "download, load_file", 0.8, "tensors.load"),
            Goal("wall", "pget -m 16M, load_file", 0.6, "tensors.load"),
        ),
        "Tensors are there while the rest of their file arrives. Memory is without files' pages.",
        FEW,
        "The cache computes sha256, which a download does not: 1.4 s of CPU for these 2 GB.",
    ),
    _gpu_case(
        "gpu",
        "URL to 4 GB of tensors on a GPU and in the cache",
        4 * _GB,
        Goal("wall", "download, load_file", 0.65, "tensors.load"),
        Goal("rss", None, 1e9, "tensors.load"),
    ),
    _gpu_case("gpu-small", "URL to 10 MB of tensors on a GPU and in the cache", 10_000_000),
    _swap_case("lora", "Put a LoRA of 100 MB on a pipeline on the CPU", "cpu", peers.TORCH),
    _swap_case(
        "gpu-lora", "Put a cached LoRA of 100 MB on a pipeline on a GPU", peers.GPU, peers.CUDA
    ),
)
