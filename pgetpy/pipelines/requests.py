"""From a specification to a pipeline that one request may use: found in memory, or loaded."""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pgetpy.core.pipelines.build_manifest import BuildManifest
from pgetpy.core.pipelines.memory import MemorySize
from pgetpy.core.pipelines.plans import LORAS, PipelinePlan
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.errors import UsageError
from pgetpy.lora.base import parts_of
from pgetpy.pipelines.building import BuiltPipeline, PipelineBuilder
from pgetpy.pipelines.fetching import held_files
from pgetpy.pipelines.loader import LoadSource, load_pipeline, modules_of
from pgetpy.pipelines.lora_files import ComposedLora, Composition, PlannedLoras, slots_for
from pgetpy.pipelines.memory import PipelineMemory
from pgetpy.pipelines.resident import LentView, ResidentPipeline, is_stateful
from pgetpy.pipelines.resolver import PlanResolver
from pgetpy.pipelines.turns import PipelineTurn
from pgetpy.system.model_loads import in_loading, loading
from pgetpy.weights.cache import WeightsDownloadCache

# Specifications of which it is remembered what they mean.
_MOST = 1000


class _Known(NamedTuple):
    """What a specification means, as long as its plan holds."""

    plan: PipelinePlan
    key: str
    loras: tuple[str, ...]


@dataclass(eq=False)
class PipelineRequests:
    """Serves the requests of one store.

    Args:
        resolver: has the plans.
        builder: builds on disk what is not in memory.
        cache: has the LoRA files.
        memory: has the pipelines.
        device: where pipelines are put, as torch names it; None for a GPU if there is one.
        prepare: is called with each pipeline that was loaded, before anything is made with it.
    """

    _resolver: PlanResolver
    _builder: PipelineBuilder
    _cache: WeightsDownloadCache
    _memory: PipelineMemory
    _device: str | None
    _prepare: Callable[[Any], object] | None
    _known: dict[str, _Known] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # Components that several pipelines may use, by what is in them.
    _components: weakref.WeakValueDictionary[str, Any] = field(
        default_factory=weakref.WeakValueDictionary
    )

    def begin(self, spec: PipelineSpec) -> tuple[PipelineTurn, LentView]:
        """Return a pipeline with the LoRAs of `spec`, and the turn to use it.

        Raises:
            PgetError: see `PipelineStore.pipeline`.
        """
        if in_loading():
            raise UsageError(
                "a pipeline was asked for within loading(), which would keep all others from "
                "loading: leave that `with` block first"
            )
        resident, known = self._resident(spec)
        composition = tuple(
            ComposedLora(sha256, each.scale, each.component)
            for sha256, each in zip(known.loras, spec.loras, strict=True)
        )
        turn = resident.turn(composition)
        try:
            if turn.wait(lambda: resident.is_composed(composition)):
                self._compose(resident, spec, known.plan, composition)
            return turn, resident.view()
        except BaseException:
            turn.over = True
            raise

    def _resident(self, spec: PipelineSpec) -> tuple[ResidentPipeline, _Known]:
        plan = self._resolver.plan(spec)
        with self._lock:
            known = self._known.get(spec.unscaled_identity)
        if known is not None and known.plan is plan:
            found = self._memory.find(known.key)
            if found is not None:
                return found, known
        with ExitStack() as closing:
            built = closing.enter_context(self._builder.build(spec, plan))
            known = _Known(plan, built.manifest.base_key, _lora_digests(built.manifest))
            found = self._memory.find(known.key)
            if found is None:
                with loading():
                    found = self._memory.find(known.key)
                    if found is None:
                        found = self._load(spec, plan, built)
                        closing.pop_all()  # it is closed when the pipeline leaves memory
                self._memory.trim(used=known.key)
        with self._lock:
            self._known[spec.unscaled_identity] = known
            if len(self._known) > _MOST:
                del self._known[next(iter(self._known))]
        return found, known

    def _load(
        self, spec: PipelineSpec, plan: PipelinePlan, built: BuiltPipeline
    ) -> ResidentPipeline:
        """Return the pipeline in the folder of `built`, added to what is in memory."""
        device = self._device_name()
        size = sum(each.size for each in built.manifest.subjects)
        self._memory.trim(MemorySize(size) if device == "cpu" else MemorySize(gpu=size))
        source = LoadSource(built.path, plan.pipeline, plan.chosen.weights, spec)
        keys = {
            name: _component_key(built.manifest, spec, name)
            for name in plan.chosen.weights
            if name and spec.shares(name)
        }
        pipeline = load_pipeline(
            source, device, lambda name: self._components.get(keys.get(name, ""))
        )
        self._offer(pipeline, keys)
        if self._prepare is not None:
            self._prepare(pipeline)
        resident = ResidentPipeline(pipeline, built, PlannedLoras(self._cache))
        self._memory.keep(resident)
        return resident

    def _offer(self, pipeline: Any, keys: dict[str, str]) -> None:
        """Let pipelines that are loaded later use the components of this one.

        Those that LoRAs change, or that keep state, are left out.
        """
        own = set(parts_of(pipeline) or ())
        for name, module in modules_of(pipeline).items():
            if name in keys and name not in own and not is_stateful(module):
                self._components.setdefault(keys[name], module)

    def _compose(
        self,
        resident: ResidentPipeline,
        spec: PipelineSpec,
        plan: PipelinePlan,
        composition: Composition,
    ) -> None:
        files = [each for each in plan.files if each.is_lora]
        with held_files(self._cache, files) as found:
            paths = {each.reference: found[each.path] for each in files}
            slots = slots_for(spec.loras, [each.reference for each in files])
            resident.compose(composition, slots, paths)
        self._memory.trim(used=resident.key)

    def _device_name(self) -> str:
        if self._device is None:
            import torch

            self._device = "cuda" if torch.cuda.is_available() else "cpu"
        return self._device


class PipelineUse:
    """What `PipelineStore.pipeline` returns: a context manager that gives a pipeline of diffusers.

    The pipeline is for the block, and for one thread at a time in it. At the end its components are
    taken away from it.
    """

    def __init__(self, requests: PipelineRequests, spec: PipelineSpec) -> None:
        self._requests = requests
        self._spec = spec
        self._uses: list[tuple[PipelineTurn, LentView]] = []

    def __enter__(self) -> Any:
        use = self._requests.begin(self._spec)
        self._uses.append(use)
        return use[1].pipeline

    def __exit__(self, *_: object) -> None:
        turn, view = self._uses.pop()
        view.close()
        turn.over = True


def _lora_digests(manifest: BuildManifest) -> tuple[str, ...]:
    """Return the sha256 of the LoRAs, in order."""
    found = {each.path: each.sha256 for each in manifest.subjects}
    count = sum(path.startswith(f"{LORAS}/") for path in found)
    return tuple(found[f"{LORAS}/{at}.safetensors"] for at in range(count))


def _component_key(manifest: BuildManifest, spec: PipelineSpec, name: str) -> str:
    """Return what tells the component `name` from all others: its files, and how it is loaded."""
    files = sorted(
        (each.path, each.sha256) for each in manifest.subjects if each.path.startswith(f"{name}/")
    )
    told = [files, spec.dtype_of(name), spec.quantization]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
