"""The first tenth of a second: what a download imports beyond what asyncio and ssl do.

Each module costs 0.1 to 1 ms before the first byte is asked for, and a small file takes less than
all of them together. What a plain download does not need is imported where it is used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.bodies import body
from tests.support.children import after
from tests.support.object_store import ACCESS_KEY, SECRET_KEY, ObjectStore
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.server import Server

# A ratchet: what shortens the start lowers them.
MOST_OF_OURS = 105
MOST_OF_PYTHONS = 21
MOST_FOR_STORES = 6
# What is only for some downloads. A name stands for the module and those below it.
RARE = (
    "argparse", "bz2", "dataclasses", "email", "gettext", "http", "lzma", "netrc", "random",
    "shutil", "tempfile", "unicodedata", "zlib",
    "pgetpy.archives", "pgetpy.cache", "pgetpy.cli.help", "pgetpy.cli.option_table",
    "pgetpy.cli.progress_bars", "pgetpy.core.archives.member_policy", "pgetpy.core.generations",
    "pgetpy.core.objects", "pgetpy.generations", "pgetpy.settings.generation_options",
    "pgetpy.core.http.chunked", "pgetpy.core.references.manifest",
    "pgetpy.core.references.policy", "pgetpy.core.weights",
    "pgetpy.destinations.manifest_journal", "pgetpy.destinations.sinks.null",
    "pgetpy.destinations.tree", "pgetpy.core.fleet", "pgetpy.core.placement",
    "pgetpy.engine.content_policy", "pgetpy.engine.hf_transfer", "pgetpy.engine.node_access",
    "pgetpy.fleet",
    "pgetpy.engine.service_client", "pgetpy.engine.transports.aio", "pgetpy.engine.uploads",
    "pgetpy.sources.civitai", "pgetpy.sources.huggingface", "pgetpy.sources.replicate",
    "pgetpy.sources.s3", "pgetpy.weights",
)  # fmt: skip
_TELLING = """
import asyncio, atexit, os, ssl, sys
before = set(sys.modules)

def tell():
    names = [name for name in sys.modules if name not in before]
    import json

    with open(os.environ["IMPORTED"], "w") as file:
        json.dump(names, file)

atexit.register(tell)
"""


def imported(url: str, folder: Path, **environ: str) -> list[str]:
    """Return what the download of `url` imports, in order.

    On a slow machine a request may be tried again, and only that imports random. Such a download
    is not the usual one, so it is started again, up to five times.
    """
    told = folder / "told"
    for _ in range(5):
        ended = run(
            url,
            folder / "dest",
            "-f",
            program=after(_TELLING),
            env={"IMPORTED": str(told), "HOME": str(folder), **environ},
        )
        assert ended.code == 0, ended.err
        found: list[str] = json.loads(told.read_text())
        if "random" not in found:
            break
    return found


@pytest.fixture(params=[1000, 5_000_000])
def plain(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> list[str]:
    """What the download of a small file imports, and that of one that is fetched in ranges."""
    return imported(server.add("/x", Resource(body(request.param))), tmp_path)


def test_a_plain_download_imports_few_modules(plain: list[str]) -> None:
    ours = [name for name in plain if name.partition(".")[0] == "pgetpy"]
    pythons = [name for name in plain if name not in ours]
    said = f"{len(ours)} of pgetpy: {' '.join(ours)}\n{len(pythons)} others: {' '.join(pythons)}"
    assert (len(ours) <= MOST_OF_OURS, len(pythons) <= MOST_OF_PYTHONS) == (True, True), said


def test_what_few_downloads_need_is_not_imported(plain: list[str]) -> None:
    below = tuple(f"{name}." for name in RARE)
    assert [name for name in plain if name in RARE or name.startswith(below)] == []


def test_only_the_standard_library_and_pgetpy_are_imported(plain: list[str]) -> None:
    tops = {name.partition(".")[0] for name in plain}
    assert sorted(tops - {"pgetpy", *sys.stdlib_module_names}) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
        {"PGET_S3_SIGN": "never"},
    ],
    ids=["static keys", "unsigned"],
)
def test_an_object_store_costs_a_few_modules(
    server: Server, tmp_path: Path, keys: dict[str, str]
) -> None:
    data = body(1000)
    usual = imported(server.add("/x", Resource(data)), tmp_path)
    with ObjectStore() as store:
        store.public = "PGET_S3_SIGN" in keys
        store.put("bucket", "x", data)
        stores = imported(
            "s3://bucket/x", tmp_path, AWS_ENDPOINT_URL=store.url, AWS_REGION="us-east-1", **keys
        )
    assert store.violations == []
    more = [name for name in stores if name not in (*usual, "hmac")]
    assert len(more) <= MOST_FOR_STORES, " ".join(more)
