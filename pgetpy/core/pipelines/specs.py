"""What a predictor asks for: a base model, how to load it, and the LoRAs on it, in one form.

The same wish can be written in many ways: a LoRA as a pair or a mapping, a dtype as text or as
torch's own object. All of them become one `PipelineSpec`, and none needs torch to be imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pgetpy.errors import BadSettingError
from pgetpy.errors.redact import redact

# Keep the dtype of the file. diffusers makes float32 of everything if it is not told otherwise.
AS_STORED = "auto"
# The name under which diffusers takes the dtype of the components that are not named.
OTHERS = "default"
_DTYPES = frozenset({AS_STORED, "float32", "float16", "bfloat16", "float64"})
_LORA_FIELDS = frozenset({"path", "scale", "component"})
_LONGEST_NAME = 100


@dataclass(frozen=True)
class LoraSpec:
    """One LoRA of a pipeline.

    Attributes:
        path: a reference to its file; it may contain secrets.
        scale: its strength.
        component: which component it is for, if the file does not say; empty otherwise.
    """

    path: str = field(repr=False)
    scale: float = 1.0
    component: str = ""

    @classmethod
    def parse(cls, given: object, name: str) -> LoraSpec:
        """Return a LoRA from a pair, a triple, a mapping, or its reference alone.

        Args:
            name: the argument, for errors.

        Raises:
            BadSettingError: it is something else.
        """
        if isinstance(given, LoraSpec):
            return cls._checked(given.path, given.scale, given.component, name)
        if isinstance(given, str):
            return cls._checked(given, 1.0, "", name)
        if isinstance(given, Mapping):
            odd = sorted(map(str, given.keys() - _LORA_FIELDS))
            if odd or "path" not in given:
                reason = f"has the field {odd[0]}" if odd else "has no path"
                raise BadSettingError(name, "a LoRA", f'{reason}; write {{"path", "scale"}}')
            return cls._checked(
                given["path"], given.get("scale", 1.0), given.get("component", ""), name
            )
        if isinstance(given, (tuple, list)) and len(given) in (2, 3):
            component = given[2] if len(given) > 2 else ""
            return cls._checked(given[0], given[1], component, name)
        reason = 'is neither (reference, scale) nor {"path", "scale"}'
        raise BadSettingError(name, type(given).__name__, reason)

    @classmethod
    def _checked(cls, path: object, scale: object, component: object, name: str) -> LoraSpec:
        if not isinstance(path, str):
            reason = "the reference of a LoRA is not a text"
            raise BadSettingError(name, type(path).__name__, reason)
        if not path.strip():
            raise BadSettingError(name, path, "the reference of a LoRA is empty")
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise BadSettingError(name, scale, f"the scale of {redact(path)} is not a number")
        if not math.isfinite(scale):
            raise BadSettingError(name, scale, f"the scale of {redact(path)} is not finite")
        if not isinstance(component, str):
            raise BadSettingError(name, component, f"the component of {redact(path)} is not a text")
        # -0.0 and 0.0 act alike.
        return cls(path, float(scale) + 0.0, component)


@dataclass(frozen=True)
class PipelineSpec:
    """What is built, and how it is loaded.

    Attributes:
        base: a folder of an object store, a repository of the Hub, a local folder, an archive of
            such a folder, or one .safetensors file; it may contain secrets.
        pipeline: the class of diffusers; empty for the one that the base names.
        components: references to what replaces single components; None leaves a component out.
        config: a reference to the folder of configurations for a base of one file.
        variant: which of several files of weights, such as `fp16`; empty for those without one.
        dtype: of all components, `auto` for that of the files; or a mapping by component, in which
            `default` is that of all others. torch's own dtypes are accepted.
        quantization: the arguments of diffusers' PipelineQuantizationConfig as JSON values, or
            `{"quant_mapping": {COMPONENT: VALUES}}` with the `quantization_config` of a
            config.json for each component; None for none.
        loras: LoRAs in the order in which they are activated, which changes the result.
        share: components that pipelines of one store keep in memory once, or True for all of them.
            It does not change what is computed.

    Raises:
        BadSettingError: an argument is invalid.
    """

    base: str = field(repr=False)
    pipeline: str = ""
    components: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    config: str = field(default="", repr=False)
    variant: str = ""
    dtype: Any = AS_STORED
    quantization: Any = None
    loras: Any = ()
    share: Any = True

    def __post_init__(self) -> None:
        if not isinstance(self.base, str) or not self.base.strip():
            raise BadSettingError("base", self.base, "is not a reference")
        if not isinstance(self.config or "", str):
            raise BadSettingError("config", self.config, "is not a reference")
        for name in ("pipeline", "variant"):
            _check_name(getattr(self, name) or "", name)
        put = object.__setattr__  # frozen, and yet completed here
        put(self, "pipeline", self.pipeline or "")
        put(self, "variant", self.variant or "")
        put(self, "config", self.config or "")
        put(self, "components", _components(self.components))
        put(self, "dtype", _dtypes(self.dtype))
        put(self, "quantization", _quantization(self.quantization))
        put(self, "loras", _loras(self.loras))
        put(self, "share", _share(self.share))

    def __hash__(self) -> int:
        return hash(self.identity)

    @cached_property
    def identity(self) -> str:
        """All of it as one text, with secrets: tells specifications apart within a process."""
        return json.dumps(self._fields(lambda text: text), sort_keys=True)

    @cached_property
    def unscaled_identity(self) -> str:
        """The same without the scales of LoRAs: what has the same files is equal."""
        fields = self._fields(lambda text: text)
        for each in fields["loras"]:
            del each["scale"]
        return json.dumps(fields, sort_keys=True)

    def dtype_of(self, component: str) -> str:
        """Return the dtype in which `component` is loaded."""
        found: str = self.dtype.get(component, self.dtype[OTHERS])
        return found

    def check_components(self, known: Iterable[str]) -> None:
        """Check that the components named here exist.

        Args:
            known: those of the base. A class may take others, which are given as `components`.

        Raises:
            BadSettingError: there is no such component.
        """
        quantization = self.quantization or {}
        quantised = [
            *quantization.get("quant_mapping", ()),
            *_names(quantization.get("components_to_quantize")),
        ]
        named = {
            "dtype": [name for name in self.dtype if name != OTHERS],
            "quantization": quantised,
            "components": [name for name, part in self.components.items() if part is None],
        }
        known = sorted({*known} | {name for name, part in self.components.items() if part})
        for argument, names in named.items():
            for name in names:
                if name not in known:
                    reason = f"is not a component; there are {', '.join(known)}"
                    raise BadSettingError(argument, name, reason)

    def shares(self, component: str) -> bool:
        """Whether `component` may be that of another pipeline, too."""
        return self.share is True or component in self.share

    def shown(self) -> dict[str, Any]:
        """Return what was asked for as JSON values, without secrets."""
        return self._fields(redact)

    def _fields(self, shown: Any) -> dict[str, Any]:
        parts = {
            name: part if part is None else shown(part) for name, part in self.components.items()
        }
        return {
            "base": shown(self.base),
            "pipeline": self.pipeline,
            "components": parts,
            "config": shown(self.config),
            "variant": self.variant,
            "dtype": dict(self.dtype),
            "quantization": self.quantization,
            "loras": [
                {"path": shown(each.path), "scale": each.scale, "component": each.component}
                for each in self.loras
            ],
            "share": self.share if self.share is True else list(self.share),
        }


def _check_name(name: object, argument: str) -> str:
    """Check a name that becomes part of file names, or of a look-up in a library."""
    if not isinstance(name, str):
        raise BadSettingError(argument, name, "is not a text")
    allowed = name.replace("_", "").replace("-", "").replace(".", "")
    fits = len(name) <= _LONGEST_NAME and not name.startswith(".")
    if name and not (allowed.isascii() and allowed.isalnum() and fits):
        raise BadSettingError(argument, name[:_LONGEST_NAME], "is not a plain name")
    return name


def _components(given: object) -> dict[str, str | None]:
    if not isinstance(given, Mapping):
        raise BadSettingError("components", type(given).__name__, "is not a mapping")
    for name, reference in given.items():
        if not _check_name(name, "components"):
            raise BadSettingError("components", name, "names a component without a name")
        if reference is not None and (not isinstance(reference, str) or not reference.strip()):
            raise BadSettingError("components", name, "is neither a reference nor None")
    return dict(given)


def _dtypes(given: object) -> dict[str, str]:
    """Return dtypes by component, `default` included, without those that are the default anyway."""
    if not isinstance(given, Mapping):
        return {OTHERS: _dtype(given)}
    found = {_check_name(name, "dtype"): _dtype(dtype) for name, dtype in given.items()}
    others = found.get(OTHERS, AS_STORED)
    return {OTHERS: others} | {name: dtype for name, dtype in found.items() if dtype != others}


def _dtype(given: object) -> str:
    # torch's dtypes are known by how they are printed: `torch.float16`.
    text = AS_STORED if given is None else str(given).removeprefix("torch.")
    if text not in _DTYPES:
        raise BadSettingError("dtype", text, f"is not one of {', '.join(sorted(_DTYPES))}")
    return text


def _quantization(given: object) -> Any:
    """Return a copy that consists of JSON values, so that it can be hashed and recorded."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise BadSettingError("quantization", type(given).__name__, "is not a mapping")
    mapping = given.get("quant_mapping", {})
    if not isinstance(mapping, Mapping) or not all(
        isinstance(each, Mapping) for each in mapping.values()
    ):
        reason = "is not a mapping of components to mappings"
        raise BadSettingError("quantization", "quant_mapping", reason)
    if not all(isinstance(each, str) for each in _names(given.get("components_to_quantize"))):
        reason = "is not a list of components"
        raise BadSettingError("quantization", "components_to_quantize", reason)
    try:
        return json.loads(json.dumps(given, allow_nan=False, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        reason = "does not consist of texts, finite numbers, lists and mappings"
        raise BadSettingError("quantization", type(given).__name__, reason) from None


def _names(given: object) -> list[object]:
    """Return what diffusers takes as one name or several."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _loras(given: object) -> tuple[LoraSpec, ...]:
    if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable):
        raise BadSettingError("loras", type(given).__name__, "is not a list of LoRAs")
    return tuple(LoraSpec.parse(each, f"loras[{at}]") for at, each in enumerate(given))


def _share(given: object) -> Any:
    if isinstance(given, bool):
        return True if given else ()
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise BadSettingError("share", type(given).__name__, "is neither a bool nor a list")
    return tuple(sorted({_check_name(each, "share") for each in given}))
