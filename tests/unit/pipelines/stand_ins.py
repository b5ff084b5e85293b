"""Stand-ins for torch and diffusers: as much of them as choosing an attention backend calls.

Tensors are numpy arrays that round to their dtype after every operation. The registry behaves as
that of diffusers does where it matters: its functions are called by name, its requirements are
checked at selection, and its default belongs to the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

FLOAT64, FLOAT32, FLOAT16 = map(np.dtype, (np.float64, np.float32, np.float16))


class Tensor:
    """A numpy array with the methods of a tensor."""

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def to(self, place_or_dtype: Any) -> Tensor:
        is_dtype = isinstance(place_or_dtype, np.dtype)
        return Tensor(self.array.astype(place_or_dtype) if is_dtype else self.array)

    def cpu(self) -> Tensor:
        return self

    def float(self) -> Tensor:
        return Tensor(self.array.astype(FLOAT32))

    def permute(self, *order: int) -> Tensor:
        return Tensor(self.array.transpose(order))

    def transpose(self, one: int, other: int) -> Tensor:
        return Tensor(self.array.swapaxes(one, other))

    def masked_fill(self, mask: Tensor, value: float) -> Tensor:
        return Tensor(np.where(mask.array, self.dtype.type(value), self.array))

    def softmax(self, dim: int) -> Tensor:
        shifted = np.exp(self.array - self.array.max(axis=dim, keepdims=True))
        return Tensor((shifted / shifted.sum(axis=dim, keepdims=True)).astype(self.dtype))

    def abs(self) -> Tensor:
        return Tensor(np.abs(self.array))

    def max(self) -> Tensor:
        return Tensor(self.array.max())

    def item(self) -> float:
        return float(self.array)

    def __matmul__(self, other: Tensor) -> Tensor:
        # Without BLAS, whose threads wait for one another for seconds on a busy machine.
        exact = FLOAT64 if self.dtype == FLOAT64 else FLOAT32
        ours, others = self.array.astype(exact), other.array.astype(exact)
        product = np.einsum("...ij,...jk->...ik", ours, others)
        return Tensor(product.astype(self.dtype))

    def __sub__(self, other: Tensor) -> Tensor:
        return Tensor(self.array - other.array)

    def __mul__(self, factor: float) -> Tensor:
        return Tensor(self.array * self.dtype.type(factor))

    def __invert__(self) -> Tensor:
        return Tensor(~self.array)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.array[index] = value


class _Generator:
    def manual_seed(self, seed: int) -> np.random.Generator:
        return np.random.default_rng(seed)


def make_torch() -> ModuleType:
    """Return a module that passes for torch."""
    torch: Any = ModuleType("torch")
    torch.Generator = _Generator
    torch.randn = lambda sizes, generator: Tensor(generator.standard_normal(sizes).astype(FLOAT32))
    torch.ones = lambda sizes, dtype: Tensor(np.ones(sizes, dtype))
    torch.bool = np.bool_
    torch.float64, torch.float32 = FLOAT64, FLOAT32
    torch.finfo = np.finfo
    torch.inference_mode = contextlib.nullcontext
    return torch


Backend = Callable[..., Tensor]


def math_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in float32, rounded to the dtype of its inputs."""
    q, k, v = (each.float().permute(0, 2, 1, 3) for each in (query, key, value))
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return Tensor((scores.softmax(-1) @ v).permute(0, 2, 1, 3).array.astype(query.dtype))


class Registry:
    """The backends' functions, and what diffusers would say when one is selected."""

    def __init__(self, **backends: Backend) -> None:
        self.functions: dict[str, Backend] = {
            "native": math_attention,
            "_native_math": math_attention,
            **backends,
        }
        self.missing: dict[str, Exception] = {}
        self.called: list[str] = []
        self.downloaded: list[str] = []

    def module(self) -> ModuleType:
        """Return a module that passes for diffusers.models.attention_dispatch."""
        names = Enum("AttentionBackendName", {n.upper(): n for n in self.functions})  # type: ignore[misc]
        state = SimpleNamespace(_active_backend="the default of the process")

        def check(backend: Any) -> None:
            state._active_backend = backend
            if backend.value in self.missing:
                raise self.missing[backend.value]

        def dispatch(
            query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, backend: Any
        ) -> Tensor:
            self.called.append(backend.value)
            return self.functions[backend.value](query, key, value, attn_mask)

        module: Any = ModuleType("diffusers.models.attention_dispatch")
        module.AttentionBackendName = names
        module._AttentionBackendRegistry = state
        module._check_attention_backend_requirements = check
        module._maybe_download_kernel_for_backend = lambda name: self.downloaded.append(name.value)
        module.dispatch_attention_fn = dispatch
        return module


class Processor:
    """An attention processor that a backend can be set on."""

    _attention_backend: Any = None


class OldProcessor:
    """One that always calls the same function, as UNets have."""


class Model:
    """A model with two attention layers."""

    def __init__(
        self, dtype: Any = FLOAT16, device: str = "cpu", processor: type = Processor
    ) -> None:
        self.dtype, self.device = dtype, SimpleNamespace(type=device)
        self.layers = [
            SimpleNamespace(processor=processor(), heads=2, inner_dim=32),
            SimpleNamespace(processor=processor(), heads=4, head_dim=8),
            SimpleNamespace(weight=None),
        ]

    def modules(self) -> Iterator[Any]:
        yield self
        yield from self.layers

    @property
    def pinned(self) -> list[Any]:
        found = [layer.processor._attention_backend for layer in self.layers[:2]]
        return [getattr(each, "value", None) for each in found]
