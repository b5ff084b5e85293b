"""What the Hugging Face Hub means by its errors: missing, private, gated, or a wrong token.

The codes are those of `X-Error-Code`, and the rules those of huggingface_hub's
`hf_raise_for_status`.
"""

from __future__ import annotations

from pgetpy.core.references.reference import Reference
from pgetpy.errors import (
    GatedError,
    HttpStatusError,
    NotFoundError,
    PgetError,
    ServiceError,
    UnauthorizedError,
)

SERVICE = "Hugging Face"
_WAY_IN = "set HF_TOKEN or pass hf_api_token"
# What it says to a token that it does not know; all else that is 401 may be a missing name.
_REFUSED = "invalid credentials"


def meaning_at_hub(reference: Reference, error: HttpStatusError, page: str) -> PgetError:
    """Return what the Hub means by an error of its own."""
    told = (str(reference), SERVICE, error.status, error.words)
    has_token = reference.token is not None
    code = error.code or _code_of(error, has_token=has_token)
    if code == "GatedRepo":
        how = "with the token's account" if has_token else f"then {_WAY_IN}"
        return GatedError(*told, hint=f"ask for access at {page}, {how}")
    if code == "RepoNotFound":
        private = f"{_WAY_IN}, if it is private"
        if has_token:
            private = "whether the token's account may see it, if it is private"
        return NotFoundError(*told, hint=f"it is missing or private: check its name, or {private}")
    if code == "RevisionNotFound":
        return NotFoundError(*told, hint=f"check the revision; {page}/tree/main shows which are")
    if code == "EntryNotFound" or error.status == 404:
        return NotFoundError(*told, hint=f"check its name; {page}/tree/main shows what there is")
    if error.status == 401:
        new = "the token is wrong or has expired: " if has_token else ""
        return UnauthorizedError(*told, hint=f"{new}{_WAY_IN}")
    if error.status == 403:
        if "disabled" in error.words.lower():
            return ServiceError(*told, hint=f"see {page}")
        return UnauthorizedError(*told, hint="the token may not have the permission to read it")
    return error


def _code_of(error: HttpStatusError, *, has_token: bool) -> str:
    """Return the code that an error without one should have."""
    is_listing = "/api/" in error.url
    # Who shows no token is not told whether a repository exists.
    known = error.status == 401 and is_listing and not has_token
    return "RepoNotFound" if known and _REFUSED not in error.words.lower() else ""
