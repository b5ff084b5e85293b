"""Storage accounts of Azure: connection strings, and what a SAS says about itself.

Sources: Azure Storage documentation, "Configure Azure Storage connection strings" and "Create an
account SAS".

    DefaultEndpointsProtocol=https;AccountName=NAME;AccountKey=KEY;EndpointSuffix=core.windows.net
    BlobEndpoint=https://NAME.blob.core.windows.net;SharedAccessSignature=sv=...&sig=...
    UseDevelopmentStorage=true                            an emulator with its well-known account
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from urllib.parse import parse_qsl

from pgetpy.core.lazy_dataclass import dataclass, field

# Published in Azurite's documentation: the only account that an emulator has by default.
_EMULATOR = "devstoreaccount1"
_EMULATOR_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
_SUFFIX = "core.windows.net"
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")


class BadConnectionStringError(ValueError):
    """It is not a connection string; the text says why, and repeats no secret."""


@dataclass(frozen=True)
class Account:
    """A storage account, as a connection string describes it; empty for what it leaves out.

    Attributes:
        name: of the account.
        endpoint: URL of its Blob Storage without a slash at its end.
        key: one of the account's two keys, in base64.
        sas: a shared access signature: a query without its question mark.
    """

    name: str = ""
    endpoint: str = ""
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)


def parse_connection_string(text: str) -> Account:
    """Return the account that `text` describes.

    Raises:
        BadConnectionStringError: it is not made of NAME=VALUE pairs.
    """
    fields = {}
    for number, part in enumerate(filter(None, map(str.strip, text.split(";"))), 1):
        name, equals, value = part.partition("=")
        if not equals:
            raise BadConnectionStringError(f"its part {number} is not NAME=VALUE")
        fields[name.strip().lower()] = value.strip()
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        return Account(_EMULATOR, f"http://127.0.0.1:10000/{_EMULATOR}", _EMULATOR_KEY)
    name = fields.get("accountname", "")
    endpoint = fields.get("blobendpoint", "").rstrip("/")
    if not endpoint and name:
        scheme = fields.get("defaultendpointsprotocol", "https").lower()
        endpoint = account_endpoint(name, fields.get("endpointsuffix") or _SUFFIX, scheme)
    return Account(
        name,
        endpoint,
        fields.get("accountkey", ""),
        fields.get("sharedaccesssignature", "").lstrip("?"),
    )


def account_endpoint(name: str, suffix: str = _SUFFIX, scheme: str = "https") -> str:
    """Return the URL of an account's Blob Storage."""
    return f"{scheme}://{name}.blob.{suffix}"


def is_account_name(text: str) -> bool:
    """Whether an account may be called `text`."""
    return _ACCOUNT.fullmatch(text) is not None


def sas_expiry(sas: str) -> tuple[str, float] | None:
    """Return when a SAS expires, as it says it and in seconds since 1970; None if it does not."""
    text = dict(parse_qsl(sas)).get("se", "")
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d"):
        try:
            moment = datetime.strptime(text, form).replace(tzinfo=timezone.utc)
            return text, moment.timestamp()
        except ValueError:
            continue
    return None
