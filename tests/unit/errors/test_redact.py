import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.errors.redact import redact, redact_text, unsigned


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@example.com/x",
        "https://hunter2@example.com/x",
        "https://h/x?X-Amz-Signature=hunter2&X-Amz-Date=1",
        "https://h/x?x-amz-security-token=hunter2",
        "https://h/x?X-Goog-Credential=hunter2",
        "https://h/x?sv=2020&sig=hunter2",
        "https://h/x?Signature=hunter2&Expires=1",
        "https://h/x?token=hunter2",
        "https://h/x?api_key=hunter2&a=b",
        "https://h/x?my-access-token=hunter2",
        "https://h/x#hunter2",
        "hf://me:hunter2@owner/name/file",
    ],
)
def test_no_secret_of_a_url_is_shown(url: str) -> None:
    assert "hunter2" not in redact(url)
    if url.startswith("http"):
        assert "hunter2" not in redact_text(f"could not read {url} (twice)")


def test_a_revision_is_no_secret() -> None:
    assert redact("hf://name@v1/file") == "hf://name@v1/file"


def test_the_rest_of_a_url_is_shown_as_it_is() -> None:
    url = "https://example.com:8443/a%20b/c?revision=main&download=true"
    assert redact(url) == url


def test_what_is_no_url_is_not_shown() -> None:
    assert redact("http://[::1") == "(unparsable URL)"


@given(st.text())
def test_redacting_is_total_and_final(text: str) -> None:
    once = redact(f"http://h/{text}")
    assert redact(once) == once
    redact(text)


def test_two_signed_links_to_one_object_agree() -> None:
    one = "https://store/x?X-Amz-Signature=1&X-Amz-Date=2&versionId=7"
    other = "https://store/x?versionId=7&X-Amz-Signature=3&X-Amz-Date=4"
    assert unsigned(one).url == unsigned(other).url == "https://store/x?versionId=7"


def test_parameters_that_sign_nothing_name_the_object() -> None:
    url = "https://h/x?sp=1&expires=2"
    assert unsigned(url) == (url, "", ())
    azure = "https://h/x?sp=r&se=2&sv=3&sig=4&part=5"
    assert unsigned(azure).url == "https://h/x?part=5"


@pytest.mark.parametrize("name", ["sig", "x%2Damz-signature", "Policy", "to%6Ben"])
def test_a_secret_is_not_shown_however_its_name_is_written(name: str) -> None:
    assert "hunter2" not in redact(f"https://h/x?{name}=hunter2")
