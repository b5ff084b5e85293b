"""The names that a certificate is for, as the words of an error give them."""

from __future__ import annotations

import ssl

import pytest
import trustme

from pgetpy.core.http.certificates import names_in

NAMES = ("weights.example", "*.store.example", "127.0.0.1", "::1")


def certificate(*names: str) -> bytes:
    pem = trustme.CA().issue_cert(*names).cert_chain_pems[0].bytes().decode()
    return ssl.PEM_cert_to_DER_cert(pem)


@pytest.mark.parametrize("names", [NAMES[:1], NAMES, tuple(f"n{n}.example" for n in range(40))])
def test_names_and_addresses_are_read(names: tuple[str, ...]) -> None:
    assert sorted(names_in(certificate(*names))) == sorted(names)


def test_a_certificate_that_is_damaged_has_some_names_or_none() -> None:
    whole = certificate(*NAMES)
    for size in range(0, len(whole), 7):
        assert set(names_in(whole[:size])) <= set(NAMES)
    assert names_in(b"") == []
