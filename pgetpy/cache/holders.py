"""Leases: one file a process, and how to tell whether that process is still alive.

A lease keeps an entry from being evicted, without any lock between the two sides:

   the process that leases            the process that evicts
   1 write the key to its file        1 move the record away
   2 is the record in its place?      2 read all lease files
       yes: use the content               key found: put the record back
       no:  a miss, or wait               not found: delete the content

Whichever takes its second step last sees the first step of the other. If both see each other, both
back off, which costs a moment and never an entry that is in use.

A lease must not outlive its process. A process id proves nothing, since containers with pid
namespaces of their own, and other machines, share volumes. The evidence is a lock on the lease
file, which the kernel releases when the process dies. Where locks do not work, or the file is
another machine's, it is the file's modification time, which its owner sets every few seconds (the
heartbeat).
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

from pgetpy.cache.layout import CachePaths, discard
from pgetpy.errors import ThreadLimitError
from pgetpy.system.file_locks import boot_id, try_lock
from pgetpy.system.filesystem import closing_fd, names_in
from pgetpy.system.threads import start_thread

BEAT_SECONDS = 5.0
# Watched this long without a heartbeat, a process counts as dead. It is long because a library that
# loads a model may hold the interpreter lock for seconds.
EXPIRY_SECONDS = 30.0
# Without a heartbeat for this long it counts as dead at first sight, unwatched.
ABANDONED_SECONDS = 600.0

_HEADER = 1024
_SLOT = 32
_FREE = bytes(_SLOT)
# The file has room for this many leases at once: writing one needs no space on a full disk.
_SLOTS = 96
_ATTEMPTS = 10


@dataclass(frozen=True)
class Process:
    """The process of a lease file. `boot`, `namespace` and `started` make `pid` unambiguous."""

    pid: int
    host: str
    boot: str
    namespace: str
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class LeaseRecord:
    """The content of a lease file: its process, and the keys that it has leased."""

    process: Process
    keys: frozenset[str]


class LeaseFile:
    """The lease file of this process. It exists from the first lease or use until `close`.

    Leases are written in place, one slot each. A reader sees a slot before or after the write, and
    never a list that is half rewritten; and on a full disk a lease still fits, because the slots
    were allocated with the file.

    Format: a header with the `Process` as JSON, then slots of 32 bytes, each a key or zeros.
    """

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

    def ensure_file(self) -> None:
        """Make sure that the file exists; it is deleted if someone deletes the whole cache."""
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
        """Add a lease of `key`. It counts: each lease needs its own release."""
        with self._lock:
            self.ensure_file()
            if not self._leases[key]:
                slot = self._vacant[-1] if self._vacant else len(self._slots)
                self._write(slot, bytes.fromhex(key))
                self._slots[key] = slot
                del self._vacant[-1:]
            self._leases[key] += 1

    def release(self, key: str) -> None:
        """Take back one lease of `key`."""
        with self._lock:
            self._leases[key] -= 1
            if self._leases[key] > 0:
                return
            del self._leases[key]  # below 0 if `close` came first
            slot = self._slots.pop(key, None)
            if slot is not None:
                self._vacant.append(slot)
                with contextlib.suppress(OSError):
                    self._write(slot, _FREE)

    def beat(self) -> None:
        """Show that this process is alive: set the time of the file, which others watch."""
        with self._lock, contextlib.suppress(OSError):
            if self._fd >= 0:
                self.ensure_file()
                os.utime(self._fd)

    def close(self) -> None:
        """Remove the file: this process holds nothing any more."""
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
        """Forked child: close the file, but release nothing; the leases are the parent's."""
        self._lock = threading.RLock()  # in the parent, another thread may have held it
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
            except FileNotFoundError:  # swept away as a dead process's
                if attempt >= _ATTEMPTS:
                    raise

    def _create(self, data: bytes) -> int:
        # Locked before it is renamed into place, so that it never appears there unlocked.
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
            # No thread available: each lease then beats once, and tries again to start one.
            with contextlib.suppress(OSError):
                os.utime(self._fd)
        else:
            self._stop = stop


# Holds a weak reference only: a store that nothing refers to must be able to end its thread.
def _keep_beating(holder: weakref.ref[LeaseFile], stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        living = holder()
        if living is None:
            return
        living.beat()
        del living


class LivenessMonitor:
    """Tells which processes with lease files are alive.

    Args:
        layout: the cache.
        locks: whether file locks work on its file system.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self, layout: CachePaths, *, locks: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._layout = layout
        self._locks = locks
        self._monotonic = monotonic
        self._seen: dict[str, tuple[int, float]] = {}

    def alive(self, owner: str) -> bool:
        """Whether the process of the lease file `owner` is alive; if in doubt, yes.

        A wrong "alive" keeps some bytes longer. A wrong "dead" removes files that a predictor is
        about to open. So errors other than a missing file count as life.
        """
        try:
            fd = os.open(self._layout.at("holders", owner), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        with closing_fd(fd):
            try:
                if self._locks and not try_lock(fd, shared=True):
                    return True
                return self._shows_life(owner, fd)
            except OSError:
                return True

    def leased(self) -> dict[str, list[Process]]:
        """Return the leased keys, each with the living processes that hold it.

        Leases are read before the process is looked at: one that dies in between only seems to hold
        its keys a moment longer.
        """
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
        """Whether the file went untouched for too long, as watched here or by the wall clock."""
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
    """Return process `pid` of this machine, as lease files describe it."""
    host, namespace = _surroundings()
    try:
        # Field 22 of /proc/PID/stat (proc(5)) is the start time. Field 2, the name, may contain
        # anything, but ends with the last ")".
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
    # Some file servers put a folder of their own into each folder.
    with closing_fd(fd), contextlib.suppress(IsADirectoryError):
        return _holding_in(fd)
    return None


def _holding_in(fd: int) -> LeaseRecord | None:
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    try:
        process = Process(**json.loads(data[:_HEADER]))
    except (TypeError, ValueError):
        return None
    slots = (data[at : at + _SLOT] for at in range(_HEADER, len(data) - _SLOT + 1, _SLOT))
    return LeaseRecord(process, frozenset(slot.hex() for slot in slots if slot != _FREE))
