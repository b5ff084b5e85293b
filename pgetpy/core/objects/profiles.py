"""The files in which AWS's tools keep keys and profiles.

Source: AWS SDKs and Tools Reference Guide, "Shared config and credentials files". Sections of the
credentials file are called as their profiles are; those of the config file have `profile ` in front
of the name, except for `default`.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping

from pgetpy.core.lazy_dataclass import dataclass, field
from pgetpy.core.objects.sigv4 import Credentials

# A profile with one of these gets its keys from a service: botocore knows how.
_DYNAMIC = (
    "role_arn",
    "source_profile",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "web_identity_token_file",
    "login_session",
)


class BadProfileFileError(ValueError):
    """The file is not in the format that AWS's tools read; the text says why."""


@dataclass(frozen=True)
class Profile:
    """What the two files say of one profile.

    Attributes:
        credentials: its static keys; None if it has none.
        region: empty if it names none.
        endpoint: URL for S3; empty if it names none.
        dynamic: whether its keys come from a service (SSO, a role, a process).
        exists: whether either file has a section for it.
    """

    credentials: Credentials | None = field(default=None, repr=False)
    region: str = ""
    endpoint: str = ""
    dynamic: bool = False
    exists: bool = False


def read_profile(name: str, credentials_file: str, config_file: str) -> Profile:
    """Return profile `name` from the texts of the two files.

    Raises:
        BadProfileFileError: a text cannot be read.
    """
    config = _sections(config_file)
    own = config.get(name if name == "default" else f"profile {name}", {})
    # Keys of the credentials file win, as in AWS's own tools.
    keys = _sections(credentials_file).get(name, {})
    both = {**own, **keys}
    access, secret = both.get("aws_access_key_id", ""), both.get("aws_secret_access_key", "")
    static = None
    if access and secret:
        static = Credentials(access, secret, both.get("aws_session_token", ""))
    return Profile(
        credentials=static,
        region=both.get("region", ""),
        endpoint=_endpoint(both, config),
        dynamic=any(both.get(each) for each in _DYNAMIC),
        exists=bool(own or keys),
    )


def _endpoint(profile: Mapping[str, str], config: Mapping[str, Mapping[str, str]]) -> str:
    services = config.get(f"services {profile.get('services', '')}", {})
    nested = _nested(services.get("s3", "")) | _nested(profile.get("s3", ""))
    return nested.get("endpoint_url", "") or profile.get("endpoint_url", "")


def _nested(text: str) -> dict[str, str]:
    """Return the settings below one that has no value of its own, each on an indented line."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sections(text: str) -> dict[str, dict[str, str]]:
    # Secrets hold `%`, so that nothing is interpolated; `default` is a section like any other.
    parser = configparser.RawConfigParser(default_section="", strict=False)
    try:
        parser.read_string(text.lstrip("\ufeff"))
    except configparser.Error as error:
        lines = str(error).splitlines()
        raise BadProfileFileError(lines[0] if lines else "not readable") from None
    return {" ".join(name.split()): dict(parser[name]) for name in parser.sections()}
