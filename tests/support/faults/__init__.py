"""The fault list: each fault is a value that makes a wrong answer out of a right one.

A fault changes the resource before the answer is decided (``represent``), or the answer after it
(``answer``); it does so only where its ``when`` matches. Faults compose in the order they stand in.

    Resource(body, faults=[ResetAfter(1000, when=When(times=2))])
"""

from .base import Exchange, Fault, Tally, When, at_least, met
from .connections import (
    Chunked,
    Close,
    Crawl,
    ExtraBytes,
    FinAfter,
    GateAfter,
    Http10,
    IdleClose,
    NoLength,
    Pace,
    ResetAfter,
    SilenceAfter,
    SilenceBeforeHead,
)
from .heads import (
    ContentRangeOn200,
    DripHead,
    EnormousHead,
    Garbage,
    Headers,
    Interim,
    LengthConflict,
    Multipart,
    NoContentRange,
    ObsFold,
    OtherRange,
    ShorterRange,
    StatedTotal,
)
from .objects import (
    Encoded,
    EtagPerRequest,
    IgnoreIfRange,
    IgnoreRange,
    NoValidators,
    Overwritten,
    Replaced,
    WeakEtag,
)
from .refusals import Busy, Redirect, RefuseAuthorization, RequireSignature, Signer, Status

__all__ = [
    "Busy",
    "Chunked",
    "Close",
    "ContentRangeOn200",
    "Crawl",
    "DripHead",
    "Encoded",
    "EnormousHead",
    "EtagPerRequest",
    "Exchange",
    "ExtraBytes",
    "Fault",
    "FinAfter",
    "Garbage",
    "GateAfter",
    "Headers",
    "Http10",
    "IdleClose",
    "IgnoreIfRange",
    "IgnoreRange",
    "Interim",
    "LengthConflict",
    "Multipart",
    "NoContentRange",
    "NoLength",
    "NoValidators",
    "ObsFold",
    "OtherRange",
    "Overwritten",
    "Pace",
    "Redirect",
    "RefuseAuthorization",
    "Replaced",
    "RequireSignature",
    "ResetAfter",
    "ShorterRange",
    "Signer",
    "SilenceAfter",
    "SilenceBeforeHead",
    "StatedTotal",
    "Status",
    "Tally",
    "WeakEtag",
    "When",
    "at_least",
    "met",
]
