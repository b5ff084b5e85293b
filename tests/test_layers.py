"""The imports of the package point down: one table holds every module, type-only imports too."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pgetpy"


@dataclass(frozen=True)
class Layer:
    """Modules that may import those of lower layers, and one another only if they may meet.

    `folder.*` stands for all modules of a folder that are not named themselves; "" is the package.
    """

    modules: tuple[str, ...]
    may_meet: bool = True


# From the top down.
LAYERS = (
    Layer(
        (
            "__main__",
            "cli",
            "commands",
            "arguments",
            "completion",
            "commandtable",
            "process",
            "calls",
            "hubcommand",
            "cachecommands",
            "cachefilling",
            "cachetables",
        )
    ),
    Layer(("", "api", "progress", "bars", "outcomes")),
    Layer(("lora", "tensors"), may_meet=False),
    Layer(("lorafiles", "tensors.*")),
    Layer(("weights",)),
    Layer(
        (
            "filling",
            "gathering",
            "hubcache",
            "allowance",
            "examining",
            "copying",
            "hits",
            "naming",
            "relaying",
            "settling",
        )
    ),
    Layer(
        (
            "engine",
            "transfer",
            "hftransfer",
            "asking",
            "digesting",
            "hosts",
            "metrics",
            "picking",
            "route",
            "session",
            "vetting",
            "watch",
            "background",
        )
    ),
    Layer(("sources.table",)),
    Layer(("sources", "sources.*"), may_meet=False),
    Layer(("sources.hublisting", "sources.civitaianswers"), may_meet=False),
    Layer(("sources.base",)),
    Layer(("destinations",)),
    Layer(("destinations.*",), may_meet=False),
    Layer(("destinations.base",)),
    Layer(("extraction", "extraction.*")),
    Layer(("transports.*", "sinks.*"), may_meet=False),
    Layer(
        (
            "transports.wire",
            "transports.connection",
            "transports.pipes",
            "transports.tls",
            "sinks.ledger",
            "sinks.pagecache",
        )
    ),
    Layer(("transports.base", "sinks.base")),
    Layer(("cache", "cache.*")),
    Layer(
        (
            "decoders",
            "disk",
            "hfworker",
            "load",
            "locks",
            "pipelines",
            "settings",
            "settings.*",
            "turns",
            "workers",
        )
    ),
    Layer(("decoders.*",), may_meet=False),
    Layer(("decoders.base",)),
    Layer(("core.*",)),
    Layer(("errors",)),
    Layer(("errors.*",), may_meet=False),
    Layer(("errors.base",)),
    Layer(("redact",)),
)
# Folders of implementations: from one to another only the interface may be imported.
FOLDERS = ("transports", "sinks", "cache")
# What deciding may not touch.
PURE = "core"
IMPURE = frozenset(
    {
        "asyncio",
        "logging",
        "os",
        "random",
        "socket",
        "tarfile",
        "threading",
        "time",
        "zipfile",
    }
)
# A fact of the package that any module may state.
ANYWHERE = "__version__"


# ---------------------------------------------------------------------------------- the reader


def modules_of(package: Path) -> dict[str, Path]:
    """Return every module's dotted name inside the package, the package itself as ""."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imported(path: Path, name: str, package: str) -> Iterator[str]:
    """Yield the absolute dotted names that a module imports, at whatever depth it does so."""
    is_folder = path.name == "__init__.py"
    here = [package, *name.split(".")] if name else [package]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            kept = here[: len(here) - node.level + is_folder] if node.level else []
            source = ".".join([*kept, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def _is_import_call(function: ast.expr) -> bool:
    names = {"import_module", "__import__"}
    return (isinstance(function, ast.Name) and function.id in names) or (
        isinstance(function, ast.Attribute) and function.attr in names
    )


def graph_of(package: Path) -> dict[str, set[str]]:
    """Return which modules of the package each of its modules imports."""
    modules = modules_of(package)
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for target in imported(path, name, package.name):
            root, _, rest = target.partition(".")
            if root == package.name and rest != ANYWHERE:
                graph[name].add(_owner(rest, modules))
    return graph


def _owner(target: str, modules: Mapping[str, Path]) -> str:
    """Return the module that `target`, a module or a name in one, belongs to."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target


# ----------------------------------------------------------------------------------- the rules


def level_of(module: str) -> int | None:
    """Return the index of the module's layer; its own name goes before its folder's `*`."""
    wildcard = f"{module.partition('.')[0]}.*"
    for entry in (module, wildcard):
        for level, layer in enumerate(LAYERS):
            if entry in layer.modules:
                return level
    return None


def upward_imports(graph: Mapping[str, set[str]]) -> list[str]:
    """Return every import that points up, or sideways where siblings may not meet."""
    wrong = []
    for module, targets in graph.items():
        for target in sorted(targets - {module}):
            here, there = level_of(module), level_of(target)
            if here is None or there is None:
                continue
            if there < here or (there == here and not LAYERS[here].may_meet):
                wrong.append(f"{module} imports {target}")
    return wrong


def crossings(graph: Mapping[str, set[str]]) -> list[str]:
    """Return every import from one folder of implementations into another's insides."""
    wrong = []
    for module, targets in graph.items():
        for target in sorted(targets):
            here, there = module.partition(".")[0], target.partition(".")[0]
            if here in FOLDERS and there in FOLDERS and here != there and target != f"{there}.base":
                wrong.append(f"{module} imports {target}")
    return wrong


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one cycle in order, or nothing."""
    done: set[str] = set()

    def walk(module: str, chain: list[str]) -> list[str]:
        if module in chain:
            return [*chain[chain.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph[module] - {module}):
            if found := walk(target, [*chain, module]):
                return found
        done.add(module)
        return []

    for module in graph:
        if found := walk(module, []):
            return found
    return []


def impure_imports(package: Path) -> list[str]:
    """Return every import by a pure module of something that acts."""
    return [
        f"{name} imports {target}"
        for name, path in modules_of(package).items()
        if name.partition(".")[0] == PURE
        for target in imported(path, name, package.name)
        if target.partition(".")[0] in IMPURE
    ]


# ------------------------------------------------------------------------------------ the tests


def test_every_module_has_its_place_in_the_table() -> None:
    assert [module for module in modules_of(PACKAGE) if level_of(module) is None] == []


def test_imports_point_down() -> None:
    assert upward_imports(graph_of(PACKAGE)) == []


def test_folders_of_implementations_meet_in_their_interfaces_only() -> None:
    assert crossings(graph_of(PACKAGE)) == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert cycle_in(graph_of(PACKAGE)) == []


def test_the_core_imports_nothing_that_acts() -> None:
    assert impure_imports(PACKAGE) == []


# ----------------------------------------------------------------- the rules can be broken


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that keeps all rules."""
    root = tmp_path / "pgetpy"
    for folder in ("core", "sinks", "transports"):
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").touch()
    (root / "__init__.py").write_text("def f():\n    from pgetpy.api import x\n")
    (root / "api.py").write_text("from pgetpy import __version__\nfrom pgetpy.core import ranges\n")
    (root / "core" / "ranges.py").write_text("import re\n")
    (root / "sinks" / "base.py").touch()
    (root / "sinks" / "file.py").write_text("from pgetpy.sinks.base import Sink\n")
    (root / "sinks" / "ledger.py").touch()
    (root / "transports" / "direct.py").write_text("from pgetpy.sinks.base import Sink\n")
    return root


def test_a_package_that_keeps_the_rules_is_found_right(package: Path) -> None:
    graph = graph_of(package)
    assert graph["api"] == {"core.ranges"}
    assert (upward_imports(graph), crossings(graph), cycle_in(graph)) == ([], [], [])
    assert impure_imports(package) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pgetpy.api",
        "from pgetpy import api",
        "from pgetpy.api import x",
        "from .. import api",
        "from ..api import x",
        "def f():\n    from pgetpy.api import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pgetpy.api import x",
        "import importlib\nimportlib.import_module('pgetpy.api')",
    ],
)
def test_an_import_that_points_up_is_found_however_it_is_written(package: Path, line: str) -> None:
    (package / "core" / "ranges.py").write_text(line)
    assert upward_imports(graph_of(package)) == ["core.ranges imports api"]


def test_implementations_that_meet_are_found(package: Path) -> None:
    (package / "sinks" / "null.py").write_text("from .file import FileSink")
    assert upward_imports(graph_of(package)) == ["sinks.null imports sinks.file"]


def test_a_look_into_another_folder_is_found(package: Path) -> None:
    (package / "transports" / "direct.py").write_text("from pgetpy.sinks.ledger import Ledger")
    assert crossings(graph_of(package)) == ["transports.direct imports sinks.ledger"]


def test_a_circle_is_found_and_named(package: Path) -> None:
    (package / "errors.py").write_text("from pgetpy import redact")
    (package / "redact.py").write_text("from pgetpy import errors")
    assert cycle_in(graph_of(package)) == ["errors", "redact", "errors"]


@pytest.mark.parametrize(
    "line", ["import os.path", "from time import monotonic", "def f():\n    import random"]
)
def test_a_core_that_acts_is_found(package: Path, line: str) -> None:
    (package / "core" / "ranges.py").write_text(line)
    assert len(impure_imports(package)) == 1
