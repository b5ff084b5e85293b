"""hf_transfer brings what it is asked for; what it cannot do, and what it does wrong, is ours."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from pgetpy.core.references.policy import Policy
from pgetpy.core.report.events import Progressed, Remarked, StartedOver
from pgetpy.errors import DigestMismatchError
from tests.integration.sources.conftest import TOKEN
from tests.support.delivery import Gate
from tests.support.entries import child
from tests.support.faults import GateAfter, ResetAt, SilenceAfter, Status, When
from tests.support.fetching import Events, fetch
from tests.support.hub import Hub
from tests.support.hub_caches import at, opened_at, others
from tests.support.processes import run
from tests.support.resources import Resource
from tests.support.waiting import eventually
from tests.support.weights import MIB, assert_nothing_left, weights

LORA = weights(10 * MIB)
OTHER = weights(10 * MIB, "other")
REFERENCE = "hf://owner/name/lora.safetensors"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hf_transfer") is None, reason="hf_transfer is not installed"
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def stored(hub: Hub, tmp_path: Path) -> str:
    """The path of LORA in the store."""
    hub.repo("owner/name", {"lora.safetensors": LORA, "config.json": b"{}"})
    fetch(REFERENCE, tmp_path / "first", sources=at(hub))
    (path,) = {seen.path for seen in hub.cdn.requests}
    hub.cdn.requests.clear()
    return path


def downloaded(hub: Hub, dest: Path, events: Events, **options: Any) -> bytes:
    """Download LORA by hf_transfer; options are fields of Settings."""
    sources = at(hub, hf_transfer=True)
    fetch(REFERENCE, dest, progress=events, **{"sources": sources, **options})
    return dest.read_bytes()


def agents(hub: Hub) -> list[str | None]:
    """What the requests to the store say they ask for."""
    return [seen.header("range") for seen in hub.cdn.requests]


def by_it(hub: Hub) -> bool:
    """Whether hf_transfer has asked the store for anything: its ranges all begin at 4 MiB."""
    return "bytes=4194304-8388607" in agents(hub)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "lora" in path.name)


def workers_of(pid: int) -> list[int]:
    """The processes of hf_transfer that belong to process `pid`: a child and a grandchild."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"hf_transfer_worker.py" in (path / "cmdline").read_bytes():
                parents[int(path.name)] = int(_status(path)[1])
    children = [each for each, parent in parents.items() if parent == pid]
    return children + [each for each, parent in parents.items() if parent in children]


def alive(pid: int) -> bool:
    try:
        return _status(Path("/proc") / str(pid))[0] != "Z"
    except OSError:
        return False


def _status(path: Path) -> list[str]:
    """State, parent and more of a process, behind its name."""
    return (path / "stat").read_text().rpartition(")")[2].split()


# ------------------------------------------------------------------------------------ where it can


def test_it_brings_a_file_of_the_hub(hub: Hub, stored: str, tmp_path: Path) -> None:
    events = Events()
    assert downloaded(hub, tmp_path / "lora", events) == LORA
    assert by_it(hub)
    assert events.of(Remarked) == events.of(StartedOver) == []
    assert events.of(Progressed)[-1].done == len(LORA)
    events.assert_monotonic()
    assert left_in(tmp_path) == ["lora"]


def test_it_fills_the_cache(hub: Hub, stored: str, root: Path) -> None:
    with opened_at(hub, root, hf_transfer=True) as cache:
        path = cache.ensure(REFERENCE)
        assert path.read_bytes() == LORA
        assert by_it(hub)
        asked = len(hub.cdn.requests)
        assert cache.ensure(REFERENCE) == path
        assert len(hub.cdn.requests) == asked
    assert_nothing_left(root)


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        ((), {"HF_HUB_ENABLE_HF_TRANSFER": "1"}),
        (("--hf-transfer",), {}),
        ((), {"PGET_HF_TRANSFER": "1"}),
    ],
)
def test_the_command_line_asks_for_it(
    hub: Hub, stored: str, tmp_path: Path, flags: tuple[str, ...], environ: dict[str, str]
) -> None:
    environ["HF_ENDPOINT"] = hub.url("")
    ended = run(*flags, REFERENCE, tmp_path / "lora", env=environ)
    assert ended.code == 0, ended.err
    assert (tmp_path / "lora").read_bytes() == LORA
    assert by_it(hub)


def test_nobody_gets_it_unasked(hub: Hub, stored: str, tmp_path: Path) -> None:
    fetch(REFERENCE, tmp_path / "lora", sources=at(hub))
    environ = {"HF_ENDPOINT": hub.url(""), "HF_HUB_ENABLE_HF_TRANSFER": "1"}
    ended = run("--no-hf-transfer", REFERENCE, tmp_path / "other", env=environ)
    assert ended.code == 0, ended.err
    assert not by_it(hub)


def test_the_store_sees_no_token_on_the_same_host(hub: Hub, root: Path) -> None:
    # It compares hosts without their ports, so that it would send one here.
    hub.repo("owner/name", {"lora.safetensors": LORA}, gated=True, readers={TOKEN})
    with opened_at(hub, root, TOKEN, hf_transfer=True) as cache:
        assert cache.ensure(REFERENCE).read_bytes() == LORA
    assert by_it(hub)
    assert others(hub) == []


# -------------------------------------------------------------------------------- where it does not


@pytest.mark.parametrize(
    "options",
    [{"limit_rate": 100 * MIB}, {"resolve": {("elsewhere", 80): "127.0.0.1"}}],
    ids=str,
)
def test_what_it_cannot_keep_to_keeps_it_away(
    hub: Hub, stored: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    events = Events()
    assert downloaded(hub, tmp_path / "lora", events, **options) == LORA
    assert not by_it(hub)
    (remarked,) = events.of(Remarked)
    assert "hf_transfer is not used" in remarked.remark


def test_a_token_is_never_given_to_it(hub: Hub, tmp_path: Path) -> None:
    # The Hub itself has the bytes, and wants a token for them.
    hub.repo("owner/name", {"lora.safetensors": LORA}, private=True, readers={TOKEN})
    path = "/owner/name/resolve/main/lora.safetensors"
    events = Events()
    sources = at(hub, TOKEN, hf_transfer=True)
    sha256 = hashlib.sha256(LORA).hexdigest()
    hub.add(path, Resource(LORA, etag=f'"{sha256}"'))
    fetch(REFERENCE, tmp_path / "lora", progress=events, sources=sources)
    assert (tmp_path / "lora").read_bytes() == LORA
    assert ["token" in each.remark for each in events.of(Remarked)] == [True]


def test_a_policy_turns_it_off(hub: Hub, stored: str, root: Path) -> None:
    policy = Policy(allow_networks=("127.0.0.0/8",), schemes=("http", "https"), ports=())
    with opened_at(hub, root, hf_transfer=True, policy=policy) as cache:
        assert cache.ensure(REFERENCE).read_bytes() == LORA
    assert not by_it(hub)


def test_small_files_archives_and_streams_are_not_for_it(
    hub: Hub, stored: str, tmp_path: Path
) -> None:
    events = Events()
    sources = at(hub, hf_transfer=True)
    fetch("hf://owner/name/config.json", tmp_path / "c", sources=sources, progress=events)
    assert events.of(Remarked) == []
    environ = {"HF_ENDPOINT": hub.url(""), "HF_HUB_ENABLE_HF_TRANSFER": "1"}
    ended = run("-o", "null", REFERENCE, env=environ)
    assert ended.code == 0, ended.err
    assert "hf_transfer is not used: it only writes files" in ended.err
    assert not by_it(hub)


def test_what_an_earlier_run_has_left_is_gone_on_from(
    hub: Hub, stored: str, tmp_path: Path
) -> None:
    hub.cdn.change(stored, faults=[ResetAt(3 * MIB)])
    with pytest.raises(Exception, match="connection"):
        fetch(REFERENCE, tmp_path / "lora", sources=at(hub), retries=0)
    hub.cdn.change(stored, faults=[])
    hub.cdn.requests.clear()
    assert downloaded(hub, tmp_path / "lora", Events()) == LORA
    assert not by_it(hub)


# ------------------------------------------------------------------------------------ when it fails


def test_wrong_bytes_are_never_published(hub: Hub, stored: str, tmp_path: Path) -> None:
    hub.cdn.change(stored, body=OTHER)
    events = Events()
    with pytest.raises(DigestMismatchError):
        downloaded(hub, tmp_path / "lora", events)
    assert by_it(hub)
    (over,) = events.of(StartedOver)
    assert "hf_transfer wrote a file with another" in over.reason
    assert left_in(tmp_path) == []


def test_wrong_bytes_that_were_its_own_fault_are_fetched_anew(
    hub: Hub, stored: str, tmp_path: Path
) -> None:
    # Another version for as long as hf_transfer asks: it ties its ranges to none.
    events = Events()

    def heard(event: object) -> None:
        events(event)  # type: ignore[arg-type]
        if isinstance(event, StartedOver):
            hub.cdn.change(stored, body=LORA)

    hub.cdn.change(stored, body=OTHER)
    sources = at(hub, hf_transfer=True)
    fetch(REFERENCE, tmp_path / "lora", progress=heard, sources=sources)
    assert (tmp_path / "lora").read_bytes() == LORA
    assert len(events.of(StartedOver)) == 1


@pytest.mark.parametrize("status", [403, 500])
def test_when_it_fails_the_bytes_come_all_the_same(
    hub: Hub, stored: str, tmp_path: Path, status: int
) -> None:
    faults = [Status(status, when=When(start=4 * MIB))]
    hub.cdn.change(stored, faults=faults)
    events = Events()
    assert downloaded(hub, tmp_path / "lora", events) == LORA
    (over,) = events.of(StartedOver)
    assert "it failed (Failed" in over.reason
    assert "http" not in over.reason.lower().replace("http status", "")
    assert left_in(tmp_path) == ["lora"]
    assert workers_of(os.getpid()) == []


def test_silence_ends_it(hub: Hub, stored: str, tmp_path: Path) -> None:
    hub.cdn.change(stored, faults=[SilenceAfter(1000, when=When(start=4 * MIB))])
    events = Events()
    assert downloaded(hub, tmp_path / "lora", events, stall_timeout=1.0) == LORA
    (over,) = events.of(StartedOver)
    assert "nothing for 1 s" in over.reason
    assert workers_of(os.getpid()) == []


@LINUX
@pytest.mark.parametrize("which", [slice(1), slice(1, 2), slice(2)], ids=["its", "fork", "both"])
def test_a_child_that_is_killed_costs_nothing(
    hub: Hub, stored: str, tmp_path: Path, which: slice
) -> None:
    gate = Gate()
    hub.cdn.change(stored, faults=[GateAfter(1000, gate, when=When(start=4 * MIB))])
    events = Events()
    thread = threading.Thread(target=lambda: downloaded(hub, tmp_path / "lora", events))
    thread.start()
    gate.wait_reached()
    for pid in workers_of(os.getpid())[which]:
        os.kill(pid, signal.SIGKILL)
    gate.open()
    thread.join()
    assert (tmp_path / "lora").read_bytes() == LORA
    assert len(events.of(StartedOver)) == 1


# ------------------------------------------------------------------------------------ when we end


_DOWNLOAD = """
import pgetpy
from pgetpy.settings import Settings, SourceSettings
from pgetpy.sources.huggingface import HubSettings
sources = SourceSettings((HubSettings(endpoint=sys.argv[1], hf_transfer=True),))
pgetpy.download(sys.argv[2], sys.argv[3], settings=Settings(sources=sources))
"""


@LINUX
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_its_parent(
    hub: Hub, stored: str, tmp_path: Path, number: signal.Signals
) -> None:
    gate = Gate()
    hub.cdn.change(stored, faults=[GateAfter(1000, gate, when=When(start=4 * MIB))])
    with child(_DOWNLOAD, hub.url(""), REFERENCE, tmp_path / "lora") as running:
        gate.wait_reached()
        workers = workers_of(running.pid)
        assert len(workers) == 2
        running.send_signal(number)
        running.wait()
        eventually(lambda: not any(map(alive, workers)))
    gate.open()
    left = [".lora.pgetpy-journal", ".lora.pgetpy-part"] if number == signal.SIGKILL else []
    assert left_in(tmp_path) == left
    hub.cdn.change(stored, faults=[])
    assert downloaded(hub, tmp_path / "lora", Events()) == LORA


@LINUX
def test_its_order_is_not_shown_to_others(hub: Hub, stored: str, tmp_path: Path) -> None:
    gate = Gate()
    hub.cdn.change(stored, faults=[GateAfter(1000, gate, when=When(start=4 * MIB))])
    thread = threading.Thread(target=lambda: downloaded(hub, tmp_path / "lora", Events()))
    thread.start()
    gate.wait_reached()
    shown = [
        (Path("/proc") / str(pid) / name).read_bytes()
        for pid in workers_of(os.getpid())
        for name in ("cmdline", "environ")
    ]
    gate.open()
    thread.join()
    assert len(shown) == 4
    assert not any(b"http" in each and b"127.0.0.1" in each for each in shown)
