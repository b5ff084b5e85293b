"""The certificate authorities that are trusted, from the files and folders that name them.

Four tools have four variables for this, and users expect each to work. The first group that is set
is used, and the others are ignored:

    --cacert  >  SSL_CERT_FILE, SSL_CERT_DIR  >  REQUESTS_CA_BUNDLE  >  CURL_CA_BUNDLE  >  system

A folder is either one that `openssl rehash` has prepared, from which OpenSSL loads certificates as
it needs them, or any folder of certificate files, which are all read here.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

from pgetpy.errors import BadSettingError
from pgetpy.errors.reasons import system_reason
from pgetpy.settings import Settings

# How `openssl rehash` names certificates: by a hash of the subject, so that OpenSSL finds them.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


def authorities(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Return the places of the authorities to trust: (option or variable, path) pairs.

    Empty means the system's own authorities.
    """
    variables: Sequence[Sequence[tuple[str, str | None]]] = (
        [("--cacert", settings.cacert)],
        [("SSL_CERT_FILE", settings.ssl_cert_file), ("SSL_CERT_DIR", settings.ssl_cert_dir)],
        [("REQUESTS_CA_BUNDLE", settings.requests_ca_bundle)],
        [("CURL_CA_BUNDLE", settings.curl_ca_bundle)],
    )
    chosen = next((each for each in variables if any(path for _, path in each)), [])
    return tuple((name, path) for name, path in chosen if path)


def trusting(settings: Settings) -> ssl.SSLContext:
    """Return the context for https that trusts the authorities of `settings`.

    Raises:
        BadSettingError: one of them cannot be used.
    """
    context: ssl.SSLContext | None = None
    for name, places in authorities(settings):
        listed = places.split(os.pathsep) if name == "SSL_CERT_DIR" else [places]
        for place in filter(None, listed):
            try:
                context = _add(context, Path(place))
            except ssl.SSLError:
                raise BadSettingError(name, place, "holds no certificates") from None
            except OSError as error:
                raise BadSettingError(name, place, system_reason(error)) from None
    return context or ssl.create_default_context()


def _add(context: ssl.SSLContext | None, place: Path) -> ssl.SSLContext:
    """Return `context`, or a new one, with the certificates at `place` added.

    A new one is made from the first place, since a default context would trust the system's
    authorities as well.

    Raises:
        OSError: it cannot be read, or holds no certificate (ssl.SSLError).
    """
    if not place.is_dir():
        if context is None:
            return ssl.create_default_context(cafile=place)
        context.load_verify_locations(cafile=place)
        return context
    names = sorted(os.listdir(place))
    if any(_HASHED.fullmatch(name) for name in names):
        if context is None:
            return ssl.create_default_context(capath=place)
        context.load_verify_locations(capath=place)
        return context
    found = context
    failure: OSError = ssl.SSLError("no certificates")
    loaded = False
    for name in names:
        if (place / name).is_file():
            try:
                found = _add(found, place / name)
                loaded = True
            except OSError as error:  # a README, a key: other files may do
                failure = error
    if not loaded or found is None:
        raise failure
    return found
