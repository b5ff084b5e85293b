"""Files go to a scripted store, which checks every signature and every hash."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pgetpy.cli import main
from pgetpy.core.objects.multipart import (
    LARGEST_OBJECT,
    LARGEST_PART,
    are_of_two_objects,
    choose_part_size,
    expected_etag,
)
from pgetpy.errors import (
    DestinationError,
    NotFoundError,
    ObjectExistsError,
    PgetError,
    UnauthorizedError,
    UsageError,
)
from tests.integration.uploads.putting import BODY, MIB, PART, put, sent_parts, stored
from tests.support.bodies import body
from tests.support.fetching import Events
from tests.support.object_store import SECRET_KEY, ObjectStore
from tests.support.processes import Run

pytestmark = pytest.mark.usefixtures("forked_runs")


def test_a_small_file_is_sent_whole(store: ObjectStore, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    result = put(path, "s3://bucket/a/", store.environ, cache_control="max-age=1")
    assert stored(store, "a/config.json") == b"{}"
    headers = store.objects["bucket"]["a/config.json"].headers
    assert headers == {"content-type": "application/json", "cache-control": "max-age=1"}
    assert (result.size, result.parts_sent, result.dest) == (2, 0, "s3://bucket/a/config.json")
    assert result.etag == store.objects["bucket"]["a/config.json"].etag


def test_an_empty_file_is_an_empty_object(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    put(tmp_path / "empty", "s3://bucket/empty", store.environ)
    assert stored(store, "empty") == b""


@pytest.mark.parametrize("key", ["m", "a b+c%20\u00e9?x#y&z=1", "x//y"])
def test_a_large_file_is_sent_in_parts(store: ObjectStore, large: Path, key: str) -> None:
    events = Events()
    result = put(large, f"s3://bucket/{key}", store.environ, progress=events)
    assert stored(store, key) == BODY
    assert sent_parts(store) == [1, 2, 3, 4]
    assert (result.parts_sent, result.size, result.resumed) == (4, len(BODY), 0)
    assert result.etag == store.objects["bucket"][key].etag
    assert store.uploads == {}
    events.assert_monotonic()


def test_the_result_says_how_many_connections_sent(store: ObjectStore, large: Path) -> None:
    meeting = threading.Barrier(2)
    store.pause_at = lambda asked: "partNumber" in asked.query
    store.paused = lambda: meeting.wait(60)
    assert put(large, "s3://bucket/m", store.environ).connections >= 2


def test_a_directory_is_sent_file_by_file(store: ObjectStore, tmp_path: Path) -> None:
    files = {"a.json": b"{}", "sub/b c.txt": b"x", "sub/deep/d": BODY}
    for name, data in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    result = put(tmp_path / "tree", "s3://bucket/models/x", store.environ)
    assert {k: v.body for k, v in store.objects["bucket"].items()} == {
        f"models/x/{name}": data for name, data in files.items()
    }
    assert sorted(result.members) == sorted(files)
    (tmp_path / "none").mkdir()
    with pytest.raises(DestinationError, match="no files"):
        put(tmp_path / "none", "s3://bucket/x", store.environ)


def test_parts_that_are_there_are_not_sent_again(
    store: ObjectStore, large: Path, own_state: Path
) -> None:
    """The network fails for good after two parts; the next run sends the other two."""
    store.before[3] = lambda: store.refuse(500, "InternalError", times=50)
    with pytest.raises(PgetError, match="500"):
        put(large, "s3://bucket/m", store.environ, concurrency=1, retries=0, stall_timeout=5)
    # 500 is the store's trouble: what was sent is kept for the next run.
    assert len(store.uploads) == 1
    store.forgive()
    (upload,) = store.uploads.values()
    done = set(upload.parts)
    assert done
    store.requests.clear()
    result = put(large, "s3://bucket/m", store.environ)
    assert stored(store, "m") == BODY
    assert result.resumed >= PART
    assert not set(sent_parts(store)) & done
    assert list(own_state.iterdir()) == []


def test_an_upload_that_was_killed_goes_on(
    store: ObjectStore, large: Path, tmp_path: Path, own_state: Path
) -> None:
    gate = threading.Event()
    store.before[4] = lambda: gate.wait(60)
    arguments = ("put", large, "s3://bucket/m", "-m", str(PART), "-c", "1")
    environ = {**store.environ, "HOME": str(tmp_path / "home")}
    with Run(*arguments, env=environ) as run:
        run.wait_until(lambda: len(store.requests) >= 4)
        run.kill()
    gate.set()
    store.requests.clear()
    assert len(list(own_state.iterdir())) == 1
    with Run(*arguments, "--json", env=environ) as run:
        assert run.wait().code == 0
    assert stored(store, "m") == BODY
    assert 0 < len(sent_parts(store)) < 4
    assert list(own_state.iterdir()) == []


def test_a_file_that_has_changed_is_sent_anew(store: ObjectStore, large: Path) -> None:
    store.before[3] = lambda: store.refuse(500, "InternalError", times=50)
    with pytest.raises(PgetError):
        put(large, "s3://bucket/m", store.environ, concurrency=1, retries=0)
    store.forgive()
    other = body(len(BODY), seed=3)
    large.write_bytes(other)
    result = put(large, "s3://bucket/m", store.environ)
    assert stored(store, "m") == other
    assert result.resumed == 0
    # A store charges for parts that are left.
    assert store.uploads == {}


def test_what_is_refused_for_good_is_aborted(
    store: ObjectStore, large: Path, own_state: Path
) -> None:
    store.before[2] = lambda: store.refuse(403, "AccessDenied", times=1)
    with pytest.raises(UnauthorizedError, match="may not"):
        put(large, "s3://bucket/m", store.environ, concurrency=1)
    assert store.uploads == {}
    assert list(own_state.iterdir()) == []


def test_slow_down_and_errors_within_a_success_are_met_by_another_try(
    store: ObjectStore, large: Path
) -> None:
    store.before[2] = lambda: store.refuse(503, "SlowDown", times=2)
    store.fails_at_the_end = 1
    result = put(large, "s3://bucket/m", store.environ)
    assert stored(store, "m") == BODY
    assert result.retries >= 2


def test_an_object_that_exists_is_kept_where_it_must_be_absent(
    store: ObjectStore, large: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"new")
    store.put("bucket", "m", b"old")
    for path in (small, large):
        with pytest.raises(ObjectExistsError):
            put(path, "s3://bucket/m", store.environ, if_absent=True)
    assert stored(store, "m") == b"old"
    assert sent_parts(store) == []
    assert put(large, "s3://bucket/n", store.environ, if_absent=True).size == len(BODY)


@pytest.mark.parametrize("size", [10, len(BODY)])
def test_who_comes_second_meanwhile_is_refused(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    """The object appears between the look and the write."""
    path = tmp_path / "f"
    path.write_bytes(BODY[:size])
    store.before[1] = lambda: store.put("bucket", "m", b"theirs")
    with pytest.raises(ObjectExistsError):
        put(path, "s3://bucket/m", store.environ, if_absent=True)
    assert stored(store, "m") == b"theirs"
    assert store.uploads == {}


def test_a_store_that_knows_no_condition_is_said_to(
    store: ObjectStore, large: Path, tmp_path: Path
) -> None:
    store.knows_conditions = False
    result = put(large, "s3://bucket/m", store.environ, if_absent=True)
    assert any("If-None-Match" in remark for remark in result.remarks)
    assert stored(store, "m") == BODY
    # Asking again would not teach it the condition.
    conditional = [each for each in store.requests if "if-none-match" in each.headers]
    assert (len(conditional), result.retries) == (1, 0)


def test_a_conflict_with_another_writer_is_met_by_another_try(
    store: ObjectStore, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"ours")
    store.before[1] = lambda: store.refuse(409, "ConditionalRequestConflict")
    put(tmp_path / "f", "s3://bucket/m", store.environ, if_absent=True)
    assert stored(store, "m") == b"ours"


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("https://h.test/x", UsageError),
        ("s3:///x", UsageError),
        ("s3://bucket/*.bin", UsageError),
        ("s3://bucket/x?versionId=1", UsageError),
        ("s3://nowhere/x", NotFoundError),
    ],
)
def test_what_nothing_can_be_written_to_is_said(
    store: ObjectStore, large: Path, target: str, kind: type[PgetError]
) -> None:
    with pytest.raises(kind) as found:
        put(large, target, store.environ)
    assert SECRET_KEY not in f"{found.value!r} {found.value}"


def test_the_command_says_what_it_did(
    store: ObjectStore, large: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    environ = {**store.environ}
    assert main(["put", str(large), "s3://bucket/m", "--json"], environ=environ) == 0
    out, err = capfd.readouterr()
    assert '"dest": "s3://bucket/m"' in out
    assert "uploading" in err
    assert "downloading" not in err
    missing = tmp_path / "missing"
    assert main(["put", str(missing), "s3://bucket/m"], environ=environ) == 1
    assert f"{missing} cannot be read: no such file" in capfd.readouterr().err
    assert main(["put", str(large)], environ=environ) == 2
    assert main(["put", str(large), "s3://bucket/m", "--if-absent"], environ=environ) == 1
    assert "exists already" in capfd.readouterr().err


def test_parts_are_equal_and_neither_too_small_nor_too_many() -> None:
    assert choose_part_size(1) == 16 * MIB
    assert choose_part_size(1 << 30, 1) == 5 * MIB
    assert choose_part_size(1 << 40) == 105 * MIB
    size = choose_part_size(5 << 40)
    assert -(-(5 << 40) // size) <= 10_000
    assert choose_part_size(5 * 10**12) == 477 * MIB
    assert choose_part_size(LARGEST_OBJECT) == LARGEST_PART
    # What exceeds one request is sent in parts, whatever was asked for.
    assert choose_part_size(6 << 30, 8 << 30) == LARGEST_PART
    assert expected_etag({2: f'"{"0" * 32}"', 1: f'"{"f" * 32}"'}).endswith('-2"')
    assert expected_etag({1: '"of-its-own"'}) == ""


@pytest.mark.parametrize(
    ("etag", "other", "two"),
    [('"a-2"', '"a-2"', False), ('"a-2"', '"b-2"', True), ('"a"', '"b"', True),
     ('"a-2"', '"b"', False), ("", '"b"', False), ('"a"', "a", False)],
)  # fmt: skip
def test_etags_of_two_objects_are_told_apart(etag: str, other: str, two: bool) -> None:
    assert are_of_two_objects(etag, other) is two
