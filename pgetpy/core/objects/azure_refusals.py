"""What Azure's Blob Storage means by its errors, and what a person can do about them.

Sources: Azure Storage REST API, "Common REST API error codes" and "Blob Storage error codes".

Azure hides what exists from requests that are not authorised: an anonymous request for a private
container is answered with 404 ResourceNotFound or 409 PublicAccessNotPermitted. And it answers
AuthenticationFailed to a wrong key, a wrong clock and an expired SAS alike, so `explain` compares
what is known of each.
"""

from __future__ import annotations

from pgetpy.core.lazy_dataclass import dataclass

_FAILED = "AuthenticationFailed"
# Azurite gives the words of AuthenticationFailed another code, which means a firewall at Azure.
_FAILED_WORDS = "failed to authenticate"
# How a store refuses an anonymous request for something that may be there.
_NOT_PUBLIC = frozenset(
    {"ResourceNotFound", "PublicAccessNotPermitted", "NoAuthenticationInformation"}
)


@dataclass(frozen=True)
class AzureAsker:
    """Who made the request, for the words of an error.

    Attributes:
        account: the storage account.
        container: the container.
        means: how the request was authorised: `key`, `sas`, `token`, or empty.
        origin: the variable that the secret came from.
        expiry: when the SAS expires, as it says it; empty if it does not, or there is none.
        expired: whether that has passed by the server's clock.
        skew: how many seconds the machine's clock is ahead of the server's; None if it is right, or
            was not compared.
    """

    account: str
    container: str
    means: str
    origin: str = ""
    expiry: str = ""
    expired: bool = False
    skew: float | None = None


def failed_to_authenticate(code: str, words: str) -> bool:
    """Whether a refusal says that the signature, the key or the SAS is not valid."""
    return code == _FAILED or _FAILED_WORDS in words


def explain(code: str, status: int, words: str, who: AzureAsker) -> str:
    """Return what to try after an answer with this code and status, and the store's own words;
    empty if nothing is known."""
    if not who.means and (status in (401, 403) or code in _NOT_PUBLIC):
        return (
            "the request was anonymous, and the container or blob is not public, or does not "
            "exist; set AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_TOKEN or "
            "AZURE_STORAGE_CONNECTION_STRING"
        )
    if failed_to_authenticate(code, words):
        return _explain_failed(who)
    hint = _BY_CODE.get(code, "")
    if hint:
        return hint.format(who=who)
    if status in (401, 403):
        return (
            f"the credentials ({who.origin}) may not read it; check their rights on {who.container}"
        )
    return "check container and blob" if status == 404 else ""


def _explain_failed(who: AzureAsker) -> str:
    if who.means == "sas" and who.expired:
        return f"the SAS ({who.origin}) expired at {who.expiry}; get a new one"
    if who.means == "sas":
        return (
            f"the SAS ({who.origin}) is not valid for {who.account}/{who.container}; check that it "
            "is complete, that it has begun, and which account it was made for"
        )
    if who.means == "token":
        return f"the token ({who.origin}) is not valid for {who.account}; get a new one"
    clock = ""
    if who.skew is not None:
        direction = "ahead" if who.skew > 0 else "behind"
        minutes = f"{abs(who.skew) / 60:.0f} minutes {direction}"
        clock = f" (this machine's clock is {minutes}, which was made up for)"
    return (
        f"the key of account {who.account} ({who.origin}) is wrong; check it for missing "
        f"characters{clock}"
    )


_BY_CODE = {
    "ContainerNotFound": (
        "the account {who.account} has no container {who.container}; check the name and the account"
    ),
    "BlobNotFound": "the container {who.container} has no such blob; check it, letter for letter",
    "ResourceNotFound": "the account {who.account} has no such container or blob; check both names",
    "BlobArchived": (
        "the blob is in the archive tier; rehydrate it first, as by `az storage blob set-tier "
        "--tier Hot`, which takes hours"
    ),
    "BlobBeingRehydrated": (
        "the blob is being rehydrated from the archive tier, which takes hours; try again later"
    ),
    "InvalidAuthenticationInfo": (
        "the credentials ({who.origin}) are malformed or have expired; get new ones"
    ),
    "AuthorizationPermissionMismatch": (
        "the credentials ({who.origin}) lack a right; reading needs r, and a folder l (of a SAS), "
        "or the role Storage Blob Data Reader"
    ),
    "AuthorizationResourceTypeMismatch": (
        "the SAS ({who.origin}) is for other kinds of resources; it needs srt=co, or sr=c"
    ),
    "AuthorizationServiceMismatch": "the SAS ({who.origin}) is not for Blob Storage; it needs ss=b",
    "AuthorizationProtocolMismatch": "the SAS ({who.origin}) allows https only",
    "AuthorizationSourceIPMismatch": "the SAS ({who.origin}) is for other IP addresses",
    "AuthorizationFailure": (
        "the account {who.account} refuses this network or these credentials ({who.origin}); check "
        "its firewall, and whether it permits keys"
    ),
    "KeyBasedAuthenticationNotPermitted": (
        "the account {who.account} permits no keys; use AZURE_STORAGE_TOKEN"
    ),
    "PublicAccessNotPermitted": "the account {who.account} permits no anonymous requests",
    "AccountIsDisabled": "the account {who.account} is disabled",
    "InvalidQueryParameterValue": "check the version or snapshot at the end of the reference",
}
