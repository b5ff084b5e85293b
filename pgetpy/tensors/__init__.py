"""Tensors from a reference: straight from the network while they arrive, or from the cache.

    state = pgetpy.tensors.load("https://example.com/model.safetensors", device="cuda")

They are torch tensors if torch is installed, else numpy arrays.

How a byte becomes a tensor:

    transfer --> file in the cache --> GrowingFile --> Delivery --> Readers --> DeviceCopier
    (engine)     (page cache)          what has        header,      threads     to the CPU or
                                       landed so far   choice                   to a GPU

The transfer writes the file as it always does, and tells a follower which bytes have landed.
Nothing in the engine or the cache knows about tensors. This package turns bytes into tensors and
moves them to a device; which tensors are wanted is decided in core/tensors. Nothing here asks a
server or writes a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgetpy.core.tensors.choices import Choice
from pgetpy.errors import BadSettingError, ObjectChangedError
from pgetpy.errors.redact import redact
from pgetpy.tensors.base import Array
from pgetpy.tensors.checkpoint import Checkpoint, LoadRequest, PathLike
from pgetpy.tensors.devices import device_for
from pgetpy.weights.cache import WeightsDownloadCache, usual_cache
from pgetpy.weights.options import ReferenceOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["load", "load_into", "stream"]


def load(
    reference: str | PathLike,
    device: Any = "cpu",
    dtype: Any = None,
    only: str | Iterable[str] | None = None,
    *,
    cache: WeightsDownloadCache | None = None,
    digest: str | None = None,
    framework: str | None = None,
    **options: Unpack[ReferenceOptions],
) -> dict[str, Array]:
    """Return the tensors of a safetensors file, or of a checkpoint that is split over several.

    A file that is not in the cache is fetched, and its tensors are made while it arrives. When
    `load` returns, the file is in the cache and, if its digest is known, verified.

    Args:
        reference: anything `WeightsDownloadCache.ensure` takes; an index such as
            `model.safetensors.index.json` (also `….safetensors.index.fp16.json`); a repository of
            the Hub, or a folder of one (`hf://OWNER/NAME/transformer/`); or a `pathlib.Path` of a
            local file, index or folder.
        device: `cpu`, `cuda`, `cuda:1` or a torch.device. CPU tensors are the pages of the cached
            file, mapped privately: writing to a tensor copies the pages it changes and leaves the
            file alone.
        dtype: the type to convert floating-point tensors to, such as torch.bfloat16 or "bfloat16";
            None keeps the file's.
        only: a prefix of the names of the wanted tensors, or the names themselves. If the file is
            not in the cache, only these bytes are fetched; they are not kept, nor verified as a
            whole.
        cache: where files are kept; by default the cache that the environment names.
        digest: the expected `sha256:HEX`, for a reference to a single file.
        framework: `torch` or `numpy`; by default torch if installed.
        options: tokens, patterns and the like, as for `ensure`.

    Returns:
        The tensors by name, in the order of the file.

    Raises:
        NotWeightsError: the file is not a valid safetensors file (huggingface.co/docs/safetensors).
        BadSettingError: `only` names a tensor that does not exist, or an argument is invalid.
        MissingPackageError: neither torch nor numpy is installed, or the installed version lacks a
            dtype.
        TransferError: the server or the network failed.
        IntegrityError: the bytes do not match the digest or the size.
        CacheError: the cache is full or cannot be used.
        UsageError: the reference or an option is invalid.
        OSError: the disk failed while a file was read.
    """
    return _load(_request(reference, device, dtype, only, cache, digest, framework, options))


def stream(
    reference: str | PathLike,
    device: Any = "cpu",
    dtype: Any = None,
    only: str | Iterable[str] | None = None,
    *,
    cache: WeightsDownloadCache | None = None,
    digest: str | None = None,
    framework: str | None = None,
    **options: Unpack[ReferenceOptions],
) -> Iterator[tuple[str, Array]]:
    """Yield names and tensors as they arrive, in whatever order that is.

    The file is verified, and in the cache, only when the iterator has finished: it raises at the
    end if the bytes were wrong. Closing it earlier stops the download; the next call resumes it.

    Args:
        reference: see `load`.
        device: see `load`.
        dtype: see `load`.
        only: see `load`.
        cache: see `load`.
        digest: see `load`.
        framework: see `load`.
        options: see `load`.

    Yields:
        The name of a tensor, and the tensor.

    Raises:
        ObjectChangedError: the file had to be fetched again from the start, after some of its
            tensors had been yielded.
        PgetError: as for `load`.
    """
    return _stream(_request(reference, device, dtype, only, cache, digest, framework, options))


def load_into(
    module: Any,
    reference: str | PathLike,
    device: Any = "cpu",
    dtype: Any = None,
    *,
    strict: bool = True,
    cache: WeightsDownloadCache | None = None,
    digest: str | None = None,
    **options: Unpack[ReferenceOptions],
) -> Any:
    """Load a checkpoint into `module`: its tensors become the module's parameters and buffers.

    Make the module on the meta device (`with torch.device("meta")`), so that its memory is not
    allocated twice. Tied parameters stay tied. Buffers that a module does not save are in no
    checkpoint and must be real; `accelerate.init_empty_weights(include_buffers=False)` leaves them
    so.

    Names and shapes are checked against the header before the tensors are fetched.

    Args:
        module: a torch.nn.Module.
        reference: see `load`.
        device: see `load`.
        dtype: see `load`.
        strict: whether missing and unexpected names are errors. A wrong shape always is.
        cache: see `load`.
        digest: see `load`.
        options: see `load`.

    Returns:
        What `Module.load_state_dict` returns: the missing and the unexpected names.

    Raises:
        NotWeightsError: names or shapes do not match. The module is left as it was.
        BadSettingError: `module` has something on the meta device that no checkpoint holds.
        PgetError: as for `load`.
    """
    from pgetpy.tensors.modules import Fit

    request = _request(reference, device, dtype, None, cache, digest, "torch", options)
    fit = Fit(module, redact(str(reference)), strict=strict)
    if str(device) != "meta":
        fit.check_buffers()
    return fit.assign(_load(replace(request, check=fit.check, check_names=fit.check_names)))


def _request(
    reference: str | PathLike,
    device: Any,
    dtype: Any,
    only: str | Iterable[str] | None,
    cache: WeightsDownloadCache | None,
    digest: str | None,
    framework: str | None,
    options: ReferenceOptions,
) -> LoadRequest:
    choice = Choice.of(only)
    if digest is not None and choice:
        raise BadSettingError(
            "digest", digest, "is the digest of a whole file, and only= selects parts of it"
        )
    if options.get("wanted") == "folder":
        raise BadSettingError("wanted", "folder", "is for files of any kind; name the file")
    where = device_for(device, dtype, framework)
    return LoadRequest(reference, choice, where, cache or usual_cache(), digest, options)


def _stream(request: LoadRequest) -> Iterator[tuple[str, Array]]:
    lives: dict[int, int] = {}
    with Checkpoint(request) as checkpoint:
        for arrival in checkpoint.arrivals():
            if lives.setdefault(arrival.file, arrival.life) != arrival.life:
                place = str(request.reference)
                raise ObjectChangedError(place, "the one that began", "another one")
            yield arrival.name, arrival.array


def _load(request: LoadRequest) -> dict[str, Array]:
    # If a file had to be fetched again, its tensors come again, from the new file.
    with Checkpoint(request) as checkpoint:
        found = {arrival.name: arrival.array for arrival in checkpoint.arrivals()}
        return {name: found[name] for name in checkpoint.order}
