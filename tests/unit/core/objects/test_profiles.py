from __future__ import annotations

import pytest

from pgetpy.core.objects.profiles import BadProfileFileError, Profile, read_profile
from pgetpy.core.objects.sigv4 import Credentials

KEYS = """
[default]
aws_access_key_id = AKDEFAULT
aws_secret_access_key = abc%def#notacomment
[other]
aws_access_key_id=AKOTHER
aws_secret_access_key=s2
aws_session_token=t2
"""
CONFIG = """
[default]
region = eu-west-1
[profile other]
region = us-west-2
services = here
[profile nested]
s3 =
  addressing_style = path
  endpoint_url = http://nested.test
[profile sso]
sso_session = company
region = eu-central-1
[profile plain]
endpoint_url = http://plain.test
aws_access_key_id = AKCONFIG
aws_secret_access_key = s3
[services here]
s3 =
    endpoint_url = http://services.test
"""


def test_keys_and_regions_come_from_both_files() -> None:
    found = read_profile("default", KEYS, CONFIG)
    keys = Credentials("AKDEFAULT", "abc%def#notacomment")
    assert found == Profile(keys, "eu-west-1", exists=True)


def test_a_profile_has_its_own_section_and_services() -> None:
    found = read_profile("other", KEYS, CONFIG)
    keys = Credentials("AKOTHER", "s2", "t2")
    assert found == Profile(keys, "us-west-2", "http://services.test", exists=True)


def test_keys_may_be_in_the_config_file() -> None:
    found = read_profile("plain", KEYS, CONFIG)
    assert found.credentials == Credentials("AKCONFIG", "s3")
    assert found.endpoint == "http://plain.test"
    assert read_profile("nested", "", CONFIG).endpoint == "http://nested.test"


def test_keys_of_a_service_are_told_from_none() -> None:
    assert read_profile("sso", KEYS, CONFIG).dynamic
    missing = read_profile("missing", KEYS, CONFIG)
    assert (missing.exists, missing.dynamic) == (False, False)


@pytest.mark.parametrize("text", ["aws_access_key_id = x", "[default\nx = y"])
def test_a_file_that_cannot_be_read_is_said(text: str) -> None:
    with pytest.raises(BadProfileFileError):
        read_profile("default", text, "")
