"""az:// against a scripted store that checks each request as Azure does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import pgetpy
from pgetpy import Policy
from pgetpy.cli import main
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import BadReferenceError, BadSettingError, PgetError, UnauthorizedError
from pgetpy.settings import SourceSettings
from pgetpy.sources.azure import container_of
from tests.support.blob_store import ACCOUNT, KEY, SAS, BlobStore
from tests.support.bodies import body
from tests.support.fetching import contents, extract, fetch, impatient
from tests.support.secrets import SIGNATURE, TOKEN
from tests.support.tars import file
from tests.support.weights import opened, weights

BODY = body(3_000_000)
BLOB = "models/model.bin"
URL = f"az://models/{BLOB}"
SNAPSHOT = "2026-11-29T05:58:49.1234567Z"


@pytest.fixture
def store() -> Iterator[BlobStore]:
    container_of.cache_clear()
    with BlobStore() as store:
        store.put("models", BLOB, BODY)
        yield store
    assert store.violations == []
    container_of.cache_clear()


def get(
    url: str,
    dest: Path,
    environ: Mapping[str, str],
    policy: Policy | None = None,
    **options: object,
) -> DownloadResult:
    return fetch(url, dest, sources=SourceSettings(environ=environ), policy=policy, **options)


@pytest.mark.parametrize("blob", ["plain.bin", "a b+c%20é?x#y&z=1.txt", "a/b//c", "a;b,c:d@e!$'()"])
def test_any_blob_is_fetched_signed_by_the_key(store: BlobStore, tmp_path: Path, blob: str) -> None:
    store.put("models", blob, BODY)
    result = get(f"az://models/{blob}", tmp_path / "out", store.environ)
    assert (tmp_path / "out").read_bytes() == BODY
    assert KEY not in repr(result)
    assert all("SharedKey" in each.headers["authorization"] for each in store.requests)


def test_ranges_are_tied_by_if_match_and_signed_each(store: BlobStore, tmp_path: Path) -> None:
    get(URL, tmp_path / "out", store.environ, chunk_size=500_000)
    later = [each for each in store.requests if "if-match" in each.headers]
    assert len(later) >= 4
    assert (tmp_path / "out").read_bytes() == BODY


def test_a_blob_that_is_replaced_meanwhile_is_of_one_version(
    store: BlobStore, tmp_path: Path
) -> None:
    other = body(len(BODY), seed=7)
    store.before[3] = lambda: store.put("models", BLOB, other)
    get(URL, tmp_path / "out", store.environ, chunk_size=300_000)
    assert (tmp_path / "out").read_bytes() == other


def test_a_sas_is_part_of_the_url_and_shown_nowhere(store: BlobStore, tmp_path: Path) -> None:
    environ = {**store.anonymous, "AZURE_STORAGE_SAS_TOKEN": f"?{SAS}"}
    result = get(URL, tmp_path / "out", environ, chunk_size=500_000)
    assert (tmp_path / "out").read_bytes() == BODY
    assert SIGNATURE not in repr(result)
    assert not any("authorization" in each.headers for each in store.requests)
    get("az://models/models/", tmp_path / "folder", environ)
    assert contents(tmp_path / "folder") == {"model.bin": BODY}


def test_a_token_is_sent_as_a_bearer(store: BlobStore, tmp_path: Path) -> None:
    get(
        URL, tmp_path / "out", {**store.anonymous, "AZURE_STORAGE_TOKEN": TOKEN}, chunk_size=900_000
    )
    assert any("if-match" in each.headers for each in store.requests)


def test_a_connection_string_says_everything(store: BlobStore, tmp_path: Path) -> None:
    text = f"BlobEndpoint={store.url}/;AccountName={ACCOUNT};AccountKey={KEY}"
    get(URL, tmp_path / "out", {"AZURE_STORAGE_CONNECTION_STRING": text})
    text = f"BlobEndpoint={store.url};SharedAccessSignature={SAS}"
    get(URL, tmp_path / "out2", {"AZURE_STORAGE_CONNECTION_STRING": text})
    assert (tmp_path / "out2").read_bytes() == BODY
    with pytest.raises(BadSettingError, match=r"CONNECTION_STRING.*part 1") as found:
        get(URL, tmp_path / "out3", {"AZURE_STORAGE_CONNECTION_STRING": KEY.rstrip("=")})
    assert KEY.rstrip("=") not in str(found.value)


def test_public_containers_need_no_credentials(store: BlobStore, tmp_path: Path) -> None:
    store.public = True
    get(URL, tmp_path / "out", store.anonymous)
    policy = Policy(schemes=("http",), allow_networks=("127.0.0.1/32",))
    text = f"BlobEndpoint={store.url};AccountName={ACCOUNT};AccountKey={KEY}"
    get(URL, tmp_path / "stranger", {"AZURE_STORAGE_CONNECTION_STRING": text}, policy)
    assert not any("authorization" in each.headers for each in store.requests)


def test_snapshots_and_versions_are_named_at_the_end(store: BlobStore, tmp_path: Path) -> None:
    old = body(1000, seed=3)
    store.versions["models", BLOB, SNAPSHOT] = old
    for kind in ("snapshot", "versionid"):
        get(f"{URL}?{kind}={SNAPSHOT}", tmp_path / kind, store.environ)
        assert (tmp_path / kind).read_bytes() == old
        assert store.requests[-1].query == {kind: SNAPSHOT}
    store.refuse(404, "BlobNotFound", times=20)
    with pytest.raises(PgetError, match=r"not in this version; leave \?snapshot= out"):
        get(f"{URL}?snapshot={SNAPSHOT}", tmp_path / "none", store.environ)


def test_an_empty_blob_is_fetched(store: BlobStore, tmp_path: Path) -> None:
    store.put("models", "empty", b"")
    assert get("az://models/empty", tmp_path / "out", store.environ).size == 0


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("ContainerNotFound", 404, "no container models"),
        ("BlobNotFound", 404, "no such blob"),
        ("BlobArchived", 409, "rehydrate it first"),
        ("BlobBeingRehydrated", 409, "being rehydrated"),
        ("AuthenticationFailed", 403, rf"key of account {ACCOUNT} \(AZURE_STORAGE_KEY\) is wrong"),
        ("AuthorizationPermissionMismatch", 403, "lack a right"),
        ("AuthorizationFailure", 403, "firewall"),
    ],
)
def test_errors_say_what_to_do(
    store: BlobStore, tmp_path: Path, code: str, status: int, said: str
) -> None:
    store.refuse(status, code, times=20, AuthenticationErrorDetail=f"the signature {SIGNATURE}")
    with pytest.raises(PgetError, match=said) as found:
        get(URL, tmp_path / "out", store.environ)
    text = f"{found.value} {found.value!r} {found.value.hint}"
    assert code in text
    assert SIGNATURE not in text
    assert KEY not in text
    assert len(store.requests) <= 2


def test_what_is_missing_or_wrong_in_the_settings_is_named(
    store: BlobStore, tmp_path: Path
) -> None:
    for environ, said in (
        ({}, "AZURE_STORAGE_ACCOUNT"),
        ({"AZURE_STORAGE_ACCOUNT": "a.evil.test/"}, "not the name of an account"),
        ({**store.anonymous, "AZURE_STORAGE_KEY": "no base64!"}, "AZURE_STORAGE_KEY"),
    ):
        with pytest.raises(BadSettingError, match=said):
            get(URL, tmp_path / "out", environ)
    with pytest.raises(BadReferenceError, match="az://CONTAINER/BLOB"):
        get("az:///blob", tmp_path / "out", store.environ)
    with pytest.raises(PgetError, match=r"anonymous.*AZURE_STORAGE_KEY"):
        get(URL, tmp_path / "out", store.anonymous)
    with pytest.raises(UnauthorizedError, match=r"AZURE_STORAGE_TOKEN.*malformed or have expired"):
        get(URL, tmp_path / "out", {**store.anonymous, "AZURE_STORAGE_TOKEN": "another-token"})


def test_an_expired_sas_says_when(store: BlobStore, tmp_path: Path) -> None:
    old = SAS.replace("2099", "2020")
    with pytest.raises(UnauthorizedError, match="expired at 2020-01-01T00:00:00Z") as found:
        get(URL, tmp_path / "out", {**store.anonymous, "AZURE_STORAGE_SAS_TOKEN": old})
    assert SIGNATURE not in f"{found.value} {found.value!r}"
    environ = {**store.anonymous, "AZURE_STORAGE_SAS_TOKEN": SAS.replace("%2B", "")}
    with pytest.raises(UnauthorizedError, match="is not valid for"):
        get(URL, tmp_path / "out", environ)


@pytest.mark.parametrize("off", [1200.0, -3600.0])
def test_a_wrong_clock_is_made_up_for(store: BlobStore, tmp_path: Path, off: float) -> None:
    store.clock = off
    get(URL, tmp_path / "out", store.environ)
    assert (tmp_path / "out").read_bytes() == BODY
    asked = len(store.requests)
    get(URL, tmp_path / "out2", store.environ)
    assert len(store.requests) == asked + 1


def test_a_store_whose_clock_jumps_causes_no_loop(store: BlobStore, tmp_path: Path) -> None:
    for number in range(40):
        store.before[number] = lambda number=number: setattr(store, "clock", 3600.0 * number)
    with pytest.raises(UnauthorizedError, match="made up for"):
        get(URL, tmp_path / "out", {**store.environ, "AZURE_STORAGE_KEY": "d3Jvbmc="})
    assert len(store.requests) <= 12


def test_a_wrong_key_is_to_blame_once_the_clock_was_made_up_for(
    store: BlobStore, tmp_path: Path
) -> None:
    store.clock = 1200.0
    wrong = {**store.environ, "AZURE_STORAGE_KEY": "d3Jvbmc="}
    with pytest.raises(UnauthorizedError, match=r"is wrong.*clock is 20 minutes behind"):
        get(URL, tmp_path / "out", wrong)


def test_what_another_sas_began_goes_on_and_no_file_holds_it(
    store: BlobStore, tmp_path: Path
) -> None:
    environ = {**store.anonymous, "AZURE_STORAGE_SAS_TOKEN": SAS}
    store.before[3] = lambda: store.refuse(403, "AuthorizationFailure", times=50)
    with pytest.raises(PgetError, match="AuthorizationFailure"):
        get(URL, tmp_path / "out", environ, chunk_size=500_000, concurrency=1)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left
    assert not any(SIGNATURE.encode() in path.read_bytes() for path in left)
    store.forgive()
    other = {**environ, "AZURE_STORAGE_SAS_TOKEN": SAS.replace("2099", "2098")}
    assert get(URL, tmp_path / "out", other).resumed > 0
    assert (tmp_path / "out").read_bytes() == BODY


def test_folders_and_patterns_are_listed_page_by_page(store: BlobStore, tmp_path: Path) -> None:
    store.page = 2
    files = {f"f/{name}": name.encode() for name in ("a", "b", "c/d", "e%20 f&", "x.json")}
    for name, data in files.items():
        store.put("models", name, data)
    store.put("models", "g/other", b"x")
    environ = store.environ
    get("az://models/f/", tmp_path / "out", environ)
    assert contents(tmp_path / "out") == {name[2:]: data for name, data in files.items()}
    assert [each.query.get("marker") for each in store.requests[:3]] == [None, "f/b", "f/e%20 f&"]
    get("az://models/f/*.json", tmp_path / "json", environ)
    assert contents(tmp_path / "json") == {"x.json": b"x.json"}
    with pytest.raises(PgetError, match="nothing is there"):
        get("az://models/none/", tmp_path / "none", environ)


def test_a_folder_that_was_interrupted_goes_on(store: BlobStore, tmp_path: Path) -> None:
    files = {f"f/{name}": body(200_000, seed=name) for name in range(4)}
    for name, data in files.items():
        store.put("models", name, data)
    store.before[3] = lambda: store.refuse(403, "AuthorizationFailure", times=50)
    with pytest.raises(PgetError, match="AuthorizationFailure"):
        get("az://models/f/", tmp_path / "out", store.environ, concurrency=1)
    store.forgive()
    get("az://models/f/", tmp_path / "out", store.environ)
    assert contents(tmp_path / "out") == {name[2:]: data for name, data in files.items()}


def test_a_folder_is_one_entry_of_the_cache(store: BlobStore, tmp_path: Path) -> None:
    store.put("models", "f/a", b"a")
    store.put("models", "f/b/c", b"c")
    cache = opened(tmp_path / "cache", sources=SourceSettings(environ=store.environ))
    assert contents(cache.ensure("az://models/f/")) == {"a": b"a", "b/c": b"c"}


def test_names_that_lead_elsewhere_are_refused(store: BlobStore, tmp_path: Path) -> None:
    store.put("models", "f/../../up", b"x")
    with pytest.raises(PgetError, match="up"):
        get("az://models/f/", tmp_path / "a/out", store.environ)
    assert not (tmp_path / "up").exists()


def test_archives_and_the_cache_take_blobs_like_urls(store: BlobStore, tmp_path: Path) -> None:
    store.put("models", "m.tar", file(b"a/b.bin", BODY[:5000]) + bytes(1024))
    sources = SourceSettings(environ=store.environ)
    extract("az://models/m.tar", tmp_path / "out", sources=sources)
    assert contents(tmp_path / "out") == {"a/b.bin": BODY[:5000]}
    cache = opened(tmp_path / "cache", sources=sources)
    assert cache.ensure(URL).read_bytes() == BODY
    asked = len(store.requests)
    assert cache.ensure(URL).read_bytes() == BODY
    assert len(store.requests) == asked


def test_manifests_and_tensors_take_blobs_and_uploads_do_not(
    store: BlobStore, tmp_path: Path
) -> None:
    store.put("models", "m.safetensors", weights(50_000))
    sources = SourceSettings(environ=store.environ)
    lines = f"{URL} {tmp_path}/a\naz://models/m.safetensors {tmp_path}/b\n"
    (tmp_path / "manifest").write_text(lines)
    assert main(["multifile", str(tmp_path / "manifest")], environ=store.environ) == 0
    assert (tmp_path / "a").read_bytes() == BODY
    cache = opened(tmp_path / "cache", sources=sources)
    parts = pgetpy.tensors.load(
        "az://models/m.safetensors", only="weight", cache=cache, framework="numpy"
    )
    assert bytes(parts["weight"]) == weights(50_000)[-50_000:]
    with pytest.raises(BadReferenceError, match="objects are written to s3://"):
        pgetpy.upload(tmp_path / "a", "az://models/up", settings=impatient(sources=sources))
