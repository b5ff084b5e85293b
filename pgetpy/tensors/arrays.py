"""torch tensors or numpy arrays over bytes that are already in memory.

Dtype names are those of the safetensors format (huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from pgetpy.core.weights.safetensors import DTYPE_BITS, Tensor
from pgetpy.errors import BadSafetensorsError, BadSettingError, MissingPackageError
from pgetpy.tensors.base import Array

_TORCH = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16",
    "F16": "float16", "BF16": "bfloat16", "I32": "int32", "U32": "uint32", "F32": "float32",
    "I64": "int64", "U64": "uint64", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}  # fmt: skip
_NUMPY = {
    "BOOL": "bool", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2",
    "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
    "C64": "<c8",
}  # fmt: skip
_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip

# numpy 1's limit; numpy 2 allows 64.
_MOST_DIMENSIONS = 32


class Framework(Protocol):
    """Makes arrays."""

    def check(self, tensor: Tensor) -> None:
        """Check that `tensor` has a dtype and a shape that this framework can represent.

        Raises:
            MissingPackageError: the dtype needs another package, or a newer version.
            BadSafetensorsError: no array can have this shape.
        """

    def view(self, buffer: Any, tensor: Tensor, offset: int) -> Array:
        """Return `tensor`, whose bytes begin at `offset` of `buffer`, without copying them."""

    def convert(self, array: Array) -> Array:
        """Return `array` converted to the wanted dtype, if it is a floating-point one."""


class TorchFramework:
    """torch tensors.

    Args:
        dtype: a torch.dtype or its name, to convert floating-point tensors to; None keeps the
            file's.
    """

    def __init__(self, dtype: Any = None) -> None:
        self.torch = importlib.import_module("torch")
        self._dtype = dtype
        if isinstance(dtype, str):
            self._dtype = getattr(self.torch, dtype.removeprefix("torch."), None)
        if dtype is not None and not isinstance(self._dtype, self.torch.dtype):
            raise BadSettingError("dtype", dtype, "is not a torch dtype")

    def check(self, tensor: Tensor) -> None:
        """See `Framework.check`."""
        dtype = self.dtype_of(tensor)
        if tensor.dtype == "F4" and tensor.shape and tensor.shape[-1] % 2:
            raise BadSafetensorsError(
                f"tensor {tensor.name!r} has an odd last dimension, and torch keeps two F4 values "
                "in an element"
            )
        if 0 in tensor.shape:
            _check_shape(tensor, lambda: self._empty(dtype, shape_in_torch(tensor)))

    def dtype_of(self, tensor: Tensor) -> Any:
        """Return the torch.dtype of `tensor` in the file.

        Raises:
            MissingPackageError: the installed torch is too old to have it.
        """
        found = getattr(self.torch, _TORCH.get(tensor.dtype, ""), None)
        if found is None:
            reason = f"tensor {tensor.name!r} is {tensor.dtype}, which this torch does not have"
            raise MissingPackageError(reason, hint="install a newer torch")
        return found

    def view(self, buffer: Any, tensor: Tensor, offset: int) -> Array:
        """See `Framework.view`."""
        dtype, shape = self.dtype_of(tensor), shape_in_torch(tensor)
        count = (tensor.stop - tensor.start) // dtype.itemsize
        if not count:
            return self._empty(dtype, shape)
        found = self.torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset)
        # Compiled kernels may assume natural alignment, and a file need not align its tensors.
        return (found if not offset % dtype.itemsize else found.clone()).reshape(shape)

    def _empty(self, dtype: Any, shape: tuple[int, ...]) -> Array:
        # With `reshape`: `empty(shape)` rejects huge dimensions even next to a zero.
        return self.torch.empty(0, dtype=dtype).reshape(shape)

    def convert(self, array: Array) -> Array:
        """See `Framework.convert`."""
        # Packed types hold two values in an element and cannot be converted.
        packed = array.dtype == getattr(self.torch, _TORCH["F4"], None)
        if self._dtype is None or packed or not array.dtype.is_floating_point:
            return array
        return array.to(self._dtype)


class NumpyFramework:
    """numpy arrays. Dtypes that numpy lacks come from ml_dtypes, if installed.

    Args:
        dtype: anything numpy takes as a dtype, to convert floating-point arrays to; None keeps the
            file's.
    """

    def __init__(self, dtype: Any = None) -> None:
        self._numpy = importlib.import_module("numpy")
        self._dtype = None
        if dtype is not None:
            try:
                if isinstance(dtype, str) and dtype in _ML_DTYPES.values():
                    dtype = _ml_dtype(dtype, f"numpy has no {dtype}")
                self._dtype = self._numpy.dtype(dtype)
            except TypeError:
                raise BadSettingError("dtype", dtype, "is not a numpy dtype") from None

    def check(self, tensor: Tensor) -> None:
        """See `Framework.check`."""
        dtype = self._numpy.dtype("<f4") if self._widens(tensor) else self._dtype_of(tensor)
        if 0 in tensor.shape or len(tensor.shape) > _MOST_DIMENSIONS:
            # With zero strides an array takes no memory, whatever its shape.
            one = self._numpy.empty((), dtype)
            _check_shape(tensor, lambda: self._numpy.broadcast_to(one, tensor.shape))

    def view(self, buffer: Any, tensor: Tensor, offset: int) -> Array:
        """See `Framework.view`."""
        size = tensor.stop - tensor.start
        if self._widens(tensor):
            # BF16 is the upper half of a float32, so appending 16 zero bits keeps the value.
            half = self._numpy.frombuffer(buffer, "<u2", count=size // 2, offset=offset)
            wide = half.astype("<u4") << 16
            return wide.view("<f4").reshape(tensor.shape)
        dtype = self._dtype_of(tensor)
        found = self._numpy.frombuffer(buffer, dtype, count=size // dtype.itemsize, offset=offset)
        return (found if found.flags.aligned else found.copy()).reshape(tensor.shape)

    def convert(self, array: Array) -> Array:
        """See `Framework.convert`."""
        floating = array.dtype.kind == "f" or array.dtype.name in _ML_DTYPES.values()
        if self._dtype is None or not floating:
            return array
        return array.astype(self._dtype, copy=False)

    def _widens(self, tensor: Tensor) -> bool:
        """Whether to convert BF16 to float32 here, since ml_dtypes is missing."""
        return tensor.dtype == "BF16" and self._dtype is not None and not _has("ml_dtypes")

    def _dtype_of(self, tensor: Tensor) -> Any:
        if tensor.dtype in _NUMPY:
            return self._numpy.dtype(_NUMPY[tensor.dtype])
        name = _ML_DTYPES.get(tensor.dtype)
        reason = f"tensor {tensor.name!r} is {tensor.dtype}, which numpy does not have"
        if name is None:
            raise MissingPackageError(reason, hint="install torch")
        or_else = ", or ask for dtype='float32'" if tensor.dtype == "BF16" else ""
        return self._numpy.dtype(_ml_dtype(name, reason, or_else))


def _check_shape(tensor: Tensor, make: Callable[[], object]) -> None:
    """Check that an array of the shape of `tensor` can be made.

    Only for empty tensors and those with many dimensions, where packages have limits of their own
    beyond what the file's size implies.

    Raises:
        BadSafetensorsError: it cannot.
    """
    try:
        make()
    except (RuntimeError, TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise BadSafetensorsError(
            f"tensor {tensor.name!r} has a shape that no array can have ({reason})"
        ) from None


def shape_in_torch(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of `tensor` in torch, where an F4 element holds two values."""
    if tensor.dtype == "F4" and tensor.shape:
        return (*tensor.shape[:-1], tensor.shape[-1] // 2)
    return tensor.shape


def _ml_dtype(name: str, reason: str, or_else: str = "") -> Any:
    """Return the dtype that ml_dtypes calls `name`.

    Args:
        reason: why it is needed, for the error.
        or_else: an alternative to installing it, for the hint.

    Raises:
        MissingPackageError: ml_dtypes is not installed.
    """
    if not _has("ml_dtypes"):
        raise MissingPackageError(reason, hint=f"install ml_dtypes or torch{or_else}")
    return getattr(importlib.import_module("ml_dtypes"), name)


def framework_for(name: str | None, dtype: Any) -> TorchFramework | NumpyFramework:
    """Return the framework called `name`; by default torch, or numpy if torch is missing.

    Raises:
        BadSettingError: there is no such framework, or it has no such dtype.
        MissingPackageError: it is not installed.
    """
    if name not in (None, "torch", "numpy"):
        raise BadSettingError("framework", name, "is neither torch nor numpy")
    chosen = name or ("torch" if _has("torch") else "numpy")
    if not _has(chosen):
        what = "torch or numpy" if name is None else chosen
        raise MissingPackageError(f"{what} is not installed", hint=f"pip install {chosen}")
    return TorchFramework(dtype) if chosen == "torch" else NumpyFramework(dtype)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


assert _TORCH.keys() <= DTYPE_BITS.keys()
