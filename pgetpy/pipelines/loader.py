"""From a folder on disk to a pipeline of diffusers, with what loaders let pass made an error.

Components with weights are loaded one by one, because only then do their loaders say which tensors
are missing; diffusers puts the pipeline together. The caller holds the lock of `loading()`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgetpy.core.pipelines.configs import MODEL_INDEX, parse_config
from pgetpy.core.pipelines.dtypes import dtype_sizes, load_dtype
from pgetpy.core.pipelines.plans import SINGLE
from pgetpy.core.pipelines.specs import AS_STORED, OTHERS, PipelineSpec
from pgetpy.core.weights.safetensors import LONGEST_HEADER
from pgetpy.errors import (
    BadSafetensorsError,
    BadSettingError,
    IntegrityError,
    MissingPackageError,
    PgetError,
    PoisonedProcessError,
)
from pgetpy.errors.redact import redact
from pgetpy.pipelines.load_checks import (
    check_dtype,
    check_loading_info,
    check_vocabulary,
    is_poisoned,
    left_on_meta,
    named,
    wait_for_sound_process,
)
from pgetpy.system.logs import RoomLog
from pgetpy.system.model_loads import without_bars

_LOG = RoomLog("pipelines")
# From where a model_index.json may name classes. Others are left to diffusers.
_LIBRARIES = ("diffusers", "transformers")
_LONGEST_REASON = 300
# A load that another one has disturbed is made again.
_TRIES = 2


@dataclass(frozen=True)
class LoadSource:
    """What is loaded.

    Attributes:
        folder: the tree on disk.
        pipeline: the class of diffusers.
        weights: the paths of the weights below `folder`, by component; "" for one file that has
            those of all.
        spec: how it is loaded.
    """

    folder: Path
    pipeline: str
    weights: Mapping[str, tuple[str, ...]]
    spec: PipelineSpec

    @property
    def shown(self) -> str:
        """The model, for errors."""
        return redact(self.spec.base)


# Returns a component that another pipeline has loaded, or None; and is told of those loaded here.
Find = Callable[[str], Any]


def load_pipeline(source: LoadSource, device: str, find: Find) -> Any:
    """Return the pipeline in a folder, on `device`.

    Args:
        source: what is loaded.
        device: as torch names it.
        find: returns a component by its name if it is in memory already, else None.

    Raises:
        IntegrityError: tensors are missing or have the wrong shape, or a file cannot be loaded.
        BadSettingError: the class does not exist, or a component has another dtype than asked for.
        PoisonedProcessError: this process cannot load models any more.
        MissingPackageError: diffusers is not installed.
    """
    began = time.monotonic()
    kind = pipeline_class(source.pipeline)
    with without_bars():
        made = _load_undisturbed(source, kind, find)
    made = made if device == "cpu" else made.to(device)
    took = f"{time.monotonic() - began:.1f}"
    _LOG.debug("loaded %s of %s on %s in %s s", kind.__name__, source.shown, device, took)
    return made


def _load_undisturbed(source: LoadSource, kind: Any, find: Find) -> Any:
    for last in range(_TRIES):
        wait_for_sound_process()
        made, error = None, None
        try:
            made = _load(source, kind, find)
        except PgetError:
            raise
        except Exception as caught:  # whatever the libraries raise for what they cannot read
            error = caught
        empty = left_on_meta(modules_of(made)) if made is not None else []
        if made is not None and not empty:
            return made
        if error is not None and _is_no_fault_of_files(error):
            raise error
        if is_poisoned():
            raise PoisonedProcessError from error
        # Another thread may have loaded by `from_pretrained` itself at the same time.
        if last == _TRIES - 1 or (error is not None and "meta" not in str(error)):
            raise _failure(source, empty, error) from error
        _LOG.warning("loading %s again: it was disturbed", source.shown)
    raise AssertionError


def _failure(source: LoadSource, empty: list[str], error: BaseException | None) -> IntegrityError:
    if error is None:
        return IntegrityError(f"{source.shown} has no values for {named(empty)}")
    words = f"{type(error).__name__}: {words_of(error)}"
    return IntegrityError(f"{source.shown} cannot be loaded: {words}")


def words_of(error: BaseException) -> str:
    """Return what a library says of an error, in one line that is not too long."""
    return " ".join(str(error).split())[:_LONGEST_REASON]


def _is_no_fault_of_files(error: Exception) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError))


def modules_of(pipeline: Any) -> dict[str, Any]:
    """Return the components of a pipeline that are modules of torch, by name."""
    import torch

    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, torch.nn.Module)}


def pipeline_class(name: str) -> Any:
    """Return the class of diffusers called `name`.

    Raises:
        MissingPackageError: diffusers is not installed.
        BadSettingError: there is no such pipeline, or it cannot be imported.
    """
    try:
        # Without accelerate loaders fill what is missing with random numbers.
        importlib.import_module("accelerate")
        import diffusers
    except ImportError as error:
        reason = f"loading pipelines needs {error.name or 'diffusers'}"
        raise MissingPackageError(reason, hint="pip install 'pgetpy[pipelines]'") from error
    try:
        found = getattr(diffusers, name, None)
    except Exception as error:  # a module that the class needs, when it is imported
        raise BadSettingError("pipeline", name, f"cannot be imported: {words_of(error)}") from error
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise BadSettingError("pipeline", name, "is not a pipeline of diffusers")
    return found


def _load(source: LoadSource, whole: Any, find: Find) -> Any:
    takes = inspect.signature(whole.__init__).parameters
    for name in source.spec.components.keys() - takes.keys():
        # diffusers would load the pipeline without it, and log a line.
        raise BadSettingError("components", name, f"is not a component of {whole.__name__}")
    index = _config_of(source.folder / MODEL_INDEX)
    given: dict[str, Any] = {
        name: None for name, reference in source.spec.components.items() if reference is None
    }
    for name, paths in source.weights.items():
        if name not in takes:  # among them the one file that has all weights
            continue
        found = find(name)
        kind = _class_of(source, name, index) if found is None else None
        if found is None and kind is not None:
            found = _load_component(source, name, kind, paths)
        if found is not None:
            given[name] = found
    options: dict[str, Any] = {"local_files_only": True, **given}
    if "" not in source.weights:
        made = whole.from_pretrained(source.folder, use_safetensors=True, **options)
    else:
        made = _load_single_file(source, whole, options)
    for name, part in made.components.items():
        if part is not None:
            check_vocabulary(name, part, source.folder / name, source.shown)
    return made


def _load_single_file(source: LoadSource, whole: Any, options: dict[str, Any]) -> Any:
    """Return a pipeline whose weights are in one file, without a request for configurations."""
    given, spec = set(options), source.spec
    apart = [name for name in spec.dtype if name != OTHERS and name not in given]
    if apart:
        reason = "a base of one file is loaded in one dtype"
        raise BadSettingError("dtype", f"{apart[0]}: {spec.dtype_of(apart[0])}", reason)
    if spec.quantization is not None:
        shown = json.dumps(spec.quantization)[:_LONGEST_REASON]
        raise BadSettingError("quantization", shown, "is for a base that is a folder")
    dtype = _dtype_of(source, "", source.weights[""])
    if dtype is not None:
        options["torch_dtype"] = dtype
    path = source.folder / SINGLE
    made = whole.from_single_file(str(path), config=str(source.folder), **options)
    for name, module in modules_of(made).items():
        if dtype is not None and name not in given:
            check_dtype(name, module, str(dtype).removeprefix("torch."))
    return made


def _load_component(source: LoadSource, name: str, kind: Any, paths: tuple[str, ...]) -> Any:
    """Return the component `name`, checked."""
    import diffusers

    folder = source.folder / name
    quantiser = _quantiser_of(source.spec, name, issubclass(kind, diffusers.ModelMixin))
    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    # Whatever has another shape is named then, and refused below.
    options |= {"low_cpu_mem_usage": True, "ignore_mismatched_sizes": True}
    dtype = _dtype_of(source, name, paths)
    if dtype is not None:
        options["torch_dtype" if issubclass(kind, diffusers.ModelMixin) else _dtype_word()] = dtype
    variant = source.spec.variant
    if variant and any(variant in path.replace("-", ".").split(".") for path in paths):
        options["variant"] = variant
    if quantiser is not None:
        options["quantization_config"] = quantiser
    made, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    check_loading_info(name, info, source.shown)
    if dtype is not None and quantiser is None and not _is_quantised(folder):
        check_dtype(name, made, str(dtype).removeprefix("torch."))
    return made


def _class_of(source: LoadSource, name: str, index: Mapping[str, Any]) -> Any:
    """Return the class of a component whose loader says what is missing; None for any other."""
    import diffusers
    import torch

    entry = index.get(name)
    library, kind = entry if isinstance(entry, list) and len(entry) == 2 else ("", "")
    if source.spec.components.get(name):
        # It may be of another class than the one that it replaces.
        config = _config_of(source.folder / name / "config.json")
        own = config.get("_class_name")
        library, kind = ("diffusers", own) if own else ("transformers", _first(config))
    if hasattr(diffusers.pipelines, str(library)):
        found = getattr(getattr(diffusers.pipelines, library), str(kind), None)
    elif library in _LIBRARIES:
        found = getattr(importlib.import_module(library), str(kind), None)
    else:
        return None
    ours = isinstance(found, type) and issubclass(found, torch.nn.Module)
    return found if ours and hasattr(found, "from_pretrained") else None


def _first(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names else ""


def _dtype_of(source: LoadSource, name: str, paths: Iterable[str]) -> Any:
    """Return torch's dtype for a component; None if there is nothing to say."""
    import torch

    wanted, sizes = source.spec.dtype_of(name), Counter[str]()
    if wanted == AS_STORED:
        for path in paths:
            sizes += _dtypes_in(source, path)
    quantised = _is_quantised(source.folder / name)
    found, others = load_dtype(name or "the model", wanted, sizes, quantised=quantised)
    if others:
        _LOG.warning("%s has weights in %s: loaded in %s", name, ", ".join(others), found)
    return getattr(torch, found) if found else None


def _dtypes_in(source: LoadSource, path: str) -> Counter[str]:
    with (source.folder / path).open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, LONGEST_HEADER))
    try:
        return dtype_sizes(header)
    except BadSafetensorsError:
        raise IntegrityError(f"{path} of {source.shown} has no readable header") from None


def _is_quantised(folder: Path) -> bool:
    return "quantization_config" in _config_of(folder / "config.json")


def _quantiser_of(spec: PipelineSpec, name: str, of_diffusers: bool) -> Any:
    """Return the library's configuration for a component; None if it is not quantised at loading.

    Raises:
        BadSettingError: diffusers refuses what was asked for.
    """
    if spec.quantization is None:
        return None
    from diffusers import PipelineQuantizationConfig

    try:
        mapping = spec.quantization.get("quant_mapping")
        if mapping is not None:
            return _config_from(mapping[name], of_diffusers) if name in mapping else None
        config = PipelineQuantizationConfig(**spec.quantization)
        return config._resolve_quant_config(is_diffusers=of_diffusers, module_name=name)
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        shown = json.dumps(spec.quantization)[:_LONGEST_REASON]
        raise BadSettingError("quantization", shown, str(error)[:_LONGEST_REASON]) from error


def _config_from(values: Mapping[str, Any], of_diffusers: bool) -> Any:
    """Return the configuration of a quantiser from what a config.json has of it."""
    library, reader = (
        ("diffusers", "DiffusersAutoQuantizer")
        if of_diffusers
        else ("transformers", "AutoQuantizationConfig")
    )
    module = importlib.import_module(f"{library}.quantizers.auto")
    return getattr(module, reader).from_dict(dict(values))


def _config_of(path: Path) -> Mapping[str, Any]:
    """Return a configuration; an empty one if there is none."""
    try:
        return parse_config(path.read_bytes(), path.name)
    except FileNotFoundError:
        return {}


def _dtype_word() -> str:
    """Return what this release of transformers calls the argument."""
    transformers = importlib.import_module("transformers")
    major, minor = transformers.__version__.split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (4, 56) else "torch_dtype"
