"""Keys that a service hands out, by the real botocore: IMDSv2, ECS, STS, on loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import PgetError, UnauthorizedError
from pgetpy.settings import Proxies, SourceSettings
from pgetpy.sources.object_bucket import bucket_of
from tests.support.bodies import body
from tests.support.fetching import fetch
from tests.support.key_services import KeyServices
from tests.support.object_store import ObjectStore

BODY = body(3_000_000)
URL = "s3://bucket/model.bin"
ROLE_ARN = "arn:aws:iam::123456789012:role/reader"
AMAZON = "http://s3.us-east-1.amazonaws.com"
Setup = Callable[[], dict[str, str]]


@pytest.fixture
def store() -> Iterator[ObjectStore]:
    bucket_of.cache_clear()
    with ObjectStore() as store:
        store.put("bucket", "model.bin", BODY)
        yield store
    assert store.violations == []
    bucket_of.cache_clear()


@pytest.fixture
def services(store: ObjectStore) -> Iterator[KeyServices]:
    """They give out keys of which the store accepts the latest alone."""

    def granted(key: str, secret: str, token: str) -> None:
        store.keys.clear()
        store.tokens.clear()
        store.keys[key], store.tokens[key] = secret, token

    with KeyServices(granted) as services:
        yield services


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without profiles, and an environment without AWS's variables: botocore reads both."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def ways(services: KeyServices, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Setup]:
    """What sets up each way to keys, and returns the variables of it."""

    def web_identity() -> dict[str, str]:
        (home / "token").write_text("jwt-of-the-pod")
        return {
            "AWS_WEB_IDENTITY_TOKEN_FILE": str(home / "token"),
            "AWS_ROLE_ARN": ROLE_ARN,
            "AWS_ENDPOINT_URL_STS": services.url,
        }

    def assume_role() -> dict[str, str]:
        (home / ".aws/credentials").write_text(
            "[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = base-secret\n"
        )
        (home / ".aws/config").write_text(
            f"[profile reader]\nrole_arn = {ROLE_ARN}\nsource_profile = base\n"
        )
        return {"AWS_PROFILE": "reader", "AWS_ENDPOINT_URL_STS": services.url}

    def container() -> dict[str, str]:
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{services.url}/container"}

    def instance() -> dict[str, str]:
        return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": services.url}

    return {each.__name__: each for each in (web_identity, assume_role, container, instance)}


WAYS = ["web_identity", "assume_role", "container", "instance"]


def get(
    store: ObjectStore,
    dest: Path,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str = AMAZON,
    **options: object,
) -> DownloadResult:
    """Fetch from the store, which is asked as Amazon's by a proxy, or by its own endpoint."""
    environ = {**environ, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_REGION": "us-east-1"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    proxies = Proxies(http=store.url if endpoint == AMAZON else None)
    sources = SourceSettings(environ=environ)
    return fetch(URL, dest, sources=sources, proxies=proxies, **options)


@pytest.mark.parametrize("way", WAYS)
def test_keys_of_a_service_sign_requests(
    store: ObjectStore,
    services: KeyServices,
    ways: dict[str, Setup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    get(store, tmp_path / "out", ways[way](), monkeypatch)
    assert (tmp_path / "out").read_bytes() == BODY
    assert services.grants == 1
    assert {each.headers["x-amz-security-token"] for each in store.requests} == {"token-1+y=="}


@pytest.mark.parametrize("way", WAYS)
def test_keys_that_expire_in_mid_transfer_are_renewed_and_no_byte_is_sent_twice(
    store: ObjectStore,
    services: KeyServices,
    ways: dict[str, Setup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    # botocore renews keys that have less than ten minutes left.
    services.lifetime = 60.0
    store.before[4] = lambda: store.tokens.update(dict.fromkeys(store.tokens, "none any more"))
    environ = ways[way]()
    result = get(store, tmp_path / "out", environ, monkeypatch, chunk_size=300_000, concurrency=1)
    assert (tmp_path / "out").read_bytes() == BODY
    assert services.grants >= 2
    latest = store.tokens[next(iter(store.tokens))]
    # A HEAD, for the store's checksum, has no range.
    ranges = [
        each.headers["range"]
        for each in store.requests
        if "range" in each.headers and each.headers["x-amz-security-token"] == latest
    ]
    # The refused range is asked for again, and nothing before it.
    assert ranges
    assert not [each for each in ranges if each.startswith("bytes=0-")]
    assert result.size == len(BODY)


def test_the_keys_of_an_instance_never_reach_another_store(
    store: ObjectStore,
    services: KeyServices,
    ways: dict[str, Setup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = ways["instance"]()
    with pytest.raises(UnauthorizedError, match="not signed"):
        get(store, tmp_path / "out", environ, monkeypatch, endpoint=store.url)
    assert services.asked == []
    assert not any("authorization" in each.headers for each in store.requests)


def test_another_store_may_have_keys_that_are_meant_for_it(
    store: ObjectStore,
    services: KeyServices,
    ways: dict[str, Setup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MinIO and Ceph have an STS of their own."""
    get(store, tmp_path / "out", ways["web_identity"](), monkeypatch, endpoint=store.url)
    assert (tmp_path / "out").read_bytes() == BODY


@pytest.mark.parametrize("way", WAYS)
def test_without_the_extra_the_error_names_it(
    store: ObjectStore,
    services: KeyServices,
    ways: dict[str, Setup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    environ = ways[way]()
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(UnauthorizedError, match=r"install pgetpy\[s3\]"):
        get(store, tmp_path / "out", environ, monkeypatch)
    assert services.asked == []


@pytest.mark.parametrize("way", ["web_identity", "assume_role", "container"])
def test_a_service_that_refuses_is_one_clear_error(
    store: ObjectStore,
    services: KeyServices,
    ways: dict[str, Setup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    services.refuses = True
    environ = ways[way]()
    with pytest.raises(PgetError, match="no keys") as found:
        get(store, tmp_path / "out", environ, monkeypatch)
    text = f"{found.value!r} {found.value}"
    assert "jwt-of-the-pod" not in text
    assert "base-secret" not in text


def test_a_service_that_refuses_to_renew_is_one_clear_error(
    store: ObjectStore,
    services: KeyServices,
    ways: dict[str, Setup],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services.lifetime = 60.0

    def expire() -> None:
        store.tokens.update(dict.fromkeys(store.tokens, "none any more"))
        services.refuses = True

    store.before[4] = expire
    environ = ways["web_identity"]()
    with pytest.raises(PgetError) as found:
        get(store, tmp_path / "out", environ, monkeypatch, chunk_size=300_000, concurrency=1)
    text = f"{found.value!r} {found.value}"
    assert not [secret for secret in services.secrets if secret in text]
