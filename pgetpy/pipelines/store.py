"""PipelineStore: a specification in; a pipeline in memory, or a verified folder on disk, out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pgetpy.core.pipelines.build_manifest import BuildManifest
from pgetpy.core.pipelines.memory import MemoryBudget, MemorySize
from pgetpy.core.pipelines.plans import PipelinePlan
from pgetpy.core.pipelines.resolution import REFRESH_SECONDS
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.errors import CacheError
from pgetpy.pipelines.baking import PipelineBaker
from pgetpy.pipelines.building import BuiltPipeline, PipelineBuilder
from pgetpy.pipelines.compositions import compositions_at
from pgetpy.pipelines.digests import FileDigests
from pgetpy.pipelines.memory import PipelineMemory
from pgetpy.pipelines.planning import Planner
from pgetpy.pipelines.requests import PipelineRequests, PipelineUse
from pgetpy.pipelines.resolver import PlanResolver
from pgetpy.pipelines.trees import ListedTree, TreeStore
from pgetpy.pipelines.views import shared
from pgetpy.settings.pipeline_options import PipelineSettings
from pgetpy.weights.cache import WeightsDownloadCache, usual_cache

# Keys that are remembered.
_MOST = 1000


class PipelineStore:
    """Pipelines in memory, and on disk, where all processes with the same folder share them.

    Safe in any thread.

    Args:
        cache: has the files; by default the one that the environment names.
        folder: where pipelines are kept; by default PIPELINE_STORE, else `pipelines` in the folder
            of the cache.
        max_bytes: bytes that they may keep in the cache; by default PIPELINE_STORE_MAX_BYTES, else
            unlimited. The least recently used pipelines are removed when they keep more, and their
            files can be evicted then.
        refresh: seconds after which a reference that may change its meaning, such as a branch, is
            resolved again.
        max_memory: bytes that pipelines may keep in the host's memory; unlimited by default. The
            least recently used ones are dropped when they take more; those in use never are. A
            storage that several share counts once, and a file that is mapped counts as memory.
        max_gpu_memory: the same for GPUs.
        device: where pipelines are put, as torch names it; by default a GPU if there is one.
        prepare: is called with each pipeline that was loaded, before anything is made with it: to
            compile it, or to choose an attention backend.
    """

    def __init__(
        self,
        cache: WeightsDownloadCache | None = None,
        *,
        folder: str | os.PathLike[str] | None = None,
        max_bytes: int | None = None,
        refresh: float = REFRESH_SECONDS,
        max_memory: int | None = None,
        max_gpu_memory: int | None = None,
        device: str | None = None,
        prepare: Callable[[Any], object] | None = None,
    ) -> None:
        self._cache = cache if cache is not None else usual_cache()
        settings = PipelineSettings.from_environment(os.environ)
        given = settings.folder if folder is None else Path(folder)
        where = given or self._cache.path / "pipelines"
        most = settings.max_bytes if max_bytes is None else max_bytes
        self._trees = TreeStore(where, self._cache, most)
        self._planner = Planner(self._cache, FileDigests(where / "digests"))
        self._builder = PipelineBuilder(self._planner, self._trees)
        self._baker = PipelineBaker(self._builder)
        self._resolver = PlanResolver(self._planner.resolve, refresh)
        self._memory = PipelineMemory(MemoryBudget(max_memory, max_gpu_memory))
        self._requests = PipelineRequests(
            self._resolver, self._builder, self._cache, self._memory, device, prepare
        )
        # The key of each plan, by specification: it holds as long as the plan does.
        self._keys: dict[str, tuple[PipelinePlan, str]] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------------------------------------------ memory

    def pipeline(self, spec: PipelineSpec) -> PipelineUse:
        """Return a context manager that gives the pipeline of `spec`, with its LoRAs.

            with store.pipeline(spec) as pipe:
                image = pipe("a fox").images[0]

        It is taken from memory, else loaded from disk, else built. Each block gets a pipeline
        object of its own around the same modules, with its own scheduler and tokenizers, so several
        threads may use one model at a time. Those that want other LoRAs on it wait for their turn.
        Do not change its modules (`load_lora_weights`, `to`, `fuse_lora`).

        Entering the block raises:
            PgetError: a reference cannot be resolved, or a file cannot be fetched; see `build`.
            IntegrityError: the model lacks tensors, or cannot be loaded.
            BadSettingError: diffusers has no such pipeline, or a component is in another dtype than
                asked for.
            BadLoraError: a LoRA cannot be put on it; see `LoraComposer.apply`.
            PoisonedProcessError: loads that ran at once broke this process.
            UsageError: this thread is using the same base with other LoRAs, or another base that a
                thread waits for which uses this one; or it is in a block of `loading()`.
        """
        return PipelineUse(self._requests, spec)

    def share(self, pipe: Any, kind: Any, **components: Any) -> Any:
        """Return a pipeline of the class `kind` around the components of `pipe`, uncast.

        It is for the same `with` block as `pipe`, and has the same LoRAs.

        Args:
            pipe: what `pipeline` gave, or any pipeline of diffusers. It is left as it is.
            kind: a class of diffusers, such as StableDiffusionImg2ImgPipeline.
            components: what `kind` needs and `pipe` does not have, such as a ControlNet, or what
                replaces its own.

        Raises:
            BadSettingError: `kind` needs a component that is not there.
        """
        return shared(pipe, kind, components)

    def memory(self) -> MemorySize:
        """Return the bytes that pipelines take in memory, in use or kept: the host's, and GPUs'."""
        return self._memory.size

    def forget(self) -> None:
        """Drop the pipelines in memory that are not in use."""
        self._memory.clear()

    # -------------------------------------------------------------------------------------- disk

    def plan(self, spec: PipelineSpec) -> PipelinePlan:
        """Return what `spec` means, and what of it has to be fetched. Only an index is fetched.

        Services are asked each time, because what is in the cache may have changed.

        Raises:
            TransferError: a service refuses, or does not answer.
            IntegrityError: the model is incomplete, or has pickles alone.
            UsageError: a reference or an option is invalid.
        """
        return self._planner.plan(spec)

    def key(self, spec: PipelineSpec) -> str:
        """Return the key of `spec`: 64 hex digits, made of content alone.

        Configurations are fetched for it, and those weights whose sha256 no service says.

        Raises:
            PgetError: see `plan`; or a file cannot be fetched.
        """
        plan = self._resolver.plan(spec)
        with self._lock:
            known = self._keys.get(spec.identity)
        if known is not None and known[0] is plan:
            return known[1]
        key = self._planner.content(spec, plan).key
        with self._lock:
            self._keys[spec.identity] = (plan, key)
            if len(self._keys) > _MOST:
                del self._keys[next(iter(self._keys))]
        return key

    def build(self, spec: PipelineSpec) -> BuiltPipeline:
        """Return the pipeline on disk, with what is missing fetched. Close it after loading.

        Raises:
            PgetError: see `plan`; or a file cannot be fetched, or is not what it should be.
        """
        return self._builder.build(spec, self._resolver.plan(spec))

    def bake(self, spec: PipelineSpec) -> BuiltPipeline:
        """Return `spec` as an artifact on disk: LoRAs fused, quantised already. Close it after use.

        Any `from_pretrained` loads its folder. It takes a whole copy of the weights, and fusing
        rounds: an image is not bit for bit that of `pipeline`. The versions of torch, diffusers,
        transformers, peft and the quantiser are in its key. It is computed on the CPU, once.

        Raises:
            BadSettingError: there are neither LoRAs nor a quantization; see `pipeline` as well.
            BadLoraError: a LoRA does not fit.
            IntegrityError: it cannot be fused, saved, or loaded again.
            PgetError: see `build`.
        """
        return self._baker.bake(spec, self._resolver.plan(spec))

    def manifest(self, spec: PipelineSpec) -> BuildManifest:
        """Return the manifest of `spec`, which is built for that."""
        with self.build(spec) as built:
            return built.manifest

    # ------------------------------------------------------------------------------------ upkeep

    def pipelines(self) -> list[ListedTree]:
        """Return what is on disk, most recently used first."""
        return self._trees.listed()

    @property
    def folder(self) -> Path:
        """Where pipelines are kept."""
        return self._trees.folder

    def keys(self) -> list[str]:
        """Return the keys of all that is on disk, sorted; damaged ones included."""
        return self._trees.keys()

    def kept_bytes(self) -> int:
        """Return the bytes that all of them keep in the cache, each file counted once."""
        return self._trees.kept_bytes()

    def find(self, beginning: str) -> str:
        """Return the key on disk that begins with the digits `beginning`.

        Raises:
            CacheError: there is none, or there are several.
        """
        found = [key for key in self.keys() if key.startswith(beginning.lower())]
        if len(found) == 1:
            return found[0]
        shown = beginning[:64]
        if found:
            reason, hint = f"has {len(found)} pipelines {shown}...", "give more digits of the key"
        else:
            reason, hint = f"has no pipeline {shown}", "pgetpy pipeline ls shows the keys"
        raise CacheError(str(self.folder), reason, hint=hint)

    def compositions(self, key: str) -> list[BuildManifest]:
        """Return what was made of the base `key` on disk with LoRAs, the newest first."""
        return compositions_at(self.folder / key)

    def verify(self, key: str) -> list[str]:
        """Hash all files of the pipeline `key` on disk; return the damaged or missing ones.

        Raises:
            IntegrityError: there is no such pipeline, or its manifest is damaged.
        """
        return self._trees.verify(key)

    def remove(self, key: str) -> bool:
        """Remove the pipeline `key` from disk; return False if it is not there, or in use.

        Its files stay in the cache until their space is needed.
        """
        return self._trees.remove(key)

    def collect(self) -> list[str]:
        """Remove what dead processes left, and pipelines over the budget; return their keys."""
        self._trees.sweep()
        return self._trees.trim()
