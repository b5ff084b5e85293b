"""The commands below `pgetpy generation`. Imported when one of them runs.

Looking (`ready`, `diff`, `ls`) and `exec` need neither a cache nor the right to write: they work in
a container that has the folder mounted read-only. Without --cache-dir or PGET_CACHE_DIR the cache
is `cache` in the folder of the generations, because hard links need one file system.

Exit statuses are made for scripts: `ready` fails unless all wanted generations are whole, `verify`
if anything is damaged. `prune` succeeds although some are read: the next run takes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from pgetpy.cli.cache import CacheCommand
from pgetpy.cli.ensure import open_cache
from pgetpy.cli.generation_results import (
    diff_lines,
    diff_record,
    generation_table,
    listing_record,
    pruned_lines,
    readiness_lines,
    verification_lines,
)
from pgetpy.cli.invocation import DONE, FAILED, Invocation
from pgetpy.cli.manifest_file import read_manifest
from pgetpy.cli.progress import log_lines, progress_of
from pgetpy.cli.terminal import Terminated, print_line, say
from pgetpy.core.generations.comparison import diff_of
from pgetpy.core.generations.environment_variables import ENVIRONMENTS_VARIABLE, NAME_VARIABLE
from pgetpy.core.generations.lock import GenerationLock
from pgetpy.core.generations.manifest import parse_lock, parse_manifest
from pgetpy.errors import PgetError, UsageError
from pgetpy.errors.reasons import system_reason
from pgetpy.generations.store import Generations
from pgetpy.settings.cache_settings import CacheSettings
from pgetpy.settings.generation_options import GenerationOptions, GenerationSettings
from pgetpy.system.filesystem import disk_errors
from pgetpy.weights.cache import WeightsDownloadCache

_OWN_CACHE = "cache"


def run_generation(invocation: Invocation, environ: Mapping[str, str]) -> int:
    """Carry out a command below `generation`; return the exit status."""
    name = invocation.arguments.command.partition(" ")[2]
    operands, flags = invocation.arguments.operands, invocation.arguments.values
    own = GenerationSettings.from_environment(environ).with_flags(flags)
    folder = own.root.absolute() if own.root is not None else None
    cache = CacheSettings.from_environment(environ).with_flags(flags)
    if folder is not None and "cache-dir" not in flags and not environ.get("PGET_CACHE_DIR"):
        cache = replace(cache, folder=folder / _OWN_CACHE)
    cache = replace(cache, folder=cache.folder.absolute())
    options = GenerationOptions().with_flags(flags)
    wanted = {NAME_VARIABLE: own.name, ENVIRONMENTS_VARIABLE: own.environments}
    run = _GenerationRun(invocation, environ, cache, folder, wanted, options)
    with invocation.telling_programs({"root": str(folder)} if folder else {}):
        return _COMMANDS[name](run, operands)


@dataclass(frozen=True)
class _GenerationRun:
    """One run of a command.

    Attributes:
        invocation: what was asked for.
        environ: of the process.
        cache: has the files.
        folder: has the generations; None if none was named.
        wanted: variables that say what to use; empty where that is left open.
        options: of this run.
    """

    invocation: Invocation
    environ: Mapping[str, str]
    cache: CacheSettings
    folder: Path | None
    wanted: Mapping[str, str]
    options: GenerationOptions

    @property
    def root(self) -> Path:
        """The folder of the generations.

        Raises:
            UsageError: none was named.
        """
        if self.folder is None:
            raise UsageError(
                "no folder of generations is named: give --root or PGET_GENERATION_ROOT"
            )
        return self.folder

    def looking(self) -> Generations:
        """Return the generations, for commands that only look."""
        return Generations(self.root)

    @contextmanager
    def writing(self) -> Iterator[Generations]:
        """Open the generations and their cache, and show what is fetched within the block."""
        root = self.root
        with self.fetching() as cache:
            yield Generations(
                root,
                cache,
                copies=self.options.copies,
                clean_uv_cache=self.options.clean_uv_cache,
            )

    @contextmanager
    def fetching(self) -> Iterator[WeightsDownloadCache]:
        """Open the cache, and show what is fetched within the block."""
        with progress_of(self.invocation, into_cache=True) as progress, ExitStack() as closing:
            command = CacheCommand(self.invocation, self.cache, closing)
            yield closing.enter_context(open_cache(command, progress))

    def tell(self, lines: Sequence[str], record: object) -> None:
        """Print `lines` for people, or `record` as JSON for programs."""
        self.invocation.tell("\n".join(lines), record)


def _lock(run: _GenerationRun, operands: Sequence[str]) -> int:
    run.invocation.take({1, 2}, "MANIFEST and LOCK")
    text, path = read_manifest(operands[0])
    manifest = parse_manifest(text, path)
    lock = manifest.locked()
    if lock is None:
        from pgetpy.generations.locking import lock_manifest

        with run.fetching() as cache:
            lock = lock_manifest(manifest, cache, path)
    if len(operands) == 2:
        _write_lock(Path(operands[1]), lock)
        words = [f"generation {lock.number} is {lock.digest}"]
    else:
        words = lock.file_text.removesuffix("\n").split("\n")
    run.tell(words, {"number": lock.number, "digest": lock.digest, "lock": lock.file_text})
    return DONE


def _write_lock(path: Path, lock: GenerationLock) -> None:
    """Write the file of a lock, whole or not at all."""
    own = path.parent / f".{path.name}.{os.getpid()}"
    with disk_errors(path):
        try:
            own.write_bytes(lock.file_text.encode(errors="surrogateescape"))
            os.replace(own, path)
        finally:
            own.unlink(missing_ok=True)


def _daemon(run: _GenerationRun, operands: Sequence[str]) -> int:
    run.invocation.take({1}, "FOLDER")
    from pgetpy.generations.daemon import DaemonRules, GenerationDaemon
    from pgetpy.generations.serving import serving

    options = run.options
    rules = DaemonRules(options.minimum, options.maximum, options.keep)
    with run.writing() as generations, log_lines(run.invocation):
        daemon = GenerationDaemon(generations, Path(operands[0]), rules, say)
        with serving(daemon, *options.bind) as port:
            say(f"answering http://{options.bind[0]}:{port}/ready and /metrics")
            try:
                daemon.follow(options.interval)
            except (KeyboardInterrupt, Terminated):
                # How a daemon is ended; what it was building is removed by the next one.
                say("ended")
    return DONE


def _build(run: _GenerationRun, operands: Sequence[str]) -> int:
    locks = [_lock_at(each) for each in operands]
    if not locks:
        raise UsageError("expected LOCK..., got nothing; pgetpy generation lock writes one")
    with run.writing() as generations:
        for lock in locks:
            built = generations.build(lock, maximum=run.options.maximum)
            record = {
                "number": built.number,
                "digest": built.digest,
                "path": str(run.root / "ids" / str(built.number) / "files"),
                "files": len(built.files),
                "size": built.size,
            }
            run.tell([str(record["path"])], record)
    return DONE


def _ready(run: _GenerationRun, operands: Sequence[str]) -> int:
    run.invocation.refuse_operands()
    found = run.looking().ready(run.options.minimum, run.options.maximum)
    run.tell(readiness_lines(found), found.to_json())
    return DONE if found.ready else FAILED


def _diff(run: _GenerationRun, operands: Sequence[str]) -> int:
    run.invocation.take({2}, "A and B, numbers or locks")
    before, after = (_lock_of(run, each) for each in operands)
    found = diff_of(before, after)
    run.tell(diff_lines(found), diff_record(found))
    return DONE


def _prune(run: _GenerationRun, operands: Sequence[str]) -> int:
    run.invocation.refuse_operands()
    if run.options.keep is None and run.options.minimum is None:
        raise UsageError("nothing says what stays: give --keep, --min or both")
    with run.writing() as generations:
        found = generations.prune(keep=run.options.keep, minimum=run.options.minimum)
    record = {
        "removed": found.removed,
        "in_use": [{"number": each.number, "readers": each.readers} for each in found.in_use],
    }
    run.tell(pruned_lines(found), record)
    return DONE


def _verify(run: _GenerationRun, operands: Sequence[str]) -> int:
    # Without a cache, or the right to write to it, it is only said what is damaged.
    there = os.access(run.cache.folder, os.W_OK)
    opened = run.writing() if there else nullcontext(run.looking())
    with opened as generations, log_lines(run.invocation):
        numbers = [_number(each) for each in operands]
        numbers = numbers or [each.number for each in reversed(generations.listed())]
        if not numbers:
            say("there are no generations")
        sound = True
        for number in numbers:
            found = generations.verify(number)
            sound = sound and found.sound
            record = {
                "number": number,
                "digest": found.digest,
                "checked": found.checked,
                "sound": found.sound,
                "faults": [each._asdict() for each in found.faults],
            }
            run.tell(verification_lines(found), record)
    return DONE if sound else FAILED


def _ls(run: _GenerationRun, operands: Sequence[str]) -> int:
    run.invocation.refuse_operands()
    found = run.looking().listed()
    if run.invocation.options.json:
        for each in found:
            print_line(json.dumps(listing_record(each)))
        return DONE
    for line in generation_table(found):
        print_line(line)
    return DONE


def _exec(run: _GenerationRun, operands: Sequence[str]) -> int:
    """Hold a generation, and become the program: the lock lasts as long as that does."""
    if not operands:
        raise UsageError("expected -- PROGRAM [ARGUMENT...], got nothing")
    from pgetpy.generations.holding import ROOT_VARIABLE, hold

    asked = {**run.environ, **{name: value for name, value in run.wanted.items() if value}}
    with log_lines(run.invocation):
        held = hold(run.root, asked)
        composed = held.variables(asked)
    environ = {
        **asked,
        **composed,
        ROOT_VARIABLE: str(run.root),
        NAME_VARIABLE: held.digest,
        "PGET_GENERATION_FILES": str(held.files),
    }
    os.set_inheritable(held.fd, True)
    try:
        os.execvpe(operands[0], list(operands), environ)  # noqa: S606  it is what was asked for
    except OSError as error:
        raise PgetError(f"cannot run {operands[0]}: {system_reason(error)}") from None


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"expected the number of a generation, got {text!r}")
    return int(text)


def _lock_at(operand: str) -> GenerationLock:
    return parse_lock(*read_manifest(operand))


def _lock_of(run: _GenerationRun, operand: str) -> GenerationLock:
    """Return the lock that an operand means: of a generation that is there, or a file."""
    if operand.isascii() and operand.isdigit():
        return run.looking().record(int(operand)).lock
    return _lock_at(operand)


_COMMANDS: Mapping[str, Callable[[_GenerationRun, Sequence[str]], int]] = {
    "lock": _lock,
    "build": _build,
    "daemon": _daemon,
    "ready": _ready,
    "diff": _diff,
    "prune": _prune,
    "verify": _verify,
    "ls": _ls,
    "exec": _exec,
}
