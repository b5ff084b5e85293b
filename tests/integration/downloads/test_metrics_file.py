"""--metrics-file: what downloads and the cache count, as node exporter reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.bodies import body
from tests.support.hub import Hub
from tests.support.object_store import ObjectStore
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import weights

pytestmark = pytest.mark.usefixtures("forked_runs")

DATA = body(300_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pgetpy.prom"


def counted(path: Path) -> Mapping[str, float]:
    """The samples of the file by their names and labels, as Prometheus' own parser reads them."""
    parser = pytest.importorskip("prometheus_client.parser")
    families = parser.text_string_to_metric_families(path.read_text())
    return {
        " ".join([sample.name.removeprefix("pgetpy_"), *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
        if "seconds" not in sample.name
    }


def test_runs_add_up(server: Server, tmp_path: Path, path: Path) -> None:
    url = server.add("/x", Resource(DATA))
    env = {"PGET_METRICS_FILE": str(path)}
    assert run(url, tmp_path / "a", env=env).code == 0
    assert run(url, tmp_path / "b", "--metrics-file", path).code == 0
    assert run(server.url("/none"), tmp_path / "c", env=env).code == 1
    assert counted(path) == {
        "transfers_total ok": 2,
        "transfers_total failed": 1,
        "received_bytes_total origin": 2 * len(DATA),
    }
    text = path.read_text()
    assert "\npgetpy_transfer_seconds_total " in text
    assert "\npgetpy_last_transfer_timestamp_seconds " in text


def test_a_manifest_counts_each_file(server: Server, tmp_path: Path, path: Path) -> None:
    for number in range(3):
        server.add(f"/{number}", Resource(DATA))
    manifest = tmp_path / "manifest"
    lines = [f"{server.url(f'/{number}')} {tmp_path / str(number)}" for number in range(4)]
    manifest.write_text("\n".join(lines))
    assert run("multifile", manifest, "--metrics-file", path).code == 1
    found = counted(path)
    assert (found["transfers_total ok"], found["transfers_total failed"]) == (3, 1)
    assert found["received_bytes_total origin"] == 3 * len(DATA)


def test_mirrors_are_told_apart(
    server: Server, other_server: Server, tmp_path: Path, path: Path
) -> None:
    mirror = other_server.add("/x", Resource(DATA))
    done = run(server.url("/none"), tmp_path / "x", "--mirror", mirror, "--metrics-file", path)
    assert done.code == 0, done.err
    assert counted(path)[f"received_bytes_total {other_server.host}"] == len(DATA)


def test_the_cache_counts_hits_misses_and_evictions(
    server: Server, tmp_path: Path, path: Path
) -> None:
    data = [weights(50_000, str(number)) for number in range(2)]
    urls = [server.add(f"/{at}.safetensors", Resource(each)) for at, each in enumerate(data)]
    env = {"PGET_METRICS_FILE": str(path), "PGET_CACHE_DIR": str(tmp_path / "cache"),
           "PGET_MIN_DISK_FREE": "0", "PGET_MAX_BYTES": "80000"}  # fmt: skip
    for url in (urls[0], urls[0], urls[1]):
        done = run("ensure", url, env=env)
        assert done.code == 0, done.err
    assert counted(path) == {
        "transfers_total ok": 2,
        "received_bytes_total origin": sum(len(each) for each in data),
        "cache_requests_total hit": 1,
        "cache_requests_total miss": 2,
        "cache_evictions_total": 1,
        "cache_evicted_bytes_total": len(data[0]),
    }


def test_a_second_tier_is_a_source_of_its_own(server: Server, tmp_path: Path, path: Path) -> None:
    data = weights(50_000)
    url = server.add("/x.safetensors", Resource(data))
    with ObjectStore() as store:
        store.put("bucket", "other", b"")
        env = {
            **store.environ, "PGET_CACHE_REMOTE": "s3://bucket/tier", "PGET_MIN_DISK_FREE": "0",
        }  # fmt: skip
        for name in ("one", "two"):
            folder = {"PGET_CACHE_DIR": str(tmp_path / name)}
            done = run("ensure", url, "--json", "--metrics-file", path, env={**env, **folder})
            assert done.code == 0, done.err
    assert '"served_from": "remote"' in done.out
    assert '"bytes_by_source": {"remote": ' in done.out
    found = counted(path)
    assert found["received_bytes_total origin"] == len(data)
    assert found["received_bytes_total remote"] == len(data)


def test_trouble_with_the_file_is_a_warning(server: Server, tmp_path: Path) -> None:
    url = server.add("/x", Resource(DATA))
    done = run(url, tmp_path / "x", "--metrics-file", tmp_path / "none" / "pgetpy.prom")
    assert (done.code, done.err.count("metrics are not written")) == (0, 1), done.err
    assert (tmp_path / "x").read_bytes() == DATA


def test_the_bytes_of_a_repository_are_told_in_one_sum(
    server: Server, tmp_path: Path, path: Path
) -> None:
    files = {"model.safetensors": weights(50_000), "config.json": b"{}"}
    size = sum(len(each) for each in files.values())
    with Hub(server) as hub:
        hub.repo("o/n", dict(files))
        env = {"HF_ENDPOINT": hub.url("").rstrip("/"), "PGET_CACHE_DIR": str(tmp_path / "cache"),
               "PGET_MIN_DISK_FREE": "0", "PGET_METRICS_FILE": str(path)}  # fmt: skip
        done = run("ensure", "hf://o/n", "--wanted", "folder", "--json", env=env)
    assert done.code == 0, done.err
    assert f'"bytes_by_source": {{"origin": {size}}}' in done.out
    found = counted(path)
    assert (found["transfers_total ok"], found["received_bytes_total origin"]) == (2, size)


def test_snapshots_and_folders_say_where_their_bytes_came_from(
    server: Server, tmp_path: Path
) -> None:
    files = {"model.safetensors": weights(50_000), "config.json": b"{}"}
    told = f'"bytes_by_source": {{"origin": {sum(len(each) for each in files.values())}}}'
    with Hub(server) as hub:
        hub.repo("o/n", dict(files))
        env = {"HF_ENDPOINT": hub.url("").rstrip("/"), "HF_HUB_CACHE": str(tmp_path / "hub")}
        snapshot = run("snapshot", "hf://o/n", "--progress", "json", env=env)
        again = run("snapshot", "hf://o/n", "--progress", "json", env=env)
    with ObjectStore() as store:
        for name, each in files.items():
            store.put("bucket", f"models/{name}", each)
        folder = run("s3://bucket/models/", tmp_path / "folder", "--json", env=store.environ)
    assert (snapshot.code, again.code, folder.code) == (0, 0, 0), folder.err
    assert told in snapshot.err.splitlines()[-1]
    assert told in folder.out
    assert '"bytes_by_source": {}' in again.err.splitlines()[-1]
