"""pgetpy: model weights from a URL to where a model uses them.

    pgetpy.download(url, path)                  a file, over as many connections as help
    pgetpy.extract(url, folder)                 an archive, unpacked while it arrives
    pgetpy.WeightsDownloadCache().ensure(url)   a path in a cache that processes share
    pgetpy.tensors.load(url, device="cuda")     tensors, made while the file arrives
    pgetpy.lora.LoraComposer(pipeline)          LoRAs on a diffusers pipeline

Each blocking call has a coroutine beside it (`download_async`). All errors are `PgetError`s.
"""

from __future__ import annotations

# typing's own TYPE_CHECKING would import typing, a third of the time of `pgetpy --version`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pgetpy import lora, tensors
    from pgetpy._version import __version__ as __version__
    from pgetpy.api import (
        download,
        download_async,
        download_many,
        download_many_async,
        extract,
        extract_async,
        snapshot,
        snapshot_async,
        upload,
        upload_async,
    )
    from pgetpy.core.archives.limits import Limits
    from pgetpy.core.references.checksums import Checksum
    from pgetpy.core.references.jobs import Job
    from pgetpy.core.references.policy import Policy
    from pgetpy.core.report.results import DownloadFailure, DownloadResult
    from pgetpy.core.report.uploads import UploadResult
    from pgetpy.errors import PgetError
    from pgetpy.settings import Settings
    from pgetpy.settings.fleet_settings import FleetSettings
    from pgetpy.sources.s3 import S3
    from pgetpy.weights.cache import WeightsDownloadCache

# Where each public name lives. They are imported when first used: `import pgetpy` costs nothing.
_HOMES = {
    "Checksum": "pgetpy.core.references.checksums",
    "DownloadFailure": "pgetpy.core.report.results",
    "DownloadResult": "pgetpy.core.report.results",
    "FleetSettings": "pgetpy.settings.fleet_settings",
    "Job": "pgetpy.core.references.jobs",
    "Limits": "pgetpy.core.archives.limits",
    "PgetError": "pgetpy.errors",
    "Policy": "pgetpy.core.references.policy",
    "S3": "pgetpy.sources.s3",
    "Settings": "pgetpy.settings",
    "UploadResult": "pgetpy.core.report.uploads",
    "WeightsDownloadCache": "pgetpy.weights.cache",
    "__version__": "pgetpy._version",
    "download": "pgetpy.api",
    "download_async": "pgetpy.api",
    "download_many": "pgetpy.api",
    "download_many_async": "pgetpy.api",
    "extract": "pgetpy.api",
    "extract_async": "pgetpy.api",
    "snapshot": "pgetpy.api",
    "snapshot_async": "pgetpy.api",
    "upload": "pgetpy.api",
    "upload_async": "pgetpy.api",
}
_ROOMS = ("lora", "tensors")

__all__ = [
    "S3",
    "Checksum",
    "DownloadFailure",
    "DownloadResult",
    "FleetSettings",
    "Job",
    "Limits",
    "PgetError",
    "Policy",
    "Settings",
    "UploadResult",
    "WeightsDownloadCache",
    "download",
    "download_async",
    "download_many",
    "download_many_async",
    "extract",
    "extract_async",
    "lora",
    "snapshot",
    "snapshot_async",
    "tensors",
    "upload",
    "upload_async",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES and name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    value: object = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_ROOMS])
