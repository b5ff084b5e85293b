"""Real object stores on loopback, as judges: rclone's server, OpenStack Swift, Ceph.

    with stores.swift() as store:
        store.client.put_object(Bucket=store.bucket, Key="a", Body=b"...")  # botocore
        fetch("s3://...", dest, sources=SourceSettings(environ=store.environ))

Each lives in a temporary folder; only processes that were started for it are stopped. rclone
and Swift come from `.venv-stores`, which `make check` makes, Ceph from the system's packages.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from botocore.client import Config
from botocore.session import Session

from .judges import free_port, require_judge
from .waiting import eventually

REGION = "us-east-1"
BUCKET = "judged"


@dataclass(frozen=True)
class RealStore:
    """A store that runs.

    Attributes:
        name: of the program.
        url: of its S3 interface.
        keys: access key and secret key.
        heeds: conditions of writes that it keeps: `put`, `complete`.
        checks_ranges: whether If-Match of reads is kept.
    """

    name: str
    url: str
    keys: tuple[str, str] = field(repr=False)
    heeds: frozenset[str] = frozenset({"put", "complete"})
    checks_ranges: bool = True
    bucket: str = BUCKET

    @property
    def environ(self) -> dict[str, str]:
        """The variables that lead to it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.keys[0],
            "AWS_SECRET_ACCESS_KEY": self.keys[1],
            "AWS_REGION": REGION,
        }

    @property
    def client(self) -> Any:
        """botocore's client: another implementation of the same protocol."""
        return _client(self.url, *self.keys)


@lru_cache(maxsize=8)
def _client(url: str, access_key: str, secret_key: str) -> Any:
    return Session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class Programs:
    """Starts programs that run until the end, with what they say in files of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(
        self, name: str, command: Sequence[object], environ: Mapping[str, str] | None = None
    ) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **(environ or {})},
            )
        self._running.append((name, process))

    def check(self) -> None:
        """Raise if one has ended."""
        for name, process in self._running:
            if process.poll() is not None:
                said = (self.folder / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{name} ended with {process.returncode}: {said[-2000:]}")

    def answers(self, url: str) -> bool:
        """Whether something that speaks HTTP answers at `url`."""
        self.check()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except HTTPError as error:
            return error.code < 500
        except (URLError, OSError):
            return False

    def stop(self) -> None:
        """Stop the programs, the latest first."""
        for _, process in reversed(self._running):
            process.terminate()
        for _, process in reversed(self._running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _programs(name: str) -> Iterator[Programs]:
    with tempfile.TemporaryDirectory(prefix=f"store-{name}-") as made:
        programs = Programs(Path(made))
        try:
            yield programs
        finally:
            programs.stop()


@contextmanager
def rclone() -> Iterator[RealStore]:
    """`rclone serve s3`, which keeps objects as files."""
    program = require_judge("rclone")
    keys = ("rclone-key", "rclone-secret")
    with _programs("rclone") as programs:
        port, served = free_port(), programs.folder / "served"
        (served / BUCKET).mkdir(parents=True)
        address = f"127.0.0.1:{port}"
        command = [program, "serve", "s3", "--auth-key", ",".join(keys), "--addr", address]
        programs.start("rclone", [*command, "--config", "", served])
        url = f"http://{address}"
        eventually(lambda: programs.answers(url), what="rclone's start")
        yield RealStore("rclone", url, keys, heeds=frozenset(), checks_ranges=False)


# ----------------------------------------------------------------------------------------- Swift

_SWIFT = """
[swift-hash]
swift_hash_path_suffix = judged
swift_hash_path_prefix = judged
[storage-policy:0]
name = only
policy_type = replication
default = yes
"""
_BACKEND = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
mount_check = false
disable_fallocate = true
devices = {devices}
swift_dir = {folder}
user = {user}
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
_PIPELINE = (
    "catch_errors proxy-logging cache listing_formats bulk s3api tempauth slo dlo "
    "versioned_writes symlink proxy-logging proxy-server"
)
_FILTERS = {
    "catch_errors": "",
    "proxy-logging": "",
    # No memcached runs: what cannot be cached is asked for again.
    "cache": "memcache_servers = 127.0.0.1:{nowhere}",
    "listing_formats": "",
    "bulk": "",
    "s3api": f"s3_acl = false\nlocation = {REGION}\ncheck_bucket_owner = false",
    "tempauth": "user_judge_tester = testing .admin",
    "slo": "",
    "dlo": "",
    "versioned_writes": "allow_object_versioning = true",
    "symlink": "",
}
_PROXY = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_level = WARNING
[pipeline:main]
pipeline = {pipeline}
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
{filters}
"""


@contextmanager
def swift() -> Iterator[RealStore]:
    """OpenStack Swift with its S3 interface: the strictest about regions and conditions."""
    server = Path(require_judge("swift-proxy-server")).parent
    with _programs("swift") as programs:
        _start_swift(programs, server, port := free_port())
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: programs.answers(f"{url}/info"), 60, "Swift's start")
        store = RealStore("swift", url, ("judge:tester", "testing"))
        store.client.create_bucket(Bucket=BUCKET)
        yield store


def _start_swift(programs: Programs, server: Path, port: int) -> None:
    folder = programs.folder
    devices = folder / "devices"
    (devices / "disk").mkdir(parents=True)
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    (folder / "swift.conf").write_text(_SWIFT)
    ports: dict[str, int] = {}
    for kind in ("account", "container", "object"):
        own = free_port()
        config = folder / f"{kind}.conf"
        values = {"port": own, "devices": devices, "folder": folder, "user": user, "kind": kind}
        config.write_text(_BACKEND.format(**values))
        ports[kind] = own
        programs.start(kind, [server / f"swift-{kind}-server", config])
    rings = [server / "python", "-c", _RINGS, folder, *(f"{k}={v}" for k, v in ports.items())]
    subprocess.run([*map(str, rings)], check=True, timeout=120)
    filters = "".join(
        f"[filter:{name}]\nuse = egg:swift#{_EGGS.get(name, name)}\n{lines}\n"
        for name, lines in _FILTERS.items()
    ).format(nowhere=free_port())
    proxy = folder / "proxy.conf"
    values = {"port": port, "user": user, "folder": folder, "pipeline": _PIPELINE}
    proxy.write_text(_PROXY.format(filters=filters, **values))
    programs.start("proxy", [server / "swift-proxy-server", proxy])


# In one process: starting swift-ring-builder nine times takes longer than all the servers.
_RINGS = """
import sys
from swift.common.ring import RingBuilder
for each in sys.argv[2:]:
    kind, _, port = each.partition("=")
    builder = RingBuilder(4, 1, 1)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port),
                     "device": "disk", "weight": 1})
    builder.rebalance()
    builder.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""
_EGGS = {"proxy-logging": "proxy_logging", "cache": "memcache"}

# ------------------------------------------------------------------------------------------ Ceph

_CEPH = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
mon initial members = a
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.ceph.log
pid file = {folder}/$name.pid
mon data = {folder}/mon
mon data avail warn = 2
mon data avail crit = 1
mon allow pool size one = true
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 8G
osd memory target = 1G
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{port}
# What was deleted or replaced leaves memory within seconds instead of hours: a full OSD only hangs.
rgw gc obj min wait = 2
rgw gc processor period = 2
rgw gc processor max time = 2
"""
_KEYS = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *"],
    "osd.0": ["mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"],
    "client.rgw": ["mon", "allow rwx", "osd", "allow rwx", "mgr", "allow rw"],
}


@contextmanager
def ceph() -> Iterator[RealStore]:
    """A Ceph object gateway on one monitor and one OSD that keeps everything in memory."""
    for program in ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph"):
        require_judge(program)
    keys = ("cephkey", "cephsecret")
    with _programs("ceph") as programs:
        folder, port = programs.folder, free_port()
        environ = {"CEPH_CONF": str(folder / "ceph.conf")}
        _make_cluster(folder, port, environ)
        root = ["--setuser", "root", "--setgroup", "root"] if os.getuid() == 0 else []
        programs.start("mon", ["ceph-mon", "-f", "-i", "a", *root], environ)
        identity = _uuid()
        _ceph(environ, "ceph", "--connect-timeout", 60, "osd", "new", identity)
        _ceph(environ, "ceph-osd", "-i", 0, "--mkfs", "--osd-uuid", identity, *root)
        programs.start("osd", ["ceph-osd", "-f", "-i", "0", *root], environ)
        eventually(lambda: "1 up" in _ceph(environ, "ceph", "osd", "stat"), 120, "the OSD")
        user = ["--uid", "judge", "--display-name", "judge"]
        user += ["--access-key", keys[0], "--secret-key", keys[1]]
        _ceph(environ, "radosgw-admin", "--name", "client.rgw", "user", "create", *user)
        programs.start("rgw", ["radosgw", "-f", "--name", "client.rgw"], environ)
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: programs.answers(url), 120, "the gateway's start")
        store = RealStore("ceph", url, keys, heeds=frozenset({"put"}))
        store.client.create_bucket(Bucket=BUCKET)
        yield store


def _make_cluster(folder: Path, port: int, environ: Mapping[str, str]) -> None:
    """Write configuration and keys, and make the monitor's store."""
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    v2, v1, fsid = free_port(), free_port(), _uuid()
    values = {"fsid": fsid, "v2": v2, "v1": v1, "folder": folder, "port": port}
    (folder / "ceph.conf").write_text(_CEPH.format(**values))
    keyring = folder / "keyring"
    for name, caps in _KEYS.items():
        pairs = zip(caps[::2], caps[1::2], strict=True)
        flags = [part for kind, rule in pairs for part in ("--cap", kind, rule)]
        made = [] if keyring.exists() else ["--create-keyring"]
        _ceph(environ, "ceph-authtool", *made, keyring, "--gen-key", "-n", name, *flags)
    monitor = f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]"
    members = ["--fsid", fsid, "--addv", "a", monitor]
    _ceph(environ, "monmaptool", "--create", "--clobber", *members, folder / "monmap")
    parts = ["--monmap", folder / "monmap", "--keyring", keyring]
    _ceph(environ, "ceph-mon", "--mkfs", "-i", "a", *parts)


def _ceph(environ: Mapping[str, str], *command: object) -> str:
    """Run one of Ceph's tools and return what it says."""
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _uuid() -> str:
    return Path("/proc/sys/kernel/random/uuid").read_text().strip()
