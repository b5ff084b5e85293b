"""The sources take what is theirs, and leave the rest to each other."""

from __future__ import annotations

import contextlib
from urllib.parse import urlsplit

import pytest

from pgetpy.core.references.reference import Wanted
from pgetpy.errors import BadReferenceError
from pgetpy.settings import SourceSettings
from pgetpy.sources import table
from pgetpy.sources.civitai import CivitaiSettings
from pgetpy.sources.data import Data, DataSettings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.table import SOURCES, parse_reference, with_tokens


@pytest.mark.parametrize("url", ["http://host/a", "https://host/a.safetensors", "file:///tmp/a"])
def test_a_url_is_its_own_reference(url: str) -> None:
    found = parse_reference(url)
    assert (found.source, found.text, str(found), found.wanted) == ("plain", url, url, Wanted.FILE)
    assert found.local == url.startswith("file:")


@pytest.mark.parametrize("text", ["", "model", "ftp://host/a", "gopher:x", "s4://bucket/key"])
def test_what_nobody_knows_is_no_reference(text: str) -> None:
    with pytest.raises(BadReferenceError):
        parse_reference(text)


def test_no_two_sources_have_one_name() -> None:
    names = [source.name for source in SOURCES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "path",
    ["/models/a b.safetensors", "./a.tar", "../a", "~/a", "a.safetensors", "loras/a.SAFETENSORS",
     "C:\\models\\a.bin", "c:/models/a"],
)  # fmt: skip
def test_a_path_is_told_how_it_is_written(path: str) -> None:
    with pytest.raises(BadReferenceError, match="write a local file as file://") as caught:
        parse_reference(path)
    assert path[0] != "/" or "file:///models/a%20b.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["https://host/a.safetensors", "hf://o/n/a.safetensors", "civitai:1@5", "owner/model"]
)
def test_blanks_that_were_pasted_with_a_reference_mean_nothing(text: str) -> None:
    assert parse_reference(f" \t{text}\r\n") == parse_reference(text)


def test_a_token_of_a_caller_goes_to_the_source_that_names_its_argument() -> None:
    before = SourceSettings((HubSettings(token="a"), CivitaiSettings(token="b")))
    after = with_tokens(before, {"hf_api_token": None})
    assert (after.of(HubSettings).token, after.of(CivitaiSettings).token) == (None, "b")
    other = with_tokens(before, {"civitai_api_token": "c"})
    assert (other.of(HubSettings).token, other.of(CivitaiSettings).token) == ("a", "c")
    assert with_tokens(before, {}) is before


@pytest.mark.parametrize("host", ["Huggingface.co", "user:pw@civitai.com:443", "replicate.com:443"])
def test_a_url_of_a_services_host_is_put_to_the_services(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Listening(Data):
        def recognise(self, text: str, wanted: str, settings: DataSettings) -> None:
            asked.append(text)

    monkeypatch.setattr(table, "SOURCES", (Listening(), *SOURCES))
    for name in (host, "elsewhere.example"):
        with contextlib.suppress(BadReferenceError):
            parse_reference(f"https://{name}/nothing/that/was/read/before")
    assert [urlsplit(text).netloc for text in asked] == [host]
