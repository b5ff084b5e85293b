"""Which pipeline the operand and the flags of `pgetpy pipeline plan|key|build` ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pgetpy.cli.invocation import Invocation
from pgetpy.cli.manifest_file import read_manifest
from pgetpy.errors import BadManifestError, BadSettingError
from pgetpy.errors.redact import redact
from pgetpy.pipelines import PipelineSpec
from pgetpy.settings.pipeline_options import PipelineOptions

_FIELDS = tuple(each.name for each in fields(PipelineSpec))


def read_spec(invocation: Invocation) -> PipelineSpec:
    """Return what a command asks for.

    Raises:
        UsageError: there is not exactly one operand, or a value is invalid.
        BadManifestError: the operand is a file of JSON that cannot be used.
    """
    hint = f"; see pgetpy {invocation.arguments.command} --help"
    (operand,) = invocation.take({1}, "one SPEC", hint)
    options = PipelineOptions().with_flags(invocation.arguments.values)
    given: dict[str, Any] = {
        "pipeline": options.pipeline,
        "variant": options.variant,
        "dtype": options.dtype,
        "config": options.config,
        "loras": tuple(map(_lora, options.loras)),
    }
    written = _written(operand)
    return PipelineSpec(**{**written, **{name: value for name, value in given.items() if value}})


def _lora(text: str) -> tuple[str, float]:
    """Return the reference and the scale in `REF [SCALE]`; references contain no blanks."""
    reference, *scale = text.split() or [""]
    try:
        (found,) = map(float, scale or ["1"])
    except ValueError:
        reason = "is not followed by one number; write 'REF SCALE'"
        raise BadSettingError("--lora", redact(reference), reason) from None
    return reference, found


def _written(operand: str) -> Mapping[str, Any]:
    """Return the arguments of PipelineSpec that `operand` holds or names."""
    if operand != "-" and not operand.endswith(".json"):
        return {"base": operand}
    text, name = read_manifest(operand)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadManifestError(name, 0, "it is not JSON") from None
    if not isinstance(found, dict) or "base" not in found:
        raise BadManifestError(name, 0, 'it is not an object with a "base"')
    odd = sorted(found.keys() - set(_FIELDS))
    if odd:
        known = ", ".join(_FIELDS)
        raise BadManifestError(name, 0, f"{odd[0][:100]!r} is not one of {known}")
    return found
