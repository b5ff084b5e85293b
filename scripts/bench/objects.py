"""Object stores: cases and peers. nginx and the paced origin are public buckets, Ceph is signed.

`bench` in the folder of weights is a link to the folder itself, so that what the servers have at
`/NAME` is the object NAME of the bucket `bench` as well.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from scripts.bench import peers
from scripts.bench.comparison import SOME, Case, Entrant, Goal
from scripts.bench.measure import Command, RunFailedError, Sample, run, scratch_folder, warm_memory
from scripts.bench.peers import Fetch, Peer
from scripts.bench.servers import Address, Site, Stage, nginx, origin
from scripts.bench.work import DISK, OneFile
from scripts.origin import Behaviour

GIB = 1 << 30
_BUCKET = "bench"
_LIMIT_S = 300.0
_REGION = "us-east-1"

_OBSTORE = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from obstore.store import S3Store
endpoint, bucket, key, dest, signed = sys.argv[1:]
store = S3Store(bucket, endpoint=endpoint, region="us-east-1", skip_signature=signed == "",
                virtual_hosted_style_request=False, client_options={"allow_http": True})
import obstore
size = obstore.head(store, key)["size"]
fd = os.open(dest, os.O_WRONLY | os.O_CREAT)
step = -(-size // 8)
def part(start):
    data = obstore.get_range(store, key, start=start, end=min(size, start + step))
    os.pwrite(fd, data, start)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(part, range(0, size, step)))
"""
_BOTO3 = """
import sys
import boto3
from botocore import UNSIGNED
from botocore.config import Config
what, endpoint, bucket, key, path, signed = sys.argv[1:]
own = {} if signed else {"signature_version": UNSIGNED}
config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required",
                response_checksum_validation="when_required", **own)
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)
if what == "get":
    client.download_file(bucket, key, path)
else:
    client.upload_file(path, bucket, key)
"""


@dataclass(frozen=True)
class _Place:
    """An object: `Fetch.url` as these programs want it."""

    endpoint: str
    bucket: str
    key: str

    @classmethod
    def of(cls, url: str) -> _Place:
        parts = urlsplit(url)
        _, bucket, key = parts.path.split("/", 2)
        return cls(f"{parts.scheme}://{parts.netloc}", bucket, key)

    @property
    def reference(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def _program(name: str) -> Callable[[], list[str] | None]:
    def locate() -> list[str] | None:
        found = peers.bench_python().with_name(name)
        return [str(found)] if found.exists() else None

    return locate


def _environment(fetch: Fetch, *, signed: bool) -> dict[str, str]:
    place = _Place.of(fetch.url)
    keys = {"AWS_ACCESS_KEY_ID": _KEYS[0], "AWS_SECRET_ACCESS_KEY": _KEYS[1]}
    rclone = {
        "RCLONE_CONFIG": "/dev/null",
        "RCLONE_S3_PROVIDER": "Ceph",
        "RCLONE_S3_ENDPOINT": place.endpoint,
        "RCLONE_S3_ENV_AUTH": "true" if signed else "false",
    }
    never = {} if signed else {"PGET_S3_SIGN": "never"}
    own = {"AWS_ENDPOINT_URL": place.endpoint, "AWS_REGION": _REGION, "HOME": _HOME}
    return {**own, **rclone, **never, **(keys if signed else {})}


_KEYS = ("cephkey", "cephsecret")
# Without settings of the user who runs this. For root a folder that is missing would be made.
_HOME = os.path.join(tempfile.gettempdir(), "pgetpy-bench-home")


def _peer(
    name: str,
    locate: Callable[[], list[str] | None],
    probe: tuple[str, ...],
    arguments: Callable[[_Place, str], list[str]],
    signed: bool,
) -> Peer:
    """A program that is given an object, and a path to read or write."""
    return Peer(
        name,
        locate,
        probe,
        lambda fetch: arguments(_Place.of(fetch.url), str(fetch.dest)),
        env=functools.partial(_environment, signed=signed),
    )


def _ours(signed: bool, *options: str, name: str = "pgetpy s3://") -> Peer:
    return _peer(
        name, peers.pgetpy().locate, ("--version",),
        lambda place, path: [*options, place.reference, path], signed,
    )  # fmt: skip


def _s5cmd(signed: bool, *options: str, name: str = "s5cmd", put: bool = False) -> Peer:
    def arguments(place: _Place, path: str) -> list[str]:
        ends = (path, place.reference) if put else (place.reference, path)
        open_to_all = () if signed else ("--no-sign-request",)
        start = ["--log", "error", "--endpoint-url", place.endpoint, *open_to_all]
        return [*start, "cp", *options, *ends]

    return _peer(name, _program("s5cmd"), ("version",), arguments, signed)


def _rclone(signed: bool) -> Peer:
    def arguments(place: _Place, path: str) -> list[str]:
        return ["copyto", f":s3:{place.bucket}/{place.key}", path]

    return _peer("rclone", _program("rclone"), ("version",), arguments, signed)


def _python() -> list[str] | None:
    return [str(peers.bench_python())] if peers.bench_python().exists() else None


def _obstore(signed: bool) -> Peer:
    def arguments(place: _Place, path: str) -> list[str]:
        own = [place.endpoint, place.bucket, place.key, path]
        return ["-c", _OBSTORE, *own, "signed" if signed else ""]

    probe = ("-c", "import obstore; print(obstore.__version__)")
    return _peer("obstore, 8 ranges", _python, probe, arguments, signed)


def _boto3(signed: bool, what: str = "get") -> Peer:
    def arguments(place: _Place, path: str) -> list[str]:
        own = [what, place.endpoint, place.bucket, place.key, path]
        return ["-c", _BOTO3, *own, "signed" if signed else ""]

    probe = ("-c", "import boto3; print(boto3.__version__)")
    return _peer("boto3", _python, probe, arguments, signed)


# ---------------------------------------------------------------------------------------- sites


def _as_bucket(site: Site) -> Site:
    """A site whose files are objects of the bucket `bench`."""

    @contextlib.contextmanager
    def started(stage: Stage) -> Iterator[Address]:
        link = stage.library.folder / _BUCKET
        if not link.is_symlink():
            link.symlink_to(".")
        with site(stage) as address:
            yield replace(address, base=f"{address.base}/{_BUCKET}")

    return started


class _Ceph:
    """One gateway for all runs of this process, started when first asked for."""

    def __init__(self) -> None:
        self._running = contextlib.ExitStack()
        self._store: Any = None
        self._there: set[str] = set()

    def start(self) -> Any:
        """Return the store.

        Raises:
            RunFailedError: Ceph is not installed, or does not start.
        """
        import atexit
        import shutil

        if self._store is None:
            if shutil.which("radosgw") is None:
                raise RunFailedError("radosgw is not installed")
            from tests.support import stores

            self._store = self._running.enter_context(stores.ceph())
            atexit.register(self._running.close)
            self._store.client.create_bucket(Bucket=_BUCKET)
        return self._store

    @contextlib.contextmanager
    def with_file(self, size: int, stage: Stage) -> Iterator[Address]:
        """The store as a site that has the weights of `size` bytes; nothing else is left in it."""
        store, file = self.start(), stage.library.one(stage.scaled(size))
        if file.name not in self._there:
            path = stage.library.folder / file.name
            with path.open("rb") as data:
                store.client.put_object(Bucket=_BUCKET, Key=file.name, Body=data)
            self._there.add(file.name)
        yield Address(f"{store.url}/{_BUCKET}")


_CEPH = _Ceph()


def _ceph(size: int) -> Site:
    return functools.partial(_CEPH.with_file, size)


@dataclass(frozen=True)
class Sent:
    """Upload a file of `size` bytes to Ceph."""

    size: int

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        file, store = stage.library.one(stage.scaled(self.size)), _CEPH.start()
        key = f"sent/{os.getpid()}.bin"
        with scratch_folder(DISK) as folder:
            work = Fetch(f"{store.url}/{_BUCKET}/{key}", stage.library.folder / file.name)
            warm_memory(file.size)
            outcome = run(peer.command(work), folder, _LIMIT_S)
        if outcome.error:
            raise RunFailedError(outcome.error)
        answer = store.client.get_object(Bucket=_BUCKET, Key=key)
        digest = hashlib.sha256()
        if thorough:
            for block in answer["Body"].iter_chunks(1 << 20):
                digest.update(block)
            if digest.hexdigest() != file.sha256:
                raise RunFailedError("left wrong bytes and reported success")
        answer["Body"].close()
        if answer["ContentLength"] != file.size:
            raise RunFailedError(f"left {answer['ContentLength']} bytes of {file.size}")
        store.client.delete_object(Bucket=_BUCKET, Key=key)
        return outcome.sample, ""


@dataclass(frozen=True)
class Timed:
    """A task of `object_tasks`, which says itself how long what counts has taken."""

    task: str

    def attempt(self, stage: Stage, peer: Peer, thorough: bool) -> tuple[Sample, str]:
        located = peer.locate()
        assert located is not None
        command = Command([*located, "-m", "scripts.bench.object_tasks", self.task])
        with scratch_folder(DISK) as folder:
            outcome = run(command, folder, _LIMIT_S)
        if outcome.error:
            raise RunFailedError(outcome.error)
        return replace(outcome.sample, wall=float(outcome.stdout)), ""


def _each(work: OneFile | Sent, *who: Peer) -> tuple[Entrant, ...]:
    return tuple(Entrant(peer, work.attempt) for peer in who)


_OPEN = _as_bucket(nginx("plain"))
_PACED = _as_bucket(origin(Behaviour(pace=20_000_000)))
_PLAIN = peers.pgetpy("pgetpy http://")
_SIGNED = _ours(signed=True)
_PUT = _ours(True, "put", name="pgetpy put")


def _put(peer: Peer) -> Peer:
    """Ours takes the file first."""
    return replace(
        peer,
        fetch=lambda fetch: ["put", str(fetch.dest), _Place.of(fetch.url).reference],
    )


OBJECTS = (
    Case(
        "objects-nginx",
        "1 GiB of a public bucket that is nginx",
        _each(
            OneFile(GIB, _OPEN), _ours(False), _s5cmd(False), _rclone(False), _obstore(False),
            _boto3(False),
        ),
        (
            Goal("wall", "s5cmd", 1.0, "pgetpy s3://"),
            Goal("cpu", "s5cmd", 0.7, "pgetpy s3://"),
        ),
        "Unsigned, from a server that limits no one: what each client costs.",
    ),
    Case(
        "objects-http",
        "1 GiB of nginx by s3:// and by http://",
        _each(OneFile(GIB, _OPEN), _PLAIN, _ours(False)),
        (Goal("wall", "pgetpy http://", 1.05, "pgetpy s3://"),),
        "What the protocol alone costs beyond a plain URL.",
        # One run differs from the next by more than the goal allows.
        rounds=14,
    ),
    Case(
        "objects-ceph",
        "1 GiB of Ceph, signed",
        _each(
            OneFile(GIB, _ceph(GIB)), _SIGNED, _s5cmd(True), _rclone(True), _obstore(True),
            _boto3(True),
        ),
        (Goal("wall", "s5cmd", 1.1, "pgetpy s3://"),),
        "The gateway limits everyone; it runs on the same cores.",
    ),
    Case(
        "objects-paced",
        "1 GiB of a public bucket, each connection held to 20 MB/s",
        _each(
            OneFile(GIB, _PACED), _ours(False),
            _s5cmd(False, "-c", "16", name="s5cmd -c 16"), _obstore(False), _boto3(False),
        ),
        (
            Goal("wall", "s5cmd -c 16", 0.5, "pgetpy s3://"),
            Goal("wall", "obstore, 8 ranges", 0.3, "pgetpy s3://"),
            Goal("wall", "boto3", 0.35, "pgetpy s3://"),
        ),
        "As a store on a network is: the number of connections decides.",
    ),
    Case(
        "objects-upload",
        "1 GiB uploaded to Ceph",
        _each(Sent(GIB), _put(_PUT), _s5cmd(True, put=True), _boto3(True, "put")),
        (
            Goal("wall", "s5cmd", 1.1, "pgetpy put"),
            Goal("wall", "boto3", 0.6, "pgetpy put"),
        ),
        "The store writes all of it to its disk, which is the same for everyone.",
        profile="Three quarters of the time of radosgw are its own hashing, on the same two "
        "processors. The shortest program takes 0.76 of the time of boto3 with SHA-256, and 0.62 "
        "without any hash.",
    ),
    Case(
        "objects-signing",
        "Sign one request",
        (Entrant(replace(peers.PYTHON, name="signature"), Timed("sign").attempt),),
        (Goal("wall", None, 30e-6, "signature"),),
        "Each range is a request with a signature of its own.",
        SOME,
    ),
    Case(
        "objects-listing",
        "100,000 keys listed",
        (Entrant(replace(peers.PYTHON, name="listing"), Timed("list").attempt),),
        (Goal("rss", None, 60e6, "listing"),),
        "Names are judged as they come, so that a long list needs no more memory.",
        SOME,
    ),
)  # fmt: skip
