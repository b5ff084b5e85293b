"""The table of options: every row is used, and what is made from it agrees with it."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import pgetpy
from pgetpy.cli.command_table import COMMANDS
from pgetpy.cli.option_table import FLAGS, GROUPS, OPTIONS, VARIABLES
from pgetpy.cli.parser import Arguments
from pgetpy.core.text.values import count_reader, read_text, switch_to
from pgetpy.settings import (
    Console,
    Settings,
)
from pgetpy.settings.cache_settings import CacheSettings
from pgetpy.settings.command_options import CommandOptions, hub_cache_dir
from pgetpy.settings.compile_cache_settings import CompileCacheSettings
from pgetpy.settings.fleet_settings import FleetSettings, fleet_from
from pgetpy.settings.generation_options import GenerationOptions, GenerationSettings
from pgetpy.settings.node_options import NodeOptions
from pgetpy.settings.options import OF_FLEETS, Option
from pgetpy.settings.pipeline_options import PipelineOptions, PipelineSettings
from pgetpy.sources.table import own_sources
from scripts import manual
from scripts.options import page

PACKAGE = Path(pgetpy.__file__).parent
OPTION = {row.name: row for row in OPTIONS}
OF_SOURCES = tuple(each.settings for each in own_sources() if each.settings.options)
SECTIONS = {
    each.__name__: each
    for each in (
        Arguments,
        CacheSettings,
        CompileCacheSettings,
        CommandOptions,
        Console,
        FleetSettings,
        GenerationOptions,
        GenerationSettings,
        NodeOptions,
        PipelineOptions,
        PipelineSettings,
        Settings,
        *OF_SOURCES,
    )
}
# What the variables are called that hold them.
HOLDERS = {
    "Arguments": ("arguments", "parsed"),
    "CacheSettings": ("settings", "own", "chosen"),
    "CommandOptions": ("options",),
    "CompileCacheSettings": ("settings",),
    "Console": ("console",),
    "FleetSettings": ("settings",),
    "GenerationOptions": ("options",),
    "GenerationSettings": ("own",),
    "NodeOptions": ("options",),
    "PipelineOptions": ("options",),
    "PipelineSettings": ("settings", "own"),
    "Settings": ("settings", "_settings", "chosen"),
    **{each.__name__: ("settings",) for each in OF_SOURCES},
}
NO_EFFECT = "no effect: "


@lru_cache(maxsize=1)
def attributes_read(package: Path) -> frozenset[tuple[str, str]]:
    """Return (holder, attribute) for each `holder.attribute` or `x.holder.attribute` that code
    reads. For the `self` of a class the holder is the name of the class."""
    found = set()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        found |= set(_read_in(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                own = (attribute for holder, attribute in _read_in(node) if holder == "self")
                found |= {(node.name, attribute) for attribute in own}
    return frozenset(found)


def _read_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            holder = node.value
            name = holder.attr if isinstance(holder, ast.Attribute) else getattr(holder, "id", "")
            yield name, node.attr


def without_reader(rows: Iterable[Option], read: Collection[tuple[str, str]]) -> list[str]:
    """Return the rows whose value ends up nowhere."""
    return [row.name or row.variable for row in rows if not is_read(row, read)]


def is_read(row: Option, read: Collection[tuple[str, str]]) -> bool:
    if not row.sets:
        return row.about.startswith(NO_EFFECT)
    fields = {each.name for each in dataclasses.fields(SECTIONS[row.section])}
    holders = (row.section, *HOLDERS[row.section])
    return row.field in fields and any((name, row.field) in read for name in holders)


# ---------------------------------------------------------------------------- every row is used


def test_every_option_sets_something_that_is_read() -> None:
    assert without_reader([*OPTIONS, *VARIABLES], attributes_read(PACKAGE)) == []


@pytest.mark.parametrize(
    "sets", ["Settings.speed", "Settings.", "CommandOptions.retries", "Console.progress_bar", ""]
)
def test_an_option_that_sets_nothing_is_found(sets: str) -> None:
    row = Option("speed", "", "N", sets, count_reader(1), "how fast")
    assert without_reader([*OPTIONS, row], attributes_read(PACKAGE)) == ["speed"]


def test_a_field_that_nobody_reads_is_found() -> None:
    read = attributes_read(PACKAGE) - {("settings", "fsync"), ("_settings", "fsync")}
    assert without_reader(OPTIONS, read) == ["fsync"]


def test_every_field_of_what_only_options_set_has_a_row() -> None:
    for section in (CacheSettings, CommandOptions, Console, NodeOptions, *OF_SOURCES):
        # Not every source has an endpoint and a token, nor every store all that stores have.
        own = section.__annotations__
        fields = {each.name for each in dataclasses.fields(section)}
        rows = {row.field for row in (*OPTIONS, *VARIABLES) if row.section == section.__name__}
        assert {name for name in fields if name in own} <= rows <= fields


# ------------------------------------------------------------------------ the rows make sense


def test_no_name_stands_for_two_options() -> None:
    names = Counter(flag for row in OPTIONS for flag in FLAGS[row.name])
    names += Counter(row.variable for row in (*OPTIONS, *VARIABLES) if row.variable)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_option_belongs_to_commands_that_exist() -> None:
    for row in OPTIONS:
        assert row.commands
        assert set(row.commands) <= set(COMMANDS), row.name
        assert len(set(row.commands)) == len(row.commands), row.name


@pytest.mark.parametrize(
    "row", [row for row in (*OPTIONS, *VARIABLES) if row.default], ids=lambda row: row.help
)
def test_the_default_that_help_names_is_the_default(row: Option) -> None:
    value = row.read(row.default, row.name)
    default = getattr(SECTIONS[row.section](), row.field)
    assert (value.expanduser() if isinstance(value, Path) else value) == default


def test_a_deprecated_option_sets_what_its_successor_sets() -> None:
    for row in OPTIONS:
        if row.deprecated:
            assert row.sets == OPTION[row.deprecated].sets


# A text that each option and variable takes, where it is not a number.
TEXTS = {
    "cache-remote": "s3://bucket/tier",
    "cache-remote-mode": "read",
    "cacert": "ca.pem", "resolve": "h:80:::1", "policy": "public", "header": '{"A": "b"}',
    "resume": "false", "output": "null", "progress": "bar", "log-level": "error",
    "HF_ENDPOINT": "http://h", "PGET_CIVITAI_ENDPOINT": "http://h", "SSL_CERT_FILE": "ca.pem",
    "PGET_REPLICATE_ENDPOINT": "http://h", "PGET_METRICS_ENDPOINT": "http://h",
    "S3_ENDPOINT_URL": "http://h", "AWS_ENDPOINT_URL": "http://h",
    "AWS_ENDPOINT_URL_S3": "http://h", "PGET_S3_PUBLIC_URL": "http://h",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "PGET_S3_ADDRESSING": "path", "PGET_S3_SIGN": "never", "PGET_B2_ENDPOINT": "http://h",
    "PGET_B2_PUBLIC_URL": "http://h", "STORAGE_EMULATOR_HOST": "http://h",
    "AZURE_STORAGE_ENDPOINT": "http://h", "PGET_CACHE_URI_PREFIXES": "http://h",
    "cache-prefixes": "http://h", "cache-piece": "1MiB",
    "PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR": '{"10.0.0.0/8": "a"}',
}  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [row for row in (*OPTIONS, *VARIABLES) if row.variable and row.field],
    ids=lambda row: row.variable,
)
def test_every_variable_changes_its_field(row: Option) -> None:
    text = TEXTS.get(row.name or row.variable, "1")
    environ = {row.variable: text}
    if row.name == "hub-cache-dir":
        assert hub_cache_dir(environ) == Path(text)
        return
    section = SECTIONS[row.section]
    if section is FleetSettings:
        fleet = fleet_from(FleetSettings(), environ, {})
        # `settings.sections` has to know the name to read the table at all.
        assert Settings.from_environment(environ).fleet == fleet
        assert differing(FleetSettings(), fleet) == {row.field}
        return
    assert issubclass(
        section,
        (
            CacheSettings,
            CompileCacheSettings,
            Console,
            GenerationSettings,
            PipelineSettings,
            Settings,
            *OF_SOURCES,
        ),
    )
    assert differing(section(), section.from_environment(environ)) == {row.field}


def test_the_settings_know_the_options_of_fleets_by_name() -> None:
    rows = [row for row in (*OPTIONS, *VARIABLES) if row.section == "FleetSettings"]
    names = {row.variable for row in rows} | {row.name for row in rows if row.name}
    assert names == OF_FLEETS


def differing(before: Any, after: Any) -> set[str]:
    """Return the names of the fields that two settings of one kind do not share."""
    return {
        each.name
        for each in dataclasses.fields(before)
        if getattr(before, each.name) != getattr(after, each.name)
    }


def test_an_option_of_a_single_run_has_no_variable() -> None:
    rows = [
        row
        for row in OPTIONS
        if row.section in ("CommandOptions", "GenerationOptions", "NodeOptions", "Arguments")
    ]
    assert [row.name for row in rows if row.variable] == ["hub-cache-dir"]


# ----------------------------------------------------------------------------- help and the page


def row_of(**changes: object) -> Option:
    return dataclasses.replace(OPTION["retries"], **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"default": ""}, "how often"),
        ({}, "how often (default 5)"),
        ({"many": True, "default": ""}, "how often (may be repeated)"),
        ({"read": OPTION["policy"].read, "default": "none"},
         "how often (public or none; default none)"),
        ({"read": OPTION["log-level"].read, "default": ""},
         "how often (debug, info, warn or error)"),
        ({"read": switch_to("x"), "default": ""}, "how often"),
        ({"read": read_text, "default": ""}, "how often"),
    ],
)  # fmt: skip
def test_help_adds_choices_repetition_and_default(changes: Mapping[str, object], text: str) -> None:
    assert row_of(about="how often", **changes).help == text


def test_no_option_lacks_an_explanation() -> None:
    assert [row.name for row in (*OPTIONS, *VARIABLES) if len(row.about) < 10] == []
    assert all(GROUPS.values())


def test_the_page_of_options_is_up_to_date() -> None:
    written = PACKAGE.parent / "docs" / "options.md"
    assert written.read_text() == page(), "make docs-options writes it anew"


def test_the_man_page_is_up_to_date_and_escapes_what_roff_reads() -> None:
    written = (PACKAGE.parent / "man" / "pgetpy.1").read_text()
    assert written == manual.page(), "make docs-options writes it anew"
    bodies = [line for line in written.splitlines() if not line.startswith((".", "'"))]
    assert not [line for line in bodies if re.search(r"(?<!\\)--", line)]
