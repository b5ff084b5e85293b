"""CivitAI: models, versions and AIR names; tokens that open, and refusals that say what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pgetpy
from pgetpy import WeightsDownloadCache
from pgetpy.core.references.reference import Wanted
from pgetpy.errors import (
    ArchiveError,
    BadReferenceError,
    BadSettingError,
    DigestMismatchError,
    GatedError,
    HttpStatusError,
    NotFoundError,
    NotWeightsError,
    PgetError,
    ServiceError,
    TransferError,
    UnauthorizedError,
)
from pgetpy.settings import SourceSettings
from pgetpy.sources.civitai import CivitaiSettings
from pgetpy.sources.table import parse_reference
from tests.integration.sources.conftest import OTHER_TOKEN, TOKEN
from tests.support.civitai import Civitai, File, Version
from tests.support.entries import sha256
from tests.support.faults import Redirect, Status
from tests.support.fetching import contents, impatient
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import assert_nothing_left, only_record, opened, tar_of, weights, zip_of

NEW, OLD = weights(seed="new"), weights(seed="old")
HOME = "https://civitai.com"


def lora(body: bytes = NEW, name: str = "lora.safetensors", **fields: Any) -> File:
    return File(name, body, primary=True, **fields)


@pytest.fixture
def civitai(server: Server, other_server: Server, owners: set[int]) -> Civitai:
    owners.add(server.port)
    return Civitai(server, other_server)


def cache_of(civitai: Civitai, root: Path, **options: Any) -> WeightsDownloadCache:
    token = options.pop("token", None)
    sources = SourceSettings((CivitaiSettings(endpoint=civitai.endpoint, token=token),))
    return opened(root, sources=sources, **options)


# ------------------------------------------------------------------- what is CivitAI's


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("civitai.com/models/4384", "/models/4384"),
        ("https://civitai.com/models/4384", "/models/4384"),
        ("http://www.civitai.com/models/4384/dream-shaper/", "/models/4384"),
        ("https://civitai.green/models/4384", "/models/4384"),
        ("https://civitai.red/models/4384?tab=x", "/models/4384"),
        ("HTTPS://CivitAI.com/models/4384", "/models/4384"),
        ("https://civitai.com/models/4384?modelVersionId=128713", "/api/download/models/128713"),
        ("civitai.com/models/4384/x?modelVersionId=128713", "/api/download/models/128713"),
        ("https://civitai.com/api/download/models/128713", "/api/download/models/128713"),
        ("https://civitai.com/model-versions/128713", "/api/download/models/128713"),
        ("https://civitai.com/api/v1/model-versions/128713", "/api/download/models/128713"),
        ("https://civitai.com/api/v1/models/4384", "/models/4384"),
        (
            "https://civitai.com/api/download/models/5?format=SafeTensor&utm=x&type=Model",
            "/api/download/models/5?type=Model&format=SafeTensor",
        ),
        ("urn:air:sdxl:lora:civitai:4384@128713", "/api/download/models/128713"),
        ("URN:AIR:flux1:lora:civitai:4384@128713.safetensors", "/api/download/models/128713"),
        ("sd1:lora:civitai:4384@128713", "/api/download/models/128713"),
        ("civitai:4384@128713", "/api/download/models/128713"),
        ("civitai:4384", "/models/4384"),
        ("civitai:004384", "/models/4384"),
    ],
)
def test_each_way_to_name_a_model_is_one_reference(text: str, url: str) -> None:
    found = parse_reference(text)
    assert (found.source, found.text, found.wanted) == ("civitai", HOME + url, Wanted.WEIGHTS)
    # What is recorded of it names the same.
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "https://civitai.com/images/4384",
        "https://civitai.com/file.safetensors",
        "https://civitai.com:8443/models/4384",
        "https://civitai.com.evil.example/models/4384",
        "https://evil.example/civitai.com/models/4384",
        "https://civitai.com@evil.example/models/4384",
        "https://evil.example/?u=https://civitai.com/models/4384",
        "https://image.civitai.com/models/4384",
    ],
)
def test_what_is_elsewhere_is_a_plain_url(text: str) -> None:
    assert parse_reference(text).source == "plain"


@pytest.mark.parametrize(
    "text",
    [
        "https://civitai.com/models/dream",
        "https://civitai.com/models/1?modelVersionId=x",
        "https://civitai.com/models/1?modelVersionId=1/../2",
        "https://civitai.com/api/download/models/",
        "civitai:x",
        "civitai:1@",
        "urn:air:sdxl:lora:civitai:1@2:layer",
        "civitai:1@2.ckpt",
        "civitai:1@²",
    ],
)
def test_what_names_no_number_is_refused(text: str) -> None:
    with pytest.raises(BadReferenceError, match="by its number"):
        parse_reference(text)


def test_a_token_in_the_url_opens_it_and_is_seen_nowhere() -> None:
    settings = SourceSettings((CivitaiSettings(token=OTHER_TOKEN),))
    url = f"https://civitai.com/api/download/models/5?token={TOKEN}"
    found = parse_reference(url, settings=settings)
    assert found.token == TOKEN
    assert TOKEN not in repr(found) + str(found) + found.text + found.key + found.scope
    plain = parse_reference("https://civitai.com/api/download/models/5")
    assert (found.key, plain.scope) == (plain.key, "")
    assert (
        len({found.scope, plain.scope, parse_reference("civitai:1@5", "auto", settings).scope}) == 3
    )
    with pytest.raises(BadReferenceError):
        parse_reference(f"https://civitai.com/models/x?token={TOKEN}")


def test_keys_tell_apart_what_differs() -> None:
    texts = ["civitai:1", "civitai:1@1", "civitai:2@2", "civitai.com/api/download/models/1?fp=fp16"]
    keys = {parse_reference(text).key for text in texts}
    keys |= {parse_reference("civitai:1", wanted).key for wanted in ("file", "folder")}
    other = SourceSettings((CivitaiSettings(endpoint="http://mirror"),))
    assert len(keys | {parse_reference("civitai:1", "auto", other).key}) == 7
    assert parse_reference("civitai:9@1").key == parse_reference("civitai:1@1").key


# ------------------------------------------------------------------- what is fetched


def test_a_model_is_its_first_published_version(civitai: Civitai, root: Path) -> None:
    draft = Version(30, (lora(weights(seed="draft")),), status="Draft")
    civitai.add(1, draft, Version(20, (lora(),)), Version(10, (lora(OLD, "old.safetensors"),)))
    with cache_of(civitai, root) as cache:
        path = cache.ensure("civitai.com/models/1")
        assert (path.read_bytes(), path.suffix) == (NEW, ".safetensors")
        assert path.name.endswith(".lora.safetensors")
        assert only_record(cache).about.reference == f"{civitai.endpoint}/models/1"
        assert cache.ensure("https://civitai.com/models/1/slug") == path
        assert cache.ensure("civitai.com/models/1?modelVersionId=10").read_bytes() == OLD
        assert cache.ensure("urn:air:sdxl:lora:civitai:1@10").read_bytes() == OLD
        assert cache.cache_info().misses == 2
    assert civitai.site.seen("/api/v1/model-versions/20") == []
    assert_nothing_left(root)


def test_a_model_follows_its_versions_only_when_asked_to(civitai: Civitai, root: Path) -> None:
    civitai.add(1, Version(10, (lora(OLD),)))
    with cache_of(civitai, root) as cache:
        cache.ensure("civitai:1")
        asked = len(civitai.site.requests)
        civitai.add(1, Version(20, (lora(),)), Version(10, (lora(OLD),)))
        assert cache.ensure("civitai:1").read_bytes() == OLD
        assert len(civitai.site.requests) == asked
    with cache_of(civitai, root, refresh="check") as cache:
        assert cache.ensure("civitai:1").read_bytes() == NEW
        assert cache.ensure("civitai:1@10").read_bytes() == OLD


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_the_primary_file_may_be_an_archive(civitai: Civitai, root: Path, ending: str) -> None:
    members = {"pack/a.safetensors": NEW, "pack/readme.txt": b"hello"}
    body = {"zip": zip_of, "tar": tar_of}[ending](members)
    civitai.add(1, Version(5, (lora(body, f"pack.{ending}", format="Other"),)))
    with cache_of(civitai, root) as cache:
        path = cache.ensure("civitai:1@5")
        assert (path.read_bytes(), path.name.split(".")[-2:]) == (NEW, ["a", "safetensors"])
        assert contents(cache.ensure("civitai:1@5", wanted="folder")) == members
        assert cache.ensure("civitai:1@5", wanted="file").read_bytes() == body
        # What the service says that it hashes to was verified, and need not be asked again.
        misses = cache.cache_info().misses
        assert cache.ensure("civitai:1@5", digest=sha256(body)) == path
        assert cache.cache_info().misses == misses
    assert_nothing_left(root)


def test_the_safetensors_form_is_preferred_to_a_pickle(civitai: Civitai, root: Path) -> None:
    pickled = File("m.ckpt", b"\x80\x02pickle", format="PickleTensor", primary=True)
    vae = File("vae.safetensors", OLD, type="VAE")
    pruned = File("m.safetensors", NEW, type="Pruned Model")
    civitai.add(1, Version(5, (pickled, vae, pruned)), Version(4, (pickled, vae)))
    with cache_of(civitai, root) as cache:
        assert cache.ensure("civitai:1@5").read_bytes() == NEW
        url = f"{civitai.endpoint}/api/download/models/5?type=VAE"
        assert cache.ensure(url).read_bytes() == OLD
        with pytest.raises(NotWeightsError, match="pickle"):
            cache.ensure("civitai:1@5", wanted="file")
        with pytest.raises(NotWeightsError, match="pickle"):
            cache.ensure("civitai:1@4")
        with pytest.raises(NotFoundError, match=r"m\.ckpt, vae\.safetensors, m\.safetensors"):
            cache.ensure(f"{civitai.endpoint}/api/download/models/5?type=Config")
        with pytest.raises(BadReferenceError, match="not an archive"):
            cache.ensure("civitai:1@5", wanted="folder")


FULL = File("full.safetensors", weights(seed="full"), fp="fp32", primary=True)
PRUNED = File("pruned.safetensors", weights(seed="pruned"), type="Pruned Model", fp="fp16")
VAE = File("vae.safetensors", weights(seed="vae"), type="VAE", fp="fp16")
PICKLE = File("m.ckpt", b"\x80\x02pickle", format="PickleTensor", fp="fp16")


@pytest.mark.parametrize(
    ("files", "query", "chosen"),
    [
        ((VAE, FULL, PRUNED), "", FULL),
        ((VAE, PRUNED, FULL), "format=SafeTensor", FULL),
        ((VAE, PRUNED, FULL), "format=safetensor&fp=fp16", PRUNED),
        ((VAE, FULL), "fp=fp16", FULL),
        ((VAE, replace(FULL, primary=False)), "fp=fp16&format=SafeTensor", FULL),
        ((VAE, PICKLE, PRUNED), "format=SafeTensor", PRUNED),
        ((replace(VAE, primary=True), PRUNED), "", PRUNED),
        ((VAE, FULL, PRUNED), "format=GGUF", FULL),
        ((VAE, FULL, PRUNED), "size=pruned&fp=fp16", PRUNED),
        ((VAE, FULL, PRUNED), "type=VAE", VAE),
        ((FULL, PRUNED, VAE), "type=VAE&fp=fp32", VAE),
        ((FULL, VAE, PRUNED), "type=Pruned%20Model&format=GGUF", PRUNED),
        ((FULL, VAE, PRUNED), "fileId=51", VAE),
    ],
)
def test_only_the_type_filters_and_what_else_is_asked_for_is_preferred(
    civitai: Civitai, root: Path, files: tuple[File, ...], query: str, chosen: File
) -> None:
    # Each is found at a URL of its own, whatever the API's parameters mean.
    own = [replace(file, url=f"/api/download/models/5?name={file.name}") for file in files]
    civitai.add(1, Version(5, tuple(own)))
    with cache_of(civitai, root) as cache:
        path = cache.ensure(f"{civitai.endpoint}/api/download/models/5?{query}")
        assert path.read_bytes() == chosen.body


def test_a_form_that_is_not_there_is_said(
    civitai: Civitai, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    civitai.add(1, Version(5, (FULL, PRUNED)))
    with cache_of(civitai, root) as cache:
        cache.ensure(f"{civitai.endpoint}/api/download/models/5?format=GGUF&fp=fp32")
    assert "full.safetensors is the nearest to format=GGUF in version 5" in caplog.text


def test_a_pickle_that_was_asked_for_is_no_other_form(civitai: Civitai, root: Path) -> None:
    civitai.add(1, Version(5, (FULL, PICKLE)))
    with cache_of(civitai, root) as cache, pytest.raises(NotWeightsError, match="pickle"):
        cache.ensure(f"{civitai.endpoint}/api/download/models/5?format=PickleTensor")


def test_the_hash_that_the_service_gives_is_verified(civitai: Civitai, root: Path) -> None:
    civitai.add(1, Version(5, (lora(digest="0" * 64),)))
    civitai.add(2, Version(6, (lora(digest="not a hash"),)))
    civitai.add(3, Version(7, (lora(),)))
    with cache_of(civitai, root) as cache:
        with pytest.raises(DigestMismatchError):
            cache.ensure("civitai:1")
        assert cache.ensure("civitai:2").read_bytes() == NEW
        with pytest.raises(DigestMismatchError):
            cache.ensure("civitai:3", digest="1" * 64)
        path = cache.ensure("civitai:3", digest=sha256(NEW))
        assert cache.ensure("civitai:3", digest=sha256(NEW)) == path
        assert cache.cache_info().misses == 2
    assert civitai.storage.asked("/model/7/lora.safetensors")
    assert_nothing_left(root)


def test_a_name_from_the_service_stays_in_its_place(civitai: Civitai, root: Path) -> None:
    civitai.add(1, Version(5, (lora(name="../../../etc/.evil.safetensors"),)))
    with cache_of(civitai, root) as cache:
        path = cache.ensure("civitai:1")
        assert path.parent.parent == cache.path / "entries"
        assert path.name.endswith("._evil.safetensors")


# ------------------------------------------------------------------- tokens


def private(civitai: Civitai, **fields: Any) -> Version:
    version = Version(5, (lora(),), needs=TOKEN, **fields)
    civitai.add(1, version)
    return version


@pytest.mark.parametrize("how", ["settings", "argument", "url"])
def test_the_token_goes_to_civitai_alone(civitai: Civitai, root: Path, how: str) -> None:
    private(civitai)
    with cache_of(civitai, root, token=TOKEN if how == "settings" else None) as cache:
        given = TOKEN if how == "argument" else None
        query = f"?token={TOKEN}" if how == "url" else ""
        url = f"{civitai.endpoint}/api/download/models/5{query}"
        assert cache.ensure(url, civitai_api_token=given).read_bytes() == NEW
        scope = only_record(cache).about.scope
    assert len(scope) == 64
    asked = civitai.site.seen("/api/download/models/5")
    assert {seen.header("authorization") for seen in asked} == {f"Bearer {TOKEN}"}
    assert {seen.header("authorization") for seen in civitai.storage.requests} == {None}
    assert all("token" not in seen.target for seen in civitai.site.requests)


def test_what_a_token_opened_is_given_only_to_who_can_open_it(civitai: Civitai, root: Path) -> None:
    private(civitai)
    with cache_of(civitai, root) as cache:
        path = cache.ensure("civitai:1@5", civitai_api_token=TOKEN)
        for other in (None, OTHER_TOKEN):
            with pytest.raises(UnauthorizedError):
                cache.ensure("civitai:1@5", civitai_api_token=other)
        assert cache.lookup("civitai:1@5") is None
        assert cache.ensure("civitai:1@5", civitai_api_token=TOKEN) == path
        civitai.add(1, Version(5, (lora(),)))
        assert cache.ensure("civitai:1@5", civitai_api_token=OTHER_TOKEN) == path
        assert cache.ensure("civitai:1@5") == path
        assert cache.cache_info().misses == 1


@pytest.mark.parametrize(
    "url", ["{other}/lora.safetensors", "https://127.0.0.1:9/x", "//{netloc}/x"]
)
def test_a_download_elsewhere_gets_no_token(
    civitai: Civitai, root: Path, other_server: Server, url: str
) -> None:
    other = other_server.add("/lora.safetensors", Resource(NEW))
    other_server.add("/x", Resource(NEW))
    netloc = f"127.0.0.1:{other_server.port}"
    pointed = url.format(other=other.rpartition("/")[0], netloc=netloc)
    civitai.add(1, Version(5, (lora(url=pointed),)))
    with cache_of(civitai, root, token=TOKEN, retries=0) as cache:
        if "127.0.0.1:9/" in pointed:
            with pytest.raises(TransferError):
                cache.ensure("civitai:1@5")
        else:
            assert cache.ensure("civitai:1@5").read_bytes() == NEW
    # That it is seen by nobody else is what the guard over all these tests looks at.


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data:,x", "ftp://host/x", "http://[::1", 5])
def test_a_download_that_is_no_http_url_reads_nothing(
    civitai: Civitai, root: Path, url: str
) -> None:
    civitai.add(1, Version(5, (lora(url=url),)))
    with cache_of(civitai, root, token=TOKEN) as cache:
        if isinstance(url, str):
            with pytest.raises(PgetError):
                cache.ensure("civitai:1@5", wanted="file")
        else:
            assert cache.ensure("civitai:1@5").read_bytes() == NEW
    assert_nothing_left(root)


def test_a_mirror_hands_on_what_civitai_says_of_itself(civitai: Civitai, root: Path) -> None:
    own = "https://civitai.com/api/download/models/5"
    civitai.add(1, Version(5, (lora(url=own),), needs=TOKEN))
    with cache_of(civitai, root, token=TOKEN) as cache:
        assert cache.ensure("civitai.com/models/1").read_bytes() == NEW


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize("refusal", ["json", "page"])
@pytest.mark.parametrize("token", [None, OTHER_TOKEN])
def test_who_has_to_log_in_is_told_what_to_set(
    civitai: Civitai, root: Path, refusal: Any, token: str | None
) -> None:
    private(civitai, refusal=refusal)
    with cache_of(civitai, root, token=token) as cache:
        with pytest.raises(UnauthorizedError) as caught:
            cache.ensure("civitai:1@5")
        assert (cache.entries(), caught.value.service) == ([], "CivitAI")
    said = str(caught.value)
    assert "CIVITAI_API_TOKEN" in said
    assert "civitai_api_token" in said
    assert ("check the token" in said) == (token is not None)
    asset = "The creator of this asset requires you to be logged in"
    assert (asset if refusal == "json" else "the page /login") in said
    assert "{" not in said
    assert civitai.storage.requests == []
    assert_nothing_left(root)


@pytest.mark.parametrize("refusal", ["json", "page"])
def test_early_access_is_told_from_a_missing_token(
    civitai: Civitai, root: Path, refusal: Any
) -> None:
    private(civitai, early=True, refusal=refusal)
    with cache_of(civitai, root, token=OTHER_TOKEN) as cache, pytest.raises(GatedError) as caught:
        cache.ensure("civitai:1@5")
    assert "early access" in str(caught.value).lower().replace("-", " ")


def test_what_is_not_there_is_told(civitai: Civitai, root: Path) -> None:
    version = Version(5, (lora(),))
    civitai.add(1, version)
    civitai.add(2, replace(version, id=6, status="Draft"))
    civitai.add(3, replace(version, id=7, files=()))
    civitai.site.remove("/api/download/models/5")
    with cache_of(civitai, root) as cache:
        for text in ("civitai:9", "civitai:1@8", "civitai:2", "civitai:3", "civitai:1"):
            with pytest.raises(NotFoundError) as caught:
                cache.ensure(text)
            assert isinstance(caught.value, ServiceError)
        assert caught.value.status == 404
    assert_nothing_left(root)


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>maintenance</html>", b"[]", b"null", b'{"modelVersions": 5}', b'{"files": [5]}',
     b'{"id": {}, "files": [{"name": [], "hashes": 1, "metadata": 2, "type": {}}]}',
     b'{"modelVersions": [{"id": 5, "files": "x"}]}', b"\xff\xfe", b"[" * 100_000],
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error_of_ours(
    civitai: Civitai, root: Path, answer: bytes
) -> None:
    civitai.site.add("/api/v1/models/1", Resource(answer, ranges=False))
    with cache_of(civitai, root) as cache, pytest.raises(PgetError):
        cache.ensure("civitai:1")


def test_trouble_at_the_storage_is_not_the_sites(civitai: Civitai, root: Path) -> None:
    version = private(civitai)
    path = civitai._stored(version, version.files[0])
    civitai.storage.change(path, faults=[Status(403, "SignatureDoesNotMatch")])
    storage_error = pytest.raises(HttpStatusError, match="SignatureDoesNotMatch")
    with cache_of(civitai, root, token=TOKEN, retries=0) as cache, storage_error:
        cache.ensure("civitai:1@5")


def test_a_redirect_of_the_api_takes_no_token_along(
    civitai: Civitai, root: Path, other_server: Server
) -> None:
    there = other_server.add("/api", Resource(b"{}", ranges=False))
    civitai.site.add("/api/v1/models/1", Resource(faults=[Redirect(there)]))
    with cache_of(civitai, root, token=TOKEN) as cache, pytest.raises(NotFoundError):
        cache.ensure("civitai:1")
    assert other_server.seen("/api")


# ------------------------------------------------------------------- to a destination


def test_a_reference_can_be_downloaded_to_a_folder(civitai: Civitai, tmp_path: Path) -> None:
    private(civitai)
    sources = SourceSettings((CivitaiSettings(endpoint=civitai.endpoint, token=TOKEN),))
    settings = impatient(sources=sources)
    result = pgetpy.download("civitai:1@5", f"{tmp_path}/", settings=settings)
    assert (tmp_path / "lora.safetensors").read_bytes() == NEW
    assert result.digest == sha256(NEW)
    pack = zip_of({"a.safetensors": OLD})
    civitai.add(2, Version(6, (lora(pack, "pack.zip", format="Other"),)))
    pgetpy.extract("civitai:2", tmp_path / "out", settings=settings)
    assert contents(tmp_path / "out") == {"a.safetensors": OLD}
    civitai.add(3, Version(7, (lora(zip_of({"a.txt": b"x"}), "pack.zip"),)))
    with cache_of(civitai, tmp_path / "cache") as cache, pytest.raises(ArchiveError):
        cache.ensure("civitai:3")


@pytest.mark.parametrize("mark", ["%0d%0aX:%20y", "%00", "%20", "%c3%a9"])
def test_a_token_in_the_url_adds_no_header(mark: str) -> None:
    with pytest.raises(BadSettingError):
        parse_reference(f"https://civitai.com/models/1?token={TOKEN}{mark}{TOKEN}")
