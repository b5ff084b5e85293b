"""Tensors from a reference: straight from the network while they arrive, or from the cache.

    state = pgetpy.tensors.load("https://example.com/model.safetensors", device="cuda")

torch where it is installed, else numpy.

What makes tensors of a file's bytes, or brings them to a device, belongs here; which of them are
wanted is decided in core/tensors. Nothing here asks a server or writes a file.
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
    """Return the tensors of a safetensors file, or of a checkpoint of several.

    What is not in the cache is fetched, and its tensors are made while it arrives; when this
    returns it is verified, where its digest is known, and in the cache.

    Args:
        reference: what `WeightsDownloadCache.ensure` takes, a `…safetensors.index.json` or that of
            a variant, `…safetensors.index.fp16.json`; a repository of the Hub, or a folder of one
            (`hf://OWNER/NAME/transformer/`), that has one; a `pathlib.Path` of a file, index or
            folder.
        device: `cpu`, `cuda`, `cuda:1` or a torch.device. On the cpu tensors are the pages of the
            cached file, mapped privately: to change one copies the pages that it changes.
        dtype: what tensors of floating point are to be, as torch.bfloat16 or "bfloat16".
        only: the beginning of the names of those that are wanted, or their names. Of what is not
            in the cache nothing else is fetched; nothing is kept then, nor verified as a whole.
        cache: by default the one that the environment names.
        digest: `sha256:HEX` of the one file that the reference names.
        framework: `torch` or `numpy`; by default torch where it is installed.
        options: tokens and the like, as `ensure` takes them.

    Returns:
        The tensors by name, in the order of the file.

    Raises:
        NotWeightsError: it is no safetensors file.
        BadSettingError: `only` names what is not there, or an argument makes no sense.
        MissingPackageError: neither torch nor numpy is installed, or not as new as a dtype needs.
        TransferError, IntegrityError, CacheError, UsageError: it cannot be had.
        OSError: the disk fails while a file is read.
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
    """Yield names and tensors as they become whole, in whatever order that is; see `load`.

    Only when it has come to its end are they verified, and in the cache: it raises at its end where
    the bytes were wrong. To close it before ends the download, which the next call goes on with.

    Raises:
        ObjectChangedError: the file had to be fetched anew after tensors of it had been given out.
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
    """Give `module` the tensors of a checkpoint: they become its parameters and buffers.

    A module that was made on the meta device (`with torch.device("meta")`) has none of its own, so
    that nothing is allocated twice. Parameters that are tied stay tied. Buffers that a module does
    not save are in no checkpoint and have to be real, as those of a module are that was made by
    `accelerate.init_empty_weights(include_buffers=False)`.

    Args:
        module: a torch.nn.Module.
        strict: whether the names have to be the same ones. What is of another shape is refused in
            any case. Both are seen before the tensors are fetched.
        reference, device, dtype, cache, digest, options: see `load`.

    Returns:
        What `Module.load_state_dict` returns: the names that were missing or not expected.

    Raises:
        NotWeightsError: names or shapes are not those of the module, which is as it was then.
        BadSettingError: `module` has on the meta device what no checkpoint holds.
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
        raise BadSettingError("digest", digest, "is of a whole file, and only tells parts of it")
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
    # What came of a file whose place another one has taken comes again, of that one.
    with Checkpoint(request) as checkpoint:
        found = {arrival.name: arrival.array for arrival in checkpoint.arrivals()}
        return {name: found[name] for name in checkpoint.order}
