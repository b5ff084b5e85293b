"""The names of `b10_transfer`, for programs that use it: only the import changes.

    from pgetpy.compile_cache import b10 as b10_transfer

Its functions, statuses, dictionaries and variables are those of b10_transfer 0.0.2, with
`OperationStatus`, `save_vllm_compile_cache` and `get_b10_logger` of 0.4.1:

    B10FS_CACHE_DIR          the location (default /cache/model/compile_cache)
    TORCHINDUCTOR_CACHE_DIR  the live folder; TORCH_CACHE_DIR, which its README names, too
    MAX_CACHE_SIZE_MB        what is larger is not saved (default 1024)
    BASETEN_FS_ENABLED       0 or false switches the location off

What differs on purpose: a save that writes nothing does not say SUCCESS, a damaged location never
costs what is cached here, cancelling stops the work, and the location may be any folder.
"""

from __future__ import annotations

from pgetpy.compile_cache.b10.caches import (
    clear_local_cache,
    get_b10_logger,
    get_cache_info,
    list_available_caches,
    load_compile_cache,
    load_compile_cache_async,
    save_compile_cache,
    save_compile_cache_async,
    save_vllm_compile_cache,
)
from pgetpy.compile_cache.b10.statuses import (
    AsyncTransferStatus,
    CacheOperationInterrupted,
    CacheValidationError,
    LoadStatus,
    OperationStatus,
    SaveStatus,
    TransferProgress,
    TransferStatus,
)
from pgetpy.compile_cache.b10.statuses import B10CacheError as CacheError
from pgetpy.compile_cache.b10.tasks import (
    cancel_transfer,
    get_transfer_status,
    is_transfer_complete,
    list_active_transfers,
    wait_for_completion,
)
from pgetpy.compile_cache.b10.transfers import start_transfer_async, transfer

__all__ = [
    "AsyncTransferStatus",
    "CacheError",
    "CacheOperationInterrupted",
    "CacheValidationError",
    "LoadStatus",
    "OperationStatus",
    "SaveStatus",
    "TransferProgress",
    "TransferStatus",
    "cancel_transfer",
    "clear_local_cache",
    "get_b10_logger",
    "get_cache_info",
    "get_transfer_status",
    "is_transfer_complete",
    "list_active_transfers",
    "list_available_caches",
    "load_compile_cache",
    "load_compile_cache_async",
    "save_compile_cache",
    "save_compile_cache_async",
    "save_vllm_compile_cache",
    "start_transfer_async",
    "transfer",
    "wait_for_completion",
]
