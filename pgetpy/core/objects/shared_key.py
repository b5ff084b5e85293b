"""Azure's Shared Key: the signature of a request by an account's key.

Source: Azure Storage REST API, "Authorize with Shared Key", the scheme for Blob Storage of version
2015-02-21 and later.

    string to sign                                      signature
    method                                              HMAC-SHA256 by the account's key, in base64
    Content-Encoding ... Range    values, one a line
    x-ms-*                        name:value, sorted
    /ACCOUNT/PATH                 as it is in the URL
    query                         name:value, decoded and sorted

Unlike Amazon's scheme it covers `Range` and `If-Match`, so those have to be known beforehand.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable
from urllib.parse import unquote

# In this order. `Date` is always empty, because x-ms-date is sent, and a GET has no body.
_SIGNED = ("content-encoding", "content-language", "content-length", "content-md5", "content-type",
           "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since",
           "range")  # fmt: skip


def read_key(text: str) -> bytes:
    """Return an account's key from its base64.

    Raises:
        ValueError: it is not base64.
    """
    return base64.b64decode(text, validate=True)


def authorization(
    method: str,
    path: str,
    query: str,
    headers: Iterable[tuple[str, str]],
    *,
    account: str,
    key: bytes,
) -> str:
    """Return the value of the Authorization header.

    Args:
        path: as it is in the URL, percent-encoded. With an emulator it begins with the account.
        query: as it is in the URL; empty if there is none.
        headers: all that are sent, `x-ms-date` and `x-ms-version` among them.
        account: the name of the storage account.
        key: its key, as `read_key` returns it.
    """
    sent = {name.lower(): " ".join(value.split()) for name, value in headers}
    standard = "\n".join(sent.get(name, "") for name in _SIGNED)
    own = "".join(
        f"{name}:{value}\n" for name, value in sorted(sent.items()) if name.startswith("x-ms-")
    )
    text = f"{method}\n{standard}\n{own}/{account}{path}{_canonical(query)}"
    signature = base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()
    return f"SharedKey {account}:{signature}"


def _canonical(query: str) -> str:
    pairs = (field.partition("=") for field in query.split("&") if field)
    decoded = sorted((unquote(name).lower(), unquote(value)) for name, _, value in pairs)
    return "".join(f"\n{name}:{value}" for name, value in decoded)
