"""The programs that are compared: a table of names and of how each is called.

Every peer is told to trust the same certificate authority and to write to the same place; none
reads a configuration file.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from scripts.bench.measure import Command

# huggingface_hub calls it with this chunk size, but 100 files at once: slower and with five times
# the memory.
_HF_TRANSFER = """
import sys, hf_transfer
hf_transfer.download(sys.argv[1], sys.argv[2], max_files=int(sys.argv[3]), chunk_size=10485760,
                     parallel_failures=3, max_retries=5)
"""


# Where it has put the file is where ours would be.
_HUB_CLIENT = """
import os, sys
from huggingface_hub import hf_hub_download
repository, name, dest = sys.argv[1:]
cache = os.path.join(os.path.dirname(dest), "hub")
os.symlink(hf_hub_download(repository, name, cache_dir=cache, token=False), dest)
"""


_HUB_SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
repository, cache = sys.argv[1:]
snapshot_download(repository, cache_dir=cache, token=False, max_workers=8)
"""


@dataclass(frozen=True)
class Fetch:
    """One file to get, and the authorities to trust (None for plain HTTP).

    `dest` is a folder that is not there yet for peers that extract what they get; `sha256` is what
    the file hashes to, for those that check it.
    """

    url: str
    dest: Path
    cafile: Path | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Batch:
    """Several files to get, and a folder where the list of them may be written."""

    files: Sequence[Fetch]
    scratch: Path


@dataclass(frozen=True)
class Peer:
    """A program.

    Attributes:
        name: as it stands in the tables.
        locate: the argv it begins with; None where it is not installed.
        probe: arguments that make it say its version.
        fetch: arguments for one file; None where that is not its work.
        fetch_many: arguments for a batch.
        env: what is set for one file.
    """

    name: str
    locate: Callable[[], list[str] | None]
    probe: tuple[str, ...]
    fetch: Callable[[Fetch], list[str]] | None = None
    fetch_many: Callable[[Batch], list[str]] | None = None
    env: Callable[[Fetch], dict[str, str]] = lambda _: {}

    def version(self) -> str | None:
        """Return the version it states, None where it is not installed or does not start."""
        located = self.locate()
        if located is None:
            return None
        said = subprocess.run(
            [*located, *self.probe], capture_output=True, text=True, check=False, timeout=60
        )
        found = re.search(r"\d+\.\d+(\.\d+)?", said.stdout)
        return found[0] if said.returncode == 0 and found else None

    def command(self, work: Fetch | Batch) -> Command:
        """Return what to run for `work`."""
        located = self.locate()
        assert located is not None
        if isinstance(work, Batch):
            assert self.fetch_many is not None
            return Command([*located, *self.fetch_many(work)])
        assert self.fetch is not None
        env = {"SSL_CERT_FILE": str(work.cafile)} if work.cafile else {}
        return Command([*located, *self.fetch(work)], {**env, **self.env(work)})


def _on_path(program: str) -> Callable[[], list[str] | None]:
    return lambda: [found] if (found := shutil.which(program)) else None


def _ours() -> list[str]:
    """The console command beside this interpreter; the module where it is not installed."""
    command = Path(sys.executable).with_name("pgetpy")
    return [str(command)] if os.access(command, os.X_OK) else [sys.executable, "-m", "pgetpy"]


def bench_python() -> Path:
    """The interpreter that holds the peers which come from PyPI."""
    return Path(".bench/venv/bin/python").absolute()


def _with_torch() -> list[str] | None:
    """An interpreter that has torch: this one, or that of the predictors' tests."""
    if importlib.util.find_spec("torch"):
        return [sys.executable]
    python = Path(".venv-predictors/bin/python").absolute()
    return [str(python)] if python.exists() else None


# "cpu" tries the cases of a GPU where there is none.
GPU = os.environ.get("BENCH_GPU", "cuda")


@functools.cache
def _with_cuda(*modules: str) -> list[str] | None:
    """That interpreter, where its torch has a CUDA device and it has `modules`."""
    located = _with_torch()
    check = f"import sys, torch; sys.exit({GPU!r} == 'cuda' and not torch.cuda.is_available())"
    imports = "".join(f"import {module}; " for module in modules)
    if located is None:
        return None
    done = subprocess.run([*located, "-c", imports + check], capture_output=True, check=False)
    return located if done.returncode == 0 else None


def _from_pypi() -> list[str] | None:
    return [str(bench_python())] if bench_python().exists() else None


def _pget_fetch(*options: str) -> Callable[[Fetch], list[str]]:
    return lambda fetch: [*options, fetch.url, str(fetch.dest)]


def _pget_batch(batch: Batch) -> list[str]:
    manifest = batch.scratch / "manifest"
    manifest.write_text("".join(f"{file.url} {file.dest}\n" for file in batch.files))
    return ["multifile", str(manifest)]


_ARIA2 = [
    "--no-conf",
    "--console-log-level=error",
    "--show-console-readout=false",
    "--summary-interval=0",
    "--download-result=hide",
]


def _aria2_fetch(piece: str) -> Callable[[Fetch], list[str]]:
    """16 connections, which take pieces of this size at least."""

    def arguments(fetch: Fetch) -> list[str]:
        trust = [f"--ca-certificate={fetch.cafile}"] if fetch.cafile else []
        where = [f"--dir={fetch.dest.parent}", f"--out={fetch.dest.name}"]
        return [*_ARIA2, "-x16", "-s16", f"-k{piece}", *trust, *where, fetch.url]

    return arguments


def _aria2_batch(batch: Batch) -> list[str]:
    listed = batch.scratch / "list"
    lines = (f"{f.url}\n dir={f.dest.parent}\n out={f.dest.name}\n" for f in batch.files)
    listed.write_text("".join(lines))
    return [*_ARIA2, "-x16", "-j16", "-i", str(listed)]


def _curl_get(fetch: Fetch) -> list[str]:
    trust = ["--cacert", str(fetch.cafile)] if fetch.cafile else []
    return ["-q", "-sSf", *trust, fetch.url]


def _curl_fetch(fetch: Fetch) -> list[str]:
    return [*_curl_get(fetch), "-o", str(fetch.dest)]


def _curl_half_dead(fetch: Fetch) -> list[str]:
    """As above, told of the two addresses that `two_addresses` gives the host."""
    host = urlsplit(fetch.url).netloc
    return ["--resolve", f"{host}:[::1],127.0.0.1", *_curl_fetch(fetch)]


def _two_addresses(_: Fetch) -> dict[str, str]:
    return {"PYTHONPATH": str(Path(__file__).with_name("two_addresses"))}


def _curl_batch(batch: Batch) -> list[str]:
    listed = batch.scratch / "list"
    listed.write_text("".join(f'url = "{f.url}"\noutput = "{f.dest}"\n' for f in batch.files))
    return ["-q", "-sSf", "--parallel", "-K", str(listed)]


def _shell_if(*programs: str) -> Callable[[], list[str] | None]:
    """A shell, where all of `programs` are installed."""
    return lambda: ["sh", "-c"] if all(map(shutil.which, programs)) else None


def _curl_to_tar(*decompressor: str) -> Peer:
    """curl piped to tar, through a decompressor or not; the version is that of what unpacks.

    A pipe of three programs is faster than tar's -I, which hands the archive on through a process
    of its own. Owners are not restored, as they are for root alone.
    """

    def fetch(what: Fetch) -> list[str]:
        dest = shlex.quote(str(what.dest))
        steps = [shlex.join(["curl", *_curl_get(what)])]
        steps += [shlex.join(decompressor)] if decompressor else []
        steps += [f"tar -x --no-same-owner -C {dest}"]
        return [f"mkdir {dest} && {' | '.join(steps)}"]

    programs = ("curl", *decompressor[:1], "tar")
    unpacks = (*decompressor, "tar")[0]
    return Peer(" | ".join(programs), _shell_if(*programs), (f"{unpacks} --version",), fetch)


def _curl_then_unzip(fetch: Fetch) -> list[str]:
    archive = replace(fetch, dest=fetch.dest.with_suffix(".zip"))
    get = shlex.join(["curl", *_curl_fetch(archive)])
    return [f"{get} && {shlex.join(['unzip', '-q', str(archive.dest), '-d', str(fetch.dest)])}"]


def _hf_transfer_fetch(files: int) -> Callable[[Fetch], list[str]]:
    return lambda fetch: ["-c", _HF_TRANSFER, fetch.url, str(fetch.dest), str(files)]


def _at_hub(fetch: Fetch) -> dict[str, str]:
    """The Hub that has what `fetch` wants; plain HTTP is all that it speaks."""
    endpoint = "/".join(fetch.url.split("/", 3)[:3])
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _hub_client_fetch(fetch: Fetch) -> list[str]:
    repository = "/".join(fetch.url.split("/")[3:5])
    name = fetch.url.rpartition("/")[2]
    return ["-c", _HUB_CLIENT, repository, name, str(fetch.dest)]


def _hub_client_snapshot(fetch: Fetch) -> list[str]:
    repository = "/".join(fetch.url.split("/")[3:5])
    return ["-c", _HUB_SNAPSHOT, repository, str(fetch.dest)]


def _our_snapshot(fetch: Fetch) -> list[str]:
    repository = "/".join(fetch.url.split("/")[3:5])
    return ["snapshot", f"hf://{repository}", "--hub-cache-dir", str(fetch.dest)]


def _checked_fetch(fetch: Fetch) -> list[str]:
    return [fetch.url, str(fetch.dest), "--checksum", f"sha256:{fetch.sha256}"]


def _probe_of(package: str) -> tuple[str, ...]:
    """What makes an interpreter say the version of a package that it has."""
    return ("-c", f"import importlib.metadata as m; print(m.version({package!r}))")


OURS = "pgetpy"
_PGET = _on_path("pget")
_HF_PROBE = _probe_of("hf_transfer")
_VERSION = ("--version",)


def pgetpy(name: str = OURS, *options: str) -> Peer:
    """pgetpy with `options` for one file."""
    return Peer(name, _ours, _VERSION, _pget_fetch(*options), _pget_batch)


def on_cores(peer: Peer, count: int) -> Peer:
    """Return `peer`, kept to `count` of the processors that there are."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))

    def locate() -> list[str] | None:
        located = peer.locate()
        taskset = shutil.which("taskset")
        return None if located is None or taskset is None else [taskset, "-c", cores, *located]

    return replace(peer, locate=locate)


PGET = Peer("pget", _PGET, ("version",), _pget_fetch(), _pget_batch)
PGET_16M = Peer("pget -m 16M", _PGET, ("version",), _pget_fetch("-m", "16M"))
PGET_64 = Peer("pget -c 64 -m 16M", _PGET, ("version",), _pget_fetch("-c", "64", "-m", "16M"))
PGET_X = Peer("pget -x", _PGET, ("version",), _pget_fetch("-x"))
PGET_16M_X = Peer("pget -m 16M -x", _PGET, ("version",), _pget_fetch("-m", "16M", "-x"))
ARIA2 = Peer("aria2c -x16", _on_path("aria2c"), _VERSION, _aria2_fetch("1M"), _aria2_batch)
ARIA2_20M = Peer("aria2c -x16 -k 20M", _on_path("aria2c"), _VERSION, _aria2_fetch("20M"))
CURL = Peer("curl", _on_path("curl"), _VERSION, _curl_fetch, _curl_batch)
CURL_TAR = _curl_to_tar()
CURL_ZSTD_TAR = _curl_to_tar("zstd", "-dcq")
CURL_LZ4_TAR = _curl_to_tar("lz4", "-dcq")
CURL_IGZIP_TAR = _curl_to_tar("igzip", "-dc")
CURL_PIGZ_TAR = _curl_to_tar("pigz", "-dc")
CURL_GZIP_TAR = _curl_to_tar("gzip", "-dc")
CURL_UNZIP = Peer("curl && unzip", _shell_if("curl", "unzip"), ("unzip -v",), _curl_then_unzip)
CURL_HALF_DEAD = Peer("curl", _on_path("curl"), _VERSION, _curl_half_dead)
OURS_HALF_DEAD = Peer("pgetpy", _ours, _VERSION, _pget_fetch(), env=_two_addresses)
HF_TRANSFER = Peer("hf_transfer", _from_pypi, _HF_PROBE, _hf_transfer_fetch(8))
_HUB_PROBE = _probe_of("huggingface_hub")
HUB_CLIENT = Peer("huggingface_hub", _from_pypi, _HUB_PROBE, _hub_client_fetch, env=_at_hub)
HUB_SNAPSHOT = Peer(
    "huggingface_hub, 8 workers", _from_pypi, _HUB_PROBE, _hub_client_snapshot, env=_at_hub
)
OUR_SNAPSHOT = Peer("pgetpy snapshot", _ours, _VERSION, _our_snapshot, env=_at_hub)
OURS_AT_HUB = Peer("pgetpy, Hub", _ours, _VERSION, _pget_fetch(), env=_at_hub)
OURS_CHECKED = Peer("pgetpy --checksum", _ours, _VERSION, _checked_fetch)
_TORCH_PROBE = _probe_of("torch")
TORCH = Peer("torch", _with_torch, _TORCH_PROBE)
CUDA = Peer("torch on CUDA", _with_cuda, _TORCH_PROBE)
FASTSAFETENSORS = Peer(
    "fastsafetensors", lambda: _with_cuda("fastsafetensors"), _probe_of("fastsafetensors")
)
RUNAI = Peer(
    "runai-model-streamer",
    lambda: _with_cuda("runai_model_streamer"),
    _probe_of("runai-model-streamer"),
)
PYTHON = Peer("python -c pass", lambda: [sys.executable], _VERSION)
