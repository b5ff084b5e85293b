"""`pgetpy prefetch`: fill a cache with what a manifest lists, and check at boot that it is there.

While an image is built, what is missing is downloaded, hashed, and flushed. With --check and
--verify nothing is downloaded or changed, so a layer that is only read will do: --check compares
names and sizes, which takes milliseconds, and --verify hashes every byte.

One line for each reference tells what was found. The exit status is 0 if all are sound.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from pgetpy.cache.checking import Verdict
from pgetpy.cache.contents import Entry
from pgetpy.cache.inspection import inspect_entry
from pgetpy.cache.store import Store
from pgetpy.cli.cache import CacheCommand
from pgetpy.cli.ensure import open_cache
from pgetpy.cli.invocation import DONE, FAILED, Invocation
from pgetpy.cli.manifest_file import read_manifest
from pgetpy.cli.progress import log_lines, progress_of
from pgetpy.cli.terminal import print_line
from pgetpy.core.references.patterns import Patterns
from pgetpy.core.references.prefetch_manifest import PrefetchLine, parse_prefetch_manifest
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.text import counted
from pgetpy.core.text.units import format_size
from pgetpy.errors import PgetError, UsageError
from pgetpy.settings.cache_settings import CacheSettings
from pgetpy.sources.table import parse_reference

_WIDEST = max(len(verdict.value) for verdict in Verdict)


@dataclass(frozen=True)
class _Item:
    """A line of the manifest with its reference parsed."""

    line: PrefetchLine
    reference: Reference


def run_prefetch(invocation: Invocation, settings: CacheSettings) -> int:
    """Carry out `prefetch`; return the exit status."""
    options = invocation.options
    (operand,) = invocation.take({1}, "one MANIFEST or -")
    if options.check and options.verify:
        raise UsageError("--verify does all that --check does: give one")
    text, path = read_manifest(operand)
    patterns = Patterns.of(options.include, options.exclude)
    sources = invocation.settings.sources
    items = [
        _Item(line, parse_reference(line.url, line.wanted, sources, patterns))
        for line in parse_prefetch_manifest(text, path, wanted=options.wanted)
    ]
    with ExitStack() as closing:
        command = CacheCommand(invocation, settings, closing)
        with log_lines(invocation):
            store = command.make_store()
        try:
            if not (options.check or options.verify):
                _fetch(command, store, items)
        except PgetError as error:
            if not isinstance(error, UsageError):
                _report(command, store, items, deep=False)  # what came before it failed
            raise
        return _report(command, store, items, deep=options.verify)


def _fetch(command: CacheCommand, store: Store, items: list[_Item]) -> None:
    """Download what is missing, and have all of it hashed and on stable storage."""
    options = command.invocation.options
    with (
        progress_of(command.invocation, into_cache=True) as progress,
        open_cache(command, progress) as cache,
        ExitStack() as leases,
    ):
        chosen: dict[str, Any] = {
            "allow_patterns": options.include,
            "ignore_patterns": options.exclude,
        }
        # Held, so that what comes later does not push out what came before.
        for item in items:
            leases.enter_context(cache.hold(item.line.url, wanted=item.line.wanted, **chosen))
        for kind in dict.fromkeys(item.line.wanted for item in items):
            several = [w.line for w in items if w.line.wanted == kind]
            urls = [line.url for line in several if line.digest is None]
            cache.ensure_many(urls, wanted=kind, **chosen)
            for line in several:
                if line.digest is not None:
                    cache.ensure(line.url, digest=line.digest, wanted=kind, **chosen)
        cache.settle(flush=True)
    for item in items:
        entry = store.peek(item.reference.key)
        # Of earlier runs: one that was killed has neither hashed nor flushed what it fetched.
        if entry is not None and not entry.lower:
            store.settle(entry.key)


def _report(command: CacheCommand, store: Store, items: list[_Item], *, deep: bool) -> int:
    """Print what was found of each reference, and the sums; return the status."""
    found: Counter[Verdict] = Counter()
    size = 0
    for item in items:
        entry = store.peek(item.reference.key)
        verdict = inspect_entry(entry, item.line.digest, deep=deep)
        found[verdict] += 1
        size += entry.size if entry is not None else 0
        command.invocation.tell(_line(item, verdict, entry), _record(item, verdict, entry))
    if not command.invocation.options.json:
        parts = [f"{found[verdict]} {verdict.value}" for verdict in Verdict if found[verdict]]
        sums = f"{counted(len(items), 'entry')}, {format_size(size)}"
        print_line(f"{sums}: {', '.join(parts) or 'nothing'}")
    return DONE if found.total() == found[Verdict.SOUND] else FAILED


def _line(item: _Item, verdict: Verdict, entry: Entry | None) -> str:
    size = format_size(entry.size) if entry is not None else "-"
    layer = "  (lower)" if entry is not None and entry.lower else ""
    return f"{verdict.value:<{_WIDEST}}  {size:>8}  {item.reference}{layer}"


def _record(item: _Item, verdict: Verdict, entry: Entry | None) -> dict[str, object]:
    record: dict[str, object] = {
        "reference": str(item.reference),
        "key": item.reference.key,
        "verdict": verdict.value,
    }
    if entry is not None:
        record |= {
            "path": str(entry.path),
            "size": entry.size,
            "digest": entry.record.digest,
            "lower": entry.lower,
        }
    return record
