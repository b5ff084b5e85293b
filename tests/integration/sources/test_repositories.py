"""Whole repositories: one listing, one request a file; names that strangers chose; what is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pgetpy.cli import main
from pgetpy.core.report.events import Finished, Progressed, Started
from pgetpy.errors import (
    ArchiveError,
    BadReferenceError,
    BadSettingError,
    HttpStatusError,
    LimitExceededError,
    NotOneFileError,
    PgetError,
    SizeMismatchError,
    TransferError,
    UnsafeMemberError,
)
from tests.integration.sources.conftest import TOKEN
from tests.support.bodies import body
from tests.support.delivery import Gate
from tests.support.entries import child, said
from tests.support.faults import GateAfter, Redirect, Status
from tests.support.fetching import Events, contents, fetch
from tests.support.hub import Hub, Repo
from tests.support.hub_caches import at, opened_at, others
from tests.support.resources import Resource
from tests.support.waiting import eventually
from tests.support.weights import (
    MIB,
    assert_nothing_left,
    flip,
    only_record,
    opened,
    partials,
    weights,
)

LORA = weights()
FILES = {
    "config.json": b'{"a": 1}',
    "empty": b"",
    "unet/config.json": b'{"b": 2}',
    "unet/deep/a b#?.safetensors": LORA,
    "README.md": b"# A model",
}


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.repo("owner/name", FILES)


# ------------------------------------------------------------------------------------- all of it


def test_all_files_of_a_repository_become_a_folder(hub: Hub, repo: Repo, root: Path) -> None:
    events = Events()
    with opened_at(hub, root, progress=events) as cache:
        folder = cache.ensure("hf://owner/name", wanted="folder")
        assert contents(folder) == FILES
        assert hub.asked_of_api() == ["/api/models/owner/name/revision/main?blobs=true"]
        assert sorted(hub.resolved()) == sorted(FILES)
        asked = len(hub.requests)
        again = "https://huggingface.co/owner/name/tree/main"
        assert cache.ensure(again, wanted="folder") == folder
        assert len(hub.requests) == asked
        assert only_record(cache).about.validator == f'"{repo.commit("main")}"'
    total = sum(map(len, FILES.values()))
    events.assert_monotonic()
    assert [event.total for event in events.of(Started)] == [total]
    assert {event.total for event in events.of(Progressed)} == {total}
    assert [event.result.size for event in events.of(Finished)] == [total]
    assert_nothing_left(root)


def test_two_hundred_files_take_one_listing_and_one_request_each(hub: Hub, root: Path) -> None:
    files = {f"part/{number}.json": body(100, str(number)) for number in range(200)}
    hub.repo("owner/name", files)
    events = Events()
    with opened_at(hub, root, progress=events) as cache:
        assert contents(cache.ensure("hf://owner/name", wanted="folder")) == files
    assert len(hub.asked_of_api()) == 1
    assert sorted(hub.resolved()) == sorted(files)
    assert len(hub.requests) == 201
    assert events.of(Progressed)[-1].done == 200 * 100


def test_large_files_come_from_the_store_which_sees_no_token(hub: Hub, root: Path) -> None:
    files = {"a.safetensors": weights(5 * MIB, "a"), "b.safetensors": weights(5 * MIB, "b")}
    hub.repo("owner/name", files, gated=True, readers={TOKEN})
    with opened_at(hub, root) as cache:
        folder = cache.ensure("hf://owner/name", wanted="folder", hf_api_token=TOKEN)
        assert contents(folder) == files
    assert len(hub.cdn.requests) >= 2
    assert others(hub) == []


def test_a_folder_of_a_repository_is_that_folder(hub: Hub, repo: Repo, root: Path) -> None:
    with opened_at(hub, root) as cache:
        folder = cache.ensure("hf://owner/name/unet/", wanted="folder")
        assert sorted(contents(folder)) == ["config.json", "deep/a b#?.safetensors"]
        assert cache.ensure("hf://owner/name/unet/").read_bytes() == LORA
        with pytest.raises(NotOneFileError, match=r"holds no such file.*/owner/name shows"):
            cache.ensure("hf://owner/name/vae/", wanted="folder")


# -------------------------------------------------------------------------------------- one file


def test_the_one_safetensors_of_a_repository_is_what_is_wanted(
    hub: Hub, repo: Repo, root: Path
) -> None:
    with opened_at(hub, root) as cache:
        path = cache.ensure("huggingface.co/owner/name")
        assert (path.read_bytes(), path.name[-16:]) == (LORA, " b#?.safetensors")
        assert len(hub.asked_of_api()) == len(hub.resolved()) == 1
        assert cache.ensure("hf://owner/name", wanted="weights") == path
        digest = only_record(cache).digest
        assert digest is not None
        asked = len(hub.requests)
        assert cache.ensure("hf://owner/name", digest=digest) == path
        assert len(hub.requests) == asked


def test_a_download_takes_the_one_safetensors_of_a_repository(
    hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    fetch("hf://owner/name", tmp_path / "f", sources=at(hub))
    assert (tmp_path / "f").read_bytes() == LORA


@pytest.mark.parametrize("names", [[], ["a.safetensors", "b/c.SAFETENSORS"]])
def test_none_or_several_are_an_error_that_says_how_to_name_one(
    hub: Hub, root: Path, names: list[str]
) -> None:
    hub.repo("owner/name", {"x.json": b"1", **dict.fromkeys(names, LORA)}, private=False)
    with opened_at(hub, root) as cache, pytest.raises(NotOneFileError) as caught:
        cache.ensure("hf://owner/name")
    assert isinstance(caught.value, ArchiveError)
    assert caught.value.found == tuple(names)
    assert all(name in str(caught.value) for name in names)
    assert ("as hf://owner/name/a.safetensors" in str(caught.value)) == bool(names)
    assert "--wanted folder" in str(caught.value)
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("folder", "beside"),
    [
        ("", ("._lora.safetensors", "__MACOSX/lora.safetensors", ".x/lora.safetensors")),
        ("deep/", ("deep/._lora.safetensors", "deep/.lora.safetensors")),
    ],
)
def test_what_is_hidden_in_a_repository_is_no_weights(
    hub: Hub, root: Path, folder: str, beside: tuple[str, ...]
) -> None:
    other = weights(seed="other")
    hub.repo("owner/name", {f"{folder}lora.safetensors": LORA, **dict.fromkeys(beside, other)})
    with opened_at(hub, root) as cache:
        assert cache.ensure(f"hf://owner/name/{folder}").read_bytes() == LORA


def test_the_usual_name_of_a_loras_weights_tells_them_from_others(
    hub: Hub, root: Path, tmp_path: Path
) -> None:
    usual = "pytorch_lora_weights.safetensors"
    names = ("a.safetensors", f"checkpoint-500/{usual}", "zz/x.safetensors")
    hub.repo("owner/name", {**dict.fromkeys(names, weights(seed="other")), usual: LORA})
    with opened_at(hub, root) as cache:
        path = cache.ensure("hf://owner/name")
        assert (path.read_bytes(), path.name.endswith(usual)) == (LORA, True)
    fetch("hf://owner/name", tmp_path / "f", sources=at(hub))
    assert (tmp_path / "f").read_bytes() == LORA
    assert {name for name in hub.resolved() if name.endswith(".safetensors")} == {usual}


# -------------------------------------------------------------------------------------- patterns


def test_patterns_choose_files_and_are_a_part_of_the_key(hub: Hub, repo: Repo, root: Path) -> None:
    def names(folder: Path) -> list[str]:
        return sorted(contents(folder))

    with opened_at(hub, root) as cache:
        wanted = "folder"
        some = cache.ensure("hf://owner/name", wanted=wanted, allow_patterns="*.json")
        assert names(some) == ["config.json", "unet/config.json"]
        top = cache.ensure(
            "hf://owner/name",
            wanted=wanted,
            allow_patterns=["*.json", "*.md"],
            ignore_patterns="unet/",
        )
        assert names(top) == ["README.md", "config.json"]
        assert cache.lookup("hf://owner/name", wanted=wanted) is None
        asked = len(hub.requests)
        url = "hf://owner/name?include=*.json"
        assert cache.ensure(url, wanted=wanted) == some
        assert cache.lookup("hf://owner/name", wanted=wanted, allow_patterns=["*.json"]) == some
        with cache.lease("hf://owner/name", wanted=wanted, allow_patterns="*.json") as path:
            assert path == some
        assert cache.ensure_many([url], wanted=wanted) == [some]
        assert len(hub.requests) == asked
        # What the listing prints names the entry again.
        shown = {each.record.about.reference for each in cache.entries()}
        assert url in shown
        assert all(cache.lookup(each, wanted=wanted) is not None for each in shown)


def test_patterns_narrow_down_to_the_one_file(hub: Hub, root: Path) -> None:
    hub.repo("owner/name", {"a.safetensors": weights(seed="a"), "b.fp16.safetensors": LORA})
    with opened_at(hub, root) as cache:
        assert cache.ensure("hf://owner/name", allow_patterns="*.fp16.*").read_bytes() == LORA


def test_patterns_that_make_no_sense_are_refused(hub: Hub, repo: Repo, root: Path) -> None:
    with opened_at(hub, root) as cache:
        for url in ("hf://owner/name/config.json", "https://example.com/f"):
            with pytest.raises(BadReferenceError, match="patterns select files"):
                cache.ensure(url, allow_patterns="*")
        with pytest.raises(BadReferenceError, match="patterns of its own"):
            cache.ensure("hf://owner/name?include=a", wanted="folder", ignore_patterns="b")
        with pytest.raises(BadSettingError, match="allows no file"):
            cache.ensure("hf://owner/name", wanted="folder", allow_patterns=[])
        assert hub.requests == []
        with pytest.raises(NotOneFileError, match="holds no such file"):
            cache.ensure("hf://owner/name", wanted="folder", allow_patterns="*.bin")
        with pytest.raises(BadSettingError, match="is for a single file"):
            cache.ensure("hf://owner/name", wanted="folder", digest="0" * 64)


def test_the_command_line_takes_patterns(
    hub: Hub,
    repo: Repo,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url(""))
    chosen = ["--include", "*.json", "--include=*.md", "--exclude", "unet/*"]
    place = ["--wanted", "folder", "--cache-dir", str(root), "--min-disk-free=0"]
    assert main(["ensure", "hf://owner/name", *chosen, *place]) == 0
    folder = Path(capfd.readouterr().out.strip())
    assert sorted(contents(folder)) == ["README.md", "config.json"]
    shown = "hf://owner/name?include=*.json&include=*.md&exclude=unet/*"
    assert main(["cache", "path", shown, "--wanted=folder", "--cache-dir", str(root)]) == 0
    assert capfd.readouterr().out.strip() == str(folder)


# ----------------------------------------------------------------------- names that strangers chose


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../out",
        "a/../../out",
        "a\x00b",
        "a\nb",
        "C:\\x",
        "\ud800",
        ".",
        "a" * 256,
        "a/" * 300 + "b",
        ".pgetpy-x",
        "config.json",
        "./config.json",
        "config.json/a",
        "unet",
    ],
    ids=ascii,
)
def test_names_that_no_folder_may_hold_are_refused_before_anything_is_written(
    hub: Hub, repo: Repo, root: Path, name: str
) -> None:
    repo.extra = [{"rfilename": name, "size": 1}]
    with opened_at(hub, root) as cache:
        with pytest.raises((UnsafeMemberError, LimitExceededError)):
            cache.ensure("hf://owner/name", wanted="folder")
        assert hub.resolved() == []
        assert cache.entries() == []
        assert partials(root) == []
        # Where it is not asked for it does no harm.
        only = cache.ensure("hf://owner/name", wanted="folder", allow_patterns="README.md")
        assert sorted(contents(only)) == ["README.md"]


def test_a_name_with_odd_characters_is_quoted(hub: Hub, root: Path) -> None:
    files = {"a%20b": b"1", "ü/ñ.json": b"2", "a+b&c=d;e": b"3", "'\"": b"4"}
    hub.repo("owner/name", files)
    with opened_at(hub, root) as cache:
        assert contents(cache.ensure("hf://owner/name", wanted="folder")) == files


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"id": 1, "siblings": 3}',
        b'{"id": "o/n", "siblings": [{}]}',
        b'{"id": "o/n", "siblings": [{"rfilename": null}]}',
        b'{"id": "o/n", "siblings": [{"rfilename": "a", "size": -1}]}',
        b'{"id": "o/n", "siblings": [{"rfilename": "a", "size": "x"}]}',
        b'{"id": "o/n", "siblings": [{"rfilename": "a", "lfs": {"size": 1}}]}',
    ],
)
def test_a_listing_that_makes_no_sense_is_an_error_of_ours(
    hub: Hub, root: Path, listing: bytes
) -> None:
    hub.add("/api/models/o/n/revision/main", Resource(listing, content_type="application/json"))
    with opened_at(hub, root) as cache, pytest.raises(TransferError, match="cannot be read"):
        cache.ensure("hf://o/n", wanted="folder")


def test_a_repository_without_files_is_said_to_have_none(hub: Hub, root: Path) -> None:
    hub.repo("o/n", {})
    with opened_at(hub, root) as cache, pytest.raises(NotOneFileError):
        cache.ensure("hf://o/n", wanted="folder")


def test_a_file_of_another_size_than_listed_is_refused(hub: Hub, repo: Repo, root: Path) -> None:
    path = f"/owner/name/resolve/{repo.commit('main')}/config.json"
    hub.add(path, Resource(b"much more than was listed"))
    with opened_at(hub, root) as cache, pytest.raises(SizeMismatchError):
        cache.ensure("hf://owner/name", wanted="folder")


def test_the_listing_is_asked_for_again_where_the_hub_has_trouble(
    hub: Hub, repo: Repo, root: Path
) -> None:
    path = "/api/models/owner/name/revision/main"
    hub.add(path, Resource(faults=[Status(503, "busy")]))
    with opened_at(hub, root) as cache:
        with pytest.raises(HttpStatusError, match=r"503.*busy.*4 attempts"):
            cache.ensure("hf://owner/name", wanted="folder")
        assert len(hub.seen(path)) == 4


def test_a_listing_that_leads_elsewhere_takes_no_token_there(hub: Hub, root: Path) -> None:
    elsewhere = hub.cdn.add("/listing", Resource(b'{"id": "o/n", "siblings": []}'))
    hub.add("/api/models/o/n/revision/main", Resource(faults=[Redirect(elsewhere)]))
    with opened_at(hub, root, TOKEN) as cache, pytest.raises(PgetError):
        cache.ensure("hf://o/n", wanted="folder")
    assert len(hub.cdn.requests) == 1
    assert others(hub) == []


# ----------------------------------------------------------------------------- what is kept of it


def _begun(hub: Hub, root: Path, failing: str) -> None:
    """Have a fill fail at one file, when all others are there."""
    settings = {"retries": 0, "max_concurrent_files": 1}
    with opened_at(hub, root, **settings) as cache, pytest.raises(PgetError):
        cache.ensure("hf://owner/name", wanted="folder")
    hub.remove(failing)
    hub.requests.clear()


def test_what_a_dead_fill_has_brought_of_the_same_version_is_not_fetched_again(
    hub: Hub, root: Path
) -> None:
    files = {"a": b"1", "b.safetensors": weights(), "z": b"3"}
    repo = hub.repo("owner/name", files)
    failing = f"/owner/name/resolve/{repo.commit('main')}/z"
    hub.add(failing, Resource(faults=[Status(500, "trouble")]))
    _begun(hub, root, failing)
    with opened_at(hub, root) as cache:
        assert contents(cache.ensure("hf://owner/name", wanted="folder")) == files
    assert hub.resolved() == ["z"]
    assert len(hub.asked_of_api()) == 1


def test_of_another_version_nothing_is_kept(hub: Hub, root: Path) -> None:
    files = {"a": b"1", "gone": b"2", "z": b"3"}
    repo = hub.repo("owner/name", files)
    failing = f"/owner/name/resolve/{repo.commit('main')}/z"
    hub.add(failing, Resource(faults=[Status(500, "trouble")]))
    _begun(hub, root, failing)
    # `a` has another content of the same size.
    repo.revisions["main"] = {"a": b"9", "z": b"3"}
    with opened_at(hub, root) as cache:
        folder = cache.ensure("hf://owner/name", wanted="folder")
        assert contents(folder) == repo.revisions["main"]
    assert sorted(hub.resolved()) == ["a", "z"]


def test_what_was_not_flushed_when_the_machine_went_down_is_kept_only_where_its_digest_is_known(
    hub: Hub, root: Path
) -> None:
    files = {"a": b"1", "b.safetensors": weights(), "c.safetensors": weights(seed=2), "z": b"3"}
    repo = hub.repo("owner/name", files)
    failing = f"/owner/name/resolve/{repo.commit('main')}/z"
    hub.add(failing, Resource(faults=[Status(500, "trouble")]))
    _begun(hub, root, failing)
    (mark,) = (root / "partial").glob("*/version")
    mark.write_text(mark.read_text().partition("\n")[0] + "\nanother boot")
    (lost,) = (root / "partial").glob("*/members/c.safetensors")
    lost.write_bytes(bytes(len(files["c.safetensors"])))
    with opened_at(hub, root) as cache:
        assert contents(cache.ensure("hf://owner/name", wanted="folder")) == files
    assert sorted(hub.resolved()) == ["a", "c.safetensors", "z"]


def test_a_killed_process_leaves_no_rests_in_the_folder(hub: Hub, root: Path) -> None:
    files = {"a": body(5000), "z": b"3"}
    repo = hub.repo("owner/name", files, large=())
    gate = Gate()
    path = f"/owner/name/resolve/{repo.commit('main')}/a"
    hub.add(path, Resource(files["a"], faults=[GateAfter(1000, gate)]))
    code = """
from tests.support.hub_caches import *
from tests.support.weights import opened as plain
cache = plain(sys.argv[1], sources=SourceSettings((HubSettings(endpoint=sys.argv[2]),)))
say("ready")
cache.ensure("hf://owner/name", wanted="folder")
"""
    with child(code, root, hub.url("")) as process:
        assert said(process) == "ready"
        gate.wait_reached(30)
        eventually(lambda: any("pgetpy-part" in path.name for path in partials(root)))
        process.kill()
        process.wait(30)
    gate.open()
    hub.remove(path)
    with opened_at(hub, root) as cache:
        assert contents(cache.ensure("hf://owner/name", wanted="folder")) == files


def test_what_is_damaged_is_fetched_anew(
    hub: Hub,
    repo: Repo,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url(""))
    place = ["--cache-dir", str(root), "--min-disk-free=0"]
    for wanted in ("folder", "weights"):
        chosen = ["--include=unet/*", "--wanted", wanted]
        assert main(["ensure", "hf://owner/name", *chosen, *place]) == 0
        path = Path(capfd.readouterr().out.strip())
        flip(path / "unet/deep/a b#?.safetensors" if path.is_dir() else path)
        assert main(["cache", "verify", *place]) != 0
        assert "1 of 1 repaired" in capfd.readouterr().out
        assert main(["cache", "verify", *place]) == 0
        assert main(["cache", "rm", f"{shown_of(root)}", "--wanted", wanted, *place[:2]]) == 0
        capfd.readouterr()


def shown_of(root: Path) -> str:
    with opened(root) as cache:
        return only_record(cache).about.reference


def test_the_first_failure_ends_the_others_and_names_its_file(
    hub: Hub, repo: Repo, root: Path
) -> None:
    path = f"/owner/name/resolve/{repo.commit('main')}/unet/config.json"
    hub.add(path, Resource(faults=[Status(500, "trouble")]))
    with opened_at(hub, root, retries=0) as cache:
        with pytest.raises(HttpStatusError, match=r"trouble.*unet/config\.json"):
            cache.ensure("hf://owner/name", wanted="folder")
        assert cache.entries() == []


# -------------------------------------------------------------------------------- the stored login


def test_the_stored_login_is_neither_read_nor_written(hub: Hub, repo: Repo, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    stored = "hf_storedlogin"
    (home / "token").write_text(stored)
    code = """
import sys
from pgetpy import WeightsDownloadCache
cache = WeightsDownloadCache(sys.argv[1], 0)
print(cache.ensure("hf://owner/name", wanted="folder"))
"""
    environ = {
        "HF_HOME": str(home),
        "HF_ENDPOINT": hub.url(""),
        "PATH": "",
        "PYTHONPATH": ":".join(sys.path),
    }
    made = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")],
        env=environ, check=True, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert contents(Path(made.stdout.strip())) == FILES
    assert made.stderr == ""
    assert {seen.header("authorization") for seen in hub.requests} == {None}
    assert contents(home) == {"token": stored.encode()}
    assert len(hub.requests) == 1 + len(FILES)
    assert "pgetpy/" in str(hub.requests[0].header("user-agent"))
