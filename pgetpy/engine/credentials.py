"""What may go through caches: requests that carry no secret between a user and an origin.

What a cache holds it serves to everyone, and what it is sent it may log or pass on.
"""

from __future__ import annotations

import re
import time

from pgetpy.core.http.urls import Link
from pgetpy.engine.hosts import Hosts
from pgetpy.settings import Settings

# Headers whose values are secrets, whatever their full names are.
_SECRET = re.compile(r"auth|cookie|token|secret|key|password|signature|session", re.IGNORECASE)


def needs_credentials(link: Link, settings: Settings, hosts: Hosts) -> bool:
    """Whether requests for `link` carry a secret.

    Args:
        link: the object's.
        settings: the user's headers.
        hosts: logins of ~/.netrc.
    """
    return (
        link.authorization is not None
        or settings.authorization is not None
        or (link.signer is not None and _signs(link))
        or hosts.login(link.origin) is not None
        or any(_SECRET.search(name) for name in settings.headers)
    )


def _signs(link: Link) -> bool:
    """Whether requests for `link` are signed; a public bucket's are not."""
    assert link.signer is not None
    added = link.signer.headers(link, [], time.time())
    return bool(link.signature) or any(name.lower() == "authorization" for name, _ in added)
