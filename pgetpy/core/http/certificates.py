"""For which names a certificate is, read from its DER bytes (RFC 5280, 4.2.1.6).

Python parses only a certificate that it has accepted; this is for those that were refused. It only
fills in the words of an error, and nothing is trusted because of it. So it searches for the
extension's identifier instead of parsing the structure around it:

    06 03 55 1d 11   [01 01 ff]   04 len [ 30 len [ 82 len "example.com"  87 04 7f 00 00 01 ... ] ]
    identifier       critical     octets   sequence  DNS name             IP address
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

# The extension's OBJECT IDENTIFIER 2.5.29.17 with its tag and length.
_ALTERNATIVE_NAMES = bytes.fromhex("0603551d11")
_BOOLEAN, _OCTETS = 0x01, 0x04
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87


def names_in(certificate: bytes) -> list[str]:
    """Return the host names and addresses that `certificate` is for; fewer if it is malformed."""
    at = certificate.find(_ALTERNATIVE_NAMES)
    if at < 0:
        return []
    names = []
    for tag, value in _elements(certificate[at + len(_ALTERNATIVE_NAMES) :]):
        if tag == _BOOLEAN:  # the extension is critical
            continue
        if tag == _OCTETS:
            outer = next(_elements(value), (0, b""))
            names = [name for tag, raw in _elements(outer[1]) if (name := _name(tag, raw))]
        break
    return names


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each complete element (X.690, 8.1)."""
    at = 0
    while at + 2 <= len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        # The long form: the lower bits say how many bytes hold the length (X.690, 8.1.3.5).
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + size > len(data):
            return
        yield tag, data[at : at + size]
        at += size


def _name(tag: int, raw: bytes) -> str:
    if tag == _DNS_NAME:
        return "".join(character for character in raw.decode("latin-1") if character.isprintable())
    if tag == _IP_ADDRESS and len(raw) in (4, 16):
        return str(ipaddress.ip_address(raw))
    return ""
