"""How large the package's rooms are: figures that may get smaller, and never larger again."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pgetpy"
MAP = PACKAGE.parent / "docs" / "architecture.md"

# What stands beside the rooms of implementation, or is public.
BESIDE = frozenset(
    {
        "__init__.py",
        "__main__.py",
        "_version.py",
        "compile_cache",
        "errors",
        "generations",
        "lora",
        "pipelines",
        "py.typed",
        "settings",
        "tensors",
        "testing",
    }
)
MOST_ROOMS = 11
LONGEST_MODULE = 400


def rooms(package: Path) -> list[str]:
    """Return what is at the top of the package and has no special place there.

    Of folders that were renamed what was compiled may be left, which is no room.
    """
    there = {path.relative_to(package).parts[0] for path in package.rglob("*.py")}
    return sorted(there - BESIDE)


def long_modules(package: Path) -> set[str]:
    """Return the modules with more lines than a module may have."""
    return {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if len(path.read_text().splitlines()) > LONGEST_MODULE
    }


@lru_cache(maxsize=1)
def classes_twice(package: Path) -> dict[str, list[str]]:
    """Return the names of classes that several modules define, and which modules these are."""
    homes = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(str(path.relative_to(package)))
    return {name: where for name, where in homes.items() if len(where) > 1}


def folders_without_words(package: Path) -> list[str]:
    """Return the folders whose `__init__` does not say what belongs there."""
    return [
        str(path.relative_to(package))
        for path in package.rglob("__init__.py")
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]


def test_every_folder_says_what_belongs_there() -> None:
    assert folders_without_words(PACKAGE) == []


def test_every_room_is_on_the_map() -> None:
    folders = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    folders += [path.parent for path in PACKAGE.glob("core/*/__init__.py")]
    names = [str(folder.relative_to(PACKAGE)) for folder in folders]
    words = MAP.read_text()
    assert [name for name in names if f"`{name}/`" not in words and f"`{name}`" not in words] == []


def test_the_top_of_the_package_gets_no_more_rooms() -> None:
    assert len(rooms(PACKAGE)) <= MOST_ROOMS, rooms(PACKAGE)


def test_no_module_grows_too_long() -> None:
    assert long_modules(PACKAGE) == set()


def test_no_class_has_the_name_of_another_one() -> None:
    assert classes_twice(PACKAGE) == {}
