"""What loaders let pass: tensors that were not read, other dtypes, a process that cannot load."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pgetpy.core.pipelines.dtypes import strayed
from pgetpy.errors import BadSettingError, IntegrityError, PoisonedProcessError
from pgetpy.system import polling

# How many names an error lists.
_NAMED = 8
# A load outside of `loading()` makes its modules within this time.
_PATIENCE = 5.0
_PLAIN = frozenset({bool, int, float, str, dict, list, set, tuple, type(None), OrderedDict})


def is_poisoned() -> bool:
    """Whether this process makes modules without memory at this moment."""
    import torch

    return bool(torch.nn.Linear(1, 1).weight.is_meta)


def wait_for_sound_process() -> None:
    """Wait while another thread makes modules without memory.

    Raises:
        PoisonedProcessError: that does not end.
    """
    until = time.monotonic() + _PATIENCE
    while is_poisoned():
        if time.monotonic() > until:
            raise PoisonedProcessError
        time.sleep(polling.SLICE)


def check_loading_info(component: str, info: Mapping[str, Any], shown: str) -> None:
    """Check what a loader says about the tensors of a component.

    Args:
        info: what `from_pretrained` gives with `output_loading_info`.
        shown: the model, for errors.

    Raises:
        IntegrityError: tensors are missing, or of another shape.
    """
    missing = sorted(map(str, info.get("missing_keys") or ()))
    if missing:
        raise IntegrityError(f"the weights of {component} of {shown} lack {named(missing)}")
    shapes = sorted(str(each[0]) for each in info.get("mismatched_keys") or ())
    if shapes:
        reason = f"have other shapes than its configuration says: {named(shapes)}"
        raise IntegrityError(f"the weights of {component} of {shown} {reason}")


def check_vocabulary(component: str, part: Any, folder: Path, shown: str) -> None:
    """Check that a tokenizer has its vocabulary: transformers makes one without any otherwise.

    Args:
        folder: what it was loaded from.
        shown: the model, for errors.

    Raises:
        IntegrityError: files are missing.
    """
    names = getattr(type(part), "vocab_files_names", None)
    if not isinstance(names, Mapping) or not names or not folder.is_dir():
        return
    whole = names.get("tokenizer_file", "tokenizer.json")
    single = [name for name in names.values() if name != whole]
    missing = [name for name in single if not (folder / name).exists()]
    if not (folder / whole).exists() and (missing or not single):
        lacks = " or ".join(filter(None, (whole, ", ".join(missing))))
        raise IntegrityError(f"{component} of {shown} lacks {lacks}")


def left_on_meta(modules: Mapping[str, Any]) -> list[str]:
    """Return the tensors of `modules` that have no values, with the name of their component."""
    return [
        f"{component}.{path}.{name}" if path else f"{component}.{name}"
        for component, module in modules.items()
        for path, part in module.named_modules()
        for name, value in _values_of(part)
        if getattr(value, "is_meta", False) is True
    ]


def check_dtype(component: str, module: Any, wanted: str) -> None:
    """Check that a component is in the dtype `wanted`, except for what its class keeps in float32.

    Raises:
        BadSettingError: it is not.
    """
    names = {str(each.dtype) for each in module.parameters() if each.is_floating_point()}
    if names <= {f"torch.{wanted}"}:
        return
    kept = {
        name
        for part in module.modules()
        for names in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
        for name in getattr(type(part), names, None) or ()
    }
    found = (
        (name, str(each.dtype).removeprefix("torch."))
        for name, each in module.named_parameters()
        if each.is_floating_point()
    )
    other = strayed(found, wanted, kept)
    if other:
        raise BadSettingError("dtype", wanted, f"{component} was loaded with {other}")


def named(names: list[str]) -> str:
    """Return the first of many names, and how many there are beyond."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _values_of(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield parameters, buffers (also those that are not saved), and plain attributes of one
    module, without those inside it."""
    own = vars(part)
    yield from (own.get("_parameters") or {}).items()
    yield from (own.get("_buffers") or {}).items()
    # Most attributes of a module are plain values, and there are tens of thousands.
    for name, value in own.items():
        if type(value) not in _PLAIN:
            yield name, value
