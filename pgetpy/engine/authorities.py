"""The certificate authorities that are trusted, from the files and folders that name them."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from pathlib import Path

from pgetpy.errors import BadSettingError
from pgetpy.errors.reasons import system_reason
from pgetpy.settings import Settings

# How `openssl rehash` names certificates, so that they are found without reading them all.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")


def authorities(settings: Settings) -> tuple[tuple[str, str], ...]:
    """Return where the certificate authorities to trust are, each after the name of what says so.

    None stands for those of the system.
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
    """Have `context`, or a new one, trust what is at `place`."""
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
            except OSError as error:  # a README, a key
                failure = error
    if not loaded or found is None:
        raise failure
    return found
