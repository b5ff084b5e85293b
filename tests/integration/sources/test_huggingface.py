"""Single files of the Hub: found by one request, opened by a token, told apart where they fail."""

from __future__ import annotations

import hashlib
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgetpy.cache.checking import Verdict
from pgetpy.core.references.reference import Wanted
from pgetpy.core.report.events import Failed
from pgetpy.errors import (
    BadReferenceError,
    BadSettingError,
    ConnectionFailedError,
    DigestMismatchError,
    GatedError,
    HttpStatusError,
    NotAllowedError,
    NotFoundError,
    NotWeightsError,
    PgetError,
    ServiceError,
    UnauthorizedError,
)
from pgetpy.settings import Settings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.table import parse_reference
from tests.integration.sources.conftest import MARK, OTHER_TOKEN, TOKEN
from tests.support.faults import ResetAt, Status
from tests.support.fetching import Events, fetch
from tests.support.hub import Hub, Repo
from tests.support.hub_caches import at, opened_at, others
from tests.support.resources import Resource
from tests.support.weights import MIB, flip, only_record, rewrite, tar_of, weights

LORA = weights()
FILES = {"lora.safetensors": LORA, "config.json": b'{"a": 1}', "small.safetensors": weights(10)}
SHA256 = hashlib.sha256(LORA).hexdigest()


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.repo("owner/name", FILES)


# ----------------------------------------------------------------------------- what is recognised


def test_all_spellings_have_one_key_and_it_is_nobody_elses(hub: Hub) -> None:
    settings = at(hub)
    spellings = [
        "hf://owner/name/lora.safetensors",
        "hf://owner/name@main/lora.safetensors",
        "huggingface.co/owner/name/lora.safetensors",
        "https://hf.co/owner/name/blob/main/lora.safetensors?download=true",
        hub.url("/owner/name/resolve/main/lora.safetensors"),
        hub.url("/owner/name/resolve/main/lora.safetensors").removeprefix("http://"),
    ]
    keys = {parse_reference(text, settings=settings).key for text in spellings}
    assert len(keys) == 1
    others = {
        parse_reference(text, wanted, settings).key
        for text, wanted in [
            ("hf://owner/name@v1/lora.safetensors", "auto"),
            ("hf://datasets/owner/name/lora.safetensors", "auto"),
            ("hf://owner/name2/lora.safetensors", "auto"),
            ("hf://owner/name/lora2.safetensors", "auto"),
            ("hf://owner/name", "auto"),
            ("hf://owner/name", "folder"),
            ("hf://owner/name?include=lora.safetensors", "folder"),
            ("hf://owner/name?exclude=lora.safetensors", "folder"),
            ("hf://owner/name/lora.safetensors", "folder"),
        ]
    }
    elsewhere = parse_reference(spellings[0]).key
    assert len(others | keys | {elsewhere}) == 11


def test_no_token_is_in_a_key_nor_in_what_is_shown(hub: Hub) -> None:
    text = "hf://owner/name/lora.safetensors"
    plain, mine, yours = (parse_reference(text, settings=at(hub, t)) for t in (None, TOKEN, "b"))
    assert plain.key == mine.key == yours.key
    assert len({plain.scope, mine.scope, yours.scope}) == 3
    assert plain.scope == ""
    assert MARK not in f"{mine} {mine!r} {mine.key} {mine.scope}"


@pytest.mark.parametrize("token", ["a b", "a\nX: 1", "tök", "\x7f"])
def test_what_no_header_can_bear_is_no_token(hub: Hub, token: str) -> None:
    with pytest.raises(BadSettingError, match=r"hf_api_token.*\*\*\*"):
        parse_reference("hf://owner/name/f", settings=at(hub, token))
    parse_reference("https://example.com/f", settings=at(hub, token))


def test_what_is_wanted_of_it_follows_its_name() -> None:
    def wanted(text: str, given: str = "auto") -> Wanted:
        return parse_reference(text, given).wanted

    assert wanted("hf://o/n") is Wanted.WEIGHTS
    assert wanted("hf://o/n", "folder") is Wanted.FOLDER
    assert wanted("hf://o/n/f.safetensors") is Wanted.FILE
    assert wanted("hf://o/n/f.safetensors", "weights") is Wanted.FILE
    assert wanted("hf://o/n/f.tar") is Wanted.WEIGHTS
    assert wanted("hf://o/n/f.tar", "file") is Wanted.FILE
    with pytest.raises(BadReferenceError, match="it is a repository"):
        wanted("hf://o/n", "file")
    with pytest.raises(BadSettingError, match="wanted"):
        wanted("hf://o/n", "everything")


def test_a_page_is_a_url_like_any_other() -> None:
    assert parse_reference("https://huggingface.co/docs/hub").source == "plain"
    assert parse_reference("https://huggingface.co/o/n").source == "huggingface"


# ---------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize("name", ["lora.safetensors", "small.safetensors"])
def test_a_file_is_found_by_one_request(hub: Hub, repo: Repo, root: Path, name: str) -> None:
    with opened_at(hub, root) as cache:
        path = cache.ensure(f"hf://owner/name/{name}")
        assert path.read_bytes() == FILES[name]
        assert path.name.endswith(name)
        # One that tells where it is, and one that brings it.
        assert hub.resolved() == [name] * 2
        assert hub.asked_of_api() == []
        asked = len(hub.requests)
        assert cache.ensure(hub.url(f"/owner/name/resolve/main/{name}")) == path
        assert len(hub.requests) == asked
        large = name == "lora.safetensors"
        assert (only_record(cache).digest == f"sha256:{SHA256}") == large or cache.settle()


@pytest.mark.parametrize("large", [True, False])
def test_an_empty_file_is_found(hub: Hub, root: Path, large: bool) -> None:
    hub.repo("o/n", {"f": b""}, large=["f"] if large else [])
    with opened_at(hub, root, any_file=True) as cache:
        assert cache.ensure("hf://o/n/f").read_bytes() == b""
    assert len(hub.requests) == 2


def test_a_file_is_fetched_at_the_commit_that_was_found(hub: Hub, repo: Repo, root: Path) -> None:
    with opened_at(hub, root) as cache:
        cache.ensure("hf://owner/name/lora.safetensors")
    last = [seen.path for seen in hub.requests][-1]
    assert last == f"/owner/name/resolve/{repo.commit('main')}/lora.safetensors"


def test_revisions_with_slashes_are_quoted(hub: Hub, root: Path) -> None:
    hub.repo("owner/name", {}, revisions={"refs/pr/1": {"a b.safetensors": LORA}})
    with opened_at(hub, root) as cache:
        path = cache.ensure("hf://owner/name@refs/pr/1/a b.safetensors")
        assert path.read_bytes() == LORA
        assert cache.lookup(hub.url("/owner/name/blob/refs%2Fpr%2F1/a%20b.safetensors")) == path
    assert hub.requests[0].path == "/owner/name/resolve/refs%2Fpr%2F1/a%20b.safetensors"


@pytest.mark.parametrize("kind", ["dataset", "space"])
def test_datasets_and_spaces_have_files_as_well(hub: Hub, root: Path, kind: str) -> None:
    hub.repo("owner/name", FILES, type=kind)
    with opened_at(hub, root) as cache:
        assert cache.ensure(f"hf://{kind}s/owner/name/lora.safetensors").read_bytes() == LORA
        with pytest.raises(NotFoundError):
            cache.ensure("hf://owner/name/lora.safetensors")


def test_a_renamed_repository_is_followed(hub: Hub, repo: Repo, root: Path) -> None:
    hub.renamed["old"] = "owner/name"
    with opened_at(hub, root, TOKEN) as cache:
        hub.tokens.add(TOKEN)
        assert cache.ensure("hf://old@main/lora.safetensors").read_bytes() == LORA
        assert only_record(cache).digest == f"sha256:{SHA256}"
    assert others(hub) == []


def test_redirects_within_the_hub_have_an_end(hub: Hub, root: Path) -> None:
    hub.renamed |= {"a": "b", "b": "a"}
    with opened_at(hub, root) as cache, pytest.raises(PgetError, match="redirects"):
        cache.ensure("hf://a@main/lora.safetensors")


def test_an_archive_is_opened(hub: Hub, root: Path) -> None:
    hub.repo("owner/name", {"lora.tar": tar_of({"a.txt": b"a", "b/c.safetensors": LORA})})
    with opened_at(hub, root) as cache:
        assert cache.ensure("hf://owner/name/lora.tar").read_bytes() == LORA
        folder = cache.ensure("hf://owner/name/lora.tar", wanted="folder")
        assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b"]


def test_bytes_that_are_not_those_of_the_digest_are_refused(
    hub: Hub, repo: Repo, root: Path
) -> None:
    with opened_at(hub, root) as cache:
        hub.cdn.add(f"/repos/{SHA256}", Resource(weights(seed="other")))
        with pytest.raises(DigestMismatchError, match=SHA256):
            cache.ensure("hf://owner/name/lora.safetensors")
        assert cache.entries() == []


def test_a_digest_that_cannot_be_is_refused_before_a_byte_is_fetched(
    hub: Hub, repo: Repo, root: Path
) -> None:
    with opened_at(hub, root) as cache:
        with pytest.raises(DigestMismatchError):
            cache.ensure("hf://owner/name/lora.safetensors", digest="0" * 64)
        assert hub.cdn.requests == []
        assert cache.ensure("hf://owner/name/lora.safetensors", digest=SHA256).exists()


@pytest.mark.parametrize("etag", ["a" * 40, "z" * 64, "a" * 65, "W/x", ""])
def test_an_etag_that_is_no_sha256_is_no_digest(hub: Hub, root: Path, etag: str) -> None:
    fields = (("X-Linked-Etag", f'"{etag}"'), ("X-Repo-Commit", "main/../../evil"))
    hub.add("/o/n/resolve/main/f.safetensors", Resource(LORA, headers=fields))
    with opened_at(hub, root) as cache:
        assert cache.ensure("hf://o/n/f.safetensors").read_bytes() == LORA
    assert {seen.path for seen in hub.requests} == {"/o/n/resolve/main/f.safetensors"}


def test_a_target_whose_time_is_over_is_looked_for_anew(hub: Hub, root: Path) -> None:
    data = weights(40 * MIB)
    hub.repo("owner/name", {"lora.safetensors": data}, gated=True, readers={TOKEN})
    hub.signer.requests = 2
    with opened_at(hub, root, TOKEN, chunk_size=4 * MIB) as cache:
        path = cache.ensure("hf://owner/name/lora.safetensors")
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert hub.signer.issued > 2
    assert others(hub) == []


def test_a_token_goes_to_the_hub_and_nowhere_else(hub: Hub, root: Path) -> None:
    hub.repo("owner/name", FILES, private=True, readers={TOKEN})
    with opened_at(hub, root) as cache:
        assert cache.ensure("hf://owner/name/lora.safetensors", hf_api_token=TOKEN).exists()
    assert {seen.header("authorization") for seen in hub.requests} == {f"Bearer {TOKEN}"}
    assert hub.cdn.requests
    assert others(hub) == []


def test_secrets_are_revealed_to_nobody_else(hub: Hub, root: Path) -> None:
    hub.repo("owner/name", FILES, private=True, readers={TOKEN})

    @dataclass
    class Secret:
        value: str

        def get_secret_value(self) -> str:
            return self.value

    with opened_at(hub, root) as cache:
        secret = Secret(f" {TOKEN}\n")
        assert cache.ensure("hf://owner/name/lora.safetensors", hf_api_token=secret).exists()


def test_a_download_to_a_file_takes_references(hub: Hub, tmp_path: Path) -> None:
    hub.repo("owner/name", FILES, gated=True, readers={TOKEN})
    result = fetch("hf://owner/name/lora.safetensors", tmp_path / "f", sources=at(hub, TOKEN))
    assert (tmp_path / "f").read_bytes() == LORA
    assert result.digest == f"sha256:{SHA256}"
    events = Events()
    with pytest.raises(GatedError, match="HF_TOKEN"):
        fetch("hf://owner/name/lora.safetensors", tmp_path / "g", sources=at(hub), progress=events)
    assert len(events.of(Failed)) == 1
    assert not (tmp_path / "g").exists()


def test_a_file_is_found_without_the_import_of_what_lists_repositories(
    hub: Hub, repo: Repo, tmp_path: Path
) -> None:
    code = """
import sys, pgetpy
from pgetpy.settings import Settings
settings = Settings.from_environment({"HF_ENDPOINT": sys.argv[1]})
pgetpy.download("hf://owner/name/lora.safetensors", sys.argv[2], settings=settings)
assert "huggingface_hub" not in sys.modules
"""
    dest = str(tmp_path / "f")
    subprocess.run([sys.executable, "-c", code, hub.url(""), dest], check=True, timeout=50)
    assert Path(dest).read_bytes() == LORA


# --------------------------------------------------------------------------------------- failures


@dataclass(frozen=True)
class Refusal:
    """What a reference that cannot be had makes of itself."""

    text: str
    kind: type[PgetError]
    says: str
    token: str | None = None


REFUSALS = [
    Refusal("owner/gated/f", GatedError, "restricted.*ask for access at .*/owner/gated.*HF_TOKEN"),
    Refusal("owner/gated/f", GatedError, "authorized list.*with the token's account", OTHER_TOKEN),
    Refusal("owner/private/f", NotFoundError, "missing or private: check its name, or set HF_TOK"),
    Refusal("owner/private/f", NotFoundError, "missing or private.*token's account", OTHER_TOKEN),
    Refusal("owner/none/f", NotFoundError, "not found.*missing or private"),
    Refusal("owner/name/none", NotFoundError, "Entry not found.*check its name"),
    Refusal("owner/name@none/f", NotFoundError, "Invalid rev id: none.*check the revision"),
    Refusal("owner/name/f", UnauthorizedError, "Invalid cred.*wrong or has expired", TOKEN),
    Refusal("owner/off/f", ServiceError, "Access to this resource is disabled"),
]


@pytest.mark.parametrize("whole", [False, True], ids=["file", "repository"])
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda each: f"{each.text} {each.kind.__name__}")
def test_failures_are_told_apart(hub: Hub, root: Path, refusal: Refusal, whole: bool) -> None:
    hub.tokens.add(OTHER_TOKEN)
    hub.repo("owner/gated", {"f": b"1"}, gated=True)
    hub.repo("owner/private", {"f": b"1"}, private=True)
    hub.repo("owner/off", {"f": b"1"}, disabled=True)
    hub.repo("owner/name", FILES)
    repository, _, name = refusal.text.rpartition("/")
    if whole and name == "none":
        pytest.skip("a repository has no such failure")
    text, wanted = (repository, "folder") if whole else (refusal.text, "auto")
    with opened_at(hub, root, refusal.token) as cache, pytest.raises(PgetError) as caught:
        cache.ensure(f"hf://{text}", wanted=wanted)
    error = caught.value
    assert type(error) is refusal.kind
    assert f"hf://{text};" in str(error)
    assert isinstance(error, ServiceError)
    assert error.service in str(error)
    assert error.status in (401, 403, 404)
    assert re.search(refusal.says, str(error)), str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_401_without_a_reason_wants_a_token(hub: Hub, root: Path) -> None:
    hub.add("/o/n/resolve/main/f", Resource(authorization="Bearer x", challenge="Bearer"))
    with opened_at(hub, root) as cache, pytest.raises(UnauthorizedError, match="set HF_TOKEN"):
        cache.ensure("hf://o/n/f")


def test_a_403_without_a_reason_is_the_tokens(hub: Hub, root: Path) -> None:
    hub.add("/o/n/resolve/main/f", Resource(faults=[Status(403, "you may not")]))
    with (
        opened_at(hub, root, TOKEN) as cache,
        pytest.raises(UnauthorizedError, match=r"you may not.*permission"),
    ):
        cache.ensure("hf://o/n/f")


def test_a_listing_of_what_nobody_may_see_is_missing_or_private(hub: Hub, root: Path) -> None:
    fields = Resource(authorization="Bearer x", challenge="Bearer")
    hub.add("/api/models/o/n/revision/main", fields)
    with opened_at(hub, root) as cache, pytest.raises(NotFoundError, match="missing or private"):
        cache.ensure("hf://o/n")
    with opened_at(hub, root, TOKEN) as cache, pytest.raises(UnauthorizedError):
        cache.ensure("hf://o/n")


def test_what_the_store_refuses_is_not_taken_for_the_hubs_word(
    hub: Hub, repo: Repo, root: Path
) -> None:
    hub.cdn.add(f"/repos/{SHA256}", Resource(LORA, faults=[Status(403, "expired")]))
    with opened_at(hub, root) as cache, pytest.raises(HttpStatusError, match="expired") as caught:
        cache.ensure("hf://owner/name/lora.safetensors")
    assert "signature-" not in str(caught.value)


def test_a_page_is_no_weights(hub: Hub, root: Path) -> None:
    hub.repo("o/n", {"f.safetensors": b"<html>Please log in</html>"})
    with opened_at(hub, root) as cache, pytest.raises(NotWeightsError, match="Please log in"):
        cache.ensure("hf://o/n/f.safetensors")


@pytest.mark.parametrize("text", ["hf://owner/name/lora.safetensors", "hf://owner/name"])
def test_no_hub_is_a_clear_failure(hub: Hub, root: Path, text: str) -> None:
    hub.stop()
    with opened_at(hub, root, retries=0) as cache, pytest.raises(ConnectionFailedError):
        cache.ensure(text)


def test_what_breaks_off_is_taken_up(hub: Hub, root: Path) -> None:
    data = weights(8 * MIB)
    sha256 = hashlib.sha256(data).hexdigest()
    hub.repo("owner/name", {"lora.safetensors": data})
    hub.cdn.add(f"/repos/{sha256}", Resource(data, faults=[ResetAt(MIB)]))
    with opened_at(hub, root, TOKEN, retries=0, concurrency=1) as cache:
        hub.tokens.add(TOKEN)
        with pytest.raises(ConnectionFailedError):
            cache.ensure("hf://owner/name/lora.safetensors")
        sent = hub.cdn.sent(f"/repos/{sha256}")
        hub.cdn.change(f"/repos/{sha256}", faults=[])
        assert cache.ensure("hf://owner/name/lora.safetensors").read_bytes() == data
        assert hub.cdn.sent(f"/repos/{sha256}") < sent + len(data)


# ---------------------------------------------------------------------------------------- offline


@pytest.mark.parametrize("text", ["hf://owner/name/lora.safetensors", "hf://owner/name@v1"])
def test_offline_what_is_there_is_a_hit_and_nothing_is_asked(
    hub: Hub, root: Path, text: str
) -> None:
    hub.repo("owner/name", FILES, revisions={"v1": {"lora.safetensors": LORA}})
    with opened_at(hub, root, offline=True) as cache:
        with pytest.raises(NotAllowedError, match=r"HF_HUB_OFFLINE.*not in the cache.*unset"):
            cache.ensure(text)
        assert hub.requests == []
    with opened_at(hub, root) as cache:
        path = cache.ensure(text)
    asked = len(hub.requests)
    with opened_at(hub, root, offline=True) as cache:
        assert cache.ensure(text) == path
        with pytest.raises(NotAllowedError, match="HF_HUB_OFFLINE"):
            cache.ensure("hf://owner/other/f")
    assert len(hub.requests) == asked


def test_the_environment_says_where_the_hub_is(hub: Hub) -> None:
    environ = {"HF_ENDPOINT": f"{hub.url('')}/", "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}
    settings = Settings.from_environment(environ).sources
    assert settings.of(HubSettings) == at(hub, TOKEN, offline=True).of(HubSettings)


@pytest.mark.parametrize("changed", [True, False])
def test_what_the_hub_says_of_the_content_is_compared_with_what_has_no_digest(
    hub: Hub, repo: Repo, root: Path, changed: bool
) -> None:
    with opened_at(hub, root) as cache:
        path = cache.ensure("hf://owner/name/lora.safetensors")
        rewrite(cache, digest="")  # as one that was killed leaves it
        if changed:
            flip(path)
        assert cache.verify("hf://owner/name/lora.safetensors") is Verdict.UNKNOWN
        now = cache.ensure("hf://owner/name/lora.safetensors")
        assert (now == path) is not changed
        assert now.read_bytes() == LORA
        assert only_record(cache).digest == f"sha256:{SHA256}"
