"""What a program that called pget finds in pgetpy: real downloads by the command line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from pgetpy.cli import main
from tests.support.bodies import body
from tests.support.delivery import Gate
from tests.support.faults import (
    Chunked,
    Dam,
    Fault,
    Headers,
    IgnoreRange,
    Redirect,
    Replaced,
    ResetAfter,
    SilenceBeforeHead,
    Status,
    When,
    at_least,
)
from tests.support.fetching import names_in, unchanged
from tests.support.processes import Run, environment, folder_of_nobody, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("forked_runs")

BODY = body(2_500_001)
OTHER = body(2_500_001, "v2")
DIGEST = hashlib.sha256(BODY).hexdigest()
PROGRAM = [sys.executable, "-m", "pgetpy"]


class Shell:
    """The command line in this process; `out` and `err` are what the last call printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.out = ""
        self.err = ""
        self._capfd = capfd

    def __call__(self, *arguments: str | Path, **environ: str) -> int:
        code = main([str(argument) for argument in arguments], environ=environ)
        self.out, self.err = self._capfd.readouterr()
        return code

    @property
    def lines(self) -> list[str]:
        return self.err.splitlines()


@pytest.fixture
def shell(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """The command line, called in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(capfd)


@pytest.fixture
def url(server: Server) -> str:
    return server.add("/model.bin", Resource(BODY))


def stdout_of(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=50, check=False, env=environment())


# ------------------------------------------------------------------- one file


def test_a_predictors_check_call_works(url: str, tmp_path: Path) -> None:
    subprocess.check_call([*PROGRAM, url, str(tmp_path / "got")], env=environment(), timeout=50)
    assert (tmp_path / "got").read_bytes() == BODY
    assert names_in(tmp_path) == ["got"]


def test_a_predictors_failure_is_a_called_process_error(server: Server, tmp_path: Path) -> None:
    command = [*PROGRAM, server.url("/missing"), str(tmp_path / "got")]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        subprocess.run(
            command, check=True, env=environment(), timeout=50, capture_output=True, text=True
        )
    assert caught.value.returncode == 1
    assert "404" in caught.value.stderr
    assert "Traceback" not in caught.value.stderr


@pytest.mark.parametrize(
    "pattern",
    [
        "{url} {dest}",
        "-c 4 -m 1M {url} {dest}",
        "{url} {dest} -c 4 --chunk-size=1M",
        "{url} -f {dest}",
        "--log-level=WARNING {url} {dest}",
        "{url} {dest} -v",
        "--retries 2 {url} --connect-timeout 1m30s {dest} --max-conn-per-host=8",
        "--pid-file /nowhere/pid {url} {dest}",
        "--force-http2 {url} {dest}",
        "--minimum-chunk-size 1M --max-chunks 4 {url} {dest}",
        "--stall-timeout 5s --limit-rate 1G --max-size 1G --min-free 1M --fsync {url} {dest}",
        "--no-resume --progress none {url} {dest}",
    ],
)
def test_flags_stand_before_and_after(shell: Shell, url: str, tmp_path: Path, pattern: str) -> None:
    assert shell(*pattern.format(url=url, dest="got").split()) == 0, shell.err
    assert (tmp_path / "got").read_bytes() == BODY


def test_the_variables_of_pget_are_heeded(shell: Shell, server: Server, url: str) -> None:
    environ = {
        "PGET_CONCURRENCY": "2",
        "PGET_CHUNK_SIZE": "300K",
        "PGET_LOG_LEVEL": "warn",
        "PGET_HEADERS": '{"X-Key": "value"}',
        "PGET_MAX_CONN_PER_HOST": "2",
        "PGET_RETRIES": "1",
    }
    assert shell(url, "got", **environ) == 0, shell.err
    assert (shell.out, shell.err) == ("", "")
    asked = server.asked("/model.bin")
    assert all(span is not None and span[1] - span[0] <= 300 * 1024 for span in asked)
    assert {seen.header("X-Key") for seen in server.requests} == {"value"}
    assert server.peak <= 2


@pytest.mark.parametrize("name", ["PGET_CACHE_NODES_SRV_NAME", "PGET_CACHE_SERVICE_HOSTNAME"])
def test_a_cache_does_not_concern_urls_under_no_prefix(shell: Shell, url: str, name: str) -> None:
    assert shell(url, "got", **{name: "cache.invalid"}) == 0
    assert "cache.invalid" not in shell.err


def test_a_destination_that_exists_is_an_error_as_in_pget(
    shell: Shell, server: Server, url: str, tmp_path: Path
) -> None:
    (tmp_path / "got").write_bytes(b"old")
    with unchanged(tmp_path):
        assert shell(url, "got") == 1
    assert "destination got already exists" in shell.err
    assert len(shell.lines) == 1
    assert server.requests == []
    assert shell("-f", url, "got") == 0
    assert (tmp_path / "got").read_bytes() == BODY


def test_folders_on_the_way_are_made(shell: Shell, url: str, tmp_path: Path) -> None:
    assert shell(url, "a/b/c/got") == 0
    assert (tmp_path / "a/b/c/got").read_bytes() == BODY


def test_the_file_has_the_mode_of_any_new_file(shell: Shell, url: str, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert shell(url, "got") == 0
    finally:
        os.umask(before)
    assert (tmp_path / "got").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("flags", [["-x"], ["-xf"], ["-o", "tar-extractor"], ["--extract"]])
def test_an_archive_is_extracted_into_dest(
    shell: Shell, server: Server, tmp_path: Path, flags: list[str]
) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("model/weights")
        member.size = len(BODY)
        archive.addfile(member, io.BytesIO(BODY))
    url = server.add("/weights.tar", Resource(packed.getvalue()))
    assert shell(*flags, url, "got") == 0
    assert (tmp_path / "got" / "model" / "weights").read_bytes() == BODY


def test_what_is_no_archive_is_not_extracted(shell: Shell, url: str, tmp_path: Path) -> None:
    with unchanged(tmp_path):
        assert shell("-x", url, "got") == 1
    assert "format is not known" in shell.err
    assert "\\\\" not in shell.err


# ------------------------------------------------------------------- results


def test_the_result_is_json_on_request(shell: Shell, url: str, tmp_path: Path) -> None:
    signed = f"{url}?X-Amz-Signature=hunter2"
    assert shell(signed, "got", "--json", "--checksum", f"sha256:{DIGEST}") == 0, shell.err
    result = json.loads(shell.out)
    assert result["url"] == result["final_url"] == f"{url}?X-Amz-Signature=***"
    assert result["dest"] == "got"
    assert result["size"] == len(BODY)
    assert result["digest"] == f"sha256:{DIGEST}"
    assert (result["retries"], result["resumed"]) == (0, 0)
    assert result["connections"] >= 1
    assert result["seconds"] > 0
    assert result["bytes_per_second"] > 0


def test_a_failure_is_json_on_request_too(shell: Shell, server: Server) -> None:
    assert shell(server.url("/missing"), "got", "--json") == 1
    failure = json.loads(shell.out)
    assert failure["error_type"] == "HttpStatusError"
    assert "404" in failure["error"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha1", "md5", "blake2b"])
def test_a_checksum_is_verified(shell: Shell, url: str, tmp_path: Path, algorithm: str) -> None:
    right = hashlib.new(algorithm, BODY).hexdigest()
    assert shell(url, "got", "--checksum", f"{algorithm}:{right.upper()}") == 0, shell.err
    wrong = hashlib.new(algorithm, OTHER).hexdigest()
    assert shell(url, "bad", f"--checksum={algorithm}:{wrong}") == 1
    assert right in shell.err
    assert wrong in shell.err
    assert names_in(tmp_path) == ["got"]


# ------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("dest", "size", "faults"),
    [
        ("-", 1000, ()),
        ("-", 2_500_001, ()),
        ("/dev/stdout", 2_500_001, ()),
        ("-", 2_500_001, (IgnoreRange(),)),
        ("-", 2_500_001, (Chunked(),)),
        ("-", 1000, (Chunked(),)),
    ],
)
def test_bytes_go_to_standard_output_in_order(
    server: Server, dest: str, size: int, faults: tuple[Fault, ...]
) -> None:
    url = server.add("/model", Resource(BODY[:size], faults=faults))
    done = stdout_of(url, dest, "-m", "300K", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == BODY[:size]
    # The result keeps out of the bytes.
    assert json.loads(done.stderr.splitlines()[-1])["size"] == size


def test_a_stream_whose_object_changes_never_gets_a_mix(server: Server) -> None:
    replaced = Replaced(OTHER, '"v2"', when=When(request=at_least(5)))
    url = server.add("/model", Resource(BODY, faults=[replaced]))
    done = stdout_of(url, "-", "-m", "300K", "-c", "1")
    assert done.returncode == 1
    assert BODY.startswith(done.stdout)
    assert b"another version" in done.stderr


def test_a_stream_that_is_cut_off_goes_on_from_the_same_byte(server: Server) -> None:
    url = server.add("/model", Resource(BODY, faults=[ResetAfter(400_000)]))
    done = stdout_of(url, "-", "-m", "900K")
    assert done.returncode == 0, done.stderr
    assert done.stdout == BODY


def test_a_stream_without_ranges_goes_on_where_the_version_is_proven_the_same(
    server: Server,
) -> None:
    faults = [IgnoreRange(), ResetAfter(1_000_000, when=When(times=2))]
    url = server.add("/model", Resource(BODY, faults=faults))
    done = stdout_of(url, "-")
    assert done.returncode == 0, done.stderr
    assert done.stdout == BODY
    server.add("/weak", Resource(BODY, etag=None, faults=faults))
    done = stdout_of(server.url("/weak"), "-")
    assert done.returncode == 1
    assert BODY.startswith(done.stdout)


def test_a_wrong_checksum_of_a_stream_is_said_without_a_false_comfort(url: str) -> None:
    done = stdout_of(url, "-", "--checksum", f"sha256:{'0' * 64}")
    assert done.returncode == 1
    assert done.stdout == BODY
    assert b"checksum mismatch" in done.stderr
    assert b"nothing was written" not in done.stderr


def test_a_right_checksum_of_a_stream(url: str) -> None:
    done = stdout_of(url, "-", "--checksum", f"sha256:{DIGEST}", "-m", "300K")
    assert (done.returncode, done.stdout) == (0, BODY)


def test_a_reader_that_goes_away_ends_it_quietly(server: Server) -> None:
    url = server.add("/model", Resource(body(8_000_000)))
    with subprocess.Popen(
        [*PROGRAM, url, "-", "--progress", "none"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1000) == BODY[:1000]
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""


def test_a_reader_that_is_slow_is_no_stall(server: Server) -> None:
    url = server.add("/model", Resource(BODY))
    with subprocess.Popen(
        [*PROGRAM, url, "-", "--stall-timeout", "300ms", "-m", "200K"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        received = process.stdout.read(100_000)
        # The pipe is full; for several stall limits nothing is read.
        deadline = time.monotonic() + 1.2
        while time.monotonic() < deadline and process.poll() is None:
            threading.Event().wait(0.05)
        received += process.stdout.read()
        assert process.wait(30) == 0
        assert received == BODY
        assert b"retry" not in process.stderr.read().lower()


class Reader(threading.Thread):
    """Reads a FIFO to its end."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.data = b""
        self._path = path

    def run(self) -> None:
        self.data = self._path.read_bytes()


@pytest.mark.parametrize("size", [1000, 2_500_001])
def test_a_fifo_gets_the_bytes_in_order(
    shell: Shell, server: Server, tmp_path: Path, size: int
) -> None:
    url = server.add("/model", Resource(BODY[:size]))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = Reader(fifo)
    reader.start()
    assert shell(url, fifo, "-m", "300K", "--checksum", hashed(BODY[:size])) == 0, shell.err
    reader.join(30)
    assert reader.data == BODY[:size]
    assert fifo.is_fifo()
    assert names_in(tmp_path) == ["fifo"]


def hashed(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_fifo_without_a_reader_is_waited_for_and_does_not_hold_up_other_files(
    server: Server, url: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    server.add("/other", Resource(OTHER))
    manifest = tmp_path / "manifest"
    manifest.write_text(f"{url} {fifo}\n{server.url('/other')} {tmp_path}/other\n")
    with Run("multifile", manifest) as running:
        running.wait_until((tmp_path / "other").exists)
        reader = Reader(fifo)
        reader.start()
        assert running.wait().code == 0, running.err
        reader.join(30)
    assert reader.data == BODY
    assert (tmp_path / "other").read_bytes() == OTHER


def test_a_fifo_without_a_reader_can_be_given_up(url: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Run("--progress", "json", url, fifo) as running:
        running.wait_until(lambda: "no process reads" in running.err)
        running.send(signal.SIGINT)
        assert running.wait(30).code == 130


@pytest.mark.parametrize("flags", [["-o", "null"], ["--output=null"]])
@pytest.mark.parametrize("dest", [[], ["ignored"]])
def test_null_throws_the_bytes_away(
    shell: Shell, server: Server, url: str, tmp_path: Path, flags: list[str], dest: list[str]
) -> None:
    with unchanged(tmp_path):
        assert shell(*flags, url, *dest, "--checksum", f"sha256:{DIGEST}") == 0, shell.err
        assert shell(*flags, url, *dest) == 0, shell.err
        assert shell(*flags, url, *dest, "--checksum", f"sha256:{'0' * 64}") == 1
    server.wait_until(lambda: server.sent("/model.bin") >= 3 * len(BODY))


def test_null_starts_over_when_the_object_changes(shell: Shell, server: Server) -> None:
    replaced = Replaced(OTHER, '"v2"', when=When(request=at_least(4)))
    url = server.add("/model", Resource(BODY, faults=[replaced]))
    assert shell("-o", "null", url, "-m", "300K", "--checksum", hashed(OTHER)) == 0, shell.err


# ------------------------------------------------------------------- links and folders


def test_a_link_stays_and_its_target_is_replaced(shell: Shell, url: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to("there/target")
    with unchanged(tmp_path):
        assert shell(url, "link") == 1
    assert shell("-f", url, "link") == 0, shell.err
    assert link.is_symlink()
    assert target.read_bytes() == BODY
    assert names_in(tmp_path / "there") == ["target"]
    assert names_in(tmp_path) == ["link", "there"]


def test_a_link_to_nothing_is_filled(shell: Shell, url: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    assert shell(url, "link") == 0, shell.err
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == BODY


@pytest.mark.parametrize("dest", ["folder", "folder/", "new/", "a/new/", "."])
def test_a_folder_takes_the_name_of_the_url(
    shell: Shell, url: str, tmp_path: Path, dest: str
) -> None:
    (tmp_path / "folder").mkdir()
    assert shell(f"{url}?token=x#y", dest, "--json") == 0, shell.err
    assert (tmp_path / dest / "model.bin").read_bytes() == BODY
    assert Path(json.loads(shell.out)["dest"]) == Path(dest) / "model.bin"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="real.safetensors"', "real.safetensors"),
        ("attachment; filename*=UTF-8''f%C3%BCr%20alle.bin; filename=x", "für alle.bin"),
        ('attachment; filename="../../../evil"', "evil"),
        ('attachment; filename="/etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\evil.exe"', "evil.exe"),
        ('attachment; filename=".bashrc"', "_bashrc"),
        ('attachment; filename=".."', "model.bin"),
        ("inline", "model.bin"),
    ],
)
def test_a_folder_takes_the_name_of_the_server_made_safe(
    shell: Shell, server: Server, tmp_path: Path, header: str, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    faults = [Headers(add=(("Content-Disposition", header),))]
    url = server.add("/model.bin", Resource(BODY, faults=faults))
    assert shell(url, "folder") == 0, shell.err
    assert names_in(tmp_path) == ["folder"]
    assert names_in(tmp_path / "folder") == [name]


def test_a_folder_whose_file_exists_is_refused_unless_forced(
    shell: Shell, url: str, tmp_path: Path
) -> None:
    (tmp_path / "model.bin").write_bytes(b"old")
    with unchanged(tmp_path):
        assert shell(url, ".") == 1
    assert "model.bin already exists" in shell.err
    assert shell("-f", url, ".") == 0, shell.err
    assert (tmp_path / "model.bin").read_bytes() == BODY


def test_a_folder_with_nothing_to_name_the_file_by_is_an_error(
    shell: Shell, server: Server, tmp_path: Path
) -> None:
    for path in ("/", "/a/.."):
        server.add(path, Resource(BODY))
        with unchanged(tmp_path):
            assert shell(server.url(path), ".") in (1, 2)
        assert "file name" in shell.err
        assert len(shell.lines) == 1


# ------------------------------------------------------------------- manifests


def write_manifest(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "manifest").write_text("\n".join(lines))
    return "manifest"


def test_a_manifest_is_downloaded(shell: Shell, server: Server, tmp_path: Path) -> None:
    small = server.add("/small", Resource(BODY[:1000]))
    large = server.add("/large", Resource(BODY))
    empty = server.add("/empty", Resource(b""))
    manifest = write_manifest(
        tmp_path,
        "# weights",
        "",
        f"{small}\t a/small  # the small one",
        f"  {large} large sha256:{DIGEST}",
        f"{empty} empty\r",
        f"{large} folder/",
        f'{small} "with blanks"',
    )
    assert shell("multifile", manifest) == 0, shell.err
    assert (tmp_path / "a/small").read_bytes() == BODY[:1000]
    assert (tmp_path / "large").read_bytes() == BODY
    assert (tmp_path / "empty").read_bytes() == b""
    assert (tmp_path / "folder/large").read_bytes() == BODY
    assert (tmp_path / "with blanks").read_bytes() == BODY[:1000]
    last = shell.lines[-1]
    assert "file_count=5" in last
    assert "bytes_per_second" in last


def test_a_manifest_comes_by_standard_input(server: Server, url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "multifile", "-"],
        input=f"{url} got\n".encode(),
        capture_output=True,
        timeout=50,
        check=False,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_bytes() == BODY


def test_other_files_go_on_when_one_fails_and_a_table_says_which(
    shell: Shell, server: Server, url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file is not a folder")
    broken = server.add("/broken", Resource(faults=[Status(500, "out of order")]))
    manifest = write_manifest(
        tmp_path,
        f"{server.url('/missing')} missing",
        f"{broken} broken",
        f"{url} wrong sha256:{'0' * 64}",
        f"{url} file/below",
        f"{url} good",
    )
    assert shell("multifile", manifest, "-r", "1") == 1
    assert (tmp_path / "good").read_bytes() == BODY
    assert names_in(tmp_path) == ["file", "good", "manifest"]
    heading = shell.lines.index("pgetpy: 4 of 5 files failed:")
    table = shell.lines[heading + 1 : heading + 5]
    assert [line.split()[0] for line in table] == ["missing", "broken", "wrong", "file/below"]
    for line, why in zip(table, ["404", "out of order", "checksum", "folder"], strict=True):
        assert why in line.lower() or (why == "folder" and "director" in line.lower())
    assert "file_count=1" in shell.lines[-1]


def test_fail_fast_stops_at_the_first_failure(shell: Shell, server: Server, tmp_path: Path) -> None:
    slow = server.add("/slow", Resource(BODY, faults=[Dam(100_000)]))
    manifest = write_manifest(tmp_path, f"{server.url('/missing')} missing", f"{slow} slow")
    # It would never come to an end by itself.
    assert shell("multifile", "--fail-fast", "--stall-timeout", "10m", manifest) == 1
    assert "404" in shell.err
    assert not (tmp_path / "slow").exists()


def test_a_manifest_gives_a_json_object_a_file(
    shell: Shell, server: Server, url: str, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path, f"{url} good", f"{server.url('/missing')} missing")
    assert shell("multifile", manifest, "--json") == 1
    good, missing = map(json.loads, shell.out.splitlines())
    assert (good["dest"], good["size"]) == ("good", len(BODY))
    assert (missing["dest"], missing["error_type"]) == ("missing", "HttpStatusError")


def test_two_urls_that_would_have_one_name_in_a_folder_are_not_both_published(
    shell: Shell, server: Server, tmp_path: Path
) -> None:
    one = server.add("/a/model", Resource(BODY))
    two = server.add("/b/model", Resource(OTHER))
    manifest = write_manifest(tmp_path, f"{one} folder/", f"{two} folder/")
    assert shell("multifile", "-f", manifest) == 1
    assert "another file of this call" in shell.err
    assert "1 of 2 files failed" in shell.err
    assert (tmp_path / "folder/model").read_bytes() in (BODY, OTHER)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{url}", "expected URL DEST"),
        ("{url} a b c", "got 4"),
        ("ftp://host/x a", "scheme"),
        ("not-a-url a", "http"),
        ("http://:80/x a", "host"),
        ("{url} a sha256:abc", "digest"),
        ("{url} a crc32:00000000", "digest"),
        ("{url} first", "duplicate destination"),
        ("{url} ./first", "duplicate destination"),
        ('{url} "open', "quotation"),
        ("{url} -", "standard output"),
    ],
)
def test_a_bad_line_of_a_manifest_is_named_and_nothing_is_begun(
    shell: Shell, server: Server, url: str, tmp_path: Path, line: str, words: str
) -> None:
    first = f"{server.url('/first')} first"
    manifest = write_manifest(tmp_path, "# comment", first, line.format(url=url))
    with unchanged(tmp_path):
        assert shell("multifile", manifest) == 2
    assert len(shell.lines) == 1
    assert f"{manifest}:3: " in shell.err
    assert words in shell.err
    assert server.requests == []


def test_a_destination_of_a_manifest_that_exists_stops_everything_before_it_starts(
    shell: Shell, server: Server, url: str, tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"old")
    manifest = write_manifest(tmp_path, f"{url} new", f"{url} old")
    with unchanged(tmp_path):
        assert shell("multifile", manifest) == 1
    assert "old already exists" in shell.err
    assert f"{manifest}:2" in shell.err
    assert server.requests == []
    assert shell("multifile", "-f", manifest) == 0


def test_many_files_arrive_whole(shell: Shell, server: Server, tmp_path: Path) -> None:
    lines = []
    for number in range(150):
        url = server.add(f"/{number}", Resource(body(20_000 + number, str(number))))
        lines.append(f"{url} files/{number}")
    assert shell("multifile", write_manifest(tmp_path, *lines)) == 0, shell.err
    for number in range(150):
        expected = body(20_000 + number, str(number))
        assert (tmp_path / "files" / str(number)).read_bytes() == expected
    assert len(names_in(tmp_path / "files")) == 150


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected URL [DEST]"),
        (["{url}", "-x"], "expected URL and DEST"),
        (["{url}", "a", "b"], "expected URL [DEST]"),
        (["{url}", "a", "--frobnicate"], "--frobnicate"),
        (["{url}", "a", "-m", "tiny"], "tiny"),
        (["{url}", "a", "-m", "0"], "chunk-size"),
        (["{url}", "a", "-m", "1M", "--minimum-chunk-size", "2M"], "cannot be used"),
        (["{url}", "a", "-c", "none"], "concurrency"),
        (["{url}", "a", "-c", "0"], "concurrency"),
        (["{url}", "a", "--connect-timeout", "soon"], "connect-timeout"),
        (["{url}", "a", "--checksum", "sha256:zz"], "checksum"),
        (["{url}", "a", "--checksum", "crc32:00000000"], "crc32"),
        (["{url}", "a", "--header", "no colon"], "header"),
        (["{url}", "a", "--mirror", "ftp://x/y"], "ftp"),
        (["{url}", "a", "--progress", "loud"], "loud"),
        (["{url}", "a", "--log-level", "loud"], "loud"),
        (["{url}", "a", "--resolve", "h:80"], "resolve"),
        (["{url}", "a", "--resolve", "127.0.0.1:80:127.0.0.1"], "IP"),
        (["{url}", "a", "--resolve", "h:80:127.0.0.1", "--resolve", "h:80:127.0.0.2"], "duplic"),
        (["{url}", "a", "--cacert", "/no/such/file"], "/no/such/file"),
        (["{url}", ""], "DEST"),
        (["ftp://host/x", "a"], "ftp"),
        (["host.example/x", "a"], "http"),
        (["http://", "a"], "host"),
        (["http://h:99999/", "a"], "ort"),
        (["multifile"], "MANIFEST"),
        (["multifile", "/no/such/manifest"], "/no/such/manifest"),
        (["multifile", "-x", "/no/such/manifest"], "/no/such/manifest"),
        (["multifile", "a", "b"], "MANIFEST"),
        (["completion", "csh"], "completion"),
    ],
)
def test_bad_input_is_one_clear_line_and_status_2_and_changes_nothing(
    shell: Shell, server: Server, url: str, tmp_path: Path, arguments: list[str], words: str
) -> None:
    with unchanged(tmp_path):
        assert shell(*(argument.format(url=url) for argument in arguments)) == 2
    assert len(shell.lines) == 1
    assert shell.out == ""
    assert words in shell.err
    assert server.requests == []


@pytest.mark.parametrize(
    "environ",
    [
        {"PGET_CHUNK_SIZE": "big"},
        {"PGET_HEADERS": "{"},
        {"PGET_RETRIES": "-1"},
        {"PGET_METRICS_ENDPOINT": "nowhere"},
        {"HTTP_PROXY": "socks5://h:1"},
        {"PGET_LOG_LEVEL": "loud"},
    ],
    ids=lambda environ: next(iter(environ)),
)
def test_a_bad_variable_is_one_clear_line_with_its_name(
    shell: Shell, server: Server, url: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    with unchanged(tmp_path):
        assert shell(url, "got", **environ) == 2
    assert len(shell.lines) == 1
    assert next(iter(environ)) in shell.err
    assert server.requests == []


@pytest.mark.parametrize("dest", ["file/got", "file/a/b/got", "file/"])
def test_a_file_where_a_folder_should_be_is_an_error(
    shell: Shell, url: str, tmp_path: Path, dest: str
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with unchanged(tmp_path):
        assert shell(url, dest) == 1
    assert len(shell.lines) == 1
    assert "file" in shell.err


def test_a_folder_that_may_not_be_written_is_an_error(server: Server, url: str) -> None:
    with folder_of_nobody() as folder:
        closed = folder / "closed"
        closed.mkdir(mode=0o555)
        small = server.add("/small", Resource(BODY[:1000]))
        for source in (url, small):
            for dest in (closed / "got", closed / "new" / "got"):
                ended = run(source, dest, unprivileged=True, cwd=folder)
                assert ended.code == 1
                assert str(closed) in ended.err
                assert "permission denied" in ended.err.lower()
                assert len(ended.err.splitlines()) == 1
        assert names_in(closed) == []


@pytest.mark.parametrize("size", [1000, 2_500_001])
def test_space_that_has_to_stay_free_is_not_used(
    shell: Shell, server: Server, tmp_path: Path, size: int
) -> None:
    url = server.add("/model", Resource(BODY[:size]))
    assert shell(url, "got", "--min-free", "1000T") == 1
    assert "not enough space" in shell.err
    assert len(shell.lines) == 1
    assert names_in(tmp_path) == []


def test_a_file_that_is_too_large_is_refused(shell: Shell, url: str, tmp_path: Path) -> None:
    assert shell(url, "got", "--max-size", "1M") == 1
    assert "--max-size" in shell.err
    assert names_in(tmp_path) == []


# ------------------------------------------------------------------- metrics


@pytest.fixture
def endpoint(other_server: Server) -> str:
    return other_server.add("/metrics", Resource(accepts_post=True))


def told(server: Server) -> list[dict[str, object]]:
    posts = [seen for seen in server.requests if seen.method == "POST"]
    assert all(seen.header("Content-Type") == "application/json" for seen in posts)
    return [json.loads(seen.body) for seen in posts]


def test_the_metrics_endpoint_is_told_of_a_file(
    shell: Shell, other_server: Server, url: str, endpoint: str
) -> None:
    import pgetpy

    signed = f"{url}?X-Amz-Signature=hunter2"
    assert shell(signed, "got", PGET_METRICS_ENDPOINT=f"{endpoint}?a=b") == 0, shell.err
    [payload] = told(other_server)
    assert (payload["source"], payload["type"]) == ("pget", "download")
    data = payload["data"]
    assert isinstance(data, dict)
    assert data.pop("bytes_per_second") > 0
    assert data == {
        "url": f"{url}?X-Amz-Signature=***",
        "size": len(BODY),
        "version": pgetpy.__version__,
    }
    assert other_server.requests[0].target == "/metrics?a=b"


def test_the_metrics_endpoint_is_told_of_each_file_of_a_manifest(
    shell: Shell, server: Server, other_server: Server, url: str, endpoint: str, tmp_path: Path
) -> None:
    missing = server.url("/missing")
    manifest = write_manifest(tmp_path, f"{url} good", f"{missing} missing")
    assert shell("multifile", manifest, PGET_METRICS_ENDPOINT=endpoint) == 1
    data = {payload["data"]["url"]: payload["data"] for payload in told(other_server)}  # type: ignore[index]
    assert set(data) == {url, missing}
    assert "404" in data[missing]["error"]
    assert "bytes_per_second" not in data[missing]


def test_no_secret_goes_to_the_metrics_endpoint(
    shell: Shell, server: Server, other_server: Server, endpoint: str
) -> None:
    lost = server.url("/lost?token=hunter2&X-Amz-Signature=hunter2", user="me:hunter2")
    url = server.add("/x", Resource(faults=[Redirect(lost)]))
    assert shell(f"{url}?sig=hunter2&sv=1", "got", PGET_METRICS_ENDPOINT=endpoint) == 1
    [payload] = told(other_server)
    assert set(payload["data"]) == {"url", "size", "version", "error"}  # type: ignore[call-overload]
    assert "404" in payload["data"]["error"]  # type: ignore[index]
    assert "hunter2" not in json.dumps(payload)


@pytest.mark.parametrize("trouble", ["refused", "500", "404", "no name", "silent"])
def test_trouble_with_the_metrics_endpoint_concerns_no_download(
    shell: Shell, other_server: Server, url: str, endpoint: str, tmp_path: Path, trouble: str
) -> None:
    if trouble == "refused":
        other_server.stop()
    elif trouble == "no name":
        endpoint = "http://no-such.invalid/"
    else:
        fault = SilenceBeforeHead() if trouble == "silent" else Status(int(trouble))
        other_server.change("/metrics", faults=[fault])
    started = time.monotonic()
    assert shell(url, "got", PGET_METRICS_ENDPOINT=endpoint) == 0, shell.err
    assert time.monotonic() - started < 40
    assert (tmp_path / "got").read_bytes() == BODY
    assert "metrics" not in shell.err.lower()


# ------------------------------------------------------------------- several runs


def test_two_runs_do_not_wait_for_each_other(server: Server, url: str, tmp_path: Path) -> None:
    gate = Gate()
    stuck = server.add("/stuck", Resource(OTHER, faults=[Dam(99, gate)]))
    with Run(stuck, tmp_path / "stuck") as first:
        gate.wait_reached()
        # pget would wait for the first one here.
        ended = run(url, tmp_path / "got")
        assert ended.code == 0, ended.err
        gate.open()
        assert first.wait().code == 0
    assert (tmp_path / "stuck").read_bytes() == OTHER


def test_a_run_that_is_killed_leaves_nothing_under_the_final_name_and_may_be_run_again(
    server: Server, tmp_path: Path
) -> None:
    gate = Gate()
    url = server.add("/model", Resource(BODY, faults=[Dam(650_000, gate)]))
    with Run("-m", "300K", url, tmp_path / "got") as running:
        gate.wait_reached()
        eventually(lambda: names_in(tmp_path), what="a part file")
        running.kill()
    assert not (tmp_path / "got").exists()
    gate.open()
    server.change("/model", faults=[])
    ended = run(url, tmp_path / "got", "--json")
    assert ended.code == 0, ended.err
    assert (tmp_path / "got").read_bytes() == BODY
    assert json.loads(ended.out)["resumed"] > 0
    assert names_in(tmp_path) == ["got"]
