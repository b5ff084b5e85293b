"""What `make docs` adds to mkdocs: the Python reference, made from each module's `__all__`."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType

_MEMBERS = re.compile(r"^<!-- members: ([\w.]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace each `<!-- members: MODULE -->` with the entries of the module's public names."""
    return _MEMBERS.sub(lambda found: members(found[1]), markdown)


def members(name: str) -> str:
    """Return the reference of the module `name`, as Markdown for mkdocstrings."""
    module = importlib.import_module(name)
    entries = [f"::: {name}\n    options:\n      members: false\n      show_root_heading: false"]
    entries += [_entry(module, member) for member in module.__all__]
    return "\n\n".join(entries)


def _entry(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    path = f"{module.__name__}.{name}"
    if isinstance(value, ModuleType):
        return f"## `{name}`\n\nA module: see [`{path}`]({name}.md)."
    twin = f"{name}_async"
    if hasattr(module, twin):
        # The blocking form is made from the coroutine, so a reader of the source sees no signature.
        signature = inspect.signature(getattr(module, twin))
        returns = str(signature.return_annotation).strip("'")
        return (
            f"## `{name}`\n\n```python\n{name}({_parameters(signature)}) -> {returns}\n```\n\n"
            f"Blocks until [`{twin}`][{module.__name__}.{twin}] is done. It may be called from any "
            "thread, also while an event loop runs in it."
        )
    return f"::: {path}\n    options:\n      heading_level: 2"


def _parameters(signature: inspect.Signature) -> str:
    lines = [str(each).replace("'", "") for each in signature.parameters.values()]
    keyword_only = [
        index
        for index, each in enumerate(signature.parameters.values())
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if keyword_only:
        lines.insert(keyword_only[0], "*")
    return "\n    " + ",\n    ".join(lines) + ",\n"
