"""The commands below `pgetpy compile-cache`. Imported when one of them runs.

They print to standard output what was found, as lines or as JSON; what happens on the way goes to
standard error as log lines, because loading and saving are steps of a start-up script whose reader
wants to see why nothing was loaded. `run` is the exception: the program's own lines come first.

Exit statuses are made for scripts: `explain` fails if nothing fits this machine, and `verify` if
anything is damaged, although both commands have done their work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from pgetpy.cli.compile_cache_results import FACTS, KEY_DIGITS, listing_line, tell_result
from pgetpy.cli.invocation import DONE, FAILED, Invocation, check_digits
from pgetpy.cli.progress import log_lines
from pgetpy.cli.terminal import print_line, say
from pgetpy.compile_cache import CompileCache
from pgetpy.compile_cache.maintenance import LocationKeeper
from pgetpy.core.compile_cache.environments import shown_fact
from pgetpy.core.report.text import one_line
from pgetpy.core.text.units import format_size
from pgetpy.errors import UsageError
from pgetpy.settings.compile_cache_settings import CompileCacheSettings

_USUAL_KINDS = ("inductor", "triton")
_TAKES_KEYS = ("verify", "rm", "prune")
_NOTHING = "nothing is saved there"


def run_compile_cache(invocation: Invocation, environ: Mapping[str, str]) -> int:
    """Carry out a command below `compile-cache`; return the exit status."""
    command = invocation.arguments.command.partition(" ")[2]
    operands = invocation.arguments.operands
    settings = CompileCacheSettings.from_environment(environ)
    settings = settings.with_flags(invocation.arguments.values)
    if not settings.location:
        raise UsageError("no location: give --location FOLDER or s3://..., or PGET_COMPILE_CACHE")
    if command not in (*_TAKES_KEYS, "run"):
        invocation.refuse_operands()
    cache = CompileCache(
        settings.location,
        name=settings.name,
        kinds=settings.kinds or _USUAL_KINDS,
        secret=settings.secret,
        max_bytes=settings.max_bytes,
        settings=invocation.settings,
    )
    with invocation.telling_programs({"location": settings.location}), ExitStack() as closing:
        if command == "run":
            # The program's own lines are what people want to see.
            from pgetpy.cli.compile_cache_run import run_program

            return run_program(invocation, cache, operands)
        closing.enter_context(log_lines(invocation))
        return _COMMANDS[command](_Upkeep(invocation, cache, operands))


class _Upkeep:
    """One run of a command."""

    def __init__(
        self, invocation: Invocation, cache: CompileCache, operands: Sequence[str]
    ) -> None:
        self.invocation = invocation
        self.cache = cache
        self.keeper: LocationKeeper = cache.keeper()
        self.operands = operands

    @property
    def json(self) -> bool:
        return self.invocation.options.json

    def chosen(self) -> list[str]:
        """Return the keys that the operands name; all of them if there are none.

        Raises:
            UsageError: an operand is too short to name one key.
        """
        for each in self.operands:
            check_digits(each, KEY_DIGITS)
        if self.operands:
            return [self.keeper.find(each) for each in self.operands]
        found = [each.key for each in self.keeper.listings()]
        if not found:
            say(_NOTHING)
        return found


def _load(upkeep: _Upkeep) -> int:
    return tell_result(upkeep.cache.load(), done="loaded", as_json=upkeep.json, logged=True)


def _save(upkeep: _Upkeep) -> int:
    return tell_result(upkeep.cache.save(), done="saved", as_json=upkeep.json, logged=True)


def _ls(upkeep: _Upkeep) -> int:
    found = upkeep.keeper.listings()
    if upkeep.json:
        for each in found:
            print_line(json.dumps(each.as_record()))
        return DONE
    if not found:
        print_line(_NOTHING)
    for each in found:
        print_line(listing_line(each))
    return DONE


def _info(upkeep: _Upkeep) -> int:
    environment = upkeep.cache.environment()
    if environment is None:
        print_line("{}" if upkeep.json else "torch is not installed: there is no key")
        return DONE
    if upkeep.json:
        record = {"key": environment.key, **environment.required, "facts": environment.facts}
        print_line(json.dumps(record))
        return DONE
    print_line(f"key       {environment.key}")
    for name in (*FACTS, "torch_git"):
        print_line(f"{name:<9} {shown_fact(environment.required.get(name))}")
    for kind, folder in upkeep.cache.folders.items():
        print_line(f"{kind:<9} {folder}")
    return DONE


def _explain(upkeep: _Upkeep) -> int:
    # The status lets a script ask "would a start here be warm?".
    explanation = upkeep.cache.explain()
    upkeep.invocation.tell("\n".join(map(one_line, explanation["lines"])), explanation)
    return DONE if explanation["hit"] else FAILED


def _verify(upkeep: _Upkeep) -> int:
    # A failure also where --repair has removed what was damaged: something was lost.
    status = DONE
    for key in upkeep.chosen():
        found = upkeep.keeper.verify(key, repair=upkeep.invocation.options.repair)
        if found.damaged:
            status = FAILED
        lines = [f"{key[:KEY_DIGITS]}  {found.checked} packs, {len(found.damaged)} damaged"]
        lines += [f"  {each}" for each in found.damaged]
        if found.removed:
            lines.append(f"  removed {len(found.removed)} objects; the next save replaces them")
        upkeep.invocation.tell("\n".join(lines), {"key": key, **asdict(found)})
    return status


def _rm(upkeep: _Upkeep) -> int:
    if not upkeep.operands:
        raise UsageError("expected KEY..., got nothing; pgetpy compile-cache ls shows them")
    for key in upkeep.chosen():
        size = upkeep.keeper.remove(key)
        words = f"removed {key[:KEY_DIGITS]}, {format_size(size)}"
        upkeep.invocation.tell(words, {"key": key, "size": size})
    return DONE


def _prune(upkeep: _Upkeep) -> int:
    for key in upkeep.chosen():
        gained = upkeep.keeper.prune(key)
        words = f"{key[:KEY_DIGITS]}  gained {format_size(max(0, gained))}"
        upkeep.invocation.tell(words, {"key": key, "gained": gained})
    return DONE


def _publish(upkeep: _Upkeep) -> int:
    keys = upkeep.keeper.publish()
    upkeep.invocation.tell(f"indexed {len(keys)} keys", {"keys": keys})
    return DONE


_COMMANDS: Mapping[str, Callable[[_Upkeep], int]] = {
    "load": _load,
    "save": _save,
    "ls": _ls,
    "info": _info,
    "explain": _explain,
    "verify": _verify,
    "rm": _rm,
    "prune": _prune,
    "publish": _publish,
}
