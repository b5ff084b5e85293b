"""What references to the Hub mean, in all their spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.references.hub_names import HubName, parse_hub_name
from pgetpy.core.references.patterns import Patterns
from pgetpy.errors import BadReferenceError

HUB = "https://huggingface.co"
FILE = HubName("o/n", path="f.safetensors", is_folder=False)
DEEP = HubName("o/n", revision="v1.0", path="a b/ü.bin", is_folder=False)
PULL = HubName("o/n", revision="refs/pr/1", path="f", is_folder=False)
REPO = HubName("o/n")
OLD = HubName("gpt2", path="f", is_folder=False)
SPELLINGS = {
    FILE: [
        "hf://o/n/f.safetensors",
        "HF://o/n@main/f.safetensors",
        "hf://models/o/n/f.safetensors",
        "hf://o/n/f.safetensors?download=true",
        "huggingface.co/o/n/f.safetensors",
        "https://huggingface.co/o/n/f.safetensors",
        "https://HuggingFace.co:443/o/n/resolve/main/f.safetensors",
        "http://www.huggingface.co/o/n/blob/main/f.safetensors",
        "hf.co/o/n/raw/main/f.safetensors",
        "https://hf.co/o/n/resolve/main/f.safetensors?download=true#part",
        "https://huggingface.co/o/n/resolve/main/%66.safetensors",
    ],
    DEEP: [
        "hf://o/n@v1.0/a b/ü.bin",
        "hf://o/n@v1.0/a%20b/%C3%BC.bin",
        "https://huggingface.co/o/n/resolve/v1.0/a%20b/%C3%BC.bin",
        "https://huggingface.co/o/n/resolve/v1.0/a%20b%2F%C3%BC.bin",
    ],
    PULL: [
        "hf://o/n@refs%2Fpr%2F1/f",
        "hf://o/n@refs/pr/1/f",
        "https://huggingface.co/o/n/resolve/refs%2Fpr%2F1/f",
        "https://huggingface.co/o/n/blob/refs/pr/1/f",
    ],
    REPO: [
        "hf://o/n",
        "hf://o/n/",
        "hf://o/n@main",
        "huggingface.co/o/n",
        "https://huggingface.co/o/n/",
        "https://huggingface.co/o/n?library=diffusers",
        "https://huggingface.co/o/n/tree/main",
        "https://huggingface.co/o/n/tree/main/",
    ],
    OLD: ["hf://gpt2@main/f", "https://huggingface.co/gpt2/resolve/main/f"],
    HubName("gpt2"): ["hf://gpt2", "https://huggingface.co/gpt2/tree/main"],
    HubName("gpt2", revision="v2"): ["hf://gpt2@v2", "hf://models/gpt2@v2"],
    HubName("o/n", revision="main", path="unet"): [
        "hf://o/n/unet/",
        "https://huggingface.co/o/n/tree/main/unet",
    ],
    HubName("o/n", "dataset", path="f", is_folder=False): [
        "hf://datasets/o/n/f",
        "huggingface.co/datasets/o/n/resolve/main/f",
    ],
    HubName("o/n", "space"): ["hf://spaces/o/n", "https://huggingface.co/spaces/o/n"],
    HubName("squad", "dataset"): ["hf://datasets/squad", "hf.co/datasets/squad/tree/main"],
    HubName("o/n", patterns=Patterns(("*.json",), ("a b",))): [
        "hf://o/n?include=*.json&exclude=a%20b"
    ],
}
EACH = [(named, text) for named, texts in SPELLINGS.items() for text in texts]


@pytest.mark.parametrize(("named", "text"), EACH, ids=[text for _, text in EACH])
def test_all_spellings_mean_the_same(named: HubName, text: str) -> None:
    assert parse_hub_name(text, HUB) == named


@pytest.mark.parametrize("named", [each for each in SPELLINGS if not each.patterns], ids=str)
def test_a_name_is_read_back_as_it_is_printed(named: HubName) -> None:
    assert parse_hub_name(str(named), HUB) == named
    if not named.is_folder:
        url = named.file(HUB, named.path)
        assert parse_hub_name(url, HUB) == named


_PARTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).filter(
    lambda text: text not in (".", "..") and "/" not in text
)


@given(st.lists(_PARTS, min_size=1, max_size=3), _PARTS, st.booleans())
def test_any_path_is_read_back_as_it_is_printed(
    parts: list[str], revision: str, is_folder: bool
) -> None:
    named = HubName("o/n", "dataset", revision, "/".join(parts), is_folder)
    assert parse_hub_name(str(named), HUB) == named


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf:///n/f",
        "hf://o//f",
        "hf://o/n//f",
        "hf://o/n/f//",
        "hf://o/n/../f",
        "hf://o/n/./f",
        "hf://o/n/%2e%2e/f",
        "hf://o/n/a%2F..%2Fb",
        "hf://../n/f",
        "hf://o/..",
        "hf://o/n@/f",
        "hf://o/n@../f",
        "hf://o/n@a%2F..%2Fb/f",
        "hf://o/n/a\x00b",
        "hf://o/n/a\nb",
        "hf://o/n/a%0Ab",
        "hf://o/n/%ff",
        "hf://o/n@%0A/f",
        "hf://o n/f/g",
        "hf://-o/n",
        "hf://o/n.git",
        "hf://o/n--m",
        "hf://ö/n",
        "hf://user:pass@o/n",
        f"hf://o/{'n' * 100}",
        f"hf://o/n/{'f' * 256}",
        "hf://buckets/o/n",
        "hf://o/n/f?include=*.json",
        "hf://o/n?include=",
        "hf://o/n?exclude=%00",
        "huggingface.co/o/n/resolve/main/../../../../api/whoami",
        "https://huggingface.co/o/n/resolve/main/%2e%2e/x",
        "https://huggingface.co/o/n/resolve/main/",
        "https://huggingface.co/o/n/resolve/main",
        "https://huggingface.co/o/n/resolve/main/f/",
        "https://huggingface.co//o/n/resolve/main/f",
        "https://huggingface.co/o/n/\x1b.safetensors",
        "https://user:pass@huggingface.co/o/n/resolve/main/f",
        "token@huggingface.co/o/n/resolve/main/f",
        # Pages are no files, and without a scheme they are no URLs either.
        "huggingface.co",
        "huggingface.co/api/models/o/n",
        "hf.co/o/n/discussions/1",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadReferenceError) as caught:
        parse_hub_name(text, HUB)
    assert "pass" not in str(caught.value).replace("pass hf", "").replace("passes", "")
    assert "token@" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o/n",
        "https://example.com/o/n/resolve/main/f",
        "https://huggingface.co.example.com/o/n/f.safetensors",
        "https://example.com/huggingface.co/o/n/f.safetensors",
        "https://huggingface.co@example.com/o/n/f.safetensors",
        "https://nothuggingface.co/o/n/f.safetensors",
        "ftp://huggingface.co/o/n/f.safetensors",
        "https://huggingface.co:8443/o/n/f.safetensors",
        # These are pages, and URLs like any other.
        "https://huggingface.co",
        "https://huggingface.co/",
        "https://huggingface.co/o",
        "https://huggingface.co/api/models/o/n",
        "https://huggingface.co/docs/hub",
        "https://huggingface.co/datasets/squad",
        "https://huggingface.co/o/n/discussions/1",
        "https://huggingface.co/o/n/commit/0123",
        "https://huggingface.co/settings/tokens",
        "https://cdn-lfs.huggingface.co/repos/f.safetensors",
    ],
)
def test_what_is_no_file_of_the_hub_is_left_to_others(text: str) -> None:
    assert parse_hub_name(text, HUB) is None


def test_another_endpoint_is_the_hub_and_those_of_the_hub_mean_it() -> None:
    endpoint = "http://hub.corp:8000/mirror"
    for text in (
        "http://hub.corp:8000/mirror/o/n/resolve/main/f.safetensors",
        "hub.corp:8000/mirror/o/n/f.safetensors",
        "https://huggingface.co/o/n/f.safetensors",
        "hf://o/n/f.safetensors",
    ):
        assert parse_hub_name(text, endpoint) == FILE
    for text in (
        "http://hub.corp:8000/o/n/f.safetensors",
        "http://hub.corp:8000/mirrored/o/n/f.safetensors",
        "http://hub.corp/mirror/o/n/f.safetensors",
    ):
        assert parse_hub_name(text, endpoint) is None
    assert parse_hub_name("http://hub.corp:8000/mirror/o/n/f.safetensors", HUB) is None
    assert FILE.file(endpoint, FILE.path) == f"{endpoint}/o/n/resolve/main/f.safetensors"


def test_urls_are_quoted() -> None:
    named = HubName("o/n", "dataset", "refs/pr/1", "a?b/c#d %", is_folder=False)
    at = "https://huggingface.co/datasets/o/n/resolve/refs%2Fpr%2F1/a%3Fb/c%23d%20%25"
    assert named.file(HUB, named.path) == at
    assert named.listing(HUB) == "https://huggingface.co/api/datasets/o/n/revision/refs%2Fpr%2F1"
