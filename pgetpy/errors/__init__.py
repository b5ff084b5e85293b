"""Every error pgetpy raises, in one tree.

    PgetError
      UsageError (ValueError)       BadReferenceError  BadSettingError  BadManifestError
                                    MissingPackageError
      TransferError                 ConnectionFailedError  StalledError  HttpStatusError
                                    RangeNotHonouredError  ObjectChangedError  ObjectExistsError
                                    NotAllowedError
                                    ServiceError: UnauthorizedError  GatedError  NotFoundError
      IntegrityError                SizeMismatchError  DigestMismatchError  NotWeightsError
                                    BadSafetensorsError  BadLoraError: WrongBaseModelError
      ArchiveError                  UnsafeMemberError  TruncatedArchiveError  LimitExceededError
                                    NotOneFileError
      NotRestoredError              a pipeline that LoRAs have changed for good
      PoisonedProcessError          loads that ran at once broke this process
      DeviceFaultError              a GPU that a backend made unusable for this process
      GenerationError               GenerationTakenError  GenerationIncompleteError
                                    GenerationInUseError
      BadEnvironmentError           a generation's Python environment cannot be built
      NotOneFileSystemError (OSError)  a file cannot be linked into a generation
      DestinationError (OSError)    the destination is in the way, or cannot be written
                                    SourceFileError: a file to upload cannot be read
      DiskFullError (OSError)
      CacheError (OSError)          CacheFullError
      OutputError                   the result cannot be printed
      ThreadLimitError (RuntimeError)  the system refuses to start more threads

Errors carry fields; the sentence is made in `__str__`: what failed, where, and what to try. A URL
in a field is redacted before it is stored.

Every class that callers may catch belongs here, and `redact`, without which none may show a URL.
Nothing here imports another room.
"""

from __future__ import annotations

from pgetpy.errors.base import (
    BadManifestError,
    BadReferenceError,
    BadSettingError,
    MissingPackageError,
    PgetError,
    UsageError,
)
from pgetpy.errors.content import (
    ALL_OF_IT,
    ArchiveError,
    BadLoraError,
    BadSafetensorsError,
    DeviceFaultError,
    DigestMismatchError,
    IntegrityError,
    LimitExceededError,
    NotOneFileError,
    NotRestoredError,
    NotWeightsError,
    PoisonedProcessError,
    SizeMismatchError,
    TruncatedArchiveError,
    UnsafeMemberError,
    WrongBaseModelError,
)
from pgetpy.errors.places import (
    BadEnvironmentError,
    CacheError,
    CacheFullError,
    DestinationError,
    DiskFullError,
    GenerationError,
    GenerationIncompleteError,
    GenerationInUseError,
    GenerationTakenError,
    NotOneFileSystemError,
    OutputError,
    SourceFileError,
    ThreadLimitError,
)
from pgetpy.errors.transfer import (
    AccessDeniedError,
    ConnectionFailedError,
    GatedError,
    HttpStatusError,
    NotAllowedError,
    NotFoundError,
    ObjectChangedError,
    ObjectExistsError,
    RangeNotHonouredError,
    ServiceError,
    StalledError,
    TooSlowError,
    TransferError,
    UnauthorizedError,
)

__all__ = [
    "ALL_OF_IT",
    "AccessDeniedError",
    "ArchiveError",
    "BadEnvironmentError",
    "BadLoraError",
    "BadManifestError",
    "BadReferenceError",
    "BadSafetensorsError",
    "BadSettingError",
    "CacheError",
    "CacheFullError",
    "ConnectionFailedError",
    "DestinationError",
    "DeviceFaultError",
    "DigestMismatchError",
    "DiskFullError",
    "GatedError",
    "GenerationError",
    "GenerationInUseError",
    "GenerationIncompleteError",
    "GenerationTakenError",
    "HttpStatusError",
    "IntegrityError",
    "LimitExceededError",
    "MissingPackageError",
    "NotAllowedError",
    "NotFoundError",
    "NotOneFileError",
    "NotOneFileSystemError",
    "NotRestoredError",
    "NotWeightsError",
    "ObjectChangedError",
    "ObjectExistsError",
    "OutputError",
    "PgetError",
    "PoisonedProcessError",
    "RangeNotHonouredError",
    "ServiceError",
    "SizeMismatchError",
    "SourceFileError",
    "StalledError",
    "ThreadLimitError",
    "TooSlowError",
    "TransferError",
    "TruncatedArchiveError",
    "UnauthorizedError",
    "UnsafeMemberError",
    "UsageError",
    "WrongBaseModelError",
]
