"""Where the keys for S3 and its kin come from: settings, profiles, or botocore.

Static keys are read here, which takes a millisecond. Importing botocore takes 160 ms, so it is used
only for keys that a service hands out: SSO, roles, web identities, containers, instances.

    1  keys in the settings                          used
    2  static keys of the profile                    used
    3  the profile or the environment names a        botocore's chain, if it is installed;
       service                                       else unsigned, and errors name the extra
    4  a machine of Amazon's, and Amazon's store     botocore's chain, quietly
    5  otherwise                                     unsigned

The line between 4 and 5 is about safety as well as time. A metadata service that does not exist
takes seconds to fail; and keys that were handed out for Amazon must not reach another store just
because the machine happens to have some.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pgetpy.core.lazy_dataclass import replace
from pgetpy.core.objects.names import is_aws
from pgetpy.core.objects.profiles import BadProfileFileError, Profile, read_profile
from pgetpy.core.objects.sigv4 import Credentials
from pgetpy.core.report.text import one_line
from pgetpy.errors import BadSettingError, TransferError
from pgetpy.sources.object_signer import Keys

EXTRA = "install pgetpy[s3] for keys that a service hands out (SSO, roles, containers, instances)"

# STS answers for all of Amazon there.
_ANY_REGION = "us-east-1"


def complete_keys(
    keys: Keys,
    profile_name: str,
    files: tuple[str, str],
    *,
    service: bool,
    region: str,
    foreign: bool,
) -> Keys:
    """Return `keys`, or those of the profile or of a service if there are none yet, with region and
    endpoint of the profile.

    Args:
        keys: those of the settings, if any.
        profile_name: empty for the default one.
        files: paths of the credentials file and the config file, empty for the usual ones.
        service: whether the environment says that a service hands out keys.
        region: that of the settings; STS has an endpoint in each.
        foreign: whether the settings name an endpoint that is not Amazon's.

    Raises:
        BadSettingError: a profile is named that does not exist, or its files cannot be read.
        TransferError: the service hands out no keys.
    """
    name = profile_name or "default"
    profile = _read_profile(name, files)
    keys = replace(
        keys,
        region=profile.region,
        endpoint=profile.endpoint,
        looked_at=f"{keys.looked_at}, profile {name}",
    )
    if keys.credentials is not None:
        return keys
    if profile.credentials is not None:
        return replace(keys, credentials=profile.credentials, origin=f"of profile {name}")
    named = profile.dynamic or service
    foreign = foreign or bool(profile.endpoint and not is_aws(profile.endpoint))
    if not named and (foreign or not _on_amazon()):
        return keys
    make = partial(
        _botocore_session,
        name if profile.exists else "",
        region or profile.region,
        instance=not foreign,
    )
    session = make()
    if session is None:
        return replace(keys, looked_at=f"{keys.looked_at}; {EXTRA}") if named else keys
    chain = _Chain(session, make, name)
    found = chain()
    if found is None:
        return replace(keys, looked_at=f"{keys.looked_at}, botocore's chain")
    return replace(keys, credentials=found, origin=f"from {chain.method}", renew=chain)


def _on_amazon() -> bool:
    """Whether this machine is an instance of Amazon's, and so has a metadata service."""
    try:
        return "amazon" in Path("/sys/devices/virtual/dmi/id/sys_vendor").read_text().lower()
    except OSError:
        return False


def _read_profile(name: str, files: tuple[str, str]) -> Profile:
    """Return a profile; missing or unreadable files count as empty, as for AWS's tools.

    Raises:
        BadSettingError: it does not exist and is not the default one, or a file is malformed.
    """
    texts = []
    for given, default in zip(files, ("~/.aws/credentials", "~/.aws/config"), strict=True):
        path = Path(os.path.expanduser(given or default))
        try:
            texts.append(path.read_text(encoding="utf-8", errors="surrogateescape"))
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            texts.append("")
    try:
        profile = read_profile(name, *texts)
    except BadProfileFileError as error:
        raise BadSettingError("AWS_CONFIG_FILE", "~/.aws", f"cannot be read: {error}") from None
    if not profile.exists and name != "default":
        raise BadSettingError("AWS_PROFILE", name, "is in neither of the files in ~/.aws")
    return profile


def _botocore_session(profile: str, region: str, *, instance: bool) -> Any:
    """Return a session of botocore; None if it is not installed.

    Args:
        profile: empty for the default one.
        region: botocore itself does not read AWS_REGION.
        instance: whether the metadata service of the instance may be asked.
    """
    try:
        from botocore.session import Session
    except ImportError:
        return None
    session = Session(profile=profile or None)
    session.set_config_variable("region", region or _ANY_REGION)
    if not instance:
        session.get_component("credential_provider").remove("iam-role")
    return session


class _Chain:
    """Asks botocore's chain of providers for keys that are valid now; callable in any thread.

    botocore renews keys that are about to expire when they are read (`get_frozen_credentials`).
    Keys that a store calls expired before that are forgotten: of an instance botocore keeps keys
    beyond their time, in case that the metadata service is down.
    """

    def __init__(self, session: Any, make: Callable[[], Any], profile: str) -> None:
        self._session = session
        self._make = make
        self._profile = profile
        self._lock = threading.Lock()
        self._found: Any = None
        self.method = ""

    def __call__(self, refused: bool = False) -> Credentials | None:
        """Return the keys; None if no provider has any.

        Args:
            refused: whether a store has called the last ones expired.

        Raises:
            TransferError: a provider that should have keys gives none.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            try:
                if refused:
                    self._session, self._found = self._make(), None
                if self._found is None:
                    self._found = self._session.get_credentials()
                if self._found is None:
                    return None
                self.method = str(getattr(self._found, "method", ""))
                frozen = self._found.get_frozen_credentials()
            except (BotoCoreError, ClientError) as error:
                reason = f"botocore got no keys ({one_line(str(error))})"
                hint = "check the role, and that its service can be reached"
                raise TransferError(f"profile {self._profile}", reason, hint=hint) from None
            return Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")
