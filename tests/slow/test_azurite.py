"""az:// against Azurite, Microsoft's own emulator: `make soak` installs it where there is npm."""

from __future__ import annotations

import base64
import hashlib
import http.client
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from pgetpy.core.objects.azure_account import parse_connection_string
from pgetpy.core.objects.shared_key import authorization, read_key
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import DigestMismatchError, NotFoundError, PgetError, UnauthorizedError
from pgetpy.settings import SourceSettings
from tests.support.bodies import body
from tests.support.fetching import contents, fetch
from tests.support.judges import free_port, require_judge
from tests.support.waiting import eventually

BODY = body(20_000_000)
EMULATOR = parse_connection_string("UseDevelopmentStorage=true")
# A page of Azure's listings has at most so many blobs.
PAGE = 5000
pytestmark = [pytest.mark.judge("azurite-blob"), pytest.mark.timeout(300)]


class Azurite:
    """The running emulator, and the requests that fill it."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}/{EMULATOR.name}"
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    @property
    def anonymous(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT": EMULATOR.name, "AZURE_STORAGE_ENDPOINT": self.endpoint}

    @property
    def environ(self) -> dict[str, str]:
        return {**self.anonymous, "AZURE_STORAGE_KEY": EMULATOR.key}

    def ask(self, method: str, path: str, data: bytes = b"", **headers: str) -> dict[str, str]:
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        sent = {"x-ms-version": "2021-12-02", "x-ms-date": date}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent |= {"Content-Length": str(len(data))} if data else {}
        parts = urlsplit(f"{self.endpoint}/{path}")
        sent["Authorization"] = authorization(
            method, parts.path, parts.query, sent.items(),
            account=EMULATOR.name, key=read_key(EMULATOR.key),
        )  # fmt: skip
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        try:
            self._connection.request(method, target, data or None, sent)
            answer = self._connection.getresponse()
        except ConnectionError:
            # It closes idle connections; http.client opens another.
            self._connection.close()
            self._connection.request(method, target, data or None, sent)
            answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return {name.lower(): value for name, value in answer.getheaders()}

    def close(self) -> None:
        self._connection.close()

    def put(self, container: str, blob: str, data: bytes) -> None:
        self.ask("PUT", f"{container}/{quote(blob)}", data, x_ms_blob_type="BlockBlob")


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    port = free_port()
    log = tmp_path_factory.mktemp("azurite") / "log"
    command = [require_judge("azurite-blob"), "--blobHost", "127.0.0.1", "--blobPort", str(port),
               "--inMemoryPersistence", "--silent", "--disableTelemetry",
               "--skipApiVersionCheck"]  # fmt: skip
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written, cwd=log.parent)
    try:
        eventually(lambda: b"successfully listens" in log.read_bytes(), what="Azurite's start")
        with closing(Azurite(port)) as found:
            found.ask("PUT", "models?restype=container")
            found.ask("PUT", "public?restype=container", x_ms_blob_public_access="container")
            found.put("models", "dir/model.bin", BODY)
            yield found
    finally:
        process.terminate()
        process.wait(30)


def get(url: str, dest: Path, environ: dict[str, str], **options: object) -> DownloadResult:
    return fetch(url, dest, sources=SourceSettings(environ=environ), **options)


@pytest.mark.parametrize("name", ["plain", "a b+c%20é#y&z=1.txt", "a//b", "a;b,c:d@e!$'()"])
def test_signed_names_are_accepted(azurite: Azurite, tmp_path: Path, name: str) -> None:
    azurite.put("models", name, b"content")
    get(f"az://models/{name}", tmp_path / "out", azurite.environ)
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_folder_may_have_odd_names(azurite: Azurite, tmp_path: Path) -> None:
    names = (
        "a b+c%20é#y&z=1.txt",
        "a;b,c:d@e!$'()",
        "d/日本 😀/x",
        "<\"&'>",
        "q?x=1",
    )
    for name in names:
        azurite.put("models", f"odd/{name}", name.encode())
    get("az://models/odd/", tmp_path / "out", azurite.environ)
    assert contents(tmp_path / "out") == {name: name.encode() for name in names}
    get("az://models/odd/d/*x", tmp_path / "some", azurite.environ)
    assert list(contents(tmp_path / "some")) == ["日本 😀/x"]


def test_ranges_are_signed_and_tied(azurite: Azurite, tmp_path: Path) -> None:
    result = get("az://models/dir/model.bin", tmp_path / "out", azurite.environ, chunk_size=2 << 20)
    assert (tmp_path / "out").read_bytes() == BODY
    assert result.validator == "strong"
    assert result.requests > 5
    md5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    assert result.store_checksum == f"md5:{md5}"


def test_a_blob_that_is_replaced_meanwhile_is_of_one_version(
    azurite: Azurite, tmp_path: Path
) -> None:
    """Azurite answers 412 to If-Match from the moment of the replacement on."""
    azurite.put("models", "changing", BODY)
    other = body(len(BODY), seed=5)
    replaced = []

    def replace_once(_: object) -> None:
        if not replaced:
            replaced.append(True)
            azurite.put("models", "changing", other)

    get("az://models/changing", tmp_path / "out", azurite.environ, chunk_size=1 << 20,
        concurrency=1, progress=replace_once)  # fmt: skip
    assert (tmp_path / "out").read_bytes() in (BODY, other)


def test_a_sas_opens_blobs_and_listings(azurite: Azurite, tmp_path: Path) -> None:
    sas = pytest.importorskip("azure.storage.blob").generate_account_sas
    import datetime

    now = datetime.datetime.now(datetime.timezone.utc)
    hour = datetime.timedelta(hours=1)

    def made(expiry: datetime.datetime) -> dict[str, str]:
        text = sas(EMULATOR.name, EMULATOR.key, "co", "rl", expiry, protocol="https,http")
        return {**azurite.anonymous, "AZURE_STORAGE_SAS_TOKEN": text}

    result = get("az://models/dir/model.bin", tmp_path / "out", made(now + hour))
    assert (tmp_path / "out").read_bytes() == BODY
    assert "sig=***" in result.final_url
    get("az://models/dir/", tmp_path / "folder", made(now + hour))
    with pytest.raises(UnauthorizedError, match="expired at"):
        get("az://models/dir/model.bin", tmp_path / "old", made(now - hour))


def test_a_snapshot_is_what_it_was(azurite: Azurite, tmp_path: Path) -> None:
    azurite.put("models", "kept", b"old")
    at = azurite.ask("PUT", "models/kept?comp=snapshot")["x-ms-snapshot"]
    azurite.put("models", "kept", b"new")
    get(f"az://models/kept?snapshot={at}", tmp_path / "out", azurite.environ)
    assert (tmp_path / "out").read_bytes() == b"old"


def test_listings_go_on_after_a_page(azurite: Azurite, tmp_path: Path) -> None:
    for number in range(PAGE + 50):
        azurite.put("models", f"many/{number:05}", b"%d" % number)
    get("az://models/many/*9", tmp_path / "out", azurite.environ)
    found = contents(tmp_path / "out")
    assert found == {f"{n:05}": b"%d" % n for n in range(9, PAGE + 50, 10)}


def test_a_blob_that_is_not_what_its_md5_says_is_refused(azurite: Azurite, tmp_path: Path) -> None:
    azurite.put("models", "damaged", BODY)
    wrong = base64.b64encode(bytes(16)).decode()
    azurite.ask("PUT", "models/damaged?comp=properties", x_ms_blob_content_md5=wrong)
    with pytest.raises(DigestMismatchError, match="md5:0000"):
        get("az://models/damaged", tmp_path / "out", azurite.environ)
    assert not (tmp_path / "out").exists()


def test_public_containers_need_no_credentials(azurite: Azurite, tmp_path: Path) -> None:
    azurite.put("public", "open", b"to all")
    get("az://public/open", tmp_path / "out", azurite.anonymous)
    assert (tmp_path / "out").read_bytes() == b"to all"
    with pytest.raises(PgetError, match="anonymous"):
        get("az://models/dir/model.bin", tmp_path / "private", azurite.anonymous)


def test_refusals_are_explained(azurite: Azurite, tmp_path: Path) -> None:
    environ = azurite.environ
    for url, said in (("az://absent/x", "no container absent"), ("az://models/x", "no such blob")):
        with pytest.raises(NotFoundError, match=said):
            get(url, tmp_path / "out", environ)
    wrong = {**environ, "AZURE_STORAGE_KEY": "d3Jvbmc="}
    with pytest.raises(UnauthorizedError, match="is wrong"):
        get("az://models/dir/model.bin", tmp_path / "out", wrong)
    azurite.put("models", "cold", b"x")
    azurite.ask("PUT", "models/cold?comp=tier", x_ms_access_tier="Archive")
    with pytest.raises(PgetError, match="rehydrate it first"):
        get("az://models/cold", tmp_path / "out", environ)
