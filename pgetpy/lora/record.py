"""What a pipeline was like when its composer was made, to compare it with later."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import Any

from pgetpy.core.lora.adapters import Base
from pgetpy.errors import UsageError
from pgetpy.lora.base import (
    Originals,
    adapters_in,
    base_of,
    check_base,
    modules_in,
    parts_of,
    put_back,
    wrapped_in,
)
from pgetpy.lora.owners import OWNERS, ModuleClaim
from pgetpy.lora.pipeline import Pipeline, how_to_compile, unload


class BaseRecord:
    """The widths of a pipeline's modules, and the components they are in.

    It also holds the claim that keeps a second composer off the same modules.

    Attributes:
        base: what LoRAs are compared with, whatever is loaded at the time.

    Raises:
        BadSettingError: another composer uses some of the modules.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.base: Base = base_of(pipeline)
        parts = parts_of(pipeline) or {}
        self._parts = {name: _reference_to(part) for name, part in parts.items()}
        self._told = any(hasattr(part, "load_lora_adapter") for part in parts.values())
        self._claim: ModuleClaim | None = None
        OWNERS.check(*_changed(pipeline))

    def claim(self, pipeline: Pipeline) -> None:
        """Keep other composers off these modules until `release`."""
        self._claim = OWNERS.claim(*_changed(pipeline))

    def release(self) -> None:
        """Let other composers use the modules."""
        self._claim = None

    def check_components(self, pipeline: Pipeline) -> None:
        """Check that no component was replaced since the composer was made.

        A component may be missing (moved elsewhere to save memory), but a different object in its
        place would make the record meaningless.

        Raises:
            UsageError: a component was replaced.
        """
        now = parts_of(pipeline) or {}
        others = [name for name, part in now.items() if self._was(name) is not part]
        if not others:
            return
        wrapped = wrapped_in(pipeline)
        if wrapped:
            raise UsageError(f"the pipeline cannot take LoRAs: {how_to_compile(wrapped)}")
        reason = f"the pipeline's {others[0]} is not the one that the LoraComposer was made for"
        raise UsageError(f"{reason}: close it and make a new one")

    def is_touched(self, pipeline: Pipeline, adapters: Collection[str]) -> bool:
        """Whether other code has unloaded any of `adapters`.

        Raises:
            UsageError: other code has loaded adapters of its own.
        """
        here = adapters_in(pipeline)
        strange = sorted(here - set(adapters))
        if strange:
            what = (
                f"the pipeline has LoRAs that the LoraComposer did not load ({', '.join(strange)})"
            )
            raise UsageError(f"{what}: remove them with delete_adapters")
        return self._told and not here.issuperset(adapters)

    def restore(
        self, pipeline: Pipeline, adapters: Collection[str], originals: Originals | None
    ) -> None:
        """Unload everything and verify that what is left is the base.

        Raises:
            NotRestoredError: it is not.
        """
        unload(pipeline, list(adapters))
        if originals is not None:
            put_back(originals)
        check_base(pipeline, self.base)

    def _was(self, component: str) -> object:
        reference = self._parts.get(component)
        return None if reference is None else reference()


def _changed(pipeline: object) -> tuple[list[Any], str]:
    """Return the modules that LoRAs change, and the class name of the pipeline they belong to."""
    return modules_in((parts_of(pipeline) or {}).values()) or [pipeline], type(pipeline).__name__


def _reference_to(part: Any) -> Callable[[], object]:
    """Return a function that gives `part` while it is alive; a strong one if it cannot be weak."""
    try:
        return weakref.ref(part)
    except TypeError:
        return lambda: part
