"""The sources take what is theirs, and leave the rest to each other."""

from __future__ import annotations

import ast
import contextlib
import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pgetpy.core.references.reference import Wanted
from pgetpy.errors import BadReferenceError
from pgetpy.settings import SourceSettings
from pgetpy.sources import table
from pgetpy.sources.base import Source
from pgetpy.sources.civitai import CivitaiSettings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.table import ROWS, SourceRow, own_sources, parse_reference, with_tokens


@pytest.mark.parametrize("url", ["http://host/a", "https://host/a.safetensors", "file:///tmp/a"])
def test_a_url_is_its_own_reference(url: str) -> None:
    found = parse_reference(url)
    assert (found.source, found.text, str(found), found.wanted) == ("plain", url, url, Wanted.FILE)
    assert found.local == url.startswith("file:")


@pytest.mark.parametrize("text", ["", "model", "ftp://host/a", "gopher:x", "s4://bucket/key"])
def test_what_nobody_knows_is_no_reference(text: str) -> None:
    with pytest.raises(BadReferenceError):
        parse_reference(text)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "cannot use 'None': a reference is a str, not NoneType"),
        (Path("/a b"), "cannot use '/a b': write a local file as file:///a%20b"),
    ],
)
def test_what_is_not_a_text_is_refused_in_words(given: Any, words: str) -> None:
    with pytest.raises(BadReferenceError) as caught:
        parse_reference(given)
    assert str(caught.value) == words


def test_no_two_sources_have_one_name() -> None:
    names = [source.name for source in own_sources()]
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


# ------------------------------------------------------------------ a row and its source agree


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_says_of_a_source_what_the_source_says(row: SourceRow) -> None:
    source = row.source
    assert (source.name, source.hosts) == (row.name, row.hosts)
    variables = [option.variable for option in source.settings.options]
    moving = [option.variable for option in source.settings.options if option.field == "endpoint"]
    if source.takes_urls:
        assert moving == [row.endpoint] * bool(row.endpoint)
    else:
        assert (row.endpoint, row.hosts) == ("", frozenset())
    assert not row.endpoint or row.endpoint in variables


def test_a_source_is_one_row_and_one_module() -> None:
    folder = Path(table.__file__).parent
    classes = {
        f"pgetpy.sources.{path.stem}:{node.name}"
        for path in folder.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and _is_source(path.stem, node.name)
    }
    assert classes == {row.home for row in ROWS}


def _is_source(module: str, name: str) -> bool:
    found = getattr(import_module(f"pgetpy.sources.{module}"), name)
    return issubclass(found, Source) and not inspect.isabstract(found) and hasattr(found, "name")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("http://host/a", []),
        ("file:///a", ["plain"]),
        ("s3://bucket/key", ["s3"]),
        ("HF://o/n", ["huggingface"]),
        ("data:,a", ["data"]),
        ("https://Huggingface.co/nothing", ["huggingface"]),
        ("https://user:pw@civitai.com:443/nothing", ["civitai"]),
        ("https://here:8080/nothing", ["civitai"]),
        ("owner/model", ["huggingface", "civitai", "replicate"]),
    ],
)
def test_only_sources_that_may_know_a_reference_are_imported(
    text: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Noting(SourceRow):
        @property
        def source(self) -> table.AnySource:
            asked.append(self.name)
            return super().source

    monkeypatch.setattr(table, "ROWS", tuple(Noting(**vars(row)) for row in ROWS))
    settings = SourceSettings(environ={"PGET_CIVITAI_ENDPOINT": "http://here:8080"})
    with contextlib.suppress(BadReferenceError):
        parse_reference(text, settings=settings)
    # An endpoint of one's own has to be read to know whose host it is.
    read = [] if "//here" in text or "://" not in text else ["civitai"]
    assert [name for name in dict.fromkeys(asked) if name not in read or name in names] == names
