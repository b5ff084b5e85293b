"""What a stranger may have: how large it is, what it is, and who had it before him."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgetpy import Policy, WeightsDownloadCache
from pgetpy.core.http.urls import parse_link
from pgetpy.core.references.reference import Reference, Wanted, key_for
from pgetpy.errors import (
    HttpStatusError,
    LimitExceededError,
    NotAllowedError,
    NotWeightsError,
)
from pgetpy.settings import SourceSection
from pgetpy.sources.base import Located, RemoteFile, ServiceClient, Source
from pgetpy.sources.table import parse_reference
from pgetpy.weights.size_limit import SizeBudget
from tests.integration.sources.conftest import TOKEN
from tests.support.faults import Chunked, NoLength, SilenceAfter
from tests.support.fetching import extract, fetch, names_in
from tests.support.names import Names
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.sources import add_source
from tests.support.weights import opened, partials, serve, tar_of, weights

pytestmark = pytest.mark.usefixtures("forked_runs")

OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
OPEN = Policy(allow_networks=(OUTSIDE,))
SMALL = replace(OPEN, max_bytes=100_000)
SAFE = replace(OPEN, only_safetensors=True)
PAGE = b"<html><body>private words</body></html>"
PICKLE = b"\x80\x04K\x01."
LARGE = 300_000


@pytest.fixture
def opening(root: Path) -> Iterator[Any]:
    """Opens caches over one folder, each under a policy of its own, or none."""
    caches: list[WeightsDownloadCache] = []

    def opening(policy: Policy | None = None, **options: Any) -> WeightsDownloadCache:
        caches.append(opened(root, policy=policy, **options))
        return caches[-1]

    yield opening
    for cache in caches:
        cache.close()


def refusal(cache: WeightsDownloadCache, url: str, **options: Any) -> NotAllowedError:
    with pytest.raises(NotAllowedError) as caught:
        cache.ensure(url, **options)
    assert partials(cache.path) == []
    return caught.value


# ----------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("fault", [None, Chunked(), NoLength()])
def test_what_is_larger_than_allowed_is_not_fetched(
    server: Server, tmp_path: Path, fault: Any
) -> None:
    faults = [fault] if fault else []
    url = serve(server, weights(LARGE), faults=faults, ranges=fault is None)
    with pytest.raises(NotAllowedError) as caught:
        fetch(url, tmp_path / "got", policy=SMALL)
    assert caught.value.rule == "max_bytes"
    assert names_in(tmp_path) == []
    fetch(url, tmp_path / "got", policy=replace(OPEN, max_bytes=LARGE * 2))


def test_what_tells_no_size_is_stopped_while_it_comes(server: Server, tmp_path: Path) -> None:
    faults = [NoLength(), SilenceAfter(900_000)]
    url = serve(server, weights(1_000_000), faults=faults, ranges=False)
    with pytest.raises(NotAllowedError, match="max_bytes"):
        fetch(url, tmp_path / "got", policy=SMALL)
    assert names_in(tmp_path) == []


def test_what_unfolds_to_more_than_allowed_is_stopped(server: Server, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    assert len(bomb) < 100_000
    resource = Resource(bomb, headers=(("Content-Encoding", "gzip"),), ranges=False)
    with pytest.raises(NotAllowedError, match="max_bytes"):
        fetch(server.add("/bomb", resource), tmp_path / "got", policy=SMALL)
    assert names_in(tmp_path) == []


def test_the_cache_keeps_nothing_of_what_is_too_large(server: Server, opening: Any) -> None:
    error = refusal(opening(SMALL), serve(server, weights(LARGE)))
    assert error.rule == "max_bytes"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_what_comes_out_of_an_archive_is_bounded(
    server: Server, opening: Any, tmp_path: Path, mode: str
) -> None:
    zeros = {"a.safetensors": weights(10), "b.bin": bytes(LARGE)}
    policy = replace(OPEN, max_bytes=LARGE)
    url = serve(server, tar_of(zeros, mode), "/lora.tar")
    with pytest.raises((LimitExceededError, NotAllowedError)):
        opening(policy).ensure(url)
    with pytest.raises((LimitExceededError, NotAllowedError)):
        extract(url, tmp_path / "out", policy=policy)
    opening(replace(OPEN, max_bytes=LARGE * 2)).ensure(url)


class Folder(Source[SourceSection]):
    """A source whose references are folders of two files on a server."""

    name = "folder"
    settings = SourceSection

    def __init__(self, urls: list[str], *, sized: bool) -> None:
        self.urls = urls
        self.sized = sized

    def recognise(self, text: str, wanted: str, settings: SourceSection) -> Reference | None:
        if not text.startswith("folder:"):
            return None
        key = key_for(text, Wanted.FOLDER)
        return Reference(self.name, text, text, "folder", key, wanted=Wanted.FOLDER)

    async def locate(
        self, reference: Reference, settings: SourceSection, client: ServiceClient
    ) -> Located:
        size = len(weights(LARGE)) if self.sized else None
        objects = [
            RemoteFile(url, f"{number}.safetensors", size=size)
            for number, url in enumerate(self.urls)
        ]
        return Located(tuple(objects), folder=True, version="1")


@pytest.mark.parametrize(("sized", "delimited"), [(True, True), (False, True), (False, False)])
def test_the_files_of_a_folder_are_bounded_together(
    server: Server, opening: Any, monkeypatch: pytest.MonkeyPatch, sized: bool, delimited: bool
) -> None:
    fields: dict[str, Any] = {} if delimited else {"faults": [Chunked()], "ranges": False}
    urls = [serve(server, weights(LARGE, name), f"/{name}", **fields) for name in "ab"]
    add_source(monkeypatch, Folder(urls, sized=sized))
    one, two = int(LARGE * 1.5), int(LARGE * 2.5)
    reference = f"folder:{sized}{delimited}"
    error = refusal(opening(replace(SAFE, max_bytes=one)), reference)
    assert error.rule == "max_bytes"
    path = opening(replace(SAFE, max_bytes=two)).ensure(reference)
    assert names_in(path) == ["0.safetensors", "1.safetensors"]


def test_a_folder_is_refused_as_soon_as_its_answers_say_that_it_is_too_large() -> None:
    allowance = SizeBudget(parse_reference("http://host/a"), (10, "max_bytes"))
    allowance.note(0, 4)
    allowance.note(1, None)
    allowance.note(0, 4)  # it has come by now
    allowance.note(2, 6)
    with pytest.raises(NotAllowedError, match="max_bytes: it has at least 11 bytes, and 10"):
        allowance.note(3, 1)


# ----------------------------------------------------------------------------------------- kinds


def test_weights_may_be_downloaded(server: Server, tmp_path: Path) -> None:
    fetch(serve(server), tmp_path / "got", policy=SAFE)
    assert (tmp_path / "got").read_bytes() == weights()


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
@pytest.mark.parametrize(
    "data",
    [
        b"", PAGE, PICKLE, b"GGUF" + bytes(100), weights()[:-1], weights() + b"x",
        # More than is parsed for a stranger.
        (5 << 20).to_bytes(8, "little") + b"{" + b" " * ((5 << 20) - 2) + b"}",
    ],
)  # fmt: skip
def test_what_is_no_safetensors_file_gets_no_name(
    server: Server, tmp_path: Path, opening: Any, data: bytes, name: str
) -> None:
    url = serve(server, data, f"/{name}")
    with pytest.raises(NotAllowedError) as caught:
        fetch(url, tmp_path / "out" / "got", policy=SAFE)
    assert caught.value.rule == "only_safetensors"
    assert names_in(tmp_path / "out") == []
    for cache in (opening(SAFE), opening(SAFE, any_file=True)):
        error = refusal(cache, url)
        assert error.rule == "only_safetensors"
        assert "private words" not in str(error)


@pytest.mark.parametrize("dest", ["-", "/dev/stdout"])
def test_nothing_goes_to_a_stream_before_it_was_looked_at(server: Server, dest: str) -> None:
    with pytest.raises(NotAllowedError, match="only_safetensors"):
        fetch(serve(server), dest, policy=SAFE)
    assert server.requests == []


def test_an_archive_is_not_extracted_as_a_whole(server: Server, tmp_path: Path) -> None:
    url = serve(server, tar_of({"a.safetensors": weights(), "setup.py": b"evil"}), "/a.tar")
    with pytest.raises(NotAllowedError, match="only_safetensors"):
        extract(url, tmp_path / "out", policy=SAFE)
    assert names_in(tmp_path) == []


def test_of_an_archive_the_one_safetensors_file_may_be_had(server: Server, opening: Any) -> None:
    members = {"a.safetensors": weights(), "setup.py": b"evil", "b.bin": PICKLE}
    path = opening(SAFE).ensure(serve(server, tar_of(members), "/a.tar"))
    assert path.read_bytes() == weights()
    false = serve(server, tar_of({"a.safetensors": PICKLE}), "/b.tar")
    assert refusal(opening(SAFE), false).rule == "only_safetensors"


@pytest.mark.parametrize(
    ("members", "allowed"),
    [
        ({"a.safetensors": weights(1), "deep/b.safetensors": weights(2)}, True),
        ({"a.safetensors": weights(1), "config.json": b"{}"}, False),
        ({"a.safetensors": weights(1), "deep/b.safetensors": PICKLE}, False),
        ({"a.safetensors": weights(1), "model.py": weights(1)}, False),
    ],
)
def test_a_folder_holds_nothing_but_safetensors(
    server: Server, opening: Any, members: dict[str, bytes], allowed: bool
) -> None:
    url = serve(server, tar_of(members), "/a.tar")
    if allowed:
        assert opening(SAFE).ensure(url, wanted="folder").is_dir()
    else:
        error = refusal(opening(SAFE), url, wanted="folder")
        assert error.rule == "only_safetensors"


@pytest.mark.parametrize("target", ["a.safetensors", "deep"])
def test_a_folder_holds_no_links(server: Server, opening: Any, target: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("a.safetensors", "deep/b.safetensors"):
            info = tarfile.TarInfo(name)
            info.size = len(weights())
            tar.addfile(info, io.BytesIO(weights()))
        link = tarfile.TarInfo("c.safetensors")
        link.type, link.linkname = tarfile.SYMTYPE, target
        tar.addfile(link)
    url = serve(server, file.getvalue(), "/a.tar")
    assert refusal(opening(SAFE), url, wanted="folder").rule == "only_safetensors"


# ------------------------------------------------------------------------------------------ hits


def test_what_the_operator_has_is_given_once_it_was_judged(server: Server, opening: Any) -> None:
    url = serve(server)
    path = opening().ensure(url)
    before = len(server.requests)
    cache = opening(SAFE)
    assert cache.lookup(url) is None  # nobody has shown yet that a stranger may have it
    assert cache.ensure(url) == path
    assert len(server.requests) == before + 1
    assert cache.ensure(url) == path == cache.lookup(url)
    assert len(server.requests) == before + 1


def test_what_was_fetched_under_the_policy_is_a_hit_for_all_who_have_it(
    server: Server, opening: Any
) -> None:
    url = serve(server)
    path = opening(SAFE).ensure(url)
    before = len(server.requests)
    assert opening(replace(SAFE, max_bytes=1 << 40)).ensure(url) == path
    assert opening().ensure(url) == path
    assert len(server.requests) == before


def test_a_hit_is_refused_to_who_could_not_have_fetched_it(
    server: Server, inside: Server, names: Names, opening: Any
) -> None:
    names.answer("weights.example", [INSIDE])
    path = f"http://weights.example:{inside.port}/lora.safetensors"
    rules = {serve(inside): "allow_networks", path: "allow_networks"}
    for url, rule in rules.items():
        opening().ensure(url)
        before = len(inside.requests)
        cache = opening(SAFE)
        with pytest.raises(NotAllowedError) as caught:
            cache.ensure(url)
        assert caught.value.rule == rule
        assert len(inside.requests) == before
    public = serve(server)
    opening().ensure(public)
    strict = opening(replace(SAFE, schemes=("https",)))
    for asked in (strict.ensure, strict.lookup, lambda url: strict.ensure_many([url])):
        with pytest.raises(NotAllowedError, match="schemes"):
            asked(public)


def test_a_file_of_this_machine_is_no_hit_either(opening: Any, tmp_path: Path) -> None:
    file = tmp_path / "own.safetensors"
    file.write_bytes(weights())
    opening().ensure(file.as_uri())
    assert refusal(opening(SAFE), file.as_uri()).rule == "schemes"
    assert refusal(opening(SAFE), f"FILE://localhost{file}").rule == "schemes"
    assert opening(replace(SAFE, schemes=("file",))).ensure(file.as_uri()).exists()


def test_what_is_no_safetensors_file_is_no_hit(server: Server, opening: Any) -> None:
    url = serve(server, PAGE, "/page.safetensors")
    opening(OPEN, any_file=True).ensure(url)
    before = len(server.requests)
    assert refusal(opening(SAFE, any_file=True), url).rule == "only_safetensors"
    assert len(server.requests) == before
    with pytest.raises(NotAllowedError, match="only_safetensors"):
        opening(SAFE).lookup(url)


def test_what_the_operators_header_opened_is_not_given_to_a_stranger(
    server: Server, opening: Any, owners: set[int]
) -> None:
    owners.add(server.port)
    bearer = f"Bearer {TOKEN}"
    url = serve(server, authorization=bearer)
    opening(authorization=bearer).ensure(url)
    with pytest.raises(HttpStatusError, match="401"):
        opening(SAFE, authorization=bearer).ensure(url)
    assert parse_link(url).signature == ""  # its key alone tells nothing of a secret


def test_without_a_policy_all_is_as_it_was(server: Server, opening: Any) -> None:
    with pytest.raises(NotWeightsError, match="private words"):
        opening().ensure(serve(server, PAGE, "/page.bin"))


# --------------------------------------------------------------------------------- command line


def test_programs_are_told_which_references_a_policy_refused(
    server: Server, tmp_path: Path
) -> None:
    url = serve(server)
    cache = ["--cache-dir", str(tmp_path / "cache"), "--min-disk-free", "0"]
    there = run("ensure", *cache, url)
    ended = run("ensure", "--json", "--policy", "public", *cache, url, "https://127.1/a")
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert (there.code, ended.code) == (0, 1)
    assert [record["error_type"] for record in records] == ["NotAllowedError"] * 2


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_command_line_knows_the_public_policy(
    server: Server, tmp_path: Path, by_variable: bool
) -> None:
    url = serve(server)
    flags = [] if by_variable else ["--policy", "public"]
    env = {"PGET_POLICY": "public"} if by_variable else {}
    cache = ["--cache-dir", str(tmp_path / "cache"), "--min-disk-free", "0"]
    for call in ([url, str(tmp_path / "got")], ["ensure", *cache, url]):
        ended = run(*call, *flags, env=env)
        assert (ended.code, "not allowed by schemes" in ended.err) == (1, True)
    manifest = tmp_path / "manifest"
    manifest.write_text(f"{url} {tmp_path / 'got'}\n")
    assert run("multifile", *flags, str(manifest), env=env).code == 1
    assert server.requests == []
    assert not (tmp_path / "got").exists()
    assert run(url, str(tmp_path / "got"), *flags, "--policy", "none", env=env).code == 0
