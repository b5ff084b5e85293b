"""nginx and Apache httpd, plain and over TLS, as judges that were not written here."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pgetpy
from pgetpy.core.report.events import Event, Progressed, StartedOver
from pgetpy.errors import ConnectionFailedError, HttpStatusError
from tests.support import judges
from tests.support.authority import Authority
from tests.support.bodies import body, digest
from tests.support.children import MIB, PAGE, journal_of, landed, part_of, result_of
from tests.support.fetching import Events, fetch, impatient, names_in
from tests.support.judges import Judge
from tests.support.processes import Run, environment, run

BODY = body(9_000_001)
SLOW = body(4_000_001)
TEXT = b"".join(b"%d is a number\n" % number for number in range(200_000))
CHUNK = 700_000

# Of a file that has just been written Apache gives a weak ETag: it may change within the second.
LONG_AGO = 1_700_000_000

NGINX = pytest.mark.judge("nginx")
APACHE = pytest.mark.judge("apache")


@pytest.fixture(
    params=[
        pytest.param("nginx", marks=NGINX),
        pytest.param("tls_nginx", marks=NGINX),
        pytest.param("apache", marks=APACHE),
        pytest.param("tls_apache", marks=APACHE),
    ]
)
def judge(request: pytest.FixtureRequest) -> Judge:
    found: Judge = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def options(ca: Authority) -> dict[str, Any]:
    """What a call needs to trust the judges."""
    return {"cacert": str(ca.pem)}


def put(judge: Judge, name: str, data: bytes, at: int = LONG_AGO) -> str:
    """Publish `data` as if it had been written at time `at`; returns its URL."""
    path = judge.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.chmod(0o644)
    os.utime(fresh, (at, at))
    fresh.replace(path)
    return judge.url(name)


# ------------------------------------------------------------------- objects as they are


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("size", [0, 1, MIB, len(BODY)])
def test_a_file_of_any_size(
    judge: Judge, size: int, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = put(judge, f"size-{size}", BODY[:size])
    result = fetch(url, tmp_path / "got", **options)
    assert (tmp_path / "got").read_bytes() == BODY[:size]
    assert names_in(tmp_path) == ["got"]
    assert result.size == size
    assert result.retries == 0
    assert result.length_known
    if size:
        assert result.validator == "strong"


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("chunk_size", [250_000, CHUNK])
def test_a_file_in_many_ranges(
    judge: Judge, chunk_size: int, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = put(judge, "model", BODY)
    checksum = f"sha256:{digest(BODY)}"
    result = fetch(url, tmp_path / "got", chunk_size=chunk_size, checksum=checksum, **options)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.digest == checksum
    assert result.retries == 0


@pytest.mark.parametrize("concurrency", [1, 16])
def test_as_many_connections_as_are_allowed(
    judge: Judge, concurrency: int, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = put(judge, "model", BODY)
    events = Events()
    result = fetch(
        url, tmp_path / "got", concurrency=concurrency, chunk_size=CHUNK, progress=events, **options
    )
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.connections <= concurrency
    assert all(event.connections <= concurrency for event in events.of(Progressed))
    events.assert_monotonic()


def test_many_small_files(judge: Judge, tmp_path: Path, options: dict[str, Any]) -> None:
    files = [
        (put(judge, f"many/{number}", BODY[number : number + 5000]), tmp_path / str(number))
        for number in range(120)
    ]
    found = pgetpy.download_many(files, settings=impatient(**options))
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    for number, (_, dest) in enumerate(files):
        assert dest.read_bytes() == BODY[number : number + 5000]
    assert len(names_in(tmp_path)) == 120


def test_names_that_need_escaping(judge: Judge, tmp_path: Path, options: dict[str, Any]) -> None:
    put(judge, "a b+c %ü#.bin", BODY[:1000])
    url = judge.url("a%20b+c%20%25%C3%BC%23.bin")
    result = fetch(url, tmp_path, **options)
    assert result.dest == str(tmp_path / "a b+c %ü#.bin")
    assert Path(result.dest).read_bytes() == BODY[:1000]
    spaced = put(judge, "plain name", BODY[:100]).replace("%20", " ")
    assert fetch(spaced, tmp_path / "got", **options).size == 100


def test_to_standard_output(judge: Judge, options: dict[str, Any]) -> None:
    command = [put(judge, "model", BODY), "-", "-m", "700k", "--cacert", options["cacert"]]
    ended = subprocess.run(
        [sys.executable, "-m", "pgetpy", *command],
        capture_output=True,
        env=environment(),
        timeout=50,
        check=True,
    )
    assert ended.stdout == BODY


# ------------------------------------------------------------------- refusals


@pytest.mark.usefixtures("transport")
def test_what_is_not_there_is_said_in_the_judges_words(
    judge: Judge, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(HttpStatusError) as caught:
        fetch(judge.url("nothing"), tmp_path / "got", **options)
    error = caught.value
    assert error.status == 404
    assert error.attempts == 1
    assert "Not Found" in error.words
    assert "<" not in error.words
    assert f"HTTP status 404 ({error.words}) for {judge.url('nothing')}" in str(error)
    assert names_in(tmp_path) == []


def test_what_is_forbidden_is_said_in_the_judges_words(
    judge: Judge, tmp_path: Path, options: dict[str, Any]
) -> None:
    put(judge, "folder/model", BODY[:10])
    # A folder, whose contents are not shown.
    with pytest.raises(HttpStatusError) as caught:
        fetch(judge.url("folder/"), tmp_path / "got", **options)
    assert caught.value.status in (403, 404)
    assert re.search("Forbidden|Not Found", caught.value.words)
    assert "\n" not in str(caught.value)


@NGINX
def test_a_redirect_to_a_folder_is_followed(nginx: Judge, tmp_path: Path) -> None:
    put(nginx, "folder/index.html", BODY[:10])
    result = fetch(nginx.url("folder"), tmp_path / "got")
    assert result.final_url == nginx.url("folder/")
    assert (tmp_path / "got").read_bytes() == BODY[:10]


@pytest.mark.parametrize("name", ["tls_nginx", "tls_apache"])
def test_a_certificate_of_an_unknown_authority_is_refused(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    judges.require_judge(name.removeprefix("tls_"))
    judge: Judge = request.getfixturevalue(name)
    with pytest.raises(ConnectionFailedError, match="certificate was not accepted"):
        fetch(put(judge, "model", BODY), tmp_path / "got", retries=0)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("name", ["tls_nginx", "tls_apache"])
def test_a_certificate_of_another_name_is_refused(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, options: dict[str, Any]
) -> None:
    judges.require_judge(name.removeprefix("tls_"))
    judge: Judge = request.getfixturevalue(name)
    put(judge, "model", BODY[:1000])
    resolve = {("elsewhere.example", judge.port): "127.0.0.1", ("store.example", judge.port): "::1"}
    url = judge.url("model", host="elsewhere.example")
    with pytest.raises(ConnectionFailedError, match="certificate was not accepted"):
        fetch(url, tmp_path / "got", retries=0, resolve=resolve, **options)
    resolve = {("store.example", judge.port): "127.0.0.1"}
    fetch(judge.url("model", host="store.example"), tmp_path / "got", resolve=resolve, **options)
    assert (tmp_path / "got").read_bytes() == BODY[:1000]


# ------------------------------------------------------------------- going on


@pytest.fixture(
    params=[
        pytest.param(("nginx", False), marks=NGINX, id="nginx"),
        pytest.param(("apache", True), marks=APACHE, id="tls_apache"),
    ]
)
def slow(request: pytest.FixtureRequest, ca: Authority) -> Iterator[Judge]:
    """A judge of which each range takes its time (nginx lets a second's worth pass at once)."""
    name, tls = request.param
    authority = ca if tls else None
    if name == "nginx":
        with judges.nginx(authority, extra="limit_rate 400k;") as judge:
            yield judge
    else:
        with judges.apache(authority, extra=_slow_apache()) as judge:
            yield judge


def _slow_apache() -> str:
    folders = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/libexec/apache2")
    for folder in folders:
        if (path := Path(folder) / "mod_ratelimit.so").exists():
            load = f"LoadModule ratelimit_module {path}"
            place = (
                '<Location "/">\nSetOutputFilter RATE_LIMIT\nSetEnv rate-limit 2048\n</Location>'
            )
            return f"{load}\n{_environment(folder)}\n{place}"
    pytest.skip("this Apache has no mod_ratelimit")


def _environment(folder: str) -> str:
    path = Path(folder) / "mod_env.so"
    return f"LoadModule env_module {path}" if path.exists() else ""


def test_a_run_that_was_killed_goes_on(
    slow: Judge, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = put(slow, "model", SLOW)
    dest = tmp_path / "got"
    command = (url, dest, "-m", "500k", "--cacert", options["cacert"], "--json")
    # Over one connection, so that it takes a while; nginx lets a second's worth pass at once.
    with Run(*command, "-c", "1") as running:
        running.wait_until(lambda: len(landed(dest, SLOW)) * PAGE > MIB)
        running.kill()
    assert names_in(tmp_path) == [journal_of(dest).name, part_of(dest).name]
    result = result_of(run(*command))
    assert dest.read_bytes() == SLOW
    assert names_in(tmp_path) == ["got"]
    assert result["resumed"] >= 500_000


def when_done(count: int, act: Callable[[], object]) -> Callable[[Event], None]:
    """A progress callback that acts once, as soon as `count` bytes have come."""
    done = threading.Event()

    def progress(event: Event) -> None:
        if isinstance(event, Progressed) and event.done > count and not done.is_set():
            done.set()
            act()

    return progress


def test_a_file_that_is_replaced_under_the_judge_is_had_in_its_new_version(
    slow: Judge, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = put(slow, "model", SLOW)
    events = Events()
    replace_it = when_done(MIB, lambda: put(slow, "model", body(len(SLOW), "v2"), LONG_AGO + 1))

    def progress(event: Event) -> None:
        events(event)
        replace_it(event)

    fetch(url, tmp_path / "got", concurrency=2, chunk_size=500_000, progress=progress, **options)
    # Never a mix; and there was much left to ask for, which was of the new one.
    assert (tmp_path / "got").read_bytes() == body(len(SLOW), "v2")
    assert len(events.of(StartedOver)) == 1
    assert names_in(tmp_path) == ["got"]


def test_a_file_that_is_replaced_again_and_again_is_had_in_one_stream(
    slow: Judge, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = put(slow, "model", SLOW)
    versions = iter(range(1, 9))
    moments: list[int] = []

    def progress(event: Event) -> None:
        if isinstance(event, StartedOver):
            moments.clear()
        if isinstance(event, Progressed) and event.done > MIB and not moments:
            moments.append(event.done)
            number = next(versions)
            put(slow, "model", body(len(SLOW), f"v{number}"), LONG_AGO + number)

    result = fetch(
        url, tmp_path / "got", concurrency=2, chunk_size=500_000, progress=progress, **options
    )
    # What one answer brings belongs together, although it is replaced once more meanwhile.
    assert result.single_stream
    number = next(versions) - 1
    assert (tmp_path / "got").read_bytes() == body(len(SLOW), f"v{number - 1}")


def test_a_file_that_is_gone_midway_is_an_error_and_goes_on_when_it_is_back(
    slow: Judge, tmp_path: Path, options: dict[str, Any]
) -> None:
    url = put(slow, "model", SLOW)
    kept = (slow.folder / "model").with_name("kept")
    progress = when_done(MIB, lambda: (slow.folder / "model").rename(kept))
    with pytest.raises(HttpStatusError) as caught:
        fetch(
            url, tmp_path / "got", concurrency=2, chunk_size=500_000, progress=progress, **options
        )
    assert caught.value.status == 404
    # The same inode, the same time: the same version.
    kept.rename(slow.folder / "model")
    result = fetch(url, tmp_path / "got", chunk_size=500_000, **options)
    assert result.resumed >= 500_000
    assert (tmp_path / "got").read_bytes() == SLOW


# ------------------------------------------------------------------- how a judge may be set up


@NGINX
def test_few_connections_carry_many_files(tmp_path: Path) -> None:
    with judges.nginx(extra="location = /status { stub_status; }") as judge:
        files = [(put(judge, f"{n}", BODY[n : n + 20_000]), tmp_path / f"{n}") for n in range(200)]
        before = accepted(judge)
        found = pgetpy.download_many(files, settings=impatient(max_concurrent_files=8))
        count = accepted(judge) - before - 1
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    assert all(dest.read_bytes() == BODY[int(dest.name) :][:20_000] for _, dest in files)
    # Eight at a time; one more where an answer came just as the next was asked for.
    assert count <= 16


@NGINX
def test_ranges_of_one_file_use_their_connections_again(tmp_path: Path) -> None:
    with judges.nginx(extra="location = /status { stub_status; }") as judge:
        url = put(judge, "model", BODY)
        before = accepted(judge)
        fetch(url, tmp_path / "got", chunk_size=200_000, concurrency=4)
        count = accepted(judge) - before - 1
    assert (tmp_path / "got").read_bytes() == BODY
    # Of more than forty ranges; a connection is given up where its range was split.
    assert count <= 16


def accepted(judge: Judge) -> int:
    """How many connections nginx has accepted so far."""
    with urllib.request.urlopen(judge.url("status")) as answer:
        words = answer.read().split()
    return int(words[words.index(b"requests") + 1])


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize(
    "setting",
    [
        "keepalive_requests 10;",
        "keepalive_timeout 0;",
        "keepalive_requests 1; lingering_close off;",
    ],
)
@NGINX
def test_a_judge_that_soon_closes_its_connections(setting: str, tmp_path: Path) -> None:
    with judges.nginx(extra=setting) as judge:
        url = put(judge, "model", BODY)
        result = fetch(url, tmp_path / "got", chunk_size=200_000)
        assert (tmp_path / "got").read_bytes() == BODY
        assert result.retries == 0
        files = [(put(judge, f"{n}", BODY[:n]), tmp_path / f"{n}") for n in range(60)]
        found = pgetpy.download_many(files, settings=impatient())
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    assert all(outcome.retries == 0 for outcome in found)  # type: ignore[union-attr]


@APACHE
@pytest.mark.parametrize("setting", ["MaxKeepAliveRequests 3", "KeepAlive Off"])
def test_an_apache_that_soon_closes_its_connections(setting: str, tmp_path: Path) -> None:
    with judges.apache(extra=setting) as judge:
        result = fetch(put(judge, "model", BODY), tmp_path / "got", chunk_size=200_000)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries == 0


@NGINX
@pytest.mark.parametrize("setting", ["max_ranges 0;", "max_ranges 1;"])
def test_a_judge_with_no_ranges_or_few(setting: str, tmp_path: Path) -> None:
    with judges.nginx(extra=setting) as judge:
        result = fetch(put(judge, "model", BODY), tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == ("none" if "0" in setting else "strong")


@NGINX
@pytest.mark.parametrize("setting", ["etag off;", "etag off; add_header Last-Modified '';"])
def test_a_judge_without_etags(setting: str, tmp_path: Path) -> None:
    with judges.nginx(extra=setting) as judge:
        result = fetch(put(judge, "model", BODY), tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "weak"


@pytest.mark.usefixtures("transport")
@NGINX
def test_text_is_not_compressed_as_nobody_asked_for_it(tmp_path: Path) -> None:
    extra = "gzip on; gzip_min_length 1; gzip_types *; gzip_http_version 1.0; gzip_vary on;"
    with judges.nginx(extra=extra) as judge:
        result = fetch(put(judge, "words.txt", TEXT), tmp_path / "got", chunk_size=CHUNK)
        assert (tmp_path / "got").read_bytes() == TEXT
        assert result.validator == "strong"
        # Whoever asks for it gets it, and what that is is not what the file is.
        header = {"Accept-Encoding": "gzip"}
        fetch(judge.url("words.txt"), tmp_path / "asked", headers=header)
    assert (tmp_path / "asked").read_bytes() == TEXT


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("coding", ["x-gzip", "gzip"])
@pytest.mark.parametrize("size", [1000, 5_000_000])
@APACHE
def test_a_compressed_file_is_what_it_is_whatever_its_header_says(
    coding: str, size: int, tmp_path: Path
) -> None:
    packed = gzip.compress(BODY[:size], 1)
    with judges.apache(extra=f"AddEncoding {coding} .gz .tgz") as judge:
        for name in ("archive.tar.gz", "archive.tgz"):
            url = put(judge, name, packed)
            result = fetch(url, tmp_path / name, chunk_size=CHUNK)
            assert (tmp_path / name).read_bytes() == packed
            assert result.size == len(packed)


@APACHE
def test_a_file_that_an_apache_gives_no_etag(tmp_path: Path) -> None:
    with judges.apache(extra="FileETag None") as judge:
        result = fetch(put(judge, "model", BODY), tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "weak"


@APACHE
def test_a_file_that_was_written_just_now_has_a_weak_etag(apache: Judge, tmp_path: Path) -> None:
    # A little ahead, so that it is still new when a busy machine comes to it.
    url = put(apache, "new", BODY, int(time.time()) + 30)
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK)
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.validator == "weak"


@NGINX
@pytest.mark.parametrize("setting", ["limit_rate 3m;", "sendfile off;", "output_buffers 1 512;"])
def test_a_judge_that_takes_its_time_is_used_by_several_connections(
    setting: str, tmp_path: Path
) -> None:
    with judges.nginx(extra=setting) as judge:
        result = fetch(put(judge, "model", BODY), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == BODY
    assert result.retries == 0


@NGINX
def test_a_judge_behind_a_judge(tmp_path: Path) -> None:
    with judges.nginx() as origin:
        put(origin, "model", BODY)
        passing = f"location / {{ proxy_pass http://127.0.0.1:{origin.port}; %s }}"
        for extra in ("", "proxy_buffering off;", "proxy_http_version 1.1; proxy_force_ranges on;"):
            with judges.nginx(extra=passing % extra) as judge:
                dest = tmp_path / str(len(extra))
                fetch(judge.url("model"), dest, chunk_size=CHUNK)
                assert dest.read_bytes() == BODY


@NGINX
def test_a_redirect_from_one_judge_to_another(tmp_path: Path) -> None:
    with judges.nginx(extra="return 302 $arg_to;") as redirecting, judges.nginx() as judge:
        url = put(judge, "model", BODY)
        result = fetch(f"{redirecting.url('x')}?to={url}", tmp_path / "got", chunk_size=CHUNK)
    assert result.final_url == url
    assert (tmp_path / "got").read_bytes() == BODY
