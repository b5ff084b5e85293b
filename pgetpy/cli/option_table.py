"""All options: those of the settings, of cache nodes, and of each source."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from pgetpy.settings.fleet_settings import ROWS as OF_FLEETS
from pgetpy.settings.fleet_settings import VARIABLES as OF_FLEETS_ALONE
from pgetpy.settings.generation_options import ROWS as OF_GENERATIONS
from pgetpy.settings.node_options import ROWS as OF_NODES
from pgetpy.settings.options import GROUPS as OF_SETTINGS
from pgetpy.settings.options import VARIABLES as OF_SETTINGS_ALONE
from pgetpy.settings.options import Option
from pgetpy.settings.pipeline_options import ROWS as OF_PIPELINES
from pgetpy.sources.table import source_options

_OF_SOURCES = source_options()
_TRANSFER, *_OTHERS = OF_SETTINGS.items()
# The flags of each group of --help.
GROUPS: Mapping[str, tuple[Option, ...]] = dict(
    (
        _TRANSFER,
        ("services", tuple(each for each in _OF_SOURCES if each.name)),
        ("pipelines", OF_PIPELINES),
        ("cache nodes", OF_FLEETS),
        ("generations", OF_GENERATIONS),
        ("nodes", OF_NODES),
        *_OTHERS,
    )
)
# The environment variables without a flag.
VARIABLES: tuple[Option, ...] = (
    *(each for each in _OF_SOURCES if not each.name),
    *OF_SETTINGS_ALONE,
    *OF_FLEETS_ALONE,
)
OPTIONS: tuple[Option, ...] = tuple(chain.from_iterable(GROUPS.values()))
FLAGS: Mapping[str, list[str]] = {
    option.name: [*filter(None, (option.short, f"--{option.name}"))] for option in OPTIONS
}
# What --help shows of a command that takes many flags; --help all shows the others.
COMMON = frozenset(
    {
        "bind",
        "cache-dir",
        "checksum",
        "class",
        "concurrency",
        "digest",
        "dtype",
        "exclude",
        "extract",
        "fail-fast",
        "force",
        "generation",
        "header",
        "help",
        "hf-token",
        "hub-cache-dir",
        "include",
        "json",
        "keep",
        "limit-rate",
        "lora",
        "max",
        "max-bytes",
        "min",
        "pipeline-store",
        "policy",
        "progress",
        "root",
        "skip-existing",
        "variant",
        "verbose",
        "wanted",
    }
)
