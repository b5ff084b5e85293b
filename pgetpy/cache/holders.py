"""Who uses the cache: one file a process, with its leases, and how to tell that it still lives.

A lease keeps an entry where it is, by this order of steps. Who leases writes the lease, then looks
whether the entry's record is in its place. Who evicts takes the record away, then reads the leases,
then takes the content. Whichever of the two comes second sees the other and backs off.

A process number says something only to those on the same machine in the same pid namespace, and
containers share volumes. So the evidence is a lock on the file, which the kernel lets go of; where
locks exclude nobody, or the file is another machine's, it is the file's time of change, which its
owner sets every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

from pgetpy.cache.layout import CachePaths, discard, names_in
from pgetpy.errors import ThreadLimitError
from pgetpy.system.file_locks import boot_id, try_lock
from pgetpy.system.thread_limit import start_thread

BEAT_SECONDS = 5.0
# Whoever was watched for so long without a beat is dead: the interpreter's lock may be held for
# seconds by a library that loads a model.
EXPIRY_SECONDS = 30.0
# ... and whoever did not beat for so long needs no watching.
ABANDONED_SECONDS = 600.0

_HEADER = 1024
_SLOT = 32
_FREE = bytes(_SLOT)
# The file has room for this many leases at once: writing one needs no space on a full disk.
_SLOTS = 96
_ATTEMPTS = 10


@dataclass(frozen=True)
class Process:
    """Who a holder is: `namespace` and `started` make `pid` mean one process of boot `boot`."""

    pid: int
    host: str
    boot: str
    namespace: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class LeaseRecord:
    """What a holder's file says: its process, and the keys it has leased."""

    process: Process
    keys: frozenset[str]


class LeaseFile:
    """The file of this process. It stands from the first lease or use to `close`."""

    def __init__(self, layout: CachePaths, owner: str) -> None:
        self.owner = owner
        self._layout = layout
        self._lock = threading.RLock()
        self._fd = -1
        self._leases: Counter[str] = Counter()
        self._slots: dict[str, int] = {}
        self._vacant = list(range(_SLOTS - 1, -1, -1))
        self._stop = threading.Event()
        self._stop.set()

    def stand(self) -> None:
        """See that the file is there; it was taken away if the whole cache was."""
        with self._lock:
            if self._fd >= 0:
                if os.fstat(self._fd).st_nlink:
                    if self._stop.is_set():
                        self._start()
                    return
                os.close(self._fd)
                self._fd = -1
            self._make()
            if self._stop.is_set():
                self._start()

    def lease(self, key: str) -> None:
        """Write down that `key` is in use, once more."""
        with self._lock:
            self.stand()
            if not self._leases[key]:
                slot = self._vacant[-1] if self._vacant else len(self._slots)
                self._write(slot, bytes.fromhex(key))
                self._slots[key] = slot
                del self._vacant[-1:]
            self._leases[key] += 1

    def release(self, key: str) -> None:
        """Take one lease of `key` back."""
        with self._lock:
            self._leases[key] -= 1
            if self._leases[key] > 0:
                return
            del self._leases[key]  # below 0 where all was closed before
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._vacant.append(slot)
                with contextlib.suppress(OSError):
                    self._write(slot, _FREE)

    def beat(self) -> None:
        """Show that this process lives."""
        with self._lock, contextlib.suppress(OSError):
            if self._fd >= 0:
                self.stand()
                os.utime(self._fd)

    def close(self) -> None:
        """Take the file away: this process holds nothing any more."""
        with self._lock:
            self._stop.set()
            self._leases.clear()
            self._slots.clear()
            self._vacant = list(range(_SLOTS - 1, -1, -1))
            if self._fd < 0:
                return
            with contextlib.suppress(OSError):
                discard(self._layout.at("holders", self.owner))
            os.close(self._fd)
            self._fd = -1

    def abandon(self) -> None:
        """Close, but do not release: this is a forked child, and its parent lives on."""
        self._lock = threading.RLock()  # a thread that is not here any more may have held it
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def _make(self) -> None:
        head = json.dumps(asdict(this_process(os.getpid()))).encode()[:_HEADER].ljust(_HEADER)
        slots = bytearray(_SLOT * max(_SLOTS, 1 + max(self._slots.values(), default=0)))
        for key, slot in self._slots.items():
            slots[slot * _SLOT : (slot + 1) * _SLOT] = bytes.fromhex(key)
        self._layout.make()
        for attempt in count(1):
            try:
                self._fd = self._create(head + slots)
                return
            except FileNotFoundError:  # taken for what a dead process left
                if attempt >= _ATTEMPTS:
                    raise

    def _create(self, data: bytes) -> int:
        # Locked before it gets its name: it is never seen there without.
        path = self._layout.scratch(self.owner)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):
                try_lock(fd)
            os.write(fd, data)
            os.replace(path, self._layout.at("holders", self.owner))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _write(self, slot: int, raw: bytes) -> None:
        if self._fd >= 0:
            os.pwrite(self._fd, raw, _HEADER + slot * _SLOT)

    def _start(self) -> None:
        stop = threading.Event()
        name = "pgetpy-cache-heartbeat"
        try:
            start_thread(_keep_beating, name, weakref.ref(self), stop, tries=1)
        except ThreadLimitError:
            # Each lease beats then, and tries again to start one.
            with contextlib.suppress(OSError):
                os.utime(self._fd)
        else:
            self._stop = stop


def _keep_beating(holder: weakref.ref[LeaseFile], stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        living = holder()
        if living is None:
            return
        living.beat()
        del living


class LivenessMonitor:
    """Tells which holders live.

    Args:
        locks: whether locks exclude where the cache is.
    """

    def __init__(
        self, layout: CachePaths, *, locks: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._layout = layout
        self._locks = locks
        self._monotonic = monotonic
        self._seen: dict[str, tuple[int, float]] = {}

    def alive(self, owner: str) -> bool:
        """Whether the process that is holder `owner` lives; in doubt it does."""
        try:
            fd = os.open(self._layout.at("holders", owner), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        try:
            if self._locks and not try_lock(fd, shared=True):
                return True
            return self._shows_life(owner, fd)
        except OSError:
            return True
        finally:
            os.close(fd)

    def leased(self) -> dict[str, list[Process]]:
        """Return the keys that are leased, and by whom of those who live."""
        found: dict[str, list[Process]] = {}
        for owner in names_in(self._layout.at("holders")):
            holding = _holding_of(self._layout.at("holders", owner))
            if holding is not None and self.alive(owner):
                for key in holding.keys:
                    found.setdefault(key, []).append(holding.process)
        return found

    def _shows_life(self, owner: str, fd: int) -> bool:
        holding = _holding_in(fd)
        here = this_process(os.getpid())
        if holding is not None and here.boot and holding.process.boot == here.boot:
            if self._locks:
                return False  # its lock would be seen here
            if holding.process.namespace == here.namespace != "":
                pid = holding.process.pid
                return this_process(pid).started == holding.process.started != ""
        return not self._still(owner, os.fstat(fd))

    def _still(self, owner: str, status: os.stat_result) -> bool:
        """Whether the file has not been touched for long, on our own watch or by any clock."""
        now = self._monotonic()
        beat, since = self._seen.get(owner, (0, now))
        if beat != status.st_mtime_ns:
            beat, since = status.st_mtime_ns, now
        self._seen[owner] = (beat, since)
        watched = now - since > EXPIRY_SECONDS
        return watched or time.time() - status.st_mtime > ABANDONED_SECONDS


@lru_cache(maxsize=1)
def _surroundings() -> tuple[str, str]:
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        namespace = ""
    return socket.gethostname(), namespace


def this_process(pid: int) -> Process:
    """Return process `pid` of this machine as a holder names it."""
    host, namespace = _surroundings()
    try:
        # Field 22 of proc(5)'s stat; the name in field 2 may hold anything but ends with ")".
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        started = fields[19].decode()
    except (OSError, IndexError):
        started = ""
    return Process(pid, host, boot_id(), namespace, started)


def _holding_of(path: str) -> LeaseRecord | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _holding_in(fd)
    finally:
        os.close(fd)


def _holding_in(fd: int) -> LeaseRecord | None:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    try:
        process = Process(**json.loads(data[:_HEADER]))
    except (TypeError, ValueError):
        return None
    slots = (data[at : at + _SLOT] for at in range(_HEADER, len(data) - _SLOT + 1, _SLOT))
    return LeaseRecord(process, frozenset(slot.hex() for slot in slots if slot != _FREE))
