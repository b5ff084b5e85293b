"""Fixtures of the whole suite: loopback servers whose violations fail the test that caused them."""

import gc
import os
import signal
import ssl
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from pgetpy.engine.transports.base import Exchange, UnsupportedResponseError
from pgetpy.engine.transports.small_request import SmallRequest

from .support import judges
from .support.authority import Authority
from .support.fork_server import stop_fork_servers
from .support.judges import Judge
from .support.processes import forking
from .support.proxy import Proxy
from .support.sampling import left_out
from .support.secrets import LeakWatch
from .support.server import Server

HERE = Path(__file__).parent
# Long tables of these tests are run whole: all of them together take 12 s.
CHEAP = HERE / "unit" / "core"
# The marks of all tests below these folders; runs leave them out by these names.
MARKS = {
    "real_servers": pytest.mark.real_servers,
    "slow": pytest.mark.soak,
    "predictors": pytest.mark.predictors,
}

# What runs remember for later ones is no business of other tests, nor of the user's.
_STATE = tempfile.TemporaryDirectory(prefix="pgetpy-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

# What the package logs in any test, which must hold no secret.
LOGGED = LeakWatch()

# A shell starts what runs in the background deaf to Ctrl-C, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What decides over a change is the same each time.
CI = os.environ.get("CI") == "true"
# One property is many tests, and the first one makes tables of all characters beforehand.
PROPERTY_SECONDS = 300
# Times on shared machines say nothing about a property, so no example has a deadline.
settings.register_profile(
    "quick",
    deadline=None,
    max_examples=20,
    derandomize=CI,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("soak", settings.get_profile("quick"), max_examples=100)
settings.load_profile("quick")


def _judged(server: Server) -> Iterator[Server]:
    with server:
        yield server
    assert server.violations == []
    assert server.errors == []


@pytest.fixture
def server() -> Iterator[Server]:
    """The strict loopback server; a request that RFC 9110 forbids fails the test."""
    yield from _judged(Server())


@pytest.fixture(scope="module")
def shelf() -> Iterator[Server]:
    """One strict server for all archives of a module, for properties with many examples."""
    yield from _judged(Server())


@pytest.fixture
def other_server() -> Iterator[Server]:
    """A second server: another port, so another origin."""
    yield from _judged(Server())


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The private authority behind the TLS fixtures; ``ca.pem`` is what a client must trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def certified(ca: Authority) -> ssl.SSLContext:
    """What servers over TLS need that are not particular about it."""
    return ca.context()


@pytest.fixture
def tls_server(certified: ssl.SSLContext) -> Iterator[Server]:
    """The strict server over TLS."""
    yield from _judged(Server(tls=certified))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A loopback proxy without credentials; its ``names`` may be filled by the test."""
    with Proxy() as proxy:
        yield proxy
    assert proxy.violations == []
    assert proxy.errors == []


@pytest.fixture
def tls_proxy(certified: ssl.SSLContext) -> Iterator[Proxy]:
    """The same, asked over TLS."""
    with Proxy(tls=certified) as proxy:
        yield proxy
    assert proxy.violations == []
    assert proxy.errors == []


@pytest.fixture(scope="session")
def forks() -> Iterator[None]:
    """Ends the fork servers of the session."""
    yield
    stop_fork_servers()


@pytest.fixture
def forked_runs(forks: None) -> Iterator[None]:
    """Has runs of the command line forked from a process that has imported it.

    For modules with many runs that are about what runs do, not about how a process starts.
    """
    with forking():
        yield


class UnwillingTransport:
    """Stands in for the direct transport where everything is to go by the full client."""

    def __init__(self, *_: object) -> None:
        pass

    async def carry(self, exchange: Exchange) -> None:
        raise UnsupportedResponseError("unwilling")

    async def begin(self, begun: SmallRequest) -> None:
        begun.fail(UnsupportedResponseError("unwilling"))

    async def close(self) -> None:
        pass


@pytest.fixture(params=["direct", "aiohttp"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs the test over the transport of choice, and again with all of it over the full client."""
    if request.param == "aiohttp":
        monkeypatch.setattr("pgetpy.engine.engine.DirectTransport", UnwillingTransport)
    return str(request.param)


@pytest.fixture(scope="session")
def nginx() -> Iterator[Judge]:
    """nginx over plain HTTP, with a folder that the whole session shares."""
    with judges.nginx() as judge:
        yield judge


@pytest.fixture(scope="session")
def tls_nginx(ca: Authority) -> Iterator[Judge]:
    with judges.nginx(ca) as judge:
        yield judge


@pytest.fixture(scope="session")
def apache() -> Iterator[Judge]:
    """Apache httpd over plain HTTP, with a folder that the whole session shares."""
    with judges.apache() as judge:
        yield judge


@pytest.fixture(scope="session")
def tls_apache(ca: Authority) -> Iterator[Judge]:
    with judges.apache(ca) as judge:
        yield judge


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests without garbage collection, and leave them out of it afterwards.

    Over ten thousand tests are objects that stay until the end. Each worker spent half of its
    collection time looking through them, and would again at each full collection in the run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample",
        action="store_true",
        help="mark two thirds of the rows of long tables as soak, for make test to leave out",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        mark = MARKS.get(item.path.relative_to(HERE).parts[0])
        if mark is not None:
            item.add_marker(mark)
        is_property = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_property and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(PROPERTY_SECONDS))
    if config.getoption("sample"):
        sample(items)
    # Workers take the tests in this order, and one of them would begin the longest at the end.
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


def sample(items: list[pytest.Item]) -> None:
    """Mark two thirds of the rows of long tables as soak."""
    marks = {str(mark.name) for mark in MARKS.values()}
    quick = [
        item
        for item in items
        if not item.path.is_relative_to(CHEAP)
        and marks.isdisjoint(mark.name for mark in item.iter_markers())
    ]
    left = left_out(item.nodeid for item in quick)
    for item in quick:
        if item.nodeid in left:
            item.add_marker(pytest.mark.soak)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    yield
    LOGGED.check()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    yield
    LOGGED.check()


def pytest_runtest_setup(item: pytest.Item) -> None:
    LOGGED.begin()
    for mark in item.iter_markers("judge"):
        judges.require_judge(*mark.args)
