"""The imports of the package point down: from room to room, and from layer to layer inside one."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pgetpy"


# The rooms from the top down: each may import those below it, type-only and deferred imports
# included. Rooms that share a line know nothing of one another. "" is the package's own face.
ROOMS = (
    ("__main__", ""),
    ("cli", "testing"),
    ("api",),
    ("pipelines",),
    ("lora", "tensors", "compile_cache", "generations"),
    ("weights",),
    ("engine",),
    ("fleet",),
    ("destinations",),
    ("archives",),
    ("sources",),
    ("cache",),
    ("settings",),
    ("system",),
    ("core",),
    ("errors", "_version"),
)


@dataclass(frozen=True)
class Layer:
    """Modules of a room that may import those of lower layers, and one another if they may meet.

    `folder.*` stands for a folder and all of its modules that are not named themselves.
    """

    modules: tuple[str, ...]
    may_meet: bool = True


# The order inside rooms, from the top down. Modules of a room that is not here may meet.
LAYERS = (
    Layer(("pipelines",)),
    Layer(("pipelines.attention", "pipelines.boot", "pipelines.store"), may_meet=False),
    Layer(("pipelines.baking", "pipelines.requests"), may_meet=False),
    Layer(("pipelines.memory",)),
    Layer(("pipelines.resident",)),
    Layer(("pipelines.building", "pipelines.loader"), may_meet=False),
    Layer(
        (
            "pipelines.compositions",
            "pipelines.resolver",
            "pipelines.trees",
            "pipelines.planning",
        ),
        may_meet=False,
    ),
    Layer(
        (
            "pipelines.digests",
            "pipelines.fetching",
            "pipelines.folders",
            "pipelines.load_checks",
            "pipelines.lora_files",
            "pipelines.tree_links",
            "pipelines.tree_use",
            "pipelines.turns",
            "pipelines.views",
        ),
        may_meet=False,
    ),
    Layer(("pipelines.*",)),
    Layer(("lora", "tensors")),
    Layer(("lora.*", "tensors.*")),
    Layer(("compile_cache", "compile_cache.b10")),
    Layer(("compile_cache.b10.*",)),
    Layer(("compile_cache.cache",)),
    Layer(("compile_cache.*",)),
    Layer(("generations",)),
    Layer(("generations.*",)),
    Layer(("weights.cache",)),
    Layer(("weights.*",)),
    Layer(("engine.jobs", "engine.uploads")),
    Layer(("engine.folders",)),
    Layer(("engine.engine",)),
    Layer(("engine.uploads.paths", "engine.uploads.removal")),
    Layer(("engine.uploads.upload",)),
    Layer(
        ("engine.uploads.multipart_requests", "engine.uploads.source_file"),
        may_meet=False,
    ),
    Layer(("engine.uploads.client", "engine.uploads.journal", "engine.uploads.options")),
    Layer(("engine.uploads.connecting",)),
    Layer(("engine.*",)),
    Layer(("engine.transports.*",), may_meet=False),
    Layer(
        (
            "engine.transports.body",
            "engine.transports.connecting",
            "engine.transports.connection",
            "engine.transports.failures",
            "engine.transports.on_loop",
            "engine.transports.pipes",
            "engine.transports.receiving",
            "engine.transports.request_head",
            "engine.transports.small_request",
            "engine.transports.tls",
            "engine.transports.wire",
        )
    ),
    Layer(("engine.transports.base",)),
    Layer(("destinations",)),
    Layer(("destinations.skip_existing",)),
    Layer(("destinations.*",), may_meet=False),
    Layer(("destinations.base", "destinations.folder_fingerprint")),
    Layer(("destinations.sinks.*",), may_meet=False),
    Layer(("destinations.sinks.ledger", "destinations.sinks.page_cache")),
    Layer(("archives.*",)),
    Layer(("archives.decoders",)),
    Layer(("archives.decoders.*",), may_meet=False),
    Layer(("archives.decoders.base",)),
    Layer(("sources.table",)),
    Layer(("sources.*",), may_meet=False),
    Layer(("sources.object_bucket",)),
    Layer(("sources.object_listing",)),
    Layer(("sources.object_keys",)),
    Layer(("sources.object_signer",)),
    Layer(("sources.hub_listing", "sources.civitai_answers"), may_meet=False),
    Layer(("sources.base",)),
    Layer(("core.fleet.*",)),
    Layer(("core.placement.*",)),
    Layer(("core.pipelines.*",)),
    Layer(("core.generations.*",)),
    Layer(("core.text.*",)),
    Layer(("core.report.*",)),
    Layer(("core.cache.*",)),
    Layer(("core.compile_cache.*",)),
    Layer(("core.lora.*",)),
    Layer(("core.tensors.*",)),
    Layer(("core.references.*",)),
    Layer(("core.weights.*",)),
    Layer(("core.archives.*",)),
    Layer(("core.destinations.*",)),
    Layer(("core.objects.*",)),
    Layer(("core.nodes.*",)),
    Layer(("core.http.*",)),
    Layer(("core", "core.lazy_dataclass")),
    Layer(("errors",)),
    Layer(("errors.*",), may_meet=False),
    Layer(("errors.base",)),
    Layer(("errors.redact",)),
)
# Folders of implementations that know nothing of one another: what they share is in core.
FOLDERS = ("engine.transports", "destinations", "cache")
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
            if root == package.name:
                graph[name].add(_owner(rest, modules))
    return graph


def _owner(target: str, modules: Mapping[str, Path]) -> str:
    """Return the module that `target`, a module or a name in one, belongs to."""
    while target and target not in modules:
        target = target.rpartition(".")[0]
    return target


# ----------------------------------------------------------------------------------- the rules


def room_of(module: str) -> str:
    """Return the room that the module is in."""
    return module.partition(".")[0]


def floor_of(module: str) -> int | None:
    """Return the index of the module's room, counted from the top."""
    return next((at for at, rooms in enumerate(ROOMS) if room_of(module) in rooms), None)


def layer_of(module: str) -> int | None:
    """Return the index of the module's layer; its own name goes before its folders' `*`."""
    entry, folder = module, module
    while True:
        for level, layer in enumerate(LAYERS):
            if entry in layer.modules:
                return level
        if not folder:
            return None
        entry = f"{folder}.*"
        folder = folder.rpartition(".")[0]


def upward_imports(graph: Mapping[str, set[str]]) -> list[str]:
    """Return every import that points up, or sideways where that may not be."""
    return [
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in sorted(targets - {module})
        if not _points_down(module, target)
    ]


def _points_down(module: str, target: str) -> bool:
    """Whether `module` may import `target`, as far as both have their places."""
    here, there = floor_of(module), floor_of(target)
    if here is None or there is None:
        return True
    if room_of(module) != room_of(target):
        return here < there
    above, below = layer_of(module), layer_of(target)
    if above is None or below is None:
        return True
    return above < below or (above == below and LAYERS[above].may_meet)


def crossings(graph: Mapping[str, set[str]]) -> list[str]:
    """Return every import from one folder of implementations into another."""
    wrong = []
    for module, targets in graph.items():
        for target in sorted(targets):
            here, there = _folder_of(module), _folder_of(target)
            if here and there and here != there:
                wrong.append(f"{module} imports {target}")
    return wrong


def _folder_of(module: str) -> str:
    """Return the folder of implementations that the module is in, if it is in one."""
    return next((each for each in FOLDERS if f"{module}.".startswith(f"{each}.")), "")


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


Graph = dict[str, set[str]]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """What each module of the package imports; reading all of them takes most of a second."""
    return graph_of(PACKAGE)


def test_every_module_is_in_a_room() -> None:
    assert [module for module in modules_of(PACKAGE) if floor_of(module) is None] == []


def test_a_room_that_has_layers_has_one_for_each_of_its_modules() -> None:
    layered = {room_of(module) for layer in LAYERS for module in layer.modules}
    modules = [module for module in modules_of(PACKAGE) if room_of(module) in layered]
    assert [module for module in modules if layer_of(module) is None] == []


def test_imports_point_down(graph: Graph) -> None:
    assert upward_imports(graph) == []


def test_folders_of_implementations_do_not_meet(graph: Graph) -> None:
    assert crossings(graph) == []


def test_no_modules_import_one_another_in_a_circle(graph: Graph) -> None:
    assert cycle_in(graph) == []


def test_the_core_imports_nothing_that_acts() -> None:
    assert impure_imports(PACKAGE) == []


# ----------------------------------------------------------------- the rules can be broken


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package that keeps all rules."""
    root = tmp_path / "pgetpy"
    for folder in ("core", "core/http", "engine", "engine/transports", "sources"):
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").touch()
    (root / "__init__.py").write_text("def f():\n    from pgetpy.api import x\n")
    (root / "api.py").write_text(
        "from pgetpy._version import __version__\nfrom pgetpy.core import ranges\n"
    )
    (root / "_version.py").touch()
    (root / "core" / "ranges.py").write_text("import re\n")
    (root / "core" / "http" / "sink.py").touch()
    (root / "sources" / "base.py").touch()
    (root / "sources" / "plain.py").write_text("from pgetpy.sources.base import Source\n")
    (root / "engine" / "transports" / "direct.py").write_text(
        "from pgetpy.core.http.sink import Sink\n"
    )
    return root


def test_a_package_that_keeps_the_rules_is_found_right(package: Path) -> None:
    graph = graph_of(package)
    assert graph["api"] == {"_version", "core.ranges"}
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
    (package / "sources" / "data.py").write_text("from .plain import Plain")
    assert upward_imports(graph_of(package)) == ["sources.data imports sources.plain"]


def test_rooms_that_share_a_line_and_meet_are_found(package: Path) -> None:
    (package / "lora.py").write_text("from pgetpy.tensors import load")
    (package / "tensors.py").touch()
    assert upward_imports(graph_of(package)) == ["lora imports tensors"]


def test_a_layer_inside_a_room_that_looks_up_is_found(package: Path) -> None:
    (package / "core" / "text").mkdir()
    (package / "core" / "text" / "units.py").touch()
    (package / "core" / "http" / "plan.py").write_text("from pgetpy.core.text.units import x")
    assert upward_imports(graph_of(package)) == ["core.http.plan imports core.text.units"]


def test_a_look_into_another_folder_is_found(package: Path) -> None:
    (package / "cache").mkdir()
    (package / "cache" / "store.py").touch()
    (package / "engine" / "transports" / "direct.py").write_text(
        "from pgetpy.cache.store import Store"
    )
    assert crossings(graph_of(package)) == ["engine.transports.direct imports cache.store"]


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
