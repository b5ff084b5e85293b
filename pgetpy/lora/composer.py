"""The composer: puts a set of LoRAs on a pipeline, swaps it for another, and restores the base.

The order in which the composer's state and the pipeline change is explained in `state`: it is what
keeps a pipeline right when a call is cut off anywhere.

Files are leased from the cache and checked before the pipeline is touched, so a bad URL or an
unsuitable file leaves the pipeline as it was. Leases follow the state: those of the old state are
released only after the new one is in place.
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
from pgetpy.lora.files import LoraFiles
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
from pgetpy.weights.cache import LeasedPath, usual_cache
from pgetpy.weights.options import ReferenceOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack


class LoraComposer:
    """Applies sets of LoRAs to a pipeline. Threads that call `apply` at once take turns.

    Args:
        pipeline: a diffusers pipeline without LoRAs, or any object with `load_lora_weights`,
            `set_adapters`, and `delete_adapters` or `unload_lora_weights` (see
            `pgetpy.lora.pipeline.Pipeline`). The composer holds only a weak reference to it.
        cache: a WeightsDownloadCache; by default the one that the environment names.
        keep_loaded: how many unused adapters may stay loaded, the most recently used first. A kept
            adapter takes GPU memory but is active again without reading its file.
        hotswap_rank: for a pipeline that is or will be compiled (`pipeline.unet.compile()`): the
            highest rank of any LoRA to come. LoRAs then replace one another inside the same
            adapter, so torch.compile does not compile again; `keep_loaded` is ignored. Calling the
            pipeline's own `enable_lora_hotswap` first has the same effect.

    Raises:
        BadSettingError: the pipeline lacks a method, already has LoRAs, shares modules with another
            composer's pipeline, or has a component wrapped by torch.compile; or `keep_loaded` or
            `hotswap_rank` is not a whole number in range.
        CacheError: the default cache cannot be opened.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        cache: LoraFiles | None = None,
        *,
        keep_loaded: int = 4,
        hotswap_rank: int | None = None,
    ) -> None:
        if not isinstance(keep_loaded, int) or keep_loaded < 0:
            raise BadSettingError("keep_loaded", keep_loaded, "is not a whole number of 0 or more")
        self._record = BaseRecord(pipeline)
        check_pipeline(pipeline)
        check_rank(pipeline, hotswap_rank)
        rank = prepared_rank(pipeline) if hotswap_rank is None else hotswap_rank
        self._seating = None if rank is None else Seating(pipeline, rank, self._record.base)
        self._keep = keep_loaded
        self._lock = InterruptibleLock()
        self._state = CompositionState()
        self._closed = False
        self._cache: LoraFiles = usual_cache() if cache is None else cache
        this = weakref.ref(self)
        self._pipeline = reference_to(pipeline, lambda: _forget(this()))
        self._record.claim(pipeline)

    # ------------------------------------------------------------------------------- what it is

    @property
    def active(self) -> Mapping[str, Slot]:
        """The slots as they are applied now; empty if the last `apply` was cut off half-way."""
        state = self._state
        return MappingProxyType({} if state.dirty else dict(state.slots))

    @property
    def loaded(self) -> tuple[str, ...]:
        """The references whose adapters are loaded, active or kept, least recently used first."""
        state = self._state
        if state.dirty:
            return ()
        found = (ref for adapter in state.loaded.values() for ref in adapter.references)
        return tuple(dict.fromkeys(found))

    # ------------------------------------------------------------------------------ what it does

    def apply(self, slots: Mapping[str, Slot], **options: Unpack[ReferenceOptions]) -> None:
        """Make the pipeline its base plus `slots`, and nothing else.

        All files are fetched first, in parallel, and checked; if that fails the pipeline is
        unchanged. If changing the pipeline fails, the next call restores the base before it does
        anything else. An adapter that is already loaded is loaded again only if its file has
        changed.

        Args:
            slots: slot name to `(reference, scale)`. The reference is anything
                `WeightsDownloadCache.ensure` takes; the scale is a finite number, 1.0 for full
                strength. Slots with the same file have their scales added. A third element names
                the component the LoRA is for, such as `transformer_2` where a pipeline has two
                transformers.
            options: `wanted`, patterns and tokens, as for `ensure`; they apply to all references.

        Raises:
            BadSettingError: `slots` is malformed, or a scale is not finite.
            WrongBaseModelError: a LoRA was made for another base model.
            BadLoraError: a file is not a LoRA, would have no effect, or cannot be combined with
                another.
            UsageError: the pipeline's components were replaced, or other code loaded LoRAs into it.
            NotRestoredError: the base could not be restored. Another call will not help: load the
                pipeline again.
            PgetError: a file cannot be fetched; see `ensure`.
            Exception: whatever the pipeline itself raises.
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
        """Restore the base, as `apply({})` does; up to `keep_loaded` adapters stay loaded,
        inactive."""
        self.apply({})

    def close(self) -> None:
        """Unload everything and release the leased files. Calling it again has no effect."""
        with self._lock.take():
            self._closed = True
            pipeline, state = self._pipeline(), self._state
            if pipeline is not None and state.loaded:
                self._state = replace(state, dirty=True)
                self._restore(pipeline)
            _forget(self)
            self._record.release()

    def __enter__(self) -> LoraComposer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --------------------------------------------------------------------- before it is touched

    def _present(self) -> Pipeline:
        """Return the pipeline, having checked what other code may have done to it since.

        Raises:
            UsageError: the composer is closed, the pipeline is gone, or its components were
                replaced.
        """
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

        Files of loaded adapters go through the cache again as well: whether this caller may use an
        entry is decided there, on every call.
        """
        references = list(dict.fromkeys(slot[0] for slot in slots.values()))
        found = self._cache.hold_many(references, **options) if references else []
        return dict(zip(references, found, strict=True))

    def _examine(
        self, pipeline: Pipeline, slots: Mapping[str, Slot], held: Mapping[str, LeasedPath]
    ) -> tuple[dict[str, Adapter], list[tuple[str, float]]]:
        """Return the wanted adapters by name, and the name and scale for each slot."""
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
        """Return a file as an adapter, after checking that it may be loaded."""
        path = held[reference].path
        known = self._state.loaded.get(name)
        if known is not None:
            finding = known.finding
        else:
            ask = partial(translate, pipeline)
            finding = check_lora(slot, reference, path, self._record.base, ask, component)
        alike = [other for other in held if adapter_name(held[other].path, component) == name]
        leases = tuple(held[other] for other in alike)
        return Adapter(name, path, tuple(alike), leases, finding, component, slot)

    def _order(self, wanted: Mapping[str, Adapter]) -> list[str]:
        """Return the names in the order in which they must be loaded.

        Raises:
            BadLoraError: two LoRAs would have to come before each other.
        """
        pairs = {name: adapter.finding.pairs for name, adapter in wanted.items()}
        order, clash = load_order(pairs, self._record.base)
        if clash is None:
            return order
        one, other = (wanted[name] for name in clash)
        reason = (
            f"it and the LoRA of slot {other.slot!r} each widen a module that the other changes, "
            "so neither can be loaded first"
        )
        raise BadLoraError(one.slot, one.references[0], reason)

    # -------------------------------------------------------------------------- touching it

    def _change(
        self,
        pipeline: Pipeline,
        slots: Mapping[str, Slot],
        wanted: Mapping[str, Adapter],
        layers: Sequence[tuple[str, float]],
    ) -> None:
        """Take the pipeline from its present state to `wanted` by loading and unloading."""
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
        """Take the pipeline to `wanted` by replacing matrices inside its adapters where possible.

        Hot swapping keeps a compiled model valid; see `core/lora/seats`.
        """
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
        """Unload everything and put the base back. The state must be dirty already."""
        state = self._state
        self._record.restore(pipeline, state.adapters, state.originals)
        self._state = replace(state, originals=None)

    def _keep_originals(self, pipeline: Pipeline, adapters: Iterable[Adapter]) -> None:
        """Save what must be put back, before the first LoRA that changes the base itself."""
        if any(adapter.alters for adapter in adapters):
            self._state = replace(self._state, originals=keep_originals(pipeline))

    def _restore(self, pipeline: Pipeline) -> None:
        """Restore the base if an earlier call was cut off."""
        state = self._state
        if state.dirty:
            self._unload(pipeline)
            self._state = CompositionState()
            self._release(state.held())

    def _release(self, leases: Iterable[LeasedPath]) -> None:
        """Release leases, except those that the present state still needs."""
        kept = {id(held.lease) for held in self._state.held()}
        for held in leases:
            if id(held.lease) not in kept:
                held.lease.release()


def _forget(composer: LoraComposer | None) -> None:
    """Release all files: the pipeline has been unloaded, or is gone."""
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
    """Make the calls of `plan`, except for unloading."""
    disabled = before.disabled and not plan.unload
    if disabled and active and disables(pipeline):
        pipeline.enable_lora()
    for name in plan.load:
        load(pipeline, adapters[name].path, name, component=adapters[name].component)
    if active:
        names, scales = zip(*active, strict=True)
        pipeline.set_adapters(list(names), adapter_weights=list(scales))
    elif plan.loaded and not disabled and disables(pipeline):
        # diffusers does not accept an empty list of adapters.
        pipeline.disable_lora()
    if plan.delete and deletes(pipeline):
        pipeline.delete_adapters(list(plan.delete))
