"""Repositories in the Hub's own cache, which huggingface_hub's client judges."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, scan_cache_dir, snapshot_download

import pgetpy
from pgetpy.core.references.policy import Policy
from pgetpy.core.report.events import Finished, Progressed, Remarked, Started, Waiting
from pgetpy.errors import (
    BadReferenceError,
    DigestMismatchError,
    GatedError,
    NotAllowedError,
    NotFoundError,
    TransferError,
    UnsafeMemberError,
)
from pgetpy.settings.command_options import hub_cache_dir
from tests.integration.sources.conftest import OTHER_TOKEN, TOKEN
from tests.support.delivery import Gate
from tests.support.entries import child, said
from tests.support.faults import Dam, Fault, ResetAt, SilenceAfter, Status, When
from tests.support.fetching import Events, contents, impatient
from tests.support.hub import Hub, Repo
from tests.support.hub_caches import at, others
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import MIB, weights

pytestmark = pytest.mark.usefixtures("forked_runs")

LORA = weights(3 * MIB)
FILES = {
    "config.json": b'{"a": 1}',
    "empty": b"",
    "unet/config.json": b'{"b": 2}',
    "unet/deep/a b#?.safetensors": LORA,
    "unet/same.safetensors": LORA,
    "README.md": b"# A model",
}


@pytest.fixture(autouse=True)
def plain_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.repo("owner/name", FILES, revisions={"refs/pr/1": {"other.json": b"1"}})


def taken(hub: Hub, root: Path, reference: str = "hf://owner/name", **options: Any) -> Path:
    """What `pgetpy.snapshot` returns; options are its own, and fields of Settings."""
    call = {"allow_patterns", "ignore_patterns", "hf_api_token", "progress"} & options.keys()
    own = {name: options.pop(name) for name in call}
    settings = impatient(sources=at(hub), **options)
    return pgetpy.snapshot(reference, cache_dir=root, settings=settings, **own)


def found(root: Path, **options: Any) -> Path:
    """What huggingface_hub finds without asking anybody."""
    path = snapshot_download("owner/name", cache_dir=root, local_files_only=True, **options)
    return Path(path)


def blobs(root: Path) -> list[Path]:
    return sorted((root / "models--owner--name" / "blobs").iterdir())


# ---------------------------------------------------------------------------- what is found whole


def test_huggingface_hub_finds_all_of_a_repository(hub: Hub, repo: Repo, root: Path) -> None:
    events = Events()
    folder = taken(hub, root, progress=events)
    assert folder == root / "models--owner--name/snapshots" / repo.commit("main")
    assert found(root) == folder
    assert contents(folder) == FILES
    for name in FILES:
        options = {"cache_dir": root, "local_files_only": True}
        assert Path(hf_hub_download("owner/name", name, **options)) == folder / name
    info = scan_cache_dir(root)
    (scanned,) = info.repos
    (revision,) = scanned.revisions
    assert info.warnings == []
    assert (scanned.repo_id, revision.commit_hash) == ("owner/name", repo.commit("main"))
    assert (revision.refs, len(revision.files)) == (frozenset({"main"}), len(FILES))
    api = HfApi(endpoint=hub.url(""), token=False)
    verified = api.verify_repo_checksums("owner/name", cache_dir=root)
    assert verified.checked_count == len(FILES)
    assert (verified.mismatches, verified.missing_paths, verified.extra_paths) == ([], [], [])
    events.assert_monotonic()
    total = sum(map(len, FILES.values())) - len(LORA)
    assert [event.total for event in events.of(Started)] == [total + len(LORA)]
    assert events.of(Progressed)[-1].done == total + len(LORA)
    assert [event.result.dest for event in events.of(Finished)] == [str(folder)]


def test_links_are_relative_and_nothing_else_is_left(hub: Hub, repo: Repo, root: Path) -> None:
    folder = taken(hub, root)
    assert {os.readlink(folder / name).partition("blobs/")[0] for name in FILES} == {
        "../../",
        "../../../",
        "../../../../",
    }
    left = sorted(os.listdir(root / "models--owner--name"))
    assert left == ["blobs", "refs", "snapshots"]
    assert all(len(path.name) in (40, 64) for path in blobs(root))
    moved = root.rename(root.with_name("moved"))
    assert contents(found(moved)) == FILES


def test_one_listing_and_one_request_a_file_once(hub: Hub, repo: Repo, root: Path) -> None:
    # With more connections, an answer that is late on a busy machine would be asked for again.
    folder = taken(hub, root, concurrency=1)
    assert len(hub.asked_of_api()) == 1
    assert len(hub.resolved()) == len(FILES) - 1
    assert taken(hub, root, concurrency=1) == folder
    assert len(hub.asked_of_api()) == 2
    assert len(hub.resolved()) == len(FILES) - 1


def test_what_snapshot_download_has_brought_is_not_fetched_again(
    hub: Hub, repo: Repo, root: Path
) -> None:
    theirs = snapshot_download("owner/name", cache_dir=root, endpoint=hub.url(""), token=False)
    asked = len(hub.resolved())
    assert taken(hub, root) == Path(theirs)
    assert len(hub.resolved()) == asked


def test_what_has_been_brought_is_not_fetched_again_by_snapshot_download(
    hub: Hub, repo: Repo, root: Path
) -> None:
    ours = taken(hub, root)
    asked = len(hub.resolved())
    theirs = snapshot_download("owner/name", cache_dir=root, endpoint=hub.url(""), token=False)
    assert Path(theirs) == ours
    assert len(hub.resolved()) == asked


def test_patterns_and_folders_choose_and_others_are_added(hub: Hub, repo: Repo, root: Path) -> None:
    some = taken(hub, root, allow_patterns="*.json", ignore_patterns="unet/*")
    assert contents(some) == {"config.json": FILES["config.json"]}
    more = taken(hub, root, "hf://owner/name/unet/", allow_patterns="*.json")
    assert more == some
    assert sorted(contents(some)) == ["config.json", "unet/config.json"]
    assert taken(hub, root) == some
    assert contents(some) == FILES
    assert scan_cache_dir(root).warnings == []


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_other_revisions_and_types_have_their_places(hub: Hub, root: Path, kind: str) -> None:
    files = {"a.json": b"1"}
    repo = hub.repo("owner/name", files, type=kind, revisions={"refs/pr/1": {"b": b"2"}})
    commit = repo.commit("main")
    folder = taken(hub, root, f"hf://{kind}s/owner/name@{commit}")
    assert not (folder.parent.parent / "refs").exists()
    assert found(root, repo_type=kind, revision=commit) == folder
    other = taken(hub, root, f"hf://{kind}s/owner/name@refs/pr/1")
    assert found(root, repo_type=kind, revision="refs/pr/1") == other
    assert scan_cache_dir(root).warnings == []


def test_a_ref_moves_on_with_its_branch(hub: Hub, repo: Repo, root: Path) -> None:
    before = taken(hub, root)
    hub.repo("owner/name", {**FILES, "config.json": b"{}"})
    after = taken(hub, root)
    assert found(root) == after != before
    assert (before / "config.json").read_bytes() == FILES["config.json"]
    assert len(scan_cache_dir(root).repos) == 1


def test_the_async_twin_and_a_running_loop(hub: Hub, repo: Repo, root: Path) -> None:
    settings = impatient(sources=at(hub))

    async def both() -> tuple[Path, Path]:
        first = await pgetpy.snapshot_async("hf://owner/name", cache_dir=root, settings=settings)
        return first, pgetpy.snapshot("hf://owner/name", cache_dir=root, settings=settings)

    first, second = asyncio.run(both())
    assert first == second == found(root)


# --------------------------------------------------------------------------------- what is refused


def test_bytes_that_are_not_those_of_their_names_never_appear(
    hub: Hub, repo: Repo, root: Path
) -> None:
    path = f"/owner/name/resolve/{repo.commit('main')}/config.json"
    hub.add(path, Resource(b'{"a": 2}'))
    with pytest.raises(DigestMismatchError):
        taken(hub, root)
    assert not (root / "models--owner--name/snapshots").exists()
    assert not (root / "models--owner--name/refs").exists()
    assert all(path.read_bytes() != b'{"a": 2}' for path in blobs(root))
    hub.remove(path)
    assert contents(taken(hub, root)) == FILES


def test_a_store_with_other_bytes_is_seen(hub: Hub, repo: Repo, root: Path) -> None:
    taken(hub, root.with_name("first"))
    (stored,) = {seen.path for seen in hub.cdn.requests}
    hub.cdn.change(stored, body=LORA[:-1] + b"?")
    with pytest.raises(DigestMismatchError):
        taken(hub, root)
    assert not (root / "models--owner--name/snapshots").exists()


@pytest.mark.parametrize("name", ["../../../evil", "/etc/evil", "a/../../evil"])
def test_names_that_lead_out_are_refused(hub: Hub, root: Path, name: str) -> None:
    hub.repo("owner/name", {"config.json": b"1", name: b"evil"})
    with pytest.raises(UnsafeMemberError):
        taken(hub, root)
    assert not (root / "models--owner--name/snapshots").exists()
    assert hub.resolved() == []


def test_a_listing_without_names_of_contents_is_refused(hub: Hub, root: Path) -> None:
    extra: list[dict[str, object]] = [
        {"rfilename": "x", "size": 1, "blobId": "../../../../evil"},
    ]
    hub.repo("owner/name", {"config.json": b"1"}, extra=extra)
    with pytest.raises(TransferError, match="does not say what"):
        taken(hub, root)


@pytest.mark.parametrize(
    "reference",
    ["hf://owner/name/config.json", "https://example.com/f", "urn:air:x:lora:civitai:1@5"],
)
def test_what_is_no_repository_is_refused(hub: Hub, root: Path, reference: str) -> None:
    with pytest.raises(BadReferenceError, match="not a repository of Hugging Face"):
        taken(hub, root, reference)
    assert not root.exists()


def test_strangers_get_no_repository(hub: Hub, repo: Repo, root: Path) -> None:
    with pytest.raises(NotAllowedError) as caught:
        taken(hub, root, policy=Policy.public())
    assert caught.value.rule == "only_safetensors"
    with pytest.raises(NotAllowedError, match="--max-size"):
        taken(hub, root, max_size=MIB)
    assert hub.resolved() == []


# ------------------------------------------------------------------------------------------ tokens


def test_a_token_opens_a_gated_repository_and_its_store_sees_none(hub: Hub, root: Path) -> None:
    hub.repo("owner/name", FILES, gated=True, readers={TOKEN})
    hub.tokens.add(OTHER_TOKEN)
    for token in (None, OTHER_TOKEN):
        with pytest.raises(GatedError):
            taken(hub, root, hf_api_token=token)
    assert contents(taken(hub, root, hf_api_token=TOKEN)) == FILES
    assert hub.cdn.requests
    assert others(hub) == []


# ------------------------------------------------------------------------ several, and killed runs


def test_a_killed_run_leaves_nothing_whole_and_the_next_goes_on(hub: Hub, root: Path) -> None:
    files = {"config.json": b"{}", "large.safetensors": weights(10 * MIB)}
    hub.repo("owner/name", files)
    taken(hub, root.with_name("first"))
    (stored,) = {seen.path for seen in hub.cdn.requests}
    gate = Gate()
    hub.cdn.change(stored, faults=[Dam(2 * MIB + MIB // 2, gate)])
    code = """
import pgetpy
from pgetpy.settings import Settings, SourceSettings
from pgetpy.sources.huggingface import HubSettings
sources = SourceSettings((HubSettings(endpoint=sys.argv[1]),))
pgetpy.snapshot("hf://owner/name", cache_dir=sys.argv[2], settings=Settings(sources=sources))
"""
    blob = root / "models--owner--name/blobs"
    with child(code, hub.url(""), root) as running:
        eventually(lambda: list(blob.glob(".*.pgetpy-part")))
        eventually(lambda: sum(p.stat().st_blocks * 512 for p in blob.glob(".*-part")) >= 2 * MIB)
        running.kill()
        running.wait()
    gate.open()
    assert not (root / "models--owner--name/snapshots").exists()
    with pytest.raises(Exception, match="Cannot find"):
        found(root)
    hub.cdn.change(stored, faults=[])
    for path in blob.glob(".*.*.pgetpy-part"):  # of a small file, which nobody goes on from
        os.utime(path, (0, 0))
    (blob.parent / ".pgetpy-x").mkdir()
    os.utime(blob.parent / ".pgetpy-x", (0, 0))
    before = len(hub.cdn.requests)
    events = Events()
    assert contents(taken(hub, root, progress=events)) == files
    spans = [each.header("range") for each in hub.cdn.requests[before:]]
    assert all(span != "bytes=0-1048575" for span in spans)
    assert [path.name for path in blobs(root) if path.name.startswith(".")] == []
    assert not (blob.parent / ".pgetpy-x").exists()


def test_files_of_moderate_size_share_connections_to_the_hub(
    hub: Hub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An answer that is late on a busy machine would be left to an attempt, and cost a connection.
    monkeypatch.setattr("pgetpy.engine.small_lane._LATE", 30.0)
    files = {f"{number}.safetensors": weights(2 * MIB, str(number)) for number in range(12)}
    hub.repo("owner/name", files)
    assert contents(taken(hub, root, max_conn_per_host=2, stall_timeout=120.0)) == files
    assert hub.connections <= 3  # one is for the listing


@pytest.mark.parametrize("fault", [ResetAt(MIB), SilenceAfter(MIB)], ids=["reset", "silence"])
def test_a_file_of_moderate_size_is_verified_across_its_answers(
    hub: Hub, repo: Repo, root: Path, fault: Fault
) -> None:
    taken(hub, root.with_name("first"))
    (stored,) = {seen.path for seen in hub.cdn.requests}
    hub.cdn.change(stored, faults=[replace(fault, when=When(request=1))])
    assert contents(taken(hub, root)) == FILES
    hub.cdn.change(stored, body=LORA[:-1] + b"?")
    with pytest.raises(DigestMismatchError):
        taken(hub, root.with_name("other"))


def test_two_runs_fetch_each_file_once(hub: Hub, repo: Repo, root: Path) -> None:
    taken(hub, root.with_name("first"))
    (stored,) = {seen.path for seen in hub.cdn.requests}
    gate = Gate()
    hub.cdn.change(stored, faults=[Dam(MIB, gate)])
    before = len(hub.resolved())
    results: list[Path] = []
    events = Events()
    threads = [
        threading.Thread(target=lambda: results.append(taken(hub, root, progress=events)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    eventually(lambda: events.of(Waiting))
    gate.open()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert len(hub.resolved()) - before == len(FILES) - 1
    assert contents(results[0]) == FILES


def test_the_lock_of_huggingface_hub_is_heeded(hub: Hub, repo: Repo, root: Path) -> None:
    taken(hub, root.with_name("first"))
    etag = next(p.name for p in blobs(root.with_name("first")) if len(p.name) == 64)
    lock = root / ".locks/models--owner--name" / f"{etag}.lock"
    code = """
from huggingface_hub.utils import WeakFileLock
path = Path(sys.argv[1])
path.parent.mkdir(parents=True)
with WeakFileLock(path):
    say("locked")
    input()
"""
    events = Events()
    with child(code, lock) as running:
        assert said(running) == "locked"
        thread = threading.Thread(target=lambda: taken(hub, root, progress=events))
        thread.start()
        eventually(lambda: events.of(Waiting))
        assert not (root / "models--owner--name/blobs" / etag).exists()
        running.kill()
        running.wait()
        thread.join()
    assert contents(found(root)) == FILES


# --------------------------------------------------------------------------------- the command line


def test_the_command_prints_where_it_is(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    home = tmp_path / "home of hf"
    environ = {"HF_ENDPOINT": hub.url(""), "HF_HOME": str(home)}
    ended = run("snapshot", "hf://owner/name", "--include", "*.json", env=environ)
    assert ended.code == 0, ended.err
    assert Path(ended.out.strip()) == found(home / "hub")
    assert sorted(contents(found(home / "hub"))) == ["config.json", "unet/config.json"]
    other = tmp_path / "other"
    ended = run(
        "snapshot", "hf://owner/name", "--hub-cache-dir", other, "--exclude=*.json", "--json",
        env=environ,
    )  # fmt: skip
    assert json.loads(ended.out) == {"reference": "hf://owner/name", "path": str(found(other))}


@pytest.mark.parametrize("arguments", [(), ("hf://a/b", "hf://c/d"), ("hf://a/b/c",)])
def test_nonsense_is_refused_by_the_command(hub: Hub, arguments: tuple[str, ...]) -> None:
    assert run("snapshot", *arguments, env={"HF_ENDPOINT": hub.url("")}).code == 2
    assert hub.requests == []


def test_an_endpoint_that_is_no_hub_is_said(server: Server, tmp_path: Path) -> None:
    environ = {"HF_HUB_CACHE": str(tmp_path / "c"), "PGET_CACHE_DIR": str(tmp_path / "d")}
    environ |= {"HF_ENDPOINT": server.url("/api"), "PGET_RETRIES": "0"}
    for arguments in (("snapshot", "hf://o/n"), ("ensure", "hf://o/n/a.safetensors")):
        ended = run(*arguments, env=environ)
        assert ended.code == 1
        assert f"whether HF_ENDPOINT, {server.url('/api')}, is a Hub" in ended.err
    page = Resource(b"<html>", content_type="text/html")
    server.add("/api/api/models/o/n/revision/main", page)
    assert "HF_ENDPOINT" in run("snapshot", "hf://o/n", env=environ).err
    server.stop()
    ended = run("snapshot", "hf://o/n", env=environ)
    assert "connection refused" in ended.err
    assert "HF_ENDPOINT" in ended.err
    assert "Errno" not in ended.err


def test_what_fails_is_said(hub: Hub, tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": hub.url(""), "HF_HUB_CACHE": str(tmp_path / "c")}
    ended = run("snapshot", "hf://owner/none", "--json", env=environ)
    assert ended.code == 1
    assert json.loads(ended.out)["error_type"] == "NotFoundError"
    offline = run("snapshot", "hf://owner/none", env={**environ, "HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE" in offline.err


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"XDG_CACHE_HOME": "/x"},
        {"HF_HOME": "/h"},
        {"HF_HOME": "$BASE/h", "BASE": "/b"},
        {"HF_HOME": "~/h", "HUGGINGFACE_HUB_CACHE": "/legacy"},
        {"HF_HUB_CACHE": "${BASE}/c/$MISSING", "HF_HOME": "/h", "BASE": "/b"},
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(environ: dict[str, str]) -> None:
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    theirs = subprocess.run(
        [sys.executable, "-c", code],
        env={**own, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(hub_cache_dir(environ)) == theirs.stdout.strip()


# -------------------------------------------------------------------- where no Hub can be asked


def offline(hub: Hub, root: Path, reference: str = "hf://owner/name", **options: Any) -> Path:
    """What `pgetpy.snapshot` returns where it may ask nobody."""
    settings = impatient(sources=at(hub, offline=True))
    before = len(hub.requests)
    try:
        return pgetpy.snapshot(reference, cache_dir=root, settings=settings, **options)
    finally:
        assert len(hub.requests) == before


def test_what_was_brought_as_a_whole_is_at_hand_offline(hub: Hub, repo: Repo, root: Path) -> None:
    folder = taken(hub, root)
    events = Events()
    assert offline(hub, root, progress=events) == folder
    (finished,) = events.of(Finished)
    total = sum(map(len, FILES.values()))
    assert (finished.result.size, finished.result.resumed) == (total, total)
    assert offline(hub, root, f"hf://owner/name@{repo.commit('main')}") == folder
    assert offline(hub, root, allow_patterns=["*.json"]) == folder
    assert offline(hub, root, "hf://owner/name/unet/") == folder
    for missing in ("hf://owner/name@v2", "hf://owner/other", f"hf://owner/name@{'0' * 40}"):
        with pytest.raises(NotAllowedError, match="HF_HUB_OFFLINE"):
            offline(hub, root, missing)


def test_what_was_chosen_by_patterns_is_at_hand_for_the_same_alone(
    hub: Hub, repo: Repo, root: Path
) -> None:
    folder = taken(hub, root, allow_patterns=["*.json"])
    assert offline(hub, root, allow_patterns=["*.json"]) == folder
    for other in ({}, {"allow_patterns": ["*.md"]}):
        with pytest.raises(NotAllowedError):
            offline(hub, root, **other)
    taken(hub, root)
    assert offline(hub, root) == offline(hub, root, allow_patterns=["*.md"]) == folder


def test_a_snapshot_that_lost_a_file_is_not_whole(hub: Hub, repo: Repo, root: Path) -> None:
    folder = taken(hub, root)
    (folder / "unet" / "config.json").resolve().unlink()
    with pytest.raises(NotAllowedError):
        offline(hub, root)


def test_what_huggingface_hub_has_brought_is_at_hand(hub: Hub, repo: Repo, root: Path) -> None:
    theirs = snapshot_download("owner/name", cache_dir=root, endpoint=hub.url(""), token=False)
    assert offline(hub, root) == Path(theirs)


def test_a_hub_that_cannot_be_reached_is_tried_once(hub: Hub, repo: Repo, root: Path) -> None:
    folder = taken(hub, root)
    hub.requests.clear()
    hub.add("/api/models/owner/name/revision/main", Resource(b"", faults=[Status(503, "down")]))
    events = Events()
    assert taken(hub, root, progress=events, retries=5) == folder
    assert len(hub.requests) == 1
    (remarked,) = events.of(Remarked)
    assert "using what was downloaded before" in remarked.remark
    hub.stop()
    assert taken(hub, root) == folder
    with pytest.raises(TransferError):
        taken(hub, root, "hf://owner/other", retries=0)


@pytest.mark.parametrize("revision", ["", "commit"])
def test_a_repository_that_was_deleted_is_at_hand(
    hub: Hub, repo: Repo, root: Path, revision: str
) -> None:
    folder = taken(hub, root)
    reference = f"hf://owner/name@{repo.commit('main')}" if revision else "hf://owner/name"
    hub.forget(repo)
    assert taken(hub, root, reference) == folder


def test_a_revision_that_was_deleted_is_an_error(hub: Hub, repo: Repo, root: Path) -> None:
    taken(hub, root, "hf://owner/name@refs/pr/1")
    del repo.revisions["refs/pr/1"]
    with pytest.raises(NotFoundError, match="check the revision"):
        taken(hub, root, "hf://owner/name@refs/pr/1")


def test_a_hub_that_answers_again_is_believed(hub: Hub, repo: Repo, root: Path) -> None:
    old = taken(hub, root)
    repo.revisions["main"] = {"config.json": b"{}"}
    assert taken(hub, root) != old
    assert offline(hub, root) == taken(hub, root)
    assert offline(hub, root, f"hf://owner/name@{old.name}") == old


def test_the_command_gives_the_path_offline(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    environ = {"HF_ENDPOINT": hub.url(""), "HF_HOME": str(tmp_path / "home")}
    first = run("snapshot", "hf://owner/name", env=environ)
    hub.stop()
    for more in ({"HF_HUB_OFFLINE": "1"}, {}):
        again = run("snapshot", "hf://owner/name", env=environ | more)
        assert (again.code, again.out) == (0, first.out)
        assert "using what was downloaded before" in again.err
