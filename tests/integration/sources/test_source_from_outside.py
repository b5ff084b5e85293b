"""A source of another package has what this package's have: hosts, settings, a policy's rules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.sources.conftest import TOKEN
from tests.integration.sources.test_third_parties import install
from tests.support.processes import Ended, run
from tests.support.server import Server
from tests.support.weights import serve, weights

MODULE = """
from dataclasses import dataclass, field

from pgetpy.core.references.reference import Reference, key_for, scope_for, wanted_of
from pgetpy.core.text.values import read_endpoint, read_token
from pgetpy.errors import UnauthorizedError
from pgetpy.settings import SourceSection
from pgetpy.settings.options import variable
from pgetpy.sources.base import Located, RemoteFile, Source, parts_at

SCHEME = "modelscope://"


@dataclass(frozen=True)
class ModelScopeSettings(SourceSection):
    options = (
        variable("ModelScopeSettings.token", read_token, "token", environ="MODELSCOPE_TOKEN"),
        variable("ModelScopeSettings.endpoint", read_endpoint, "URL", environ="MODELSCOPE_URL"),
    )
    endpoint: str = "https://modelscope.example"
    token: str | None = field(default=None, repr=False)


class ModelScope(Source[ModelScopeSettings]):
    name = "modelscope"
    hosts = frozenset({"modelscope.example"})
    settings = ModelScopeSettings

    def recognise(self, text, wanted, settings):
        parts = parts_at(text, self.hosts, settings.endpoint)
        if text.startswith(SCHEME):
            name = text.removeprefix(SCHEME)
        elif parts is not None and parts[0].startswith("/models/"):
            name = parts[0].removeprefix("/models/")
        else:
            return None
        if name == "mistake":
            raise RuntimeError("a mistake of theirs")
        chosen = wanted_of(name, wanted)
        key = key_for(f"modelscope:{settings.endpoint}/{name}", chosen)
        token, service = settings.token, settings.endpoint
        scope, shown, last = scope_for(token), SCHEME + name, name.rpartition("/")[2]
        return Reference(
            self.name, shown, shown, last, key, scope, chosen, token, service=service
        )

    async def locate(self, reference, settings, client):
        url = f"{settings.endpoint}/models/{reference.text.removeprefix(SCHEME)}"
        bearer = f"Bearer {reference.token}" if reference.token else None
        return Located((RemoteFile(url, reference.name, authorization=bearer, trusted=True),))

    def explained(self, reference, error, settings):
        if error.status == 401:
            hint = "set MODELSCOPE_TOKEN"
            return UnauthorizedError(str(reference), "ModelScope", 401, error.words, hint=hint)
        return error
"""
UNDER_POLICY = """
import sys
from pgetpy import Policy, WeightsDownloadCache
from pgetpy.errors import PgetError

rules = eval(sys.argv[2])
cache = WeightsDownloadCache(sys.argv[1], 0, policy=Policy(allow_networks=("127.0.0.1",), **rules))
try:
    print(cache.ensure(sys.argv[3]))
except PgetError as error:
    print(type(error).__name__, error)
"""
NAME = "owner/lora.safetensors"
REFERENCE = f"modelscope://{NAME}"


class ModelScope:
    """The service, and this machine with the package of its source."""

    def __init__(self, tmp_path: Path, server: Server, package: str) -> None:
        self.root = tmp_path / "cache"
        self.server = server
        self.page = serve(server, weights(), f"/models/{NAME}", authorization=f"Bearer {TOKEN}")
        points = {"modelscope": "theirs_modelscope:ModelScope"}
        site = install(tmp_path / "site", points, package, theirs_modelscope=MODULE)
        self.environ = {**site, "MODELSCOPE_URL": server.url("")}

    def ensure(self, *references: str, **environ: str) -> Ended:
        own = {"PGET_CACHE_DIR": str(self.root), "PGET_MIN_DISK_FREE": "0"}
        return run("ensure", *references, env={**own, **self.environ, **environ})

    def ensure_under(self, rules: dict[str, object]) -> str:
        """What the cache says of the reference under a policy of these rules, with a token set."""
        program = (sys.executable, "-c", UNDER_POLICY)
        env = {**self.environ, "MODELSCOPE_TOKEN": TOKEN}
        ended = run(str(self.root), repr(rules), REFERENCE, program=program, env=env)
        assert ended.code == 0, ended.err
        return ended.out.strip()

    @property
    def tokens_seen(self) -> int:
        return sum(seen.header("authorization") is not None for seen in self.server.requests)


@pytest.fixture
def package() -> str:
    return "pgetpy_modelscope"


@pytest.fixture
def service(tmp_path: Path, server: Server, owners: set[int], package: str) -> ModelScope:
    owners.add(server.port)
    return ModelScope(tmp_path, server, package)


def test_its_token_comes_from_the_variable_that_it_names(service: ModelScope) -> None:
    ended = service.ensure(REFERENCE, MODELSCOPE_TOKEN=TOKEN)
    assert ended.code == 0, ended.err
    assert Path(ended.out.strip()).read_bytes() == weights()


def test_without_the_token_it_explains_the_refusal(service: ModelScope) -> None:
    ended = service.ensure(REFERENCE)
    assert (ended.code, "set MODELSCOPE_TOKEN" in ended.err) == (1, True)


def test_a_variable_that_cannot_be_used_is_named(service: ModelScope) -> None:
    ended = service.ensure(REFERENCE, MODELSCOPE_TOKEN="not one")
    assert (ended.code, "MODELSCOPE_TOKEN" in ended.err, "not one" in ended.err) == (2, True, False)
    assert service.server.requests == []


def test_urls_of_its_hosts_and_its_endpoint_are_its_own(service: ModelScope) -> None:
    first = service.ensure(REFERENCE, MODELSCOPE_TOKEN=TOKEN)
    asked = len(service.server.requests)
    pages = (service.page, f"https://modelscope.example/models/{NAME}")
    ended = service.ensure(*pages, MODELSCOPE_TOKEN=TOKEN)
    assert ended.out == first.out * 2, ended.err
    assert len(service.server.requests) == asked


def test_other_urls_are_not(service: ModelScope) -> None:
    other = serve(service.server, weights(), "/files/lora.safetensors")
    ended = service.ensure(other, MODELSCOPE_TOKEN=TOKEN)
    assert (ended.code, service.tokens_seen) == (0, 0), ended.err


def test_a_mistake_with_a_url_of_its_own_is_an_error_that_names_it(service: ModelScope) -> None:
    ended = service.ensure(service.server.url("/models/mistake"))
    assert (ended.code, "Traceback" in ended.err) == (2, False)
    assert "modelscope (RuntimeError: a mistake of theirs)" in ended.err


@pytest.mark.parametrize("package", ["theirs"])
def test_its_pages_need_a_package_that_is_named_for_them(service: ModelScope) -> None:
    ended = service.ensure(service.page, MODELSCOPE_TOKEN=TOKEN)
    assert (ended.code, "401" in ended.err, service.tokens_seen) == (1, True, 0)
    assert service.ensure(REFERENCE, MODELSCOPE_TOKEN=TOKEN).code == 0


def test_a_policy_keeps_its_token_and_judges_its_endpoint(service: ModelScope) -> None:
    assert service.ensure_under({}).startswith("UnauthorizedError")
    assert service.tokens_seen == 0
    asked = len(service.server.requests)
    assert "deny_hosts" in service.ensure_under({"deny_hosts": ("127.0.0.1",)})
    assert len(service.server.requests) == asked
    path = service.ensure_under({"own_tokens": True})
    assert Path(path).read_bytes() == weights()
