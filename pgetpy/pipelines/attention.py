"""`choose` an attention backend for a model by trying it, and pin it there.

    choice = attention.choose(pipe.transformer, prefer=("_flash_3", "flash", "native"))

`set_attention_backend` of diffusers changes the default of the whole process, so models that were
not touched break as well, and some backends that it accepts fail at the first call. Here each
backend is called first with the model's dtype, head size and mask, and its result is compared with
math in float32 (of a model in float32: in float64). The backend that passes is set on the model's
own processors, and the default of the process stays as it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pgetpy.core.pipelines.attention import (
    MATH,
    AttentionShape,
    ProbeResult,
    is_device_fault,
    refuse_error,
    refuse_failure,
    select,
)
from pgetpy.errors import DeviceFaultError, MissingPackageError, UsageError
from pgetpy.system.logs import RoomLog

__all__ = ["AttentionChoice", "choose"]

_LOG = RoomLog("pipelines")
PREFERRED = ("_flash_3", "flash", "native")
# Not a multiple of any kernel's block, so that the handling of the rest is tried too.
_LENGTH = 333
_BATCH = 2
# For layers that do not say what theirs is.
_USUAL_SHAPE = AttentionShape(8, 64)
_SEED = 20_240_229


@dataclass(frozen=True)
class AttentionChoice:
    """The backend that a model uses now.

    Attributes:
        name: of the backend; empty if the model keeps the one it had.
        refused: why each other one was not chosen, by name, in order of preference.
        processors: how many of the model's processors it was pinned on.
        seconds: how long the choice took.
    """

    name: str
    refused: dict[str, str] = field(default_factory=dict)
    processors: int = 0
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return the choice for manifests (`BuildManifest.with_attention`), as JSON values."""
        return {
            "backend": self.name,
            "refused": dict(self.refused),
            "processors": self.processors,
            "seconds": round(self.seconds, 4),
        }

    def metrics(self) -> dict[str, str | float]:
        """Return the choice as single values, for metrics such as those of a Cog prediction."""
        return {
            "attention_backend": self.name or "unchanged",
            "attention_refused": ", ".join(self.refused),
            "attention_seconds": round(self.seconds, 4),
        }

    def lines(self) -> list[str]:
        """Return the choice for people: the backend, then one line for each refused one."""
        first = f"attention: {self.name}" if self.name else "attention: the model keeps its own"
        return [first, *(f"  not {name}: {why}" for name, why in self.refused.items())]


def choose(
    model: Any, prefer: Sequence[str] = PREFERRED, *, masked: bool = False
) -> AttentionChoice:
    """Pin the most preferred attention backend that works for `model` on its processors.

    Args:
        model: a diffusers model in its final dtype and on its final device, such as
            `pipe.transformer`.
        prefer: names of backends as diffusers has them, the best first. `native` and
            `_native_math` are added at the end. A name that ends in `_hub` fetches code from the
            Hub and runs it, so none is tried that is not named here.
        masked: whether the pipeline gives its attention a mask, for prompts that are padded.

    Raises:
        MissingPackageError: torch or diffusers is not installed, or too old.
        UsageError: `model` is not a model, or has no weights yet.
        DeviceFaultError: a backend made the GPU unusable; restart the process without it.
    """
    started = time.perf_counter()
    if isinstance(prefer, str) or not callable(getattr(model, "modules", None)):
        raise UsageError("choose() takes a model such as pipe.transformer, and a tuple of names")
    torch, dispatch = _libraries()
    processors = _processors(model)
    if not processors:
        why = "the model's attention processors do not take a backend"
        choice = AttentionChoice("", dict.fromkeys(prefer, why), 0, time.perf_counter() - started)
        return _logged(choice)
    names = {member.value: member for member in dispatch.AttentionBackendName}
    with _registry_kept(dispatch), torch.inference_mode():
        prober = _Prober(torch, dispatch, names, model, masked)
        found = select(prefer, list(names), prober.probe)
    if found.fault:
        raise DeviceFaultError(found.fault, found.refused[found.fault])
    for processor in processors if found.name else ():
        processor._attention_backend = names[found.name]
    pinned = len(processors) if found.name else 0
    return _logged(
        AttentionChoice(found.name, found.refused, pinned, time.perf_counter() - started)
    )


def _logged(choice: AttentionChoice) -> AttentionChoice:
    if choice.name:
        _LOG.debug("attention backend %s for %d processors", choice.name, choice.processors)
    else:
        _LOG.warning("no attention backend was chosen: the model keeps its own")
    for name, why in choice.refused.items():
        _LOG.debug("attention backend %s was not chosen: %s", name, why)
    return choice


def _libraries() -> tuple[Any, Any]:
    """Return torch and the module of diffusers that has the backends."""
    try:
        import torch
        from diffusers.models import attention_dispatch
    except ImportError as error:
        hint = "pip install 'pgetpy[pipelines]'"
        reason = f"choosing an attention backend needs torch and diffusers 0.35 or newer ({error})"
        raise MissingPackageError(reason, hint=hint) from None
    return torch, attention_dispatch


def _processors(model: Any) -> list[Any]:
    """Return the model's attention processors that a backend can be set on."""
    found = (getattr(module, "processor", None) for module in model.modules())
    return [each for each in found if hasattr(each, "_attention_backend")]


def _shapes(model: Any) -> list[AttentionShape]:
    """Return the distinct shapes of the attention layers that a backend can be set on."""
    shapes: dict[AttentionShape, None] = {}
    for module in model.modules():
        if not hasattr(getattr(module, "processor", None), "_attention_backend"):
            continue
        heads, inner = getattr(module, "heads", None), getattr(module, "inner_dim", None)
        size = getattr(module, "head_dim", None)
        if isinstance(heads, int) and not isinstance(size, int) and isinstance(inner, int):
            size = inner // heads
        if isinstance(heads, int) and isinstance(size, int):
            shapes[AttentionShape(heads, size)] = None
    return list(shapes) or [_USUAL_SHAPE]


@contextlib.contextmanager
def _registry_kept(dispatch: Any) -> Iterator[None]:
    """Run a block that may change the default backend of the process, and set it back."""
    registry = dispatch._AttentionBackendRegistry
    before = registry._active_backend
    try:
        yield
    finally:
        registry._active_backend = before


@dataclass(frozen=True)
class _Sample:
    """Inputs of one attention call in the model's dtype, and what is right for them."""

    inputs: tuple[Any, ...]
    mask: Any
    right: Any
    own: float
    rounding: float


class _Prober:
    """Calls backends with the model's own dtype, shapes and mask."""

    def __init__(
        self, torch: Any, dispatch: Any, names: dict[str, Any], model: Any, masked: bool
    ) -> None:
        self._torch, self._dispatch, self._names = torch, dispatch, names
        self._dtype, self._device = model.dtype, model.device
        if self._device.type == "meta":
            raise UsageError("load the model's weights before its attention backend is chosen")
        self._samples = [self._sample(shape, masked) for shape in _shapes(model)]

    def probe(self, name: str) -> ProbeResult:
        """Try one backend with all samples."""
        step = "selecting"
        try:
            self._prepare(self._names[name])
            step = "calling"
            for sample in self._samples:
                error = self._distance(self._call(name, sample), sample.right)
                if why := refuse_error(error, sample.own, sample.rounding):
                    return ProbeResult(why)
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # a broken package may raise anything
            return ProbeResult(refuse_failure(error, step), is_device_fault(error))
        return ProbeResult()

    def _prepare(self, backend: Any) -> None:
        """Have diffusers check that the backend's package is there, and fetch its kernel."""
        for step in ("_check_attention_backend_requirements", "_maybe_download_kernel_for_backend"):
            if function := getattr(self._dispatch, step, None):
                function(backend)

    def _call(self, name: str, sample: _Sample) -> Any:
        result = self._dispatch.dispatch_attention_fn(
            *sample.inputs, attn_mask=sample.mask, backend=self._names[name]
        )
        if self._device.type == "cuda":
            # Kernels fail after the call has returned: an error must not be blamed on the next one.
            self._torch.cuda.synchronize(self._device)
        return result

    def _distance(self, result: Any, right: Any) -> float:
        if tuple(result.shape) != tuple(right.shape):
            raise ValueError(f"a result of shape {tuple(result.shape)}, not {tuple(right.shape)}")
        if result.dtype != self._dtype:
            raise ValueError(f"a result of {result.dtype}, not {self._dtype}")
        return float((result.cpu().to(right.dtype) - right).abs().max().item())

    def _sample(self, shape: AttentionShape, masked: bool) -> _Sample:
        torch = self._torch
        # On the CPU and with a generator of its own, so that no image gets other random numbers.
        source = torch.Generator().manual_seed(_SEED)
        sizes = (_BATCH, _LENGTH, shape.heads, shape.size)
        made = [torch.randn(sizes, generator=source).to(self._dtype) for _ in range(3)]
        mask = None
        if masked:
            mask = torch.ones((_BATCH, 1, 1, _LENGTH), dtype=torch.bool)
            mask[1, :, :, _LENGTH // 2 :] = False
        # More exact than the model's dtype, and on the CPU: GPUs may round float32 to TensorFloat.
        exact = torch.float64 if self._dtype == torch.float32 else torch.float32
        right = self._math([each.to(exact) for each in made], mask)
        inputs = tuple(each.to(self._device) for each in made)
        mask = mask.to(self._device) if mask is not None else None
        rounding = float(torch.finfo(self._dtype).eps) * float(right.abs().max().item())
        sample = _Sample(inputs, mask, right, 0.0, rounding)
        result = self._math(inputs, mask)
        if MATH in self._names:
            with contextlib.suppress(Exception):
                result = self._call(MATH, sample)
        own = float((result.cpu().to(exact) - right).abs().max().item())
        return _Sample(sample.inputs, mask, right, own, rounding)

    def _math(self, inputs: Sequence[Any], mask: Any) -> Any:
        """Return attention by its definition, for tensors of (batch, length, heads, size)."""
        query, key, value = (each.permute(0, 2, 1, 3) for each in inputs)
        scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return (scores.softmax(dim=-1) @ value).permute(0, 2, 1, 3)
