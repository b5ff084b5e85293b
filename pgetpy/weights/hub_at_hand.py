"""Whether a repository is complete in the Hub's own cache, for when the Hub cannot be reached.

The folder of a snapshot does not tell: patterns may have selected some files, or a run may have
been interrupted. So a note beside it says what was completed. Newer releases of huggingface_hub
record the files of a commit in `trees`. A folder that an older release filled is assumed to be
complete, as that release itself assumes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgetpy.core.references.patterns import Patterns

# The one folder in which huggingface_hub does not warn about files that it did not put there.
_NOTES = ".locks"
_TREES = "trees"


def note_whole(
    folder: Path, commit: str, path: str, patterns: Patterns, sizes: Mapping[str, int], made: Path
) -> None:
    """Note that all files of `commit` below `path` that match `patterns` are there.

    Args:
        folder: the repository's folder in the cache.
        sizes: bytes of these files, by their names in the repository.
        made: a temporary name for the note.
    """
    note = {"path": path, "patterns": patterns.query, "files": dict(sizes)}
    notes = [each for each in _notes(folder, commit) if _about(each) != _about(note)]
    # Useful only without a network.
    with contextlib.suppress(OSError):
        place = _place(folder, commit)
        place.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps([*notes, note]))
        os.replace(made, place)


def whole_size(folder: Path, commit: str, path: str, patterns: Patterns) -> int | None:
    """Return the bytes of the chosen files; None if they are not known to be complete.

    Asked in this order: our own notes, huggingface_hub's record of the commit, and what is in the
    folder. A note that exists but does not cover what is wanted settles that it is not complete.
    Sizes are compared, as a file may have been removed or cut since.

    Args:
        folder: the repository's folder in the cache.
        commit: 40 hexadecimal digits.
        path: a folder in the repository; empty for all of it.
        patterns: select files below `path`.
    """
    snapshot = folder / "snapshots" / commit
    if not snapshot.is_dir():
        return None
    notes = _notes(folder, commit)
    for note in notes:
        if _covers(note, path, patterns):
            return _size_at(snapshot, _meant(note["files"], path, patterns))
    listed = _tree(folder, commit)
    if listed is not None:
        return _size_at(snapshot, _meant(listed, path, patterns))
    if notes:
        return None
    below = (each for each in snapshot.rglob("*") if not each.is_dir())
    names = [each.relative_to(snapshot).as_posix() for each in below]
    return _size_at(snapshot, _meant(dict.fromkeys(names), path, patterns))


def commit_at(folder: Path, revision: str) -> str:
    """Return the commit that a branch or tag pointed to when it was last looked up."""
    try:
        return (folder / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return ""


def _covers(note: Mapping[str, Any], path: str, patterns: Patterns) -> bool:
    """Whether what `note` says is complete includes what is wanted.

    Two patterns are not compared with each other: only the same ones, or none at all, include it.
    """
    if _about(note) == (path, patterns.query):
        return True
    inside = not note["path"] or f"{path}/".startswith(f"{note['path']}/")
    return inside and not note["patterns"]


def _about(note: Mapping[str, Any]) -> tuple[str, str]:
    return note["path"], note["patterns"]


def _meant(files: Mapping[str, int | None], path: str, patterns: Patterns) -> dict[str, int | None]:
    below = f"{path}/" if path else ""
    return {
        name: size
        for name, size in files.items()
        if name.startswith(below) and patterns.admits(name[len(below) :])
    }


def _size_at(snapshot: Path, files: Mapping[str, int | None]) -> int | None:
    """Return the bytes of `files`; None if there are none, or one is missing or of another size."""
    total = 0
    for name, size in files.items():
        try:
            found = (snapshot / name).stat().st_size
        except OSError:
            return None
        if size is not None and size != found:
            return None
        total += found
    return total if files else None


def _place(folder: Path, commit: str) -> Path:
    return folder.parent / _NOTES / folder.name / f"pgetpy-{commit}.json"


def _notes(folder: Path, commit: str) -> list[dict[str, Any]]:
    notes = _read(_place(folder, commit))
    found = notes if isinstance(notes, list) else []
    return [each for each in found if isinstance(each, dict) and _is_note(each)]


# Other programs write to this cache, and a file of it may be from any version, or damaged.
def _is_note(note: Mapping[str, Any]) -> bool:
    texts = (note.get("path"), note.get("patterns"))
    return all(isinstance(text, str) for text in texts) and _are_sizes(note.get("files"))


def _tree(folder: Path, commit: str) -> dict[str, int] | None:
    """Return huggingface_hub's record of a commit's files."""
    tree = _read(folder / _TREES / f"{commit}.json")
    try:
        sizes = {name: about["size"] for name, about in tree["files"].items()}
    except (TypeError, KeyError, AttributeError):
        return None
    return sizes if _are_sizes(sizes) else None


def _are_sizes(files: object) -> bool:
    return isinstance(files, dict) and all(type(size) is int for size in files.values())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
