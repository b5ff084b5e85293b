"""The Hub that the tests play is judged by huggingface_hub's own client."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.integration.sources.conftest import OTHER_TOKEN, TOKEN
from tests.support.bodies import body
from tests.support.fetching import contents
from tests.support.hub import Hub

FILES = {"config.json": b"{}", "unet/a b.safetensors": body(5000, "unet"), ".gitattributes": b"x"}
LARGE = "unet/a b.safetensors"


@pytest.fixture(autouse=True)
def plain_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url(""), token=False)


def test_it_says_what_is_in_a_repository(hub: Hub, api: HfApi) -> None:
    repo = hub.repo("owner/name", FILES, revisions={"refs/pr/1": {"other": b"1"}})
    info = api.model_info("owner/name", files_metadata=True)
    assert (info.id, info.sha, info.private) == ("owner/name", repo.commit("main"), False)
    assert {each.rfilename: each.size for each in info.siblings or []} == {
        name: len(data) for name, data in FILES.items()
    }
    large = {each.rfilename: each.lfs for each in info.siblings or [] if each.lfs is not None}
    assert list(large) == [LARGE]
    assert large[LARGE].sha256 == hashlib.sha256(FILES[LARGE]).hexdigest()
    other = api.model_info("owner/name", revision="refs/pr/1")
    assert [each.rfilename for each in other.siblings or []] == ["other"]
    assert api.list_repo_files("owner/name") == list(FILES)


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_it_has_datasets_and_spaces(hub: Hub, api: HfApi, tmp_path: Path, kind: str) -> None:
    hub.repo("owner/name", {"a": b"1"}, type=kind)
    assert api.repo_info("owner/name", repo_type=kind).sha
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("owner/name", repo_type="model")
    path = _download(hub, tmp_path, "a", repo_type=kind)
    assert path.read_bytes() == b"1"


@pytest.mark.parametrize("name", FILES)
def test_its_files_can_be_downloaded(hub: Hub, tmp_path: Path, name: str) -> None:
    repo = hub.repo("owner/name", FILES)
    path = _download(hub, tmp_path, name)
    assert path.read_bytes() == FILES[name]
    # The client names its blobs by the ETags that it was given, and snapshots by commits.
    sha256 = hashlib.sha256(FILES[name]).hexdigest()
    assert (path.resolve().name == sha256) == (name == LARGE)
    assert repo.commit("main") in str(path)


def test_its_repositories_can_be_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.repo("owner/name", FILES, private=True, readers={TOKEN})
    folder = snapshot_download(
        "owner/name", cache_dir=tmp_path, endpoint=hub.url(""), token=TOKEN, max_workers=1
    )
    assert contents(Path(folder)) == FILES


def test_a_renamed_repository_is_found(hub: Hub, tmp_path: Path) -> None:
    hub.repo("owner/name", FILES)
    hub.renamed["old"] = "owner/name"
    path = hf_hub_download("old", LARGE, cache_dir=tmp_path, endpoint=hub.url(""), token=False)
    assert Path(path).read_bytes() == FILES[LARGE]


@pytest.mark.parametrize("token", [False, OTHER_TOKEN])
def test_who_may_not_read_is_told_so(hub: Hub, api: HfApi, tmp_path: Path, token: str) -> None:
    hub.tokens.add(OTHER_TOKEN)
    hub.repo("owner/name", FILES, gated=True, readers={TOKEN})
    hub.repo("owner/private", FILES, private=True, readers={TOKEN})
    assert api.model_info("owner/name").gated == "manual"
    with pytest.raises(GatedRepoError, match="is restricted"):
        _download(hub, tmp_path, LARGE, token=token)
    with pytest.raises(RepositoryNotFoundError) as caught:
        api.model_info("owner/private", token=token)
    assert not isinstance(caught.value, GatedRepoError)
    assert api.model_info("owner/private", token=TOKEN).private


def test_what_is_missing_is_told_apart(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.repo("owner/name", FILES)
    hub.repo("owner/off", FILES, disabled=True)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("owner/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("owner/name", revision="none")
    with pytest.raises(RemoteEntryNotFoundError):
        _download(hub, tmp_path, "none")
    with pytest.raises(DisabledRepoError):
        api.model_info("owner/off")


def test_a_token_that_nobody_has_is_refused(hub: Hub, api: HfApi) -> None:
    hub.repo("owner/name", FILES)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as caught:
        api.model_info("owner/name", token=OTHER_TOKEN)
    assert not isinstance(caught.value, RepositoryNotFoundError)


def _download(hub: Hub, folder: Path, name: str, token: object = False, **where: str) -> Path:
    path = hf_hub_download(
        "owner/name", name, cache_dir=folder, endpoint=hub.url(""), token=token, **where
    )
    return Path(path)
