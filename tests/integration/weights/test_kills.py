"""kill -9 just when all has come, and is on its way into the cache: the next one sorts it out."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from pgetpy.cache.store import Store
from tests.support.entries import child, left_over, said, tell
from tests.support.server import Server
from tests.support.weights import MIB, opened, serve, tar_of, weights

pytestmark = pytest.mark.usefixtures("forked_runs")

# Copies of a child ensure a URL and kill themselves at the n-th act that an audit hook sees once
# what was fetched has its name, n counted up from 0.
_DRIVER = """
from tests.support.killing import die_at, run_copies
from tests.support.weights import *
root, url, stride = sys.argv[1:]

def work(number):
    die_at(number, after=lambda event, arguments: event == "os.rename"
           and str(arguments[1]).endswith(("/members", "/object")))
    opened(root).ensure(url)

run_copies(work, int(stride))
"""


# Every one of them is tried in the long run.
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("changed", [False, True], ids=["same version", "another version"])
@pytest.mark.parametrize("name", ["x.safetensors", "x.tar"])
def test_a_kill_when_all_has_come_leaves_what_the_next_one_sorts_out(
    server: Server, root: Path, name: str, changed: bool, stride: int
) -> None:
    path = f"/{name}"
    kills = 0
    with child(_DRIVER, root, server.url(path), stride) as driver:
        while True:
            put_up(server, path, "one")
            tell(driver)
            status = json.loads(said(driver))
            assert status in (0, signal.SIGKILL)
            right = put_up(server, path, "two" if changed else "one")
            with opened(root, refresh="check", concurrency=1) as cache:
                assert cache.ensure(server.url(path)).read_bytes() == right
                # Which version it is was noted.
                before = server.sent(path)
                cache.ensure(server.url(path))
                assert server.sent(path) - before < 1000
                cache.remove(server.url(path))
            with Store(root) as store:
                store.sweep(partial_seconds=-1)
            assert left_over(root) == []
            if status == 0:
                break
            kills += 1
    assert kills > 10 // stride


def put_up(server: Server, path: str, version: str) -> bytes:
    """Serve the weights of `version`, in an archive if `path` is called like one; return them."""
    data = weights(2 * MIB, version)
    served = tar_of({f"{version}.safetensors": data}) if path.endswith(".tar") else data
    serve(server, served, path, etag=f'"{version}"')
    return data
