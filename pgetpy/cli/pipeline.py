"""The commands below `pgetpy pipeline`. Imported when one of them runs.

Standard output holds what was asked for (a key, paths, or a table; with --json one object a line),
and only once all of it is complete: a script may use it without further checks. Progress and log
lines go to standard error.

Looking does not create anything: `ls`, `show`, `verify`, `rm` and `gc` make no cache and no folder
where there are none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pgetpy.cache.layout import CachePaths
from pgetpy.cli.cache import CacheCommand
from pgetpy.cli.ensure import open_cache
from pgetpy.cli.invocation import DONE, FAILED, Invocation, check_digits
from pgetpy.cli.pipeline_results import (
    KEY_DIGITS,
    composition_lines,
    listing_record,
    manifest_lines,
    plan_lines,
    tree_table,
)
from pgetpy.cli.pipeline_spec import read_spec
from pgetpy.cli.progress import Progress, progress_of
from pgetpy.cli.results import failure_record
from pgetpy.cli.terminal import output_width, print_line, say
from pgetpy.core.report.events import Queued
from pgetpy.core.text.units import format_size
from pgetpy.errors import CacheError, PgetError, UsageError
from pgetpy.errors.redact import redact
from pgetpy.pipelines import PipelineStore
from pgetpy.pipelines.trees import ListedTree
from pgetpy.settings.cache_settings import CacheSettings
from pgetpy.settings.pipeline_options import PipelineSettings
from pgetpy.system.filesystem import cache_error

_TAKES_KEYS = ("show", "verify", "rm")


def run_pipeline(invocation: Invocation, environ: Mapping[str, str]) -> int:
    """Carry out a command below `pipeline`; return the exit status."""
    name = invocation.arguments.command.partition(" ")[2]
    operands, flags = invocation.arguments.operands, invocation.arguments.values
    cache = CacheSettings.from_environment(environ).with_flags(flags)
    cache = replace(cache, folder=cache.folder.absolute())
    own = PipelineSettings.from_environment(environ).with_flags(flags)
    folder = (own.folder or cache.folder / "pipelines").absolute()
    run = _Run(invocation, cache, folder, own.max_bytes)
    about = {} if name in _UPKEEP else {"base": redact(next(iter(operands), ""))}
    try:
        with invocation.telling_programs(about):
            if name in _UPKEEP:
                return _upkeep(run, name)
            return _SPECIFIED[name](run)
    except OSError as error:
        if isinstance(error, (PgetError, BrokenPipeError)):
            raise
        raise cache_error(error, folder) from error


@dataclass(frozen=True)
class _Run:
    """One run of a command.

    Attributes:
        invocation: what was asked for.
        cache: has the files.
        folder: has the pipelines.
        max_bytes: what they may keep; None for no limit.
    """

    invocation: Invocation
    cache: CacheSettings
    folder: Path
    max_bytes: int | None

    @contextmanager
    def store(self) -> Iterator[tuple[PipelineStore, Progress]]:
        """Open the store, and show what is fetched while the block runs."""
        with progress_of(self.invocation, into_cache=True) as progress, ExitStack() as closing:
            command = CacheCommand(self.invocation, self.cache, closing)
            cache = closing.enter_context(open_cache(command, progress))
            store = PipelineStore(cache, folder=self.folder, max_bytes=self.max_bytes)
            yield store, progress


# ------------------------------------------------------------------------- of a specification


def _plan(run: _Run) -> int:
    spec = read_spec(run.invocation)
    with run.store() as (store, _):
        plan = store.plan(spec)
    run.invocation.tell("\n".join(plan_lines(plan)), plan.to_json())
    return DONE


def _key(run: _Run) -> int:
    spec = read_spec(run.invocation)
    with run.store() as (store, _):
        key = store.key(spec)
    run.invocation.tell(key, {"key": key})
    return DONE


def _build(run: _Run) -> int:
    spec = read_spec(run.invocation)
    with run.store() as (store, progress):
        plan = store.plan(spec)
        if plan.missing:
            # What was fetched for the plan counts as well.
            done = progress.tally
            total = None if plan.unknown_sizes else done.ended_bytes + plan.bytes_to_fetch
            progress(Queued(done.ended + len(plan.missing), total))
        with store.build(spec) as built:
            paths = [str(built.path), *map(str, built.loras)]
            key, base_key = built.manifest.key, built.manifest.base_key
            size = sum(each.size for each in built.manifest.subjects)
    record = {"key": key, "base_key": base_key, "path": paths[0], "loras": paths[1:], "size": size}
    run.invocation.tell("\n".join(paths), record)
    return DONE


# ------------------------------------------------------------------------------- of the folder


def _upkeep(run: _Run, name: str) -> int:
    operands = run.invocation.arguments.operands
    command = run.invocation.arguments.command
    if operands and name not in _TAKES_KEYS:
        raise UsageError(f"pgetpy {command} takes no KEY; see pgetpy {command} --help")
    if not operands and name in ("show", "rm"):
        raise UsageError("expected KEY, got nothing; pgetpy pipeline ls shows them")
    if len(operands) > 1 and name == "show":
        raise UsageError(f"expected one KEY, got {len(operands)}")
    for operand in operands:
        check_digits(operand, KEY_DIGITS)
    if not run.folder.is_dir() or not CachePaths(run.cache.folder).check():
        if operands:
            hint = "pgetpy pipeline build makes one"
            raise CacheError(str(run.folder), f"has no pipeline {operands[0]}", hint=hint)
        if not run.invocation.options.json:
            print_line(_empty(run))
        return DONE
    with run.store() as (store, _):
        return _UPKEEP[name](run, store)


def _ls(run: _Run, store: PipelineStore) -> int:
    found = store.pipelines()
    if run.invocation.options.json:
        for each in found:
            print_line(json.dumps(listing_record(each)))
    elif found:
        print_line("\n".join(tree_table(found, store.kept_bytes(), output_width())))
    else:
        print_line(_empty(run))
    return DONE


def _show(run: _Run, store: PipelineStore) -> int:
    operand = run.invocation.arguments.operands[0]
    tree = _composed(store, operand) or _listed(store, operand)
    made = store.compositions(tree.manifest.key)
    if run.invocation.options.json:
        record = {"path": str(tree.path), **json.loads(tree.manifest.to_json())}
        print_line(json.dumps({**record, "compositions": [each.key for each in made]}))
    else:
        lines = [*manifest_lines(tree.manifest, str(tree.path)), *composition_lines(made)]
        print_line("\n".join(lines))
    return DONE


def _verify(run: _Run, store: PipelineStore) -> int:
    operands = run.invocation.arguments.operands
    keys = [store.find(each) for each in operands] if operands else store.keys()
    status = DONE
    for key in keys:
        try:
            damaged = store.verify(key)
        except PgetError as error:
            status = FAILED
            run.invocation.tell(
                f"{key[:KEY_DIGITS]}  {error}", {"key": key, **failure_record(error)}
            )
            continue
        words = f"damaged or missing: {', '.join(damaged)}" if damaged else "sound"
        run.invocation.tell(f"{key[:KEY_DIGITS]}  {words}", {"key": key, "damaged": damaged})
        status = FAILED if damaged else status
    if not keys and not run.invocation.options.json:
        print_line(_empty(run))
    return status


def _rm(run: _Run, store: PipelineStore) -> int:
    # All operands are looked up first: a typing error in the last must not leave half of it done.
    keys = [store.find(each) for each in run.invocation.arguments.operands]
    status = DONE
    for key in keys:
        gone = store.remove(key)
        if gone:
            run.invocation.tell(f"removed {key[:KEY_DIGITS]}", {"key": key, "removed": True})
            continue
        status = FAILED
        error = CacheError(str(run.folder), f"keeps {key[:KEY_DIGITS]}, which is in use")
        if run.invocation.options.json:
            print_line(json.dumps({"key": key, "removed": False, **failure_record(error)}))
        say(str(error))
    return status


def _gc(run: _Run, store: PipelineStore) -> int:
    before = store.kept_bytes()
    gone = store.collect()
    kept = store.kept_bytes()
    words = f"removed {len(gone)}, {format_size(before - kept)}" if gone else "nothing to remove"
    run.invocation.tell(f"{words}; {format_size(kept)} kept", {"removed": gone, "kept": kept})
    return DONE


def _composed(store: PipelineStore, operand: str) -> ListedTree | None:
    """Return the base of the only composition whose key begins with `operand`, with the manifest
    of that; None if there is not exactly one."""
    found = [
        tree._replace(manifest=each)
        for tree in store.pipelines()
        for each in store.compositions(tree.manifest.key)
        if each.key.startswith(operand.lower())
    ]
    return found[0] if len(found) == 1 else None


def _listed(store: PipelineStore, operand: str) -> ListedTree:
    """Return the pipeline whose key begins with `operand`.

    Raises:
        CacheError: there is none, there are several, or its manifest is damaged.
    """
    key = store.find(operand)
    for each in store.pipelines():
        if each.manifest.key == key:
            return each
    hint = f"pgetpy pipeline rm {key[:KEY_DIGITS]} removes it"
    raise CacheError(str(store.folder), f"has a damaged manifest of {key[:KEY_DIGITS]}", hint=hint)


def _empty(run: _Run) -> str:
    return f"There are no pipelines in {run.folder}: pgetpy pipeline build makes them."


_SPECIFIED: Mapping[str, Callable[[_Run], int]] = {"plan": _plan, "key": _key, "build": _build}
_UPKEEP: Mapping[str, Callable[[_Run, PipelineStore], int]] = {
    "ls": _ls,
    "show": _show,
    "verify": _verify,
    "rm": _rm,
    "gc": _gc,
}
