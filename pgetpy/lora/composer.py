"""The composer: which LoRAs are on a pipeline, and how it comes to others or back to its base.

Everything is fetched and looked at before the pipeline is touched, so that a bad URL costs nothing.
The composer's state is one value, replaced in one step. Before the first call that changes the
pipeline it is a state that says so; whoever finds that one later knows that somebody was cut off,
and takes everything out before doing anything else. Nothing depends on `finally`: exceptions may be
injected at any byte code (Cog's cancellation).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pgetpy.core.lora.adapters import Base
from pgetpy.core.lora.composition import Slot, Steps, check_slots, steps, sums
from pgetpy.errors import BadSettingError, UsageError
from pgetpy.lora.pipeline import (
    Pipeline,
    abilities,
    base_of,
    check_pipeline,
    deletes,
    disables,
    reference_to,
    unload,
)
from pgetpy.lora.validate import adapter_name, check_lora
from pgetpy.system.interruptible_lock import InterruptibleLock
from pgetpy.weights.cache import LeasedPath, WeightsDownloadCache, usual_cache
from pgetpy.weights.options import ReferenceOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True)
class _Adapter:
    """A file as an adapter of the pipeline.

    Attributes:
        references: what it is called by, one for each slot that had it last.
        held: the leases of the file, as many.
        alters: whether only unloading all brings the base back.
    """

    name: str
    path: Path
    references: tuple[str, ...]
    held: tuple[LeasedPath, ...]
    alters: bool = False


@dataclass(frozen=True)
class _State:
    """What is known of the pipeline.

    Attributes:
        loaded: adapters by name, used longest ago first.
        active: names and scales, as the pipeline was told.
        disabled: whether it leaves all adapters out of account.
        dirty: whether somebody has begun to change it since, and was cut off. `loaded` is then
            whatever may be there.
    """

    slots: Mapping[str, Slot] = field(default_factory=dict)
    loaded: Mapping[str, _Adapter] = field(default_factory=dict)
    active: tuple[tuple[str, float], ...] = ()
    disabled: bool = False
    dirty: bool = False

    def held(self) -> Iterable[LeasedPath]:
        return (held for adapter in self.loaded.values() for held in adapter.held)


class LoraComposer:
    """Composes LoRAs on a pipeline that has none. Threads that apply at once take turns.

    Args:
        pipeline: of diffusers, or anything with load_lora_weights, set_adapters, and
            delete_adapters or unload_lora_weights (see `pgetpy.lora.pipeline.Pipeline`). It is the
            caller's: the composer alone does not keep it.
        cache: where the files come from; by default the one that the environment names.
        keep_loaded: how many adapters stay loaded beyond those in use, the ones used last.

    Raises:
        BadSettingError: the pipeline lacks a method, or `keep_loaded` is no natural number.
        CacheError: the cache of the environment cannot be opened.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        cache: WeightsDownloadCache | None = None,
        *,
        keep_loaded: int = 4,
    ) -> None:
        check_pipeline(pipeline)
        if not isinstance(keep_loaded, int) or keep_loaded < 0:
            raise BadSettingError("keep_loaded", keep_loaded, "is no natural number")
        self._keep = keep_loaded
        self._lock = InterruptibleLock()
        self._state = _State()
        self._closed = False
        self._cache = usual_cache() if cache is None else cache
        this = weakref.ref(self)
        self._pipeline = reference_to(pipeline, lambda: _forget(this()))

    # ------------------------------------------------------------------------------- what it is

    @property
    def active(self) -> Mapping[str, Slot]:
        """The slots as they are applied; none where the last `apply` was cut off half-way."""
        state = self._state
        return MappingProxyType({} if state.dirty else dict(state.slots))

    @property
    def loaded(self) -> tuple[str, ...]:
        """The references whose adapters are loaded, in use or kept, used longest ago first."""
        state = self._state
        if state.dirty:
            return ()
        found = (ref for adapter in state.loaded.values() for ref in adapter.references)
        return tuple(dict.fromkeys(found))

    # ------------------------------------------------------------------------------ what it does

    def apply(self, slots: Mapping[str, Slot], **options: Unpack[ReferenceOptions]) -> None:
        """Make the pipeline its base plus `slots`, and nothing else.

        All files are fetched first, side by side; a failure of that, or of their check, leaves the
        pipeline as it was. A failure while the pipeline is changed is undone by the next call,
        before it does anything else. What is loaded is not loaded again unless its file is another.

        Args:
            slots: by name, a reference as `WeightsDownloadCache.ensure` takes it, and a scale. The
                scales of slots with the same file are added up.
            options: `wanted`, patterns and tokens, as `ensure` takes them, for all references.

        Raises:
            BadSettingError: `slots` is no such mapping, or a scale is not finite.
            WrongBaseModelError: a LoRA is for another base model.
            BadLoraError: a file is no LoRA.
            PgetError: a file cannot be had; see `ensure`.
            Exception: whatever the pipeline raises.
        """
        chosen = check_slots(slots)
        with self._lock.take():
            pipeline = self._present()
            self._restore(pipeline)
            held = self._lease(chosen, options)
            try:
                wanted, layers = self._examine(pipeline, chosen, held)
                self._change(pipeline, chosen, wanted, layers)
            finally:
                self._release(held.values())

    def clear(self) -> None:
        """Make the pipeline its base; what may stay loaded stays. The same as `apply({})`."""
        self.apply({})

    def close(self) -> None:
        """Take everything out of the pipeline, let go of its files; again, to no effect."""
        with self._lock.take():
            self._closed = True
            pipeline, state = self._pipeline(), self._state
            if pipeline is not None and state.loaded:
                self._state = replace(state, dirty=True)
                self._restore(pipeline)
            _forget(self)

    def __enter__(self) -> LoraComposer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --------------------------------------------------------------------- before it is touched

    def _present(self) -> Pipeline:
        pipeline = self._pipeline()
        if self._closed or pipeline is None:
            why = "was closed" if self._closed else "has outlived its pipeline"
            raise UsageError(f"the composer {why}")
        return pipeline

    def _lease(self, slots: Mapping[str, Slot], options: ReferenceOptions) -> dict[str, LeasedPath]:
        """Return the file of each reference, leased.

        What is loaded goes through the cache as well: who may have it is judged there.
        """
        references = list(dict.fromkeys(reference for reference, _ in slots.values()))
        found = self._cache.hold_many(references, **options) if references else []
        return dict(zip(references, found, strict=True))

    def _examine(
        self, pipeline: Pipeline, slots: Mapping[str, Slot], held: Mapping[str, LeasedPath]
    ) -> tuple[dict[str, _Adapter], list[tuple[str, float]]]:
        """Return the adapters that are wanted, by name, and name and scale for each slot."""
        found: dict[str, _Adapter] = {}
        layers = []
        base: Base | None = None
        names = {reference: adapter_name(each.path) for reference, each in held.items()}
        for slot, (reference, scale) in slots.items():
            name, mine = names[reference], held[reference]
            layers.append((name, scale))
            if name in found:
                continue
            standing = self._state.loaded.get(name)
            if standing is not None:
                alters = standing.alters
            else:
                base = base or base_of(pipeline)
                alters = check_lora(slot, reference, mine.path, base).alters
            alike = [other for other in names if names[other] == name]
            leases = tuple(held[other] for other in alike)
            found[name] = _Adapter(name, mine.path, tuple(alike), leases, alters)
        return found, layers

    # -------------------------------------------------------------------------- touching it

    def _change(
        self,
        pipeline: Pipeline,
        slots: Mapping[str, Slot],
        wanted: Mapping[str, _Adapter],
        layers: Sequence[tuple[str, float]],
    ) -> None:
        """Bring the pipeline from the present state to `wanted`."""
        before, active = self._state, sums(layers)
        plan = steps(
            list(before.loaded),
            [name for name, _ in active],
            keep=self._keep,
            can=abilities(pipeline),
            altering={name for name, adapter in before.loaded.items() if adapter.alters},
        )
        every = {**before.loaded, **wanted}
        after = _State(
            slots,
            {name: every[name] for name in plan.loaded},
            active,
            disabled=bool(plan.loaded) and not active,
        )
        if plan.unload or plan.load or plan.delete or active != before.active:
            self._state = replace(before, loaded=every, dirty=True)
            _carry_out(pipeline, plan, before, after, every)
        self._state = after
        self._release(before.held())

    def _restore(self, pipeline: Pipeline) -> None:
        """Take everything out if somebody was cut off."""
        state = self._state
        if state.dirty:
            unload(pipeline, list(state.loaded))
            self._state = _State()
            self._release(state.held())

    def _release(self, leases: Iterable[LeasedPath]) -> None:
        """Give leases back, but for those that the present state has."""
        kept = {id(held.lease) for held in self._state.held()}
        for held in leases:
            if id(held.lease) not in kept:
                held.lease.release()


def _forget(composer: LoraComposer | None) -> None:
    """Let go of all files: the pipeline has none of them any more, or is no more itself."""
    if composer is not None:
        state, composer._state = composer._state, _State()
        for held in state.held():
            held.lease.release()


def _carry_out(
    pipeline: Pipeline,
    plan: Steps,
    before: _State,
    after: _State,
    adapters: Mapping[str, _Adapter],
) -> None:
    """Make the calls that `plan` comes to."""
    disabled = before.disabled
    if plan.unload:
        unload(pipeline, list(before.loaded))
        disabled = False
    if disabled and after.active and disables(pipeline):
        pipeline.enable_lora()
    for name in plan.load:
        # The path and the name alone, so that stand-ins need no more.
        pipeline.load_lora_weights(str(adapters[name].path), adapter_name=name)
    if after.active:
        names, scales = zip(*after.active, strict=True)
        pipeline.set_adapters(list(names), adapter_weights=list(scales))
    elif after.disabled and not disabled and disables(pipeline):
        # diffusers takes no empty list of adapters.
        pipeline.disable_lora()
    if plan.delete and deletes(pipeline):
        pipeline.delete_adapters(list(plan.delete))
