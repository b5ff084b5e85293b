"""A pipeline in memory: its modules once, and a view for each request that uses them.

Requests with the same LoRAs run side by side; another set of LoRAs waits until they are done.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pgetpy.core.lora.composition import Slot
from pgetpy.core.pipelines.memory import MemoryUse, Storage
from pgetpy.lora.base import adapters_in
from pgetpy.lora.composer import LoraComposer
from pgetpy.pipelines.building import BuiltPipeline
from pgetpy.pipelines.loader import modules_of
from pgetpy.pipelines.lora_files import Composition, PlannedLoras
from pgetpy.pipelines.turns import PipelineTurn, PipelineTurns
from pgetpy.pipelines.views import ViewParts, view_of


class ResidentPipeline:
    """A pipeline that was loaded. Views keep it alive.

    Args:
        pipeline: without LoRAs; nothing else uses it.
        built: its files, which stay on disk as long as it is in memory.
        loras: where its composer gets files.

    Attributes:
        key: of the base.
        turns: who uses it.
    """

    def __init__(self, pipeline: Any, built: BuiltPipeline, loras: PlannedLoras) -> None:
        self.key = built.manifest.base_key
        self.turns = PipelineTurns()
        self._pipeline = pipeline
        self._loras = loras
        self._parts = ViewParts(pipeline, built.path)
        # Some decoders keep frames on themselves while they work, and can do one thing at a time.
        self._alone = any(map(is_stateful, modules_of(pipeline).values()))
        self._composer: LoraComposer | None = None
        self._composed: Composition | None = ()
        self._adapters: frozenset[str] = frozenset()
        self._storages: Mapping[Storage, int] | None = None
        weakref.finalize(self, built.close)

    def turn(self, composition: Composition) -> PipelineTurn:
        """Return a place in the queue of those who use this pipeline."""
        return self.turns.take((object(), composition) if self._alone else composition)

    def is_composed(self, composition: Composition) -> bool:
        """Whether the pipeline has these LoRAs, and other code has put no others there."""
        return self._composed == composition and adapters_in(self._pipeline) == self._adapters

    def compose(
        self, composition: Composition, slots: Mapping[str, Slot], paths: Mapping[str, Path]
    ) -> None:
        """Give the pipeline these LoRAs and no others. It must not be in use.

        Args:
            composition: what is made.
            slots: what the composer is asked for.
            paths: of the files, by reference.

        Raises:
            PgetError: see `LoraComposer.apply`. The pipeline is composed again the next time.
        """
        self._composed = None
        if self._composer is None:
            self._composer = LoraComposer(self._pipeline, self._loras)
        self._loras.put(paths)
        self._composer.apply(slots)
        self._adapters = adapters_in(self._pipeline)
        self._storages = None
        self._composed = composition

    def view(self) -> LentView:
        """Return a pipeline for one request."""
        return LentView(self, self._pipeline, self._parts)

    @property
    def use(self) -> MemoryUse:
        """What it takes, and whether it is in use."""
        # Counted when someone asks: that takes as long as a fiftieth of loading.
        storages = self._storages
        if storages is None:
            storages = self._storages = storages_of(self._pipeline)
        return MemoryUse(self.key, storages, self.turns.in_use())


class LentView:
    """A view, and what it gives back at the end."""

    def __init__(self, resident: ResidentPipeline, pipeline: Any, parts: ViewParts) -> None:
        self._parts = parts
        self._own = parts.take()
        self.pipeline = view_of(pipeline, self._own, resident)

    def close(self) -> None:
        """End the use. The view is empty then: its tokenizers are for others, and a variable that
        still names it does not keep the modules in memory."""
        vars(self.pipeline).clear()
        self._parts.give_back(self._own)


def storages_of(pipeline: Any) -> dict[Storage, int]:
    """Return the bytes of each storage that the tensors of a pipeline have."""
    found = {}
    for module in modules_of(pipeline).values():
        for each in (*module.parameters(), *module.buffers()):
            for tensor in _plain_tensors(each):
                if tensor.is_meta:
                    continue
                storage = tensor.untyped_storage()
                found[Storage(str(tensor.device), storage.data_ptr())] = storage.nbytes()
    return found


def _plain_tensors(tensor: Any) -> Iterator[Any]:
    """Yield the tensors that have the memory: those of quantisers are made of several others."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    for name in flatten()[0]:
        yield from _plain_tensors(getattr(tensor, name))


def is_stateful(module: Any) -> bool:
    """Whether a module keeps what it works on, as decoders of videos do for causal convolutions."""
    return callable(getattr(type(module), "clear_cache", None))
