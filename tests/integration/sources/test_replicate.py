"""Replicate: the weights of trained models."""

from __future__ import annotations

from pathlib import Path

import pytest

import pgetpy
from pgetpy import WeightsDownloadCache
from pgetpy.core.references.reference import Wanted
from pgetpy.errors import ArchiveError, NotFoundError, PgetError, UnauthorizedError
from pgetpy.settings import SourceSettings
from pgetpy.sources.civitai import CivitaiSettings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.replicate import ReplicateSettings
from pgetpy.sources.table import parse_reference
from tests.integration.sources.conftest import TOKEN
from tests.support.faults import Status
from tests.support.fetching import contents, impatient
from tests.support.replicate import Replicate
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import assert_nothing_left, only_record, opened, tar_of, weights

LORA = weights()
MEMBERS = {"output/flux_train/lora.safetensors": LORA, "output/config.yaml": b"a: 1\n"}
VERSION = "3849b7e9ac8584468fbeca1f81a64e73341a571c148dc0e33181d2d467e1c17f"


@pytest.fixture
def replicate(server: Server, other_server: Server) -> Replicate:
    return Replicate(server, other_server)


def cache_of(replicate: Replicate, root: Path) -> WeightsDownloadCache:
    others = (HubSettings(token=TOKEN), CivitaiSettings(token=TOKEN))
    sources = SourceSettings((ReplicateSettings(endpoint=replicate.endpoint), *others))
    return opened(root, sources=sources)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("jakedahn/flux-latentpop", "/jakedahn/flux-latentpop"),
        ("stability-ai/sd3.5_large", "/stability-ai/sd3.5_large"),
        (f"a/b:{VERSION}", f"/a/b/versions/{VERSION}"),
        (f"a/b/{VERSION}", f"/a/b/versions/{VERSION}"),
        ("a/b:3849b7e9", "/a/b/versions/3849b7e9"),
        ("replicate.com/a/b", "/a/b"),
        ("https://replicate.com/a/b/", "/a/b"),
        ("http://www.replicate.com/a/b?x=1#y", "/a/b"),
        ("https://replicate.com/a/b/_weights", "/a/b"),
        (f"https://replicate.com/a/b/versions/{VERSION}", f"/a/b/versions/{VERSION}"),
        (f"https://replicate.com/a/b/versions/{VERSION}/_weights", f"/a/b/versions/{VERSION}"),
    ],
)
def test_each_way_to_name_a_model_is_one_reference(text: str, path: str) -> None:
    found = parse_reference(text)
    url = f"https://replicate.com{path}/_weights"
    assert (found.source, found.text, found.wanted) == ("replicate", url, Wanted.WEIGHTS)
    assert (parse_reference(str(found)), found.scope) == (found, "")


@pytest.mark.parametrize(
    "text",
    [
        "https://replicate.com/p/abcdefgh",
        "https://replicate.com/docs/topics",
        "https://replicate.com/a/b/examples",
        "https://replicate.delivery/pbxt/abc/trained_model.tar",
        "https://replicate.com.evil.example/a/b",
        "https://replicate.com@evil.example/a/b",
        "https://replicate.com:444/a/b",
    ],
)
def test_what_is_elsewhere_is_a_plain_url(text: str) -> None:
    assert parse_reference(text).source == "plain"


@pytest.mark.parametrize(
    "text",
    ["p/abc", "loras/style.safetensors", "out/x.tar", "./a/b", "/a/b", "a/b/c", "a/b:latest",
     "a/b:XYZ", "../b", "a/..", "a//b", "a/b:3849b7e", f"a/b:{VERSION}0", "a b/c", "a/b\nc",
     "example.com/x", "replicate.com/a", "ftp://replicate.com/a/b"],
)  # fmt: skip
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(PgetError):
        parse_reference(text)


def test_the_one_safetensors_of_the_tar_is_what_is_wanted(replicate: Replicate, root: Path) -> None:
    tar = tar_of(MEMBERS)
    replicate.add("me/lora", tar)
    replicate.add("me/lora", tar_of({"old.safetensors": weights(seed="old")}), version=VERSION)
    with cache_of(replicate, root) as cache:
        path = cache.ensure("me/lora")
        assert (path.read_bytes(), path.suffix) == (LORA, ".safetensors")
        assert only_record(cache).about.reference == f"{replicate.endpoint}/me/lora/_weights"
        assert cache.ensure(f"{replicate.endpoint}/me/lora") == path
        assert cache.ensure(f"me/lora:{VERSION}").read_bytes() == weights(seed="old")
        assert contents(cache.ensure("me/lora", wanted="folder")) == MEMBERS
        assert cache.ensure("me/lora", wanted="file").read_bytes() == tar
    # No service's token is of any use here; the guard over these tests sees that none was sent.
    assert replicate.site.requests
    assert replicate.delivery.requests
    assert_nothing_left(root)


def test_several_safetensors_are_none(replicate: Replicate, root: Path) -> None:
    replicate.add("me/lora", tar_of({"a.safetensors": LORA, "b.safetensors": LORA}))
    with cache_of(replicate, root) as cache, pytest.raises(ArchiveError, match=r"2 \.safetensors"):
        cache.ensure("me/lora")
    assert_nothing_left(root)


def test_missing_is_told_from_refused(replicate: Replicate, root: Path) -> None:
    for status in (401, 403):
        fault = Status(status, "You do not have permission")
        replicate.site.add(f"/me/s{status}/_weights", Resource(faults=[fault]))
    replicate.add("me/lora", tar_of(MEMBERS))
    with cache_of(replicate, root) as cache:
        with pytest.raises(NotFoundError, match=r"Replicate did not find it.*OWNER/NAME"):
            cache.ensure("me/none")
        for status in (401, 403):
            with pytest.raises(UnauthorizedError, match="You do not have permission"):
                cache.ensure(f"me/s{status}")
        for path in list(replicate.delivery._resources):
            replicate.delivery.remove(path)
        with pytest.raises(PgetError) as caught:
            cache.ensure("me/lora")
    assert not isinstance(caught.value, NotFoundError)
    assert_nothing_left(root)


def test_the_tar_can_be_downloaded_or_extracted(replicate: Replicate, tmp_path: Path) -> None:
    replicate.add("me/lora", tar_of(MEMBERS))
    settings = impatient(sources=SourceSettings((ReplicateSettings(endpoint=replicate.endpoint),)))
    pgetpy.download("me/lora", f"{tmp_path}/", settings=settings)
    assert (tmp_path / "lora.tar").read_bytes() == tar_of(MEMBERS)
    pgetpy.extract("me/lora", tmp_path / "out", settings=settings)
    assert contents(tmp_path / "out") == MEMBERS
