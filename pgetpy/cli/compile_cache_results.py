"""What the commands below `pgetpy compile-cache` print."""

from __future__ import annotations

import json
import time

from pgetpy.cli.invocation import DONE, FAILED
from pgetpy.cli.terminal import print_line, say
from pgetpy.compile_cache import CompileCacheResult
from pgetpy.compile_cache.maintenance import KeyListing
from pgetpy.core.compile_cache.environments import shown_fact
from pgetpy.core.report.text import one_line
from pgetpy.core.text.units import format_age, format_size

# How much of a key is shown, and the least that commands accept for one.
KEY_DIGITS = 12
# Facts of `ls` and `info`, in this order; the others are in their JSON.
FACTS = ("name", "torch", "cuda", "hip", "triton", "gpus", "machine", "isa", "soabi")


def tell_result(
    result: CompileCacheResult, *, done: str, as_json: bool, logged: bool = False
) -> int:
    """Say how a load or save went; return the exit status.

    Args:
        result: of the load or save.
        done: the verb.
        as_json: print it as JSON.
        logged: whether log lines are shown, which have told why it failed.
    """
    status = FAILED if result.outcome == "failed" else DONE
    if as_json:
        print_line(json.dumps(result.as_record()))
        return status
    if result.entries:
        words = f"{done} {result.entries} files, {format_size(result.bytes)}"
        print_line(f"{words} in {result.seconds:.1f} s (key {result.key[:KEY_DIGITS]})")
    if result.reason and not (logged and status == FAILED):
        say(f"compile cache: {result.outcome}: {one_line(result.reason)}")
    elif not result.reason and not result.entries:
        print_line(f"compile cache: {result.outcome}, nothing to do")
    for each in result.removed:
        say(f"removed a damaged file: {each}")
    return status


def listing_line(listing: KeyListing) -> str:
    """Return a key as a line for people."""
    age = format_age(time.time() - listing.saved) if listing.saved else "never"
    facts = "its env.json is missing or damaged"
    if listing.environment is not None:
        known = listing.environment.required
        facts = ", ".join(f"{name} {shown_fact(known[name])}" for name in FACTS if known.get(name))
    size = format_size(listing.size)
    facts = one_line(facts)  # others may have written them
    return f"{listing.key[:KEY_DIGITS]}  {size:>9}  {listing.packs:>3} packs  {age:>8}  {facts}"
