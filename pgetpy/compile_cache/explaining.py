"""Why there was no hit, in words."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection
from typing import Any

from pgetpy.compile_cache.locations import CacheLocation
from pgetpy.compile_cache.operations import CancelFlag
from pgetpy.compile_cache.survey import SealSurvey
from pgetpy.core.compile_cache.environments import CompileEnvironment, parse_environment
from pgetpy.errors import IntegrityError

# How many other keys are compared with ours.
_COMPARED = 50


def find_nearest(
    location: CacheLocation, environment: CompileEnvironment
) -> CompileEnvironment | None:
    """Return the environment in `location` that differs from `environment` in the fewest facts.

    Raises:
        PgetError: the location cannot be used.
    """
    found = []
    for key in location.saved_keys()[:_COMPARED]:
        data = location.read(f"v1/{key}", ["env.json"], CancelFlag()).get("env.json")
        with contextlib.suppress(IntegrityError):
            if data is not None and key != environment.key:
                found.append(parse_environment(data, f"v1/{key}/env.json"))
    return min(found, key=lambda each: len(environment.differing(each)), default=None)


def explain_survey(
    location: CacheLocation,
    environment: CompileEnvironment,
    survey: SealSurvey,
    here: Collection[tuple[str, str]],
) -> dict[str, Any]:
    """Return why there is something to load, or not: `hit`, `key`, and `lines` for people.

    Args:
        location: that was surveyed.
        environment: of this machine.
        survey: what the location has for it.
        here: kind and path of all files in the live folders.

    Raises:
        PgetError: the location cannot be used.
    """
    key, held = environment.key, survey.held(environment)
    lines = [f"the key of this machine is {key}"]
    lines += [f"left out: {each}" for each in survey.left_out]
    lacking = Counter(survey.lacking(environment).values())
    lines += [f"left out: {count} shared objects, as {why}" for why, count in lacking.items()]
    if held:
        missing = sum(place not in here for place in held)
        lines.append(f"{len(held)} files are saved for it, {missing} of which are not here")
        return {"hit": True, "key": key, "lines": lines}
    lines.append("nothing that can be used is saved for it")
    nearest = find_nearest(location, environment)
    if nearest is None:
        return {"hit": False, "key": key, "lines": [*lines, "there is no other key either"]}
    lines.append(f"the nearest key is {nearest.key}; it differs in")
    lines += [f"- {each}" for each in environment.differing(nearest)]
    return {"hit": False, "key": key, "nearest": nearest.key, "lines": lines}
