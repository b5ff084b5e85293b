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
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from pgetpy.core.lora.adapters import load_order
from pgetpy.core.lora.composition import Slot, Steps, check_slots, component_of, steps, sums
from pgetpy.errors import BadLoraError, BadSettingError, UsageError
from pgetpy.lora.base import keep_originals
from pgetpy.lora.hotswap import check_rank, prepared_rank
from pgetpy.lora.pipeline import (
    Pipeline,
    abilities,
    check_pipeline,
    deletes,
    disables,
    load,
    reference_to,
    translate,
)
from pgetpy.lora.record import BaseRecord
from pgetpy.lora.seating import Seating
from pgetpy.lora.state import Adapter, CompositionState
from pgetpy.lora.validate import adapter_name, check_component, check_lora
from pgetpy.system.interruptible_lock import InterruptibleLock
from pgetpy.weights.cache import LeasedPath, WeightsDownloadCache, usual_cache
from pgetpy.weights.options import ReferenceOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class LoraComposer:
    """Composes LoRAs on a pipeline that has none. Threads that apply at once take turns.

    Args:
        pipeline: of diffusers, or anything with load_lora_weights, set_adapters, and
            delete_adapters or unload_lora_weights (see `pgetpy.lora.pipeline.Pipeline`). It is the
            caller's: the composer alone does not keep it.
        cache: where the files come from; by default the one that the environment names.
        keep_loaded: how many adapters stay loaded beyond those in use, the ones used last.
        hotswap_rank: for a pipeline that is or will be compiled (`pipeline.unet.compile()`): the
            highest rank of all LoRAs to come. One takes the place of another in the same adapter
            then, so that nothing is compiled anew, and `keep_loaded` has no meaning. To have called
            the pipeline's own `enable_lora_hotswap` is the same.

    Raises:
        BadSettingError: the pipeline lacks a method, has LoRAs of its own, shares modules with that
            of another composer, or has a component that torch.compile has wrapped; `keep_loaded`
            or `hotswap_rank` is no natural number.
        CacheError: the cache of the environment cannot be opened.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        cache: WeightsDownloadCache | None = None,
        *,
        keep_loaded: int = 4,
        hotswap_rank: int | None = None,
    ) -> None:
        if not isinstance(keep_loaded, int) or keep_loaded < 0:
            raise BadSettingError("keep_loaded", keep_loaded, "is no natural number")
        self._record = BaseRecord(pipeline)
        check_pipeline(pipeline)
        check_rank(pipeline, hotswap_rank)
        rank = prepared_rank(pipeline) if hotswap_rank is None else hotswap_rank
        self._seating = None if rank is None else Seating(pipeline, rank, self._record.base)
        self._keep = keep_loaded
        self._lock = InterruptibleLock()
        self._state = CompositionState()
        self._closed = False
        self._cache = usual_cache() if cache is None else cache
        this = weakref.ref(self)
        self._pipeline = reference_to(pipeline, lambda: _forget(this()))
        self._record.claim(pipeline)

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
                scales of slots with the same file are added up. A third element names the component
                that it is for: `transformer_2` where a pipeline has two.
            options: `wanted`, patterns and tokens, as `ensure` takes them, for all references.

        Raises:
            BadSettingError: `slots` is no such mapping, or a scale is not finite.
            WrongBaseModelError: a LoRA is for another base model.
            BadLoraError: a file is no LoRA, or would have no effect, or cannot be with another.
            UsageError: the pipeline has other components by now, or LoRAs of somebody else.
            NotRestoredError: the base could not be brought back; nor will it be by another call.
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
                if self._seating is None:
                    self._change(pipeline, chosen, wanted, layers)
                else:
                    self._swap(pipeline, self._seating, chosen, wanted, layers)
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
            self._record.let_go()

    def __enter__(self) -> LoraComposer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --------------------------------------------------------------------- before it is touched

    def _present(self) -> Pipeline:
        """Return the pipeline, as somebody else may have left it."""
        pipeline = self._pipeline()
        if self._closed or pipeline is None:
            why = "was closed" if self._closed else "has outlived its pipeline"
            raise UsageError(f"the composer {why}")
        self._record.check_components(pipeline)
        state = self._state
        if not state.dirty and self._record.is_touched(pipeline, state.adapters):
            self._state = replace(state, dirty=True)
        rank = prepared_rank(pipeline) if self._seating is None and not state.loaded else None
        if rank is not None:
            self._seating = Seating(pipeline, rank, self._record.base)
        return pipeline

    def _lease(self, slots: Mapping[str, Slot], options: ReferenceOptions) -> dict[str, LeasedPath]:
        """Return the file of each reference, leased.

        What is loaded goes through the cache as well: who may have it is judged there.
        """
        references = list(dict.fromkeys(slot[0] for slot in slots.values()))
        found = self._cache.hold_many(references, **options) if references else []
        return dict(zip(references, found, strict=True))

    def _examine(
        self, pipeline: Pipeline, slots: Mapping[str, Slot], held: Mapping[str, LeasedPath]
    ) -> tuple[dict[str, Adapter], list[tuple[str, float]]]:
        """Return the adapters that are wanted, by name, and name and scale for each slot."""
        found: dict[str, Adapter] = {}
        layers = []
        for slot, chosen in slots.items():
            component = component_of(chosen)
            check_component(slot, component, self._record.base)
            name = adapter_name(held[chosen[0]].path, component)
            layers.append((name, chosen[1]))
            if name not in found:
                adapter = self._adapter(pipeline, slot, name, chosen[0], held, component)
                found[name] = adapter
                if self._seating is not None:
                    self._seating.check_rank(slot, adapter)
        return found, layers

    def _adapter(
        self,
        pipeline: Pipeline,
        slot: str,
        name: str,
        reference: str,
        held: Mapping[str, LeasedPath],
        component: str,
    ) -> Adapter:
        """Return a file as an adapter, if it may be loaded."""
        path = held[reference].path
        standing = self._state.loaded.get(name)
        if standing is not None:
            finding = standing.finding
        else:
            ask = partial(translate, pipeline)
            finding = check_lora(slot, reference, path, self._record.base, ask, component)
        alike = [other for other in held if adapter_name(held[other].path, component) == name]
        leases = tuple(held[other] for other in alike)
        return Adapter(name, path, tuple(alike), leases, finding, component, slot)

    def _order(self, wanted: Mapping[str, Adapter]) -> list[str]:
        """Return in which order they have to be loaded.

        Raises:
            BadLoraError: there is none.
        """
        pairs = {name: adapter.finding.pairs for name, adapter in wanted.items()}
        order, clash = load_order(pairs, self._record.base)
        if clash is None:
            return order
        one, other = (wanted[name] for name in clash)
        reason = f"it and the LoRA of slot {other.slot!r} make each other's modules wider"
        raise BadLoraError(one.slot, one.references[0], reason)

    # -------------------------------------------------------------------------- touching it

    def _change(
        self,
        pipeline: Pipeline,
        slots: Mapping[str, Slot],
        wanted: Mapping[str, Adapter],
        layers: Sequence[tuple[str, float]],
    ) -> None:
        """Bring the pipeline from the present state to `wanted`."""
        before, active = self._state, sums(layers)
        every = {**before.loaded, **wanted}
        plan = steps(
            list(before.loaded),
            [name for name, _ in active],
            keep=self._keep,
            can=abilities(pipeline),
            altering={name for name, adapter in every.items() if adapter.alters},
            order=self._order(wanted),
        )
        if plan.unload or plan.load or plan.delete or active != before.active:
            self._state = replace(before, loaded=every, dirty=True)
            if plan.unload:
                self._unload(pipeline)
            self._keep_originals(pipeline, [every[name] for name in plan.load])
            _carry_out(pipeline, plan, before, active, every)
        self._state = CompositionState(
            slots,
            {name: every[name] for name in plan.loaded},
            active,
            disabled=bool(plan.loaded) and not active,
            originals=self._state.originals,
        )
        self._release(before.held())

    def _swap(
        self,
        pipeline: Pipeline,
        seating: Seating,
        slots: Mapping[str, Slot],
        wanted: Mapping[str, Adapter],
        layers: Sequence[tuple[str, float]],
    ) -> None:
        """Bring the pipeline to `wanted` by making its adapters other ones, where that can be."""
        before, active = self._state, sums(layers)
        every = {**before.loaded, **wanted}
        order = self._order(wanted)
        passengers = [wanted[name] for name, _ in active]
        scales = [scale for _, scale in active]
        plan = seating.plan(before.seats, passengers, scales)
        seats = before.seats
        if plan.unload or plan.swap or active != before.active:
            most = max(before.seats, plan.after, key=lambda seats: len(seats.names))
            self._state = replace(before, loaded=every, seats=most, dirty=True)

            def unload() -> None:
                self._unload(pipeline)
                self._keep_originals(pipeline, passengers)

            paths = {name: adapter.path for name, adapter in every.items()}
            if plan.unload:
                unload()
            elif before.disabled and active and disables(pipeline):
                pipeline.enable_lora()
            seats = seating.carry_out(pipeline, plan, paths, order, unload)
            if seats.names and not active and not before.disabled and disables(pipeline):
                pipeline.disable_lora()
        self._state = CompositionState(
            slots,
            {name: every[name] for name in seats.names},
            active,
            disabled=bool(seats.names) and not active,
            originals=self._state.originals,
            seats=seats,
        )
        self._release(before.held())

    def _unload(self, pipeline: Pipeline) -> None:
        """Take everything out, while the state is dirty."""
        state = self._state
        self._record.restore(pipeline, state.adapters, state.originals)
        self._state = replace(state, originals=None)

    def _keep_originals(self, pipeline: Pipeline, adapters: Iterable[Adapter]) -> None:
        """Keep what has to be put back before the first of what changes the base is loaded."""
        if any(adapter.alters for adapter in adapters):
            self._state = replace(self._state, originals=keep_originals(pipeline))

    def _restore(self, pipeline: Pipeline) -> None:
        """Take everything out if somebody was cut off."""
        state = self._state
        if state.dirty:
            self._unload(pipeline)
            self._state = CompositionState()
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
        state, composer._state = composer._state, CompositionState()
        for held in state.held():
            held.lease.release()


def _carry_out(
    pipeline: Pipeline,
    plan: Steps,
    before: CompositionState,
    active: Sequence[tuple[str, float]],
    adapters: Mapping[str, Adapter],
) -> None:
    """Make the calls that `plan` comes to, but for unloading."""
    disabled = before.disabled and not plan.unload
    if disabled and active and disables(pipeline):
        pipeline.enable_lora()
    for name in plan.load:
        load(pipeline, adapters[name].path, name, component=adapters[name].component)
    if active:
        names, scales = zip(*active, strict=True)
        pipeline.set_adapters(list(names), adapter_weights=list(scales))
    elif plan.loaded and not disabled and disables(pipeline):
        # diffusers takes no empty list of adapters.
        pipeline.disable_lora()
    if plan.delete and deletes(pipeline):
        pipeline.delete_adapters(list(plan.delete))
