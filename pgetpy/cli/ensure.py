"""The commands that fetch for the cache: `ensure`, and `cache verify`, which repairs.

Standard output holds paths, or one JSON object for each REF, and nothing else, in the order of the
REFs and only after all of them are complete: a script may use them without checking each.

The digests of files without a checksum are computed behind the download. Both commands wait for
them before they end, so that no later process has to do it.

When one REF fails, downloads of the others are stopped, and what they have received is kept for the
next run. With --json there is still a line for each REF: a path, the error, or "Stopped".

`cache verify` never computes the digest that it compares with. An entry without a recorded digest
is "unknown", and downloaded again, because only the service can say what it should be.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from contextlib import ExitStack
from typing import Any

from pgetpy.cache.checking import Verdict
from pgetpy.cache.store import Store
from pgetpy.cli.cache import CacheCommand, Target
from pgetpy.cli.cache_tables import KEY_DIGITS
from pgetpy.cli.invocation import DONE, FAILED, Invocation
from pgetpy.cli.progress import log_lines, progress_of
from pgetpy.cli.results import failure_record
from pgetpy.cli.terminal import print_line
from pgetpy.core.cache.records import Record
from pgetpy.core.references.local_urls import is_data
from pgetpy.core.references.patterns import Patterns
from pgetpy.core.references.reference import Reference, Wanted
from pgetpy.core.report.events import Event, Failed, Finished, Report
from pgetpy.core.report.results import DownloadResult
from pgetpy.core.report.text import counted
from pgetpy.errors import (
    BadReferenceError,
    CacheError,
    NotAllowedError,
    PgetError,
    UsageError,
)
from pgetpy.settings.cache_settings import CacheSettings
from pgetpy.sources.table import parse_reference
from pgetpy.weights.cache import WeightsDownloadCache
from pgetpy.weights.options import parse_digest

_WIDEST = max(len(verdict.value) for verdict in Verdict)


def run_filling(invocation: Invocation, settings: CacheSettings) -> int:
    """Carry out `ensure`, `cache ensure` or `cache verify`; return the exit status."""
    work = _verify if invocation.arguments.command == "cache verify" else _ensure
    with ExitStack() as closing:
        return work(CacheCommand(invocation, settings, closing))


# ----------------------------------------------------------------------------------------- ensure


def _ensure(command: CacheCommand) -> int:
    invocation = command.invocation
    operands, options = invocation.arguments.operands, invocation.options
    if not operands:
        raise UsageError("expected REF..., got nothing; see pgetpy ensure --help")
    if options.digest is not None and len(operands) > 1:
        raise UsageError("--digest is for one REF")
    parse_digest(options.digest)
    # All REFs are parsed before the cache is made. A REF that is named twice is fetched once.
    patterns = Patterns.of(options.include, options.exclude)
    references = {
        url: parse_reference(url, options.wanted, invocation.settings.sources, patterns)
        for url in operands
    }
    # By the number of the reference, as events have it. Hits finish without an event.
    failed: dict[int, PgetError] = {}
    served: dict[int, DownloadResult] = {}
    cache = None
    try:
        with progress_of(invocation, into_cache=True) as progress:

            def hear(event: Event) -> None:
                if isinstance(event, Failed):
                    failed[event.key] = event.error
                if isinstance(event, Finished):
                    served[event.key] = event.result
                progress(event)

            cache = command.closing.enter_context(open_cache(command, hear))
            try:
                found = _ensure_all(cache, list(references), options.digest, _choice(command))
            except PgetError:
                _settle(cache, references)  # of what has come while another failed
                raise
    except PgetError as error:
        if options.json and not isinstance(error, UsageError):
            _tell_failure(command, cache, references, failed, error)
        raise
    paths = dict(zip(references, found, strict=True))
    results = {url: served.get(number) for number, url in enumerate(references)}
    try:
        for url in operands:
            record = {**_named(references[url]), "path": paths[url], **_origin(results[url])}
            command.invocation.tell(paths[url], record)
    finally:
        # What fails now, such as a copy to the second tier, is worth a line.
        with log_lines(invocation):
            _settle(cache, references)
    return DONE


def _settle(cache: WeightsDownloadCache, references: dict[str, Reference]) -> None:
    """Wait until all digests are known, those included that a killed process has left.

    The sooner a digest is computed, the less can have happened to the file since it arrived.
    """
    cache.settle()
    for reference in references.values():
        cache.settle_one(reference.key)


def open_cache(
    command: CacheCommand, report: Report, *, any_file: bool = False
) -> WeightsDownloadCache:
    """Return the cache of `command`.

    Args:
        command: the run.
        report: is called with the events of downloads.
        any_file: for repairs: content that is not weights was accepted when it was fetched.
    """
    options, settings = command.invocation.options, command.settings
    return WeightsDownloadCache(
        settings.folder,
        settings.min_disk_free,
        settings.max_bytes,
        lower=settings.lower,
        refresh="check" if options.refresh else "never",
        any_file=any_file or options.any_file,
        settings=command.invocation.settings,
        progress=report,
        remote=settings.remote,
        remote_mode=settings.remote_mode,
        remote_max_age=settings.remote_max_age,
    )


def _choice(command: CacheCommand) -> dict[str, Any]:
    """Return what to keep of each reference, as arguments for the cache's calls."""
    options = command.invocation.options
    return {
        "wanted": options.wanted,
        "allow_patterns": options.include,
        "ignore_patterns": options.exclude,
    }


def _ensure_all(
    cache: WeightsDownloadCache, urls: list[str], digest: str | None, choice: dict[str, Any]
) -> list[str]:
    if digest is not None:
        return [str(cache.ensure(urls[0], digest=digest, **choice))]
    return [str(path) for path in cache.ensure_many(urls, **choice)]


def _origin(result: DownloadResult | None) -> dict[str, Any]:
    """Return where the bytes came from; a hit has no result."""
    if result is None:
        return {"served_from": "cache", "bytes_by_source": {}}
    return {"served_from": result.served_from, "bytes_by_source": result.bytes_by_source}


def _named(reference: Reference) -> dict[str, Any]:
    return {"reference": str(reference), "key": reference.key}


def _tell_failure(
    command: CacheCommand,
    cache: WeightsDownloadCache | None,
    references: dict[str, Reference],
    failed: dict[int, PgetError],
    error: PgetError,
) -> None:
    """Print one JSON object for each reference: its path, or why it has none.

    Args:
        command: the run.
        cache: None if it could not even be opened; then every reference has the same error.
        references: by the operand.
        failed: the errors by the number of the reference.
        error: what ended the call.
    """
    whole = error if len(references) == 1 or cache is None else None
    for number, (url, reference) in enumerate(references.items()):
        cause = failed.get(number, whole)
        path = None
        if cache is not None and cause is None:
            try:
                path = cache.lookup(url, **_choice(command))
            except NotAllowedError as refused:
                cause = refused
        record = _named(reference)
        if path is not None:
            record["path"] = str(path)
        elif cause is not None:
            record |= failure_record(cause)
        else:
            record |= {"error": "stopped because another one failed", "error_type": "Stopped"}
        print_line(json.dumps(record))


# ----------------------------------------------------------------------------------------- verify


def _verify(command: CacheCommand) -> int:
    with log_lines(command.invocation):
        store = command.open_store()
    if command.invocation.arguments.operands:
        targets = command.targets()
    elif store is not None:
        targets = [Target(each.record.key, each.record.about.reference) for each in store.entries()]
    else:
        targets = []
    found: Counter[Verdict] = Counter()
    repaired = 0
    for target in targets:
        verdict, error = _verify_entry(command, store, target)
        found[verdict] += 1
        repaired += verdict is not Verdict.SOUND and error is None
    if not command.invocation.options.json:
        print_line(_sums(found, repaired))
    return DONE if found.total() == found[Verdict.SOUND] else FAILED


def _verify_entry(
    command: CacheCommand, store: Store | None, target: Target
) -> tuple[Verdict, PgetError | None]:
    """Check one entry, repair it if need be, and print the outcome.

    Whatever happens to it, the others are checked: a run over a large cache takes minutes, and
    should say all that is wrong.

    Returns:
        What it was found to be, and the error if it could not be repaired.
    """
    if store is None or (before := store.peek(target.key)) is None:
        missing = command.absent(target)
        command.fail(target, missing)
        return Verdict.MISSING, missing
    try:
        verdict = store.verify(target.key)
    except CacheError as failed:  # what it says cannot be noted; the others may do
        command.fail(target, failed)
        return Verdict.UNKNOWN, failed
    record, words, error = {**target.record, "verdict": verdict.value}, "", None
    if verdict is Verdict.SOUND:
        with contextlib.suppress(CacheError):
            store.settle(target.key)  # what is right may as well outlive a power cut
    else:
        error = _repair(command, store, target, before.record)
        words = f"  not repaired: {error}" if error is not None else "  downloaded again"
        now = store.peek(target.key)
        if error is None and now is not None and now.record.generation == before.record.generation:
            words = "  is still what its service serves"
        record |= {"repaired": error is None, **(failure_record(error) if error else {})}
    name = f"{target.key[:KEY_DIGITS]}  {target.reference}"
    command.invocation.tell(f"{verdict.value:<{_WIDEST}}  {name}{words}", record)
    return verdict, error


def _repair(
    command: CacheCommand, store: Store, target: Target, record: Record
) -> PgetError | None:
    """Download an entry again; return the error if that fails.

    The new content replaces the old by rename. Processes that have the damaged content mapped keep
    it until they open the path again.
    """
    source = _source(command, target, record)
    if source is None:
        hint = f"pgetpy cache verify URL repairs it, pgetpy cache rm {target.key[:KEY_DIGITS]} ..."
        given = is_data(record.about.reference)
        lost = "bytes of data: URIs" if given else "secrets that open what it holds"
        return CacheError(str(store.root), f"does not keep the {lost}", hint=hint)
    try:
        with (
            progress_of(command.invocation, into_cache=True) as progress,
            # What was taken once is what was wanted.
            open_cache(command, progress, any_file=True) as cache,
        ):
            cache.repair(source[0], wanted=source[1])
            cache.settle()
    except PgetError as error:
        return error
    return None


def _source(command: CacheCommand, target: Target, record: Record) -> tuple[str, str] | None:
    """Return the reference of an entry and what to keep of it; None if the record cannot say.

    The record holds no secrets. Parsing what it holds must give the same key and scope, or it would
    fetch something else than the entry has.
    """
    if target.url:
        return target.url, command.invocation.options.wanted
    for kind in Wanted:
        try:
            reference = parse_reference(
                record.about.reference, kind.value, command.invocation.settings.sources
            )
        except BadReferenceError:
            continue  # a repository is not a file; or its source is not installed any more
        # Of a URL with a secret the record has another, which opens nothing.
        if (reference.key, reference.scope) == (record.key, record.about.scope):
            return record.about.reference, kind.value
    return None


def _sums(found: Counter[Verdict], repaired: int) -> str:
    if not found:
        return "nothing to verify: the cache is empty"
    parts = [f"{found[verdict]} {verdict.value}" for verdict in Verdict if found[verdict]]
    wrong = found.total() - found[Verdict.SOUND]
    how = f"; {repaired} of {wrong} repaired" if wrong else ""
    return f"{counted(found.total(), 'entry')}: {', '.join(parts)}{how}"
