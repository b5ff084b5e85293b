"""LoRA files, and a pipeline that is stricter than the real ones and says what it would paint."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.bodies import body

# A picture: what was added to the base, at which scale, in the order of the additions.
Picture = tuple[tuple[str, float], ...]
BASE: Picture = ()
WIDTH = 32


def safetensors(shapes: Mapping[str, tuple[int, ...]], seed: object = "") -> bytes:
    """A file of bytes (U8) in these shapes."""
    header: dict[str, Any] = {"__metadata__": {"seed": str(seed)}}
    at = 0
    for name, shape in shapes.items():
        size = 1
        for length in shape:
            size *= length
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body(at, str(seed))


def lora(name: str, *, width: int = WIDTH, component: str = "unet", extra: str = "") -> bytes:
    """A LoRA called `name` for an attention of that width; `extra` is one more tensor."""
    module = f"{component}.mid.attn.to_q"
    shapes: dict[str, tuple[int, ...]] = {
        f"{module}.lora_A.weight": (4, width),
        f"{module}.lora_B.weight": (width, 4),
    }
    if extra:
        shapes[extra] = (3,)
    return safetensors(shapes, name)


def named(path: str) -> str:
    """What the LoRA at `path` was called when it was made."""
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    return str(json.loads(data[8 : 8 + length])["__metadata__"]["seed"])


class Part:
    """A component: named modules with widths, as torch's have them."""

    def __init__(self, **modules: int) -> None:
        self._modules = {
            name.replace("__", "."): SimpleNamespace(in_features=width, out_features=width)
            for name, width in modules.items()
        }

    def named_modules(self) -> list[tuple[str, object]]:
        return [("", self), *self._modules.items()]


class FakePipeline:
    """Loads, activates and forgets LoRAs; every call is noted, and wrong ones are errors.

    Attributes:
        before: is given each call's name before it does anything, and may raise.
        midway: is given each call's name when it is half done, and may raise.
    """

    _lora_loadable_modules = ("unet", "text_encoder")

    def __init__(self) -> None:
        self.unet = Part(mid__attn__to_q=WIDTH)
        self.text_encoder = Part()
        self.calls: list[str] = []
        self.before: Callable[[str], object] = lambda name: None
        self.midway: Callable[[str], object] = lambda name: None
        self.adapters: dict[str, str] = {}
        self.weights: dict[str, float] = {}
        self.disabled = False
        # Loaded by halves: such a thing shows in every picture.
        self.half: set[str] = set()

    def picture(self) -> Picture:
        """What it would paint."""
        assert self.half == set(), "an adapter is loaded by halves"
        if self.disabled:
            return BASE
        return tuple((self.adapters[name], scale) for name, scale in self.weights.items())

    def drain(self) -> list[str]:
        """The calls since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def load_lora_weights(self, path: str, *, adapter_name: str) -> None:
        assert path.endswith(".safetensors")
        assert adapter_name.isidentifier()
        self._begin("load")
        assert adapter_name not in self.adapters, "it is loaded already"
        self.half.add(adapter_name)
        self.midway("load")
        self.adapters[adapter_name] = named(path)
        self.weights[adapter_name] = 1.0  # a new one is active at once
        self.half.discard(adapter_name)

    def set_adapters(self, adapter_names: list[str], *, adapter_weights: list[float]) -> None:
        self._begin("set")
        assert adapter_names, "diffusers fails for none"
        assert len(set(adapter_names)) == len(adapter_names) == len(adapter_weights)
        assert set(adapter_names) <= set(self.adapters)
        self.weights = dict(zip(adapter_names[:1], adapter_weights, strict=False))
        self.midway("set")
        self.weights = dict(zip(adapter_names, adapter_weights, strict=True))

    def unload_lora_weights(self) -> None:
        self._begin("unload")
        self.adapters.clear()
        self.midway("unload")
        self.weights.clear()
        self.half.clear()
        self.disabled = False

    def delete_adapters(self, adapter_names: list[str]) -> None:
        self._begin("delete")
        alone = not self.disabled and set(adapter_names) < set(self.adapters)
        for name in adapter_names:
            assert not (alone and name in self.weights), "peft would activate another"
            self.adapters.pop(name, None)
            self.midway("delete")
            self.weights.pop(name, None)
            self.half.discard(name)

    def disable_lora(self) -> None:
        self._begin("disable")
        self.midway("disable")
        self.disabled = True

    def enable_lora(self) -> None:
        self._begin("enable")
        self.midway("enable")
        self.disabled = False

    def _begin(self, name: str) -> None:
        self.calls.append(name)
        self.before(name)


def without(*names: str) -> FakePipeline:
    """A pipeline that lacks these methods."""

    class Poorer(FakePipeline):
        def __getattribute__(self, name: str) -> Any:
            if name in names:
                raise AttributeError(name)
            return super().__getattribute__(name)

    return Poorer()
