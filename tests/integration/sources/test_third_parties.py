"""Sources of other packages: an installed one is played by a folder on the path of a child."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.processes import Ended, run
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.weights import weights

HUB = """
from pgetpy.core.references.reference import Reference, Wanted, key_for, scope_for, wanted_of
from pgetpy.errors import BadReferenceError, NotFoundError
from pgetpy.sources.base import Located, RemoteFile

class Hub:
    name = "hub"

    def recognise(self, text, wanted, settings):
        if not text.startswith("hub:"):
            return None
        if text == "hub:":
            raise BadReferenceError(text, "it names nothing")
        chosen = wanted_of("", wanted)
        return Reference("hub", text, text, text[4:], key_for(text, chosen), wanted=chosen)

    async def locate(self, reference, settings, client):
        import json, os
        remote = RemoteFile(os.environ["HUB"] + "/about/" + reference.name)
        about = json.loads(await client.read(remote))
        return Located((RemoteFile(os.environ["HUB"] + about["path"], about["name"]),))

    def explained(self, reference, error, settings):
        if error.status == 404:
            return NotFoundError(str(reference), "The Hub", 404, error.words, hint="see hub:all")
        return error

class Other(Hub):
    name = "other"

    def recognise(self, text, wanted, settings):
        if text == "other:raise":
            raise RuntimeError("a mistake of theirs")
        return None

class Plain(Hub):
    name = "plain"

class Again(Hub):
    pass

class Nameless:
    pass
"""


def install(
    folder: Path, points: Mapping[str, str], package: str = "theirs", **modules: str
) -> Mapping[str, str]:
    """Put a package with these entry points into `folder`; return the environment that has it."""
    about = folder / f"{package}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (about / "entry_points.txt").write_text("\n".join(["[pgetpy.sources]", *lines, ""]))
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    path = os.pathsep.join([str(folder), *(entry for entry in sys.path if entry)])
    return {"PYTHONPATH": path}


class Shop:
    """The command line with a package of somebody else's."""

    def __init__(self, tmp_path: Path, server: Server) -> None:
        self._root = tmp_path
        self._server = server
        self.environ: dict[str, str] = {}

    def install(self, points: Mapping[str, str], **modules: str) -> None:
        self.environ = dict(install(self._root / "site", points, **modules))

    def ensure(self, *references: str) -> Ended:
        environ = {"PGET_CACHE_DIR": str(self._root / "cache"), "PGET_MIN_DISK_FREE": "0"}
        environ |= {"HUB": self._server.url(""), **self.environ}
        return run("ensure", *references, env=environ)


@pytest.fixture
def shop(tmp_path: Path, server: Server) -> Shop:
    server.add("/about/lora", Resource(b'{"path": "/store/1", "name": "x.safetensors"}'))
    server.add("/store/1", Resource(weights()))
    server.add("/lora.safetensors", Resource(weights(seed="plain")))
    return Shop(tmp_path, server)


def test_a_package_can_bring_a_source(shop: Shop) -> None:
    shop.install({"hub": "theirs_hub:Hub"}, theirs_hub=HUB)
    ended = shop.ensure("hub:lora")
    assert ended.code == 0, ended.err
    path = Path(ended.out.strip())
    assert (path.read_bytes(), path.suffix) == (weights(), ".safetensors")
    assert shop.ensure("hub:lora").out == ended.out
    missing = shop.ensure("hub:none")
    assert "The Hub did not find it (HTTP status 404" in missing.err
    assert "see hub:all" in missing.err
    assert "it names nothing" in shop.ensure("hub:").err


def test_without_the_package_the_reference_is_unknown(shop: Shop) -> None:
    ended = shop.ensure("hub:lora")
    assert (ended.code, "'hub' is not supported" in ended.err) == (2, True)


def test_sources_that_do_not_work_harm_no_other(shop: Shop, server: Server) -> None:
    broken = {
        "broken_module:Hub": "ImportError: no such library",
        "not_there:Hub": "ModuleNotFoundError",
        "theirs_hub:NotThere": "AttributeError",
        "theirs_hub:Nameless": "AttributeError",
        "theirs_hub:Plain": "the name 'plain' is taken",
        "theirs_hub:Again": "the name 'hub' is taken",
    }
    points = {f"z{number}": point for number, point in enumerate(broken)}
    raising = "raise ImportError('no such library')"
    shop.install({"good": "theirs_hub:Hub", **points}, theirs_hub=HUB, broken_module=raising)
    ended = shop.ensure("hub:lora", server.url("/lora.safetensors"))
    assert (ended.code, len(ended.out.splitlines())) == (0, 2), ended.err
    ended = shop.ensure("zz:lora")
    assert ended.code == 2
    assert "Traceback" not in ended.err
    for name, point in points.items():
        assert re.search(rf"\b{name} of {point} \({broken[point]}", ended.err), ended.err


def test_a_mistake_in_a_source_is_an_error_that_names_it(shop: Shop, server: Server) -> None:
    shop.install({"a": "theirs_hub:Other", "b": "theirs_hub:Hub"}, theirs_hub=HUB)
    assert shop.ensure("hub:lora", server.url("/lora.safetensors")).code == 0
    ended = shop.ensure("other:raise")
    assert (ended.code, "Traceback" in ended.err) == (2, False)
    assert "other (RuntimeError: a mistake of theirs)" in ended.err
