"""The commands below `pgetpy cache` that need no network. Imported when one of them runs.

Looking at a cache does not create one, so `open_store` may return None, and every command has an
answer for that. Only `pin` creates one: a pin may come before its entry.

Commands that take several REFs carry out all of them and fail at the end if one failed.

An entry can be named by its reference, or by the beginning of its key as `pgetpy cache ls` shows
it. The key is needed for an entry whose reference had a secret: the record does not hold it, so the
URL cannot be typed again. Where a reference is given, access is checked as in Python (`_open_to`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgetpy.cache.contents import Entry, scan
from pgetpy.cache.layout import KEY_LENGTH, CachePaths
from pgetpy.cache.listing import Totals, totals
from pgetpy.cache.store import PARTIAL_SECONDS, Store
from pgetpy.cli.cache_tables import (
    KEY_DIGITS,
    info_lines,
    info_record,
    listing_record,
    sums_line,
    table,
)
from pgetpy.cli.invocation import DONE, FAILED, Invocation, check_digits
from pgetpy.cli.results import failure_record
from pgetpy.cli.terminal import output_width, print_line, say
from pgetpy.core.cache.records import State
from pgetpy.core.report.text import counted
from pgetpy.core.text.units import format_size, parse_age
from pgetpy.errors import CacheError, PgetError, UsageError
from pgetpy.settings.cache_settings import CacheSettings
from pgetpy.sources.table import parse_reference
from pgetpy.system.filesystem import free_bytes
from pgetpy.system.metrics_file import METRICS_FILE

_KEY = re.compile(rf"[0-9a-fA-F]{{1,{KEY_LENGTH}}}")


@dataclass(frozen=True)
class Target:
    """An entry that a command is about.

    Attributes:
        key: of the entry.
        reference: its name for output, without secrets.
        url: the operand as given; empty if that was a key.
        scope: see `Reference.scope`; None if the operand was a key.
    """

    key: str
    reference: str
    url: str = ""
    scope: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What programs are told first of it."""
        return {"reference": self.reference, "key": self.key}


@dataclass(frozen=True)
class CacheCommand:
    """One run of a command on the cache; `closing` lasts as long as it does."""

    invocation: Invocation
    settings: CacheSettings
    closing: ExitStack

    def open_store(self) -> Store | None:
        """Return the cache; None where there is none yet.

        Raises:
            CacheError: the folder belongs to another release, or cannot be read.
        """
        return self.make_store() if CachePaths(self.settings.folder).check() else None

    def make_store(self) -> Store:
        """Return the cache, made if it was not there."""
        if self.invocation.settings.metrics_file is not None:
            METRICS_FILE.write_to(self.invocation.settings.metrics_file)
        store = Store(
            self.settings.folder,
            min_disk_free=self.settings.min_disk_free,
            max_bytes=self.settings.max_bytes,
            lower=self.settings.lower,
        )
        return self.closing.enter_context(store)

    def fail(self, target: Target, error: PgetError) -> None:
        """Print why the command failed for `target`; it goes on with the others."""
        if self.invocation.options.json:
            print_line(json.dumps({**target.record, **failure_record(error)}))
        say(str(error))

    def targets(self) -> list[Target]:
        """Return what the operands name.

        Raises:
            UsageError: one is neither a URL nor a key.
            CacheError: no entry has such a key.
        """
        operands = self.invocation.arguments.operands
        if not operands:
            command = self.invocation.arguments.command
            raise UsageError(f"expected REF..., got nothing; see pgetpy {command} --help")
        return [self._target(operand) for operand in operands]

    def each(self, work: Callable[[Target], None]) -> int:
        """Do `work` for all targets; return the status.

        All operands are parsed before the first one is worked on: a typing error in the last one
        must not leave the command half done. Errors of the cache are told one by one.
        """
        status = DONE
        for target in self.targets():
            try:
                work(target)
            except CacheError as error:
                status = FAILED
                self.fail(target, error)
        return status

    def absent(self, target: Target, hint: str = "pgetpy ensure fetches it") -> CacheError:
        """Return the error that `target` is not there."""
        return CacheError(str(self.settings.folder), f"has no {target.reference}", hint=hint)

    def _target(self, operand: str) -> Target:
        if not _KEY.fullmatch(operand):
            reference = parse_reference(
                operand, self.invocation.options.wanted, self.invocation.settings.sources
            )
            return Target(reference.key, str(reference), operand, reference.scope)
        check_digits(operand, KEY_DIGITS)
        prefix = operand.lower()
        # Entries lie in folders by the first two digits: only one of those is read.
        rows = scan(CachePaths(self.settings.folder), prefix[:2]).rows
        found = [row.record for row in rows if row.record.key.startswith(prefix)]
        if not found:
            hint = "pgetpy cache ls shows the keys"
            raise CacheError(str(self.settings.folder), f"has no key {operand}...", hint=hint)
        if len(found) > 1:
            raise UsageError(f"{len(found)} keys begin with {operand!r}: give more digits")
        return Target(found[0].key, found[0].about.reference)


def run_upkeep(invocation: Invocation, settings: CacheSettings) -> int:
    """Carry out a command below `cache` that needs no network; return the exit status."""
    name = invocation.arguments.command.removeprefix("cache ")
    takes_none = name in {"ls", "info", "gc", "prune"}
    if takes_none and invocation.arguments.operands:
        raise UsageError(f"pgetpy cache {name} takes no REF; see pgetpy cache {name} --help")
    with invocation.telling_programs({}), ExitStack() as closing:
        return _COMMANDS[name](CacheCommand(invocation, settings, closing))


def _ls(command: CacheCommand) -> int:
    store = command.open_store()
    found = store.entries() if store is not None else []
    if command.invocation.options.json:
        layout = CachePaths(command.settings.folder)
        for each in found:
            record = each.record
            path = layout.content(record.key, record.generation, record.name)
            print_line(json.dumps(listing_record(each, path)))
    elif store is None or not found:
        print_line(_empty(command))
    else:
        lines = table(found, totals(store.root, found, 0), time.time(), output_width())
        print_line("\n".join(lines))
    return DONE


def _info(command: CacheCommand) -> int:
    store = command.open_store()
    sums = store.totals() if store is not None else _nothing(command.settings.folder)
    command.invocation.tell(
        "\n".join(info_lines(sums, command.settings)), info_record(sums, command.settings)
    )
    return DONE


def _path(command: CacheCommand) -> int:
    store = command.open_store()

    def show(target: Target) -> None:
        entry = store.lookup(target.key) if store is not None else None
        if entry is None or not _open_to(entry, target):
            raise command.absent(target)
        if entry.state is not State.SOUND:
            hint = "pgetpy cache verify looks into it"
            reason = f"has {target.reference}, which is {entry.state.value}"
            raise CacheError(str(command.settings.folder), reason, hint=hint)
        command.invocation.tell(str(entry.path), {**target.record, "path": str(entry.path)})

    return command.each(show)


def _rm(command: CacheCommand) -> int:
    store = command.open_store()

    def remove(target: Target) -> None:
        size = store.remove(target.key) if store is not None else None
        if size is None:
            raise command.absent(target, hint="pgetpy cache ls shows what is there")
        words = f"removed {target.reference}, {format_size(size)}"
        command.invocation.tell(words, {**target.record, "size": size})

    return command.each(remove)


def _pin(command: CacheCommand) -> int:
    command.targets()  # raises for a malformed REF, before a cache is created
    store = command.make_store()

    def pin(target: Target) -> None:
        store.pin(target.key)
        there = store.peek(target.key) is not None
        later = "" if there else "; it is not in the cache yet, and will be kept once it is"
        command.invocation.tell(
            f"pinned {target.reference}{later}", {**target.record, "present": there}
        )

    return command.each(pin)


def _unpin(command: CacheCommand) -> int:
    store = command.open_store()

    def unpin(target: Target) -> None:
        was = store is not None and store.unpin(target.key)
        words = f"unpinned {target.reference}" if was else f"{target.reference} was not pinned"
        command.invocation.tell(words, {**target.record, "was_pinned": was})

    return command.each(unpin)


def _gc(command: CacheCommand) -> int:
    store = command.open_store()
    if store is None:
        command.invocation.tell(_empty(command), {"swept": 0, "evicted": 0})
        return DONE
    age = command.invocation.options.older_than
    # First what belongs to no entry; evicting entries for it would be a waste.
    seconds = PARTIAL_SECONDS if age is None else parse_age(age, name="--older-than")
    swept = store.sweep(partial_seconds=seconds)
    if swept and not command.invocation.options.json:
        print_line(f"swept    {format_size(swept)} of leftovers")
    evicted = store.make_room(0)
    sums = store.totals()
    record = {"swept": swept, "evicted": evicted, **info_record(sums, command.settings)}
    lines = [f"evicted  {format_size(evicted)}, the least recently used"] if evicted else []
    if sums.partial:
        lines.append(f"kept     {format_size(sums.partial)} of unfinished downloads, to continue")
    if not swept and not evicted:
        lines.append("nothing to do: the cache is within its limits")
    command.invocation.tell("\n".join([*lines, f"now      {sums_line(sums)}"]), record)
    return DONE


def _prune(command: CacheCommand) -> int:
    age = command.invocation.options.older_than
    if age is None:
        raise UsageError("expected --older-than TIME, as 30d or 12h")
    seconds = parse_age(age, name="--older-than")
    store = command.open_store()
    gone = store.prune(time.time() - seconds) if store is not None else []
    # Entries of equal content are one file: its bytes are counted once.
    size = sum({row.inode: row.size for row in gone}.values())
    if command.invocation.options.json:
        for row in gone:
            target = Target(row.record.key, row.record.about.reference)
            print_line(json.dumps({**target.record, "size": row.size}))
    elif gone:
        removed = f"{counted(len(gone), 'entry')}, {format_size(size)}"
        print_line(f"removed {removed}: not used for {age}")
    else:
        print_line(f"nothing to remove: every entry was used within {age}, or is pinned or in use")
    return DONE


def _empty(command: CacheCommand) -> str:
    return f"The cache at {command.settings.folder} is empty: pgetpy ensure URL puts weights there."


def _nothing(folder: Path) -> Totals:
    return Totals(0, 0, 0, 0, 0, 0, free_bytes(folder / "entries"))


def _open_to(entry: Entry, target: Target) -> bool:
    # An entry that was fetched with other credentials is given out only after asking the server
    # whether these open it as well. No server is asked here.
    return target.scope is None or entry.record.about.scope in ("", target.scope)


_COMMANDS: Mapping[str, Callable[[CacheCommand], int]] = {
    "ls": _ls,
    "info": _info,
    "path": _path,
    "rm": _rm,
    "gc": _gc,
    "pin": _pin,
    "unpin": _unpin,
    "prune": _prune,
}
