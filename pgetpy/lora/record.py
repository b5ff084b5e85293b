"""What a pipeline was when its composer was made: all that it is compared with later."""

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
    """The widths of a pipeline's modules, and which components they are in.

    Attributes:
        base: what LoRAs are compared with, whatever is loaded.

    Raises:
        BadSettingError: another composer is at work on some of the modules.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.base: Base = base_of(pipeline)
        parts = parts_of(pipeline) or {}
        self._parts = {name: _reference_to(part) for name, part in parts.items()}
        self._told = any(hasattr(part, "load_lora_adapter") for part in parts.values())
        self._claim: ModuleClaim | None = None
        OWNERS.check(*_changed(pipeline))

    def claim(self, pipeline: Pipeline) -> None:
        """Keep others from composing on the modules."""
        self._claim = OWNERS.claim(*_changed(pipeline))

    def let_go(self) -> None:
        """Let others compose on the modules."""
        self._claim = None

    def check_components(self, pipeline: Pipeline) -> None:
        """Check that the pipeline has the components that it had, or none in their places.

        Raises:
            UsageError: it has others.
        """
        now = parts_of(pipeline) or {}
        others = [name for name, part in now.items() if self._was(name) is not part]
        if not others:
            return
        wrapped = wrapped_in(pipeline)
        if wrapped:
            raise UsageError(f"the pipeline cannot take LoRAs: {how_to_compile(wrapped)}")
        reason = f"the pipeline's {others[0]} is another than the LoraComposer was made for"
        raise UsageError(f"{reason}: close it, and make one for the pipeline as it is now")

    def is_touched(self, pipeline: Pipeline, adapters: Collection[str]) -> bool:
        """Whether somebody else has taken any of `adapters` out.

        Raises:
            UsageError: somebody else has put others in.
        """
        here = adapters_in(pipeline)
        strange = sorted(here - set(adapters))
        if strange:
            what = (
                f"the pipeline has LoRAs that the LoraComposer did not load ({', '.join(strange)})"
            )
            raise UsageError(f"{what}: take them out, by delete_adapters")
        return self._told and not here.issuperset(adapters)

    def restore(
        self, pipeline: Pipeline, adapters: Collection[str], originals: Originals | None
    ) -> None:
        """Take everything out, and make sure that what is left is the base.

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
    """Return what is changed, and what it belongs to."""
    return modules_in((parts_of(pipeline) or {}).values()) or [pipeline], type(pipeline).__name__


def _reference_to(part: Any) -> Callable[[], object]:
    try:
        return weakref.ref(part)
    except TypeError:
        return lambda: part
