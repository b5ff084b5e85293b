"""One .safetensors out of an archive, or all of it; files of this machine; signed links."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.cache.checking import Verdict
from pgetpy.errors import (
    ArchiveError,
    BadReferenceError,
    DigestMismatchError,
    HttpStatusError,
    NotOneFileError,
    NotWeightsError,
    PgetError,
    UnsafeMemberError,
)
from tests.support.delivery import Gate
from tests.support.entries import child, said, sha256, tell
from tests.support.faults import (
    GateAfter,
    RequireSignature,
    ResetAfter,
    ResetAt,
    Signer,
    Status,
    When,
    at_least,
)
from tests.support.fetching import contents
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import (
    MIB,
    assert_nothing_left,
    ensuring,
    flip,
    only_record,
    opened,
    partials,
    serve,
    tar_of,
    weights,
    zip_of,
)

pytestmark = pytest.mark.usefixtures("forked_runs")

MAKERS = {
    "x.tar": tar_of,
    "x.tar.gz": lambda members: tar_of(members, "w:gz"),
    "x.zip": zip_of,
    "X.TGZ": lambda members: tar_of(members, "w:gz"),
}
LORA = {"output/flux/lora.safetensors": weights(), "output/config.yaml": b"a: 1\n"}


@pytest.mark.parametrize("place", ["http", "file"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_one_safetensors_of_an_archive_is_what_is_wanted(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path, name: str, place: str
) -> None:
    data = MAKERS[name](LORA)
    (tmp_path / name).write_bytes(data)
    url = serve(server, data, f"/{name}") if place == "http" else (tmp_path / name).as_uri()
    path = cache.ensure(url)
    assert path.name.endswith("lora.safetensors")
    assert path.read_bytes() == weights()
    assert cache.ensure(url) == path
    assert cache.settle(30)
    assert only_record(cache).digest == sha256(weights())
    assert len(server.requests) <= (2 if name == "x.zip" else 1)
    cache.close()
    assert_nothing_left(cache.path)


APPLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)
CANONICAL = "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "beside",
    [
        ("output/flux/._lora.safetensors",),
        ("__MACOSX/output/flux/._lora.safetensors", "__MACOSX/lora.safetensors"),
        (".cache/x.safetensors", "output/.x.safetensors", "._.safetensors"),
    ],
    ids=["AppleDouble", "__MACOSX", "hidden"],
)
def test_what_is_hidden_in_an_archive_is_no_weights(
    server: Server, cache: WeightsDownloadCache, name: str, beside: tuple[str, ...]
) -> None:
    members = {**dict.fromkeys(beside, APPLE), **LORA}
    url = serve(server, MAKERS[name](members), f"/{name}")
    path = cache.ensure(url)
    assert path.name.endswith("lora.safetensors")
    assert path.read_bytes() == weights()
    assert list(tensors.load(url, cache=cache, framework="numpy")) == ["weight"]
    assert contents(cache.ensure(url, wanted="folder")) == members
    only = serve(server, MAKERS[name](dict.fromkeys(beside, APPLE)), f"/only/{name}")
    with pytest.raises(NotOneFileError, match=r"holds no .safetensors file"):
        cache.ensure(only)


@pytest.mark.parametrize("name", MAKERS)
def test_the_usual_name_of_a_loras_weights_tells_them_from_others(
    server: Server, cache: WeightsDownloadCache, name: str
) -> None:
    others = dict.fromkeys(("a.safetensors", f"checkpoint-9/{CANONICAL}"), weights(seed="other"))
    url = serve(server, MAKERS[name]({**others, CANONICAL: weights()}), f"/{name}")
    assert cache.ensure(url).read_bytes() == weights()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"config.yaml": b"a: 1\n"}, "no .safetensors"),
        ({"a.safetensors": weights(), "b/b.safetensors": weights()}, "2 .safetensors files.*a.saf"),
    ],
)
def test_none_or_several_in_an_archive_is_an_error(
    server: Server,
    cache: WeightsDownloadCache,
    name: str,
    members: dict[str, bytes],
    says: str,
) -> None:
    url = serve(server, MAKERS[name](members), f"/{name}")
    for _ in range(2):
        with pytest.raises(ArchiveError, match=f"{says}.*folder"):
            cache.ensure(url)
        assert (cache.entries(), partials(cache.path)) == ([], [])
    folder = cache.ensure(url, wanted="folder")
    assert contents(folder) == members
    serve(server, MAKERS[name](LORA), f"/{name}")
    assert cache.ensure(url).read_bytes() == weights()


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_wanted_of_an_archive_can_be_said(
    server: Server, cache: WeightsDownloadCache, name: str
) -> None:
    data = MAKERS[name](LORA)
    url = serve(server, data, f"/{name}")
    file, folder = (cache.ensure(url, wanted=wanted) for wanted in ("file", "folder"))
    assert (file.read_bytes(), contents(folder)) == (data, LORA)
    assert cache.ensure(url) == cache.ensure(url, wanted="weights")
    assert len(cache.entries()) == 3
    asked = len(server.requests)
    assert cache.ensure(url, wanted="folder") == folder
    assert cache.remove(url, wanted="folder") == sum(map(len, LORA.values()))
    assert not folder.exists()
    assert file.exists()
    assert len(server.requests) == asked


def test_an_archive_by_another_name_is_one_when_that_is_said(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, tar_of(LORA), "/download")
    assert cache.ensure(url, wanted="weights").read_bytes() == weights()
    plain = serve(server, weights(), "/plain")
    with pytest.raises(ArchiveError):
        cache.ensure(plain, wanted="weights")


@pytest.mark.parametrize("wanted", ["weights", "folder"])
def test_what_is_no_archive_or_a_dangerous_one_is_refused_and_nothing_is_left(
    server: Server, cache: WeightsDownloadCache, wanted: str
) -> None:
    for name, data in {
        "/page.tar": b"<html>Please sign in</html>",
        "/cut.tar": tar_of(LORA)[:8000],
        "/cut.zip": zip_of(LORA)[:-30],
        "/empty.tar": b"",
    }.items():
        with pytest.raises(PgetError):
            cache.ensure(serve(server, data, name), wanted=wanted)
    outside = cache.path.parent / "outside.safetensors"
    for escape in ("../../../../outside.safetensors", str(outside)):
        with pytest.raises(UnsafeMemberError):
            cache.ensure(serve(server, tar_of({escape: weights()}), "/evil.tar"), wanted=wanted)
    assert not outside.exists()
    assert (cache.entries(), partials(cache.path)) == ([], [])


def test_a_page_in_place_of_an_archive_is_quoted(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, b"<html>Please sign in</html>", "/lora.tar")
    with pytest.raises(PgetError, match="Please sign in"):
        cache.ensure(url)


def test_a_member_that_is_no_weights_is_refused(
    server: Server, cache: WeightsDownloadCache
) -> None:
    for data in (b"version https://git-lfs.github.com/spec/v1\n", weights()[:-5]):
        url = serve(server, tar_of({"lora.safetensors": data}), "/x.tar")
        with pytest.raises(NotWeightsError):
            cache.ensure(url)
    assert (cache.entries(), partials(cache.path)) == ([], [])


def test_a_member_whose_name_is_no_utf_8_can_be_had(
    server: Server, cache: WeightsDownloadCache
) -> None:
    name = os.fsdecode(b"l\xf6we\xff.safetensors")
    file = cache.ensure(serve(server, _raw_tar(name), "/x.tar"))
    assert file.suffix == ".safetensors"
    assert file.read_bytes() == weights()


def test_a_link_in_an_archive_is_not_taken_for_weights(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        link = tarfile.TarInfo("link.safetensors")
        link.type, link.linkname = tarfile.SYMTYPE, "lora.safetensors"
        tar.addfile(link)
        info = tarfile.TarInfo("lora.safetensors")
        info.size = len(weights())
        tar.addfile(info, io.BytesIO(weights()))
    path = cache.ensure(serve(server, file.getvalue(), "/x.tar"))
    assert not path.is_symlink()
    assert path.read_bytes() == weights()


@pytest.mark.parametrize("wanted", ["weights", "folder"])
def test_the_digest_of_an_archive_is_that_of_the_archive(
    server: Server, cache: WeightsDownloadCache, wanted: str
) -> None:
    data = tar_of(LORA)
    url = serve(server, data, "/x.tar")
    with pytest.raises(DigestMismatchError):
        cache.ensure(url, digest=sha256(weights()), wanted=wanted)
    assert (cache.entries(), partials(cache.path)) == ([], [])
    path = cache.ensure(url, digest=sha256(data), wanted=wanted)
    asked = len(server.requests)
    assert cache.ensure(url, digest=sha256(data), wanted=wanted) == path
    assert len(server.requests) == asked
    with pytest.raises(DigestMismatchError):
        cache.ensure(url, digest=sha256(b"another"), wanted=wanted)
    assert cache.ensure(url, wanted=wanted) == path


def test_a_flipped_bit_in_a_folder_is_found_and_repaired(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, tar_of(LORA), "/x.tar")
    folder = cache.ensure(url, wanted="folder")
    assert cache.settle(30)
    flip(folder / "output" / "flux" / "lora.safetensors")
    assert cache.verify(url, wanted="folder") is Verdict.DAMAGED
    assert contents(cache.ensure(url, wanted="folder")) == LORA


@pytest.mark.parametrize("maker", [tar_of, zip_of], ids=["tar", "zip"])
def test_an_archive_that_broke_off_is_gone_on_with(server: Server, root: Path, maker: type) -> None:
    data = maker({"lora.safetensors": weights(4 * MIB, "broken")})
    fault = ResetAfter(900_000, when=When(request=at_least(2)))
    url = serve(server, data, "/x.archive", faults=[fault])
    with opened(root, retries=0, concurrency=1, chunk_size=64 * MIB) as cache:
        with pytest.raises(PgetError):
            cache.ensure(url, wanted="weights")
        before = server.sent("/x.archive")
        server.change("/x.archive", faults=())
        path = cache.ensure(url, wanted="weights")
        assert path.read_bytes() == weights(4 * MIB, "broken")
    assert server.sent("/x.archive") - before < len(data)
    assert_nothing_left(root)


def test_what_a_killed_run_extracted_of_another_version_does_not_get_in(
    server: Server, root: Path
) -> None:
    gate = Gate()
    url = serve(server, tar_of(LORA), "/x.tar", faults=[GateAfter(100, gate)])
    with ensuring(root, url, concurrency=1) as other:
        assert said(other) == "ready"
        gate.wait_reached()
        other.kill()
        other.wait()
    # It died when all was extracted, just before it would have been published.
    (claimed,) = (root / "partial").iterdir()
    (claimed / "members").mkdir()
    (claimed / "members" / "old.safetensors").write_bytes(weights(seed="old"))
    gate.open()
    serve(server, tar_of(LORA), "/x.tar")
    with opened(root) as cache:
        assert cache.ensure(url).read_bytes() == weights()


# ------------------------------------------------------------------- files of this machine


def test_a_file_of_this_machine_is_copied_and_followed(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    source = tmp_path / "my lora ü.safetensors"
    source.write_bytes(weights())
    url = source.as_uri()
    path = cache.ensure(url)
    assert path.read_bytes() == weights()
    assert not path.samefile(source)
    assert cache.ensure(url) == cache.ensure(url.replace("file://", "file://localhost")) == path
    source.write_bytes(weights(seed="new"))
    new = cache.ensure(url)
    assert (new.read_bytes(), path.read_bytes()) == (weights(seed="new"), weights())
    os.replace(shutil.copy(source, tmp_path / "twin"), source)
    cache.ensure(url)
    source.unlink()
    # What is gone at its source is still here.
    assert cache.ensure(url).read_bytes() == weights(seed="new")
    assert cache.cache_info().misses == 3


def test_a_file_that_is_not_there_is_said_to_be_missing(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    said = {tmp_path / "no.safetensors": "no such file", tmp_path: "it is not a regular file"}
    if Path("/proc/self/status").exists():
        said[Path("/proc/self/status")] = "its size is not known"
    for path, words in said.items():
        with pytest.raises(BadReferenceError, match=words):
            cache.ensure(path.as_uri())
    for name, data in {"a.safetensors": weights()[:-1], "b.txt": b"hello"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(NotWeightsError):
            cache.ensure((tmp_path / name).as_uri())
    assert (cache.entries(), partials(cache.path)) == ([], [])


def test_a_file_whose_name_is_no_utf_8_can_be_had(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"
    with open(raw, "wb") as file:
        file.write(weights())
    assert cache.ensure("file://" + quote(raw)).read_bytes() == weights()


def test_what_a_cancelled_call_still_extracts_does_not_get_into_the_next(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    source = tmp_path / "x.tar"
    source.write_bytes(tar_of({f"old/{number}": b"old" for number in range(1500)}))
    members = {f"new/{number}": b"new" for number in range(300)}
    (tmp_path / "new").write_bytes(tar_of(members))

    async def ask() -> Path:
        first = asyncio.create_task(cache.ensure_async(source.as_uri(), wanted="folder"))
        await asyncio.to_thread(eventually, lambda: len(partials(cache.path)) > 50)
        first.cancel()
        os.replace(tmp_path / "new", source)
        with contextlib.suppress(asyncio.CancelledError):
            await first
        return await cache.ensure_async(source.as_uri(), wanted="folder")

    assert contents(asyncio.run(ask())) == members
    assert partials(cache.path) == []


def test_the_digest_of_a_file_is_checked_too(cache: WeightsDownloadCache, tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    source.write_bytes(weights())
    with pytest.raises(DigestMismatchError):
        cache.ensure(source.as_uri(), digest="0" * 64)
    assert (cache.entries(), partials(cache.path)) == ([], [])
    cache.ensure(source.as_uri(), digest=sha256(weights()))
    assert only_record(cache).digest == sha256(weights())


def test_of_an_archive_of_this_machine_the_source_is_followed(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    source = tmp_path / "a.tar"
    source.write_bytes(tar_of(LORA))
    first = cache.ensure(source.as_uri())
    source.write_bytes(tar_of({"b.safetensors": weights(seed="b")}))
    second = cache.ensure(source.as_uri())
    assert (first.read_bytes(), second.read_bytes()) == (weights(), weights(seed="b"))
    source.write_bytes(tar_of(LORA)[:8000])
    with pytest.raises(ArchiveError):
        cache.ensure(source.as_uri())
    source.unlink()
    assert cache.ensure(source.as_uri()) == second


# ------------------------------------------------------------------- signed links


def signed(server: Server, signer: Signer) -> str:
    """Serve weights to those links that `signer` signs; return the bare URL."""
    return serve(server, weights(2 * MIB), faults=[RequireSignature(signer)])


def test_another_signature_is_a_hit_once_the_server_has_let_it_in(
    server: Server, cache: WeightsDownloadCache
) -> None:
    signer = Signer()
    bare = signed(server, signer)
    first = signer.sign(bare)
    path = cache.ensure(first)
    asked = len(server.requests)
    assert cache.ensure(first) == path
    assert len(server.requests) == asked
    second = signer.sign(bare)
    sent = server.sent("/lora.safetensors")
    for _ in range(3):
        assert cache.ensure(second) == path
    # It is remembered for a while.
    assert len(server.requests) == asked + 1
    assert server.sent("/lora.safetensors") - sent <= 1
    assert (cache.cache_info().hits, cache.cache_info().misses) == (4, 1)
    with opened(cache.path) as other:
        assert other.ensure(second) == path
    assert len(server.requests) == asked + 2


def test_a_signature_that_the_server_refuses_gets_nothing(server: Server, root: Path) -> None:
    signer = Signer()
    bare = signed(server, signer)
    with opened(root, retries=0) as cache:
        path = cache.ensure(signer.sign(bare))
        forged = f"{bare}?X-Amz-Expires=60&X-Amz-Signature=signature-99"
        for url in (forged, bare):
            for _ in range(2):
                with pytest.raises(HttpStatusError, match="Request has expired"):
                    cache.ensure(url)
            with pytest.raises(HttpStatusError), cache.lease(url):
                pass
        server.stop()
        with pytest.raises(PgetError):
            cache.ensure(signer.sign(bare))
        assert path.exists()


def test_a_signature_for_an_object_that_has_changed_gets_the_new_one(
    server: Server, cache: WeightsDownloadCache
) -> None:
    signer = Signer()
    bare = signed(server, signer)
    first = cache.ensure(signer.sign(bare))
    server.change("/lora.safetensors", body=weights(seed="new"), etag='"v2"')
    second = cache.ensure(signer.sign(bare))
    assert (first.read_bytes(), second.read_bytes()) == (weights(2 * MIB), weights(seed="new"))


def test_a_user_and_password_in_the_url_are_checked_like_a_signature(
    server: Server, root: Path
) -> None:
    serve(server, authorization="Basic bWU6c2VjcmV0")
    right, wrong = (
        server.url("/lora.safetensors", user=user) for user in ("me:secret", "me:wrong")
    )
    with opened(root, retries=0) as cache:
        path = cache.ensure(right)
        for url in (wrong, server.url("/lora.safetensors")):
            with pytest.raises(HttpStatusError):
                cache.ensure(url)
        asked = len(server.requests)
        assert cache.ensure(right) == path
        assert len(server.requests) == asked


def test_what_anybody_may_have_is_a_hit_for_every_signature(
    server: Server, cache: WeightsDownloadCache
) -> None:
    bare = serve(server)
    path = cache.ensure(bare)
    assert cache.ensure(f"{bare}?X-Amz-Signature=abc&X-Amz-Date=1") == path
    assert len(server.requests) == 1


def test_a_signature_ends_in_no_file_of_the_cache(
    server: Server, cache: WeightsDownloadCache
) -> None:
    secret = "feedfacecafebeef"
    cache.ensure(serve(server) + f"?X-Amz-Signature={secret}")
    assert cache.settle(30)
    for path in cache.path.rglob("*"):
        assert secret not in path.name
        if path.is_file():
            assert secret.encode() not in path.read_bytes()
    broken = serve(server, faults=[Status(403, f"bad {secret}")])
    with pytest.raises(HttpStatusError) as caught:
        cache.ensure(f"{broken}?X-Amz-Signature={secret}2")
    assert f"{secret}2" not in str(caught.value)


def test_a_download_that_a_first_signature_began_is_gone_on_with_by_a_second(
    server: Server, root: Path
) -> None:
    signer = Signer()
    data = weights(4 * MIB)
    bare = serve(server, data, faults=[RequireSignature(signer), ResetAt(2 * MIB)])
    with opened(root, retries=0, concurrency=1) as cache:
        with pytest.raises(PgetError):
            cache.ensure(signer.sign(bare))
        before = server.sent("/lora.safetensors")
        server.change("/lora.safetensors", faults=[RequireSignature(signer)])
        assert cache.ensure(signer.sign(bare)).read_bytes() == data
    assert server.sent("/lora.safetensors") - before < len(data)


def _raw_tar(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
    ) as tar:
        info = tarfile.TarInfo(name)
        info.size = len(weights())
        tar.addfile(info, io.BytesIO(weights()))
    return file.getvalue()


def test_a_process_that_ensured_an_archive_shares_it(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, tar_of(LORA), "/x.tar")
    path = cache.ensure(url)
    with ensuring(cache.path, url) as other:
        assert [said(other), said(other)] == ["ready", str(path)]
        tell(other)
        assert other.wait(30) == 0
    with child("say(len(Store(sys.argv[1]).entries()))", cache.path) as other:
        assert said(other) == "1"


def test_an_archive_of_several_is_named_with_what_it_holds(root: Path, server: Server) -> None:
    members = {f"{name}.safetensors": weights(seed=name) for name in "ab"}
    url = serve(server, tar_of(members), "/two.tar")
    with opened(root) as cache, pytest.raises(NotOneFileError) as caught:
        cache.ensure(url)
    assert caught.value.reference == url
    assert caught.value.found == ("a.safetensors", "b.safetensors")
    assert "wanted=" in caught.value.hint
