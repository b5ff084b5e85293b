"""Pipelines around the same modules: one for each request, or of another class.

A pipeline that several threads call goes wrong in two places: its scheduler counts steps
(huggingface/diffusers#7851), and a fast tokenizer keeps the padding of the last call
(huggingface/transformers#47085). A view has its own. Copying a scheduler takes 0.1 ms; loading a
tokenizer again takes 150 ms, so tokenizers are lent and given back.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgetpy.errors import BadSettingError

Parts = dict[str, Any]
# Attributes by which a view keeps what it is made of, and its place in line, as long as it lives.
_KEPT = "_pgetpy_resident"


class ViewParts:
    """The parts of one pipeline of which each request has its own.

    Args:
        pipeline: a pipeline that nothing has been made with yet. It is never called itself: its
            schedulers are what others are copied from, its tokenizers the first to be lent.
        folder: has the files of the tokenizers, in folders of their names.
    """

    def __init__(self, pipeline: Any, folder: Path) -> None:
        self._folder = folder
        own = _parts_of(pipeline)
        self._schedulers = {name: each for name, each in own.items() if _is_scheduler(each)}
        self._first = {name: each for name, each in own.items() if name not in self._schedulers}
        self._free = [self._first]

    def take(self) -> Parts:
        """Return schedulers that are new and tokenizers that no other thread uses."""
        try:
            lent = self._free.pop()
        except IndexError:
            lent = {name: self._again(name, each) for name, each in self._first.items()}
        return lent | {name: copy.deepcopy(each) for name, each in self._schedulers.items()}

    def give_back(self, parts: Parts) -> None:
        """Have the tokenizers of `parts` lent again."""
        self._free.append({name: parts[name] for name in self._first})

    def _again(self, name: str, part: Any) -> Any:
        # Not a copy: another thread may be using the first one.
        folder = self._folder / name
        if folder.is_dir() and hasattr(part, "from_pretrained"):
            return type(part).from_pretrained(folder, local_files_only=True)
        return copy.deepcopy(part)


def view_of(pipeline: Any, parts: Mapping[str, Any], keep: object) -> Any:
    """Return a pipeline with the modules of `pipeline`, and `parts` in the place of its own.

    What it sets on itself while it makes an image is its own, too.

    Args:
        pipeline: what the view is of.
        parts: by the names of the components.
        keep: what has to live as long as the view does.
    """
    own = pipeline.components
    view = _copied(pipeline, {id(own[name]): part for name, part in parts.items()})
    view.__dict__[_KEPT] = keep
    return view


def _copied(pipeline: Any, replaced: Mapping[int, Any]) -> Any:
    view = object.__new__(type(pipeline))
    view.__dict__.update({name: _own(value, replaced) for name, value in vars(pipeline).items()})
    return view


def _own(value: Any, replaced: Mapping[int, Any]) -> Any:
    """Return what a view has in the place of an attribute of its pipeline."""
    if id(value) in replaced:
        return replaced[id(value)]
    if type(value) in (dict, list, set):
        return copy.copy(value)
    if hasattr(value, "components") and hasattr(value, "register_modules"):
        return _copied(value, replaced)  # pipelines that consist of others
    return value


def shared(pipeline: Any, kind: Any, more: Mapping[str, Any]) -> Any:
    """Return a pipeline of the class `kind` with the very components of `pipeline`.

    `kind.from_pipe` casts them to float32, those of `pipeline` included
    (huggingface/diffusers#12754).

    Args:
        more: components and options that `pipeline` does not have, or that replace its own.

    Raises:
        BadSettingError: `kind` needs a component that is not there.
    """
    takes = inspect.signature(kind.__init__).parameters
    unknown = sorted(more.keys() - takes.keys())
    if unknown:
        raise BadSettingError("components", unknown[0], f"is not an argument of {kind.__name__}")
    config = {name: value for name, value in pipeline.config.items() if not name.startswith("_")}
    given = {**config, **pipeline.components, **more}
    optional = set(getattr(kind, "_optional_components", ()))
    needed = [
        name
        for name, each in takes.items()
        if name != "self" and each.default is inspect.Parameter.empty and name not in optional
        and each.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]  # fmt: skip
    missing = [name for name in needed if given.get(name) is None]
    if missing:
        kinds = f"{type(pipeline).__name__} has no {missing[0]}"
        raise BadSettingError("kind", kind.__name__, f"{kinds}: give it by that name")
    chosen = {name: value for name, value in given.items() if name in takes}
    chosen |= {name: None for name in optional if name in takes and name not in chosen}
    made = kind(**chosen)
    kept = vars(pipeline).get(_KEPT)
    if kept is not None:
        made.__dict__[_KEPT] = kept
    return made


def _parts_of(pipeline: Any) -> Parts:
    """Return the components that are neither modules of torch nor missing."""
    import torch

    return {
        name: part
        for name, part in pipeline.components.items()
        if part is not None and not isinstance(part, torch.nn.Module)
    }


def _is_scheduler(part: Any) -> bool:
    return hasattr(part, "set_timesteps") or hasattr(part, "add_noise")
