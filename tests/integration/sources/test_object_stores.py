"""s3:// and its kin, against a scripted store whose signatures botocore checks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import pgetpy
from pgetpy import Policy
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import (
    BadSettingError,
    NotAllowedError,
    NotFoundError,
    ObjectChangedError,
    PgetError,
    UnauthorizedError,
)
from pgetpy.settings import Proxies, SourceSettings
from tests.support.bodies import body
from tests.support.fetching import contents, fetch, impatient
from tests.support.object_store import ACCESS_KEY, SECRET_KEY, ObjectStore, started_store
from tests.support.secrets import TOKEN
from tests.support.tars import file
from tests.support.weights import opened, weights

BODY = body(3_000_000)
KEY = "models/model.bin"
URL = f"s3://bucket/{KEY}"


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    with started_store() as store:
        store.put("bucket", KEY, BODY)
        yield store


@pytest.fixture(autouse=True)
def nobody_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No profiles of the machine's user."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def get(
    url: str,
    dest: Path,
    environ: Mapping[str, str],
    policy: Policy | None = None,
    **options: object,
) -> DownloadResult:
    return fetch(url, dest, sources=SourceSettings(environ=environ), policy=policy, **options)


@pytest.mark.parametrize(
    "key",
    [
        "plain.bin",
        "a b+c%20\u00e9?x#y&z=1.txt",
        "//double//slash",
        "dots/../up/./x",
        "a;b,c:d@e!$'()",
    ],
)
def test_any_key_is_fetched_signed(store: ObjectStore, tmp_path: Path, key: str) -> None:
    store.put("bucket", key, BODY)
    result = get(f"s3://bucket/{key}", tmp_path / "out", store.environ)
    assert (tmp_path / "out").read_bytes() == BODY
    assert result.size == len(BODY)
    assert all("authorization" in each.headers for each in store.requests)
    assert SECRET_KEY not in repr(result)


def test_ranges_are_tied_by_if_match_and_signed_each(store: ObjectStore, tmp_path: Path) -> None:
    get(URL, tmp_path / "out", store.environ, chunk_size=500_000)
    later = [each for each in store.requests if "if-match" in each.headers]
    assert len(later) >= 4
    assert not any("if-range" in each.headers for each in store.requests)
    assert (tmp_path / "out").read_bytes() == BODY


def test_an_object_that_is_replaced_meanwhile_is_of_one_version(
    store: ObjectStore, tmp_path: Path
) -> None:
    """The answers to ranges of the old version are 412 from then on."""
    other = body(len(BODY), seed=7)
    store.before[3] = lambda: store.put("bucket", KEY, other)
    result = get(URL, tmp_path / "out", store.environ, chunk_size=300_000)
    assert (tmp_path / "out").read_bytes() == other
    assert result.size == len(BODY)


def test_an_object_that_changes_again_and_again_is_an_error_or_one_version(
    store: ObjectStore, tmp_path: Path
) -> None:
    versions = [body(len(BODY), seed=seed) for seed in range(8)]
    for number, version in enumerate(versions):
        store.before[3 * number + 2] = lambda version=version: store.put("bucket", KEY, version)
    try:
        get(URL, tmp_path / "out", store.environ, chunk_size=300_000)
    except ObjectChangedError:
        assert not (tmp_path / "out").exists()
    else:
        assert (tmp_path / "out").read_bytes() in versions


def test_an_empty_object_is_fetched(store: ObjectStore, tmp_path: Path) -> None:
    store.put("bucket", "empty", b"")
    assert get("s3://bucket/empty", tmp_path / "out", store.environ).size == 0


def test_half_a_key_and_no_key_are_told_apart(store: ObjectStore, tmp_path: Path) -> None:
    half = {k: v for k, v in store.environ.items() if k != "AWS_SECRET_ACCESS_KEY"}
    with pytest.raises(BadSettingError, match=r"^AWS_SECRET_ACCESS_KEY is not"):
        get(URL, tmp_path / "out", half)
    none = {k: v for k, v in half.items() if k != "AWS_ACCESS_KEY_ID"}
    with pytest.raises(UnauthorizedError, match=r"not signed.*AWS_ACCESS_KEY_ID, profile default"):
        get(URL, tmp_path / "out", none)
    # rclone and Swift, which gives no code.
    for code in ("UnsupportedAlgorithm", ""):
        store.refuse(400, code, times=20)
        with pytest.raises(PgetError, match="was not signed, because no keys were found"):
            get(URL, tmp_path / "out", none)
        store.forgive()
    with pytest.raises(BadSettingError, match="requests must be signed"):
        get(URL, tmp_path / "out", {**none, "PGET_S3_SIGN": "always"})


def test_a_public_object_is_fetched_without_keys(store: ObjectStore, tmp_path: Path) -> None:
    store.public = True
    get(URL, tmp_path / "out", {"AWS_ENDPOINT_URL": store.url})
    get(URL, tmp_path / "out2", {**store.environ, "PGET_S3_SIGN": "never"})
    assert not any("authorization" in each.headers for each in store.requests)


def test_keys_are_taken_from_a_profile(store: ObjectStore, tmp_path: Path) -> None:
    folder = tmp_path / "home/.aws"
    folder.mkdir(parents=True)
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    (folder / "credentials").write_text(f"[mine]\n{keys}")
    (folder / "config").write_text(f"[profile mine]\nendpoint_url = {store.url}\nregion = x-y-1\n")
    store.region = "x-y-1"
    get(URL, tmp_path / "out", {"AWS_PROFILE": "mine"})
    assert (tmp_path / "out").read_bytes() == BODY
    with pytest.raises(BadSettingError, match=r"AWS_PROFILE.*neither"):
        get(URL, tmp_path / "out2", {"AWS_PROFILE": "other"})


@pytest.mark.parametrize(
    ("code", "status", "kind", "said"),
    [
        ("InvalidAccessKeyId", 403, UnauthorizedError, f"does not know the key {ACCESS_KEY}"),
        ("SignatureDoesNotMatch", 403, UnauthorizedError, f"belongs to {ACCESS_KEY}"),
        ("NoSuchBucket", 404, NotFoundError, "no bucket bucket"),
        ("NoSuchKey", 404, NotFoundError, "no such key"),
        ("AccessDenied", 403, UnauthorizedError, "missing: a store hides which"),
        ("InvalidObjectState", 403, UnauthorizedError, "archived"),
        ("ExpiredToken", 400, PgetError, "has expired"),
        ("AuthorizationHeaderMalformed", 400, PgetError, "check AWS_REGION"),
    ],
)
def test_errors_say_what_to_do(
    store: ObjectStore, tmp_path: Path, code: str, status: int, kind: type[PgetError], said: str
) -> None:
    store.refuse(status, code, times=20, StringToSign=SECRET_KEY)
    with pytest.raises(kind, match=said) as found:
        get(URL, tmp_path / "out", store.environ)
    text = f"{found.value} {found.value!r} {found.value.hint}"
    assert code in text
    assert SECRET_KEY not in text


def test_an_object_that_needs_its_owners_key_says_so(store: ObjectStore, tmp_path: Path) -> None:
    message = "The object was stored using a form of Server Side Encryption."
    store.refuse(400, "InvalidRequest", times=20, Message=message)
    with pytest.raises(PgetError, match="SSE-C"):
        get(URL, tmp_path / "out", store.environ)


def test_slow_down_is_waited_for(store: ObjectStore, tmp_path: Path) -> None:
    store.refuse(503, "SlowDown", times=2)
    get(URL, tmp_path / "out", store.environ)
    assert (tmp_path / "out").read_bytes() == BODY


@pytest.mark.parametrize("off", [1200.0, -3600.0])
def test_a_wrong_clock_is_made_up_for(store: ObjectStore, tmp_path: Path, off: float) -> None:
    store.clock = off
    get(URL, tmp_path / "out", store.environ)
    assert (tmp_path / "out").read_bytes() == BODY
    dates = {each.headers["x-amz-date"] for each in store.requests}
    assert len(dates) > 1


@pytest.mark.parametrize(
    ("endpoint", "bucket", "first", "then"),
    [
        ("s3.us-east-1", "bucket", "s3.us-east-1", "s3.eu-west-1"),
        ("s3.us-east-1", "bucket-s3", "s3.us-east-1", "s3.eu-west-1"),
        ("s3-us-west-2", "bucket", "s3-us-west-2", "s3.eu-west-1"),
        ("s3.dualstack.us-west-2", "bucket", "s3.dualstack.us-west-2", "s3.dualstack.eu-west-1"),
        # One host for all regions: only the signature changes.
        ("s3-accelerate", "bucket", "s3-accelerate", "s3-accelerate"),
    ],
)
def test_the_bucket_may_be_in_another_region(
    store: ObjectStore, tmp_path: Path, endpoint: str, bucket: str, first: str, then: str
) -> None:
    """Amazon's hosts are played by a proxy, which plain HTTP goes through."""
    store.region = "eu-west-1"
    store.put(bucket, KEY, BODY)
    url = f"s3://{bucket}/{KEY}"
    environ = {
        k: v for k, v in store.environ.items() if k not in ("AWS_ENDPOINT_URL", "AWS_REGION")
    }
    environ["AWS_ENDPOINT_URL"] = f"http://{endpoint}.amazonaws.com"
    get(url, tmp_path / "out", environ, proxies=Proxies(http=store.url), chunk_size=1_000_000)
    hosts = [each.host for each in store.requests]
    assert hosts[0] == f"{bucket}.{first}.amazonaws.com"
    assert set(hosts[1:]) == {f"{bucket}.{then}.amazonaws.com"}
    assert (tmp_path / "out").read_bytes() == BODY
    store.requests.clear()
    get(url, tmp_path / "out2", environ, proxies=Proxies(http=store.url))
    assert {each.host for each in store.requests} == {f"{bucket}.{then}.amazonaws.com"}


def test_a_public_bucket_may_be_in_another_region(store: ObjectStore, tmp_path: Path) -> None:
    store.public = True
    store.refuse(301, "PermanentRedirect", Region="eu-west-1")
    environ = {"AWS_ENDPOINT_URL": "http://s3.us-east-1.amazonaws.com"}
    get(URL, tmp_path / "out", environ, proxies=Proxies(http=store.url))
    assert (tmp_path / "out").read_bytes() == BODY
    assert store.requests[-1].host == "bucket.s3.eu-west-1.amazonaws.com"


def test_a_region_is_believed_of_amazon_alone(store: ObjectStore, tmp_path: Path) -> None:
    store.region = "eu-west-1"
    with pytest.raises(PgetError, match="check AWS_REGION"):
        get(URL, tmp_path / "out", store.environ)


def test_a_cdn_in_front_gets_no_signature(store: ObjectStore, tmp_path: Path) -> None:
    store.public = True
    environ = {**store.environ, "PGET_S3_PUBLIC_URL": f"{store.url}/{{bucket}}"}
    get(URL, tmp_path / "out", environ)
    get(f"{URL}?versionId=old", tmp_path / "old", environ)
    assert store.requests[-1].query == {"versionId": "old"}
    store.refuse(403, "AccessDenied", times=20)
    with pytest.raises(PgetError, match="never signed") as found:
        get(URL, tmp_path / "none", environ)
    assert ACCESS_KEY not in str(found.value)
    assert not any("authorization" in each.headers for each in store.requests)


def test_a_stranger_gets_nothing_that_is_signed(store: ObjectStore, tmp_path: Path) -> None:
    policy = Policy(schemes=("http",), allow_networks=("127.0.0.1/32",))
    with pytest.raises(UnauthorizedError):
        get(URL, tmp_path / "out", store.environ, policy)
    assert not any("authorization" in each.headers for each in store.requests)
    with pytest.raises(NotAllowedError):
        get(URL, tmp_path / "out", store.environ, Policy(deny_hosts=("127.0.0.1",)))


def test_a_folder_is_one_entry(store: ObjectStore, tmp_path: Path) -> None:
    store.page = 2
    members = {f"f/{name}": name.encode() for name in ("a", "b", "c/d", "e%20 f")}
    for key, data in members.items():
        store.put("bucket", key, data)
    store.put("bucket", "f/", b"")
    store.put("bucket", "g/other", b"x")
    cache = opened(tmp_path / "cache", sources=SourceSettings(environ=store.environ))
    path = cache.ensure("s3://bucket/f/")
    assert contents(path) == {key.removeprefix("f/"): data for key, data in members.items()}
    chosen = cache.ensure("s3://bucket/f/*d")
    assert contents(chosen) == {"c/d": b"c/d"}


@pytest.mark.parametrize("name", ["../up", "a/../../b", "/abs", "a\nb/../..//c"])
def test_names_that_lead_elsewhere_are_refused(
    store: ObjectStore, tmp_path: Path, name: str
) -> None:
    store.put("bucket", f"f/{name}", b"x")
    cache = opened(tmp_path / "cache", sources=SourceSettings(environ=store.environ))
    with pytest.raises(PgetError):
        cache.ensure("s3://bucket/f/")
    assert not (tmp_path / "up").exists()


def test_other_stores_have_their_own_variables(store: ObjectStore, tmp_path: Path) -> None:
    b2 = {"PGET_B2_ENDPOINT": store.url, "B2_KEY_ID": ACCESS_KEY, "B2_SECRET_KEY": SECRET_KEY,
          "B2_BUCKET": "bucket"}  # fmt: skip
    get(f"b2:///{KEY}", tmp_path / "b2", b2)
    gs = {"STORAGE_EMULATOR_HOST": store.url, "GS_ACCESS_KEY_ID": ACCESS_KEY,
          "GS_SECRET_ACCESS_KEY": SECRET_KEY}  # fmt: skip
    get(f"gs://bucket/{KEY}", tmp_path / "gs", gs)
    assert (tmp_path / "b2").read_bytes() == (tmp_path / "gs").read_bytes() == BODY
    for url, environ, said in (
        ("b2://bucket/x", {"PGET_B2_ENDPOINT": store.url}, "set B2_KEY_ID and B2_SECRET_KEY"),
        ("gs://bucket/x", {"STORAGE_EMULATOR_HOST": store.url}, "GS_SECRET_ACCESS_KEY, or GOOGLE"),
        ("s3://bucket/x", {**store.environ, "PGET_S3_SIGN": "never"}, "PGET_S3_SIGN is never"),
    ):
        with pytest.raises(UnauthorizedError, match=said):
            get(url, tmp_path / "none", environ)
    with pytest.raises(BadSettingError, match="B2_REGION"):
        get(f"b2://bucket/{KEY}", tmp_path / "none", {})


def test_google_names_versions_by_generation(store: ObjectStore, tmp_path: Path) -> None:
    environ = {"STORAGE_EMULATOR_HOST": store.url, "GS_ACCESS_KEY_ID": ACCESS_KEY,
               "GS_SECRET_ACCESS_KEY": SECRET_KEY}  # fmt: skip
    get(f"gs://bucket/{KEY}?generation=1795980383709557", tmp_path / "out", environ)
    assert store.requests[-1].query == {"generation": "1795980383709557"}
    with pytest.raises(NotFoundError, match=r"not in this version; leave \?generation= out"):
        get("gs://bucket/absent?generation=1", tmp_path / "none", environ)


def test_a_folder_at_google_is_signed_by_hmac_keys(store: ObjectStore, tmp_path: Path) -> None:
    store.page = 2
    files = {f"f/{name}": name.encode() for name in ("a", "b c+%20é", "d/e#?", "x.json")}
    for key, data in files.items():
        store.put("bucket", key, data)
    environ = {"STORAGE_EMULATOR_HOST": store.url, "GS_ACCESS_KEY_ID": ACCESS_KEY,
               "GS_SECRET_ACCESS_KEY": SECRET_KEY}  # fmt: skip
    get("gs://bucket/f/", tmp_path / "out", environ)
    assert contents(tmp_path / "out") == {key[2:]: data for key, data in files.items()}
    get("gs://bucket/f/*.json", tmp_path / "json", environ)
    assert contents(tmp_path / "json") == {"x.json": b"x.json"}


def test_google_takes_a_token(store: ObjectStore, tmp_path: Path) -> None:
    store.bearer = TOKEN
    environ = {"STORAGE_EMULATOR_HOST": store.url, "GOOGLE_OAUTH_ACCESS_TOKEN": TOKEN}
    result = get(f"gs://bucket/{KEY}", tmp_path / "out", environ, chunk_size=900_000)
    assert (tmp_path / "out").read_bytes() == BODY
    assert TOKEN not in repr(result)
    assert any("if-match" in each.headers for each in store.requests)
    get("gs://bucket/models/", tmp_path / "folder", environ)
    assert contents(tmp_path / "folder") == {"model.bin": BODY}
    settings = impatient(sources=SourceSettings(environ=environ))
    pgetpy.upload(tmp_path / "out", "gs://bucket/copy", settings=settings)
    assert store.objects["bucket"]["copy"].body == BODY
    store.bearer = "another-token"
    with pytest.raises(UnauthorizedError, match=r"GOOGLE_OAUTH_ACCESS_TOKEN.*has expired") as found:
        get(f"gs://bucket/{KEY}", tmp_path / "out2", environ)
    assert TOKEN not in f"{found.value} {found.value!r}"


def test_a_temporary_key_is_sent_with_its_token(store: ObjectStore, tmp_path: Path) -> None:
    store.tokens[ACCESS_KEY] = "token-of-the-tests"
    get(URL, tmp_path / "out", {**store.environ, "AWS_SESSION_TOKEN": "token-of-the-tests"})
    assert store.requests[0].headers["x-amz-security-token"] == "token-of-the-tests"


def test_expired_keys_are_renewed_in_mid_transfer(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """botocore hands out keys; the token of the first ones expires after a few requests."""
    given = []

    class Keys:
        method = "test"

        def get_frozen_credentials(self) -> object:
            given.append(time.monotonic())
            token = f"token-{len(given)}"
            store.tokens[ACCESS_KEY] = token

            class Frozen:
                access_key, secret_key = ACCESS_KEY, SECRET_KEY

            Frozen.token = token  # type: ignore[attr-defined]
            return Frozen

    class Session:
        def get_credentials(self) -> Keys:
            return Keys()

    monkeypatch.setattr("pgetpy.sources.object_keys._botocore_session", lambda *_, **__: Session())
    environ = {"AWS_ENDPOINT_URL": store.url, "AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}

    store.before[3] = lambda: store.tokens.update({ACCESS_KEY: "another"})
    result = get(URL, tmp_path / "out", environ, chunk_size=300_000)
    assert (tmp_path / "out").read_bytes() == BODY
    assert result.size == len(BODY)
    assert len(given) == 2


# ------------------------------------------------------------------ folders, to a directory


def fill(store: ObjectStore, count: int = 5) -> dict[str, bytes]:
    files = {f"{number}/part.bin": body(1000 + number, seed=number) for number in range(count)}
    for name, data in files.items():
        store.put("bucket", f"f/{name}", data)
    return files


def test_a_folder_is_fetched_into_a_directory(store: ObjectStore, tmp_path: Path) -> None:
    files = fill(store)
    store.page = 2
    result = get("s3://bucket/f/", tmp_path / "out", store.environ)
    assert contents(tmp_path / "out") == files
    assert result.size == sum(map(len, files.values()))
    assert sorted(result.members) == sorted(files)
    assert (result.validator, result.url) == ("strong", "s3://bucket/f/")


def test_folders_may_be_lines_of_a_manifest(store: ObjectStore, tmp_path: Path) -> None:
    files = fill(store)
    settings = impatient(sources=SourceSettings(environ=store.environ))
    jobs = [("s3://bucket/f/", tmp_path / "a"), (URL, tmp_path / "b")]
    results = pgetpy.download_many(jobs, settings=settings)
    assert len(results) == len(files) + 1
    assert contents(tmp_path / "a") == files
    assert (tmp_path / "b").read_bytes() == BODY


def test_a_folder_that_was_interrupted_goes_on(store: ObjectStore, tmp_path: Path) -> None:
    files = fill(store)
    # The listing is the first request; the third file is refused for good.
    store.before[3] = lambda: store.refuse(403, "AccessDenied", times=50)
    with pytest.raises(UnauthorizedError):
        get("s3://bucket/f/", tmp_path / "out", store.environ, max_concurrent_files=1)
    store.forgive()
    asked = len(store.requests)
    get("s3://bucket/f/", tmp_path / "out", store.environ)
    again = [each.path for each in store.requests[asked:] if each.path.startswith("/bucket/f/")]
    assert contents(tmp_path / "out") == files
    assert len(again) == len(files) - 2


def test_names_of_a_folder_stay_below_the_directory(store: ObjectStore, tmp_path: Path) -> None:
    store.put("bucket", "f/../../up", b"x")
    store.put("bucket", "f/fine", b"x")
    with pytest.raises(PgetError, match="up"):
        get("s3://bucket/f/", tmp_path / "a/out", store.environ)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "up").exists()


def test_a_folder_needs_a_directory(store: ObjectStore, tmp_path: Path) -> None:
    fill(store)
    with pytest.raises(PgetError, match="give a directory"):
        get("s3://bucket/f/", Path("-"), store.environ)
    with pytest.raises(PgetError, match="nothing is there"):
        get("s3://bucket/none/", tmp_path / "out", store.environ)


# ---------------------------------------------------------------------- pgetpy.S3, in Python


def by_argument(store: ObjectStore, **more: str) -> pgetpy.S3:
    return pgetpy.S3(
        endpoint_url=store.url, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY, **more
    )


def test_everything_takes_the_store_as_an_argument(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of another account: never mixed with what is given.
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    s3 = by_argument(store, region="eu-west-1")
    store.put("bucket", "m.safetensors", weights(1000))
    pgetpy.download(URL, tmp_path / "out", s3=s3)
    pgetpy.download_many([(URL, tmp_path / "many")], s3=s3, fail_fast=True)
    store.put("bucket", "m.tar", file(b"a", b"content") + bytes(1024))
    pgetpy.extract("s3://bucket/m.tar", tmp_path / "folder", s3=s3)
    pgetpy.upload(tmp_path / "out", "s3://bucket/up", s3=s3)
    cache = pgetpy.WeightsDownloadCache(tmp_path / "cache", min_disk_free=0, s3=s3)
    assert cache.ensure("s3://bucket/m.safetensors").read_bytes() == weights(1000)
    assert pgetpy.tensors.load("s3://bucket/m.safetensors", cache=cache, framework="numpy")
    assert contents(tmp_path / "folder") == {"a": b"content"}
    assert store.objects["bucket"]["up"].body == BODY
    assert all("/eu-west-1/" in each.headers["authorization"] for each in store.requests)


def test_what_an_argument_leaves_out_comes_from_the_environment(
    store: ObjectStore, tmp_path: Path
) -> None:
    settings = impatient(sources=SourceSettings(environ=store.environ))
    pgetpy.download(URL, tmp_path / "out", settings=settings, s3=pgetpy.S3(region="x-y-1"))
    assert "/x-y-1/" in store.requests[0].headers["authorization"]
    store.public = True
    pgetpy.download(URL, tmp_path / "out2", settings=settings, s3=pgetpy.S3(sign="never"))
    assert "authorization" not in store.requests[-1].headers


def test_a_profile_that_is_asked_for_goes_before_the_environments_keys(
    store: ObjectStore, tmp_path: Path
) -> None:
    folder = tmp_path / "home/.aws"
    folder.mkdir(parents=True)
    store.keys["OTHERKEY"] = "other secret"
    keys = "aws_access_key_id = OTHERKEY\naws_secret_access_key = other secret\n"
    (folder / "credentials").write_text(f"[mine]\n{keys}")
    settings = impatient(sources=SourceSettings(environ=store.environ))
    pgetpy.download(URL, tmp_path / "out", settings=settings, s3=pgetpy.S3(profile="mine"))
    assert "OTHERKEY" in store.requests[0].headers["authorization"]


def test_arguments_are_checked_and_show_no_secret(store: ObjectStore, tmp_path: Path) -> None:
    assert SECRET_KEY not in f"{by_argument(store)!r} {by_argument(store)}"
    with pytest.raises(BadSettingError, match="secret_access_key"):
        pgetpy.S3(access_key_id="A")
    with pytest.raises(BadSettingError, match="addressing"):
        pgetpy.S3(addressing="sideways")
    with pytest.raises(BadSettingError, match="endpoint_url"):
        pgetpy.S3(endpoint_url="store.test")
    wrong = pgetpy.S3(endpoint_url=store.url, access_key_id="AKIDWRONG", secret_access_key="s")
    with pytest.raises(UnauthorizedError, match=r"AKIDWRONG \(from pgetpy\.S3\)"):
        pgetpy.download(URL, tmp_path / "out", s3=wrong)
    policy = Policy(schemes=("http",), allow_networks=("127.0.0.1/32",))
    with pytest.raises(UnauthorizedError):
        pgetpy.download(
            URL, tmp_path / "out", settings=impatient(policy=policy), s3=by_argument(store)
        )
    assert "authorization" not in store.requests[-1].headers
