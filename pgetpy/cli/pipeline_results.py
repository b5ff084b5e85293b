"""What the commands below `pgetpy pipeline` print for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from pgetpy.core.pipelines.build_manifest import BuildManifest
from pgetpy.core.pipelines.plans import PipelineFile, PipelinePlan, ResolvedReference
from pgetpy.core.report.text import aligned_lines, counted, one_line
from pgetpy.core.text.units import format_age, format_size
from pgetpy.pipelines.trees import ListedTree

# How much of a key is shown, and the least that commands accept for one.
KEY_DIGITS = 8
_HEADINGS = ("KEY", "PIPELINE", "BASE", "SIZE", "LAST USE", "STATE")


def plan_lines(plan: PipelinePlan) -> Iterator[str]:
    """Yield what the references resolved to, a line for each file, and sums."""
    yield plan.pipeline or "a pipeline whose class is in its archive"
    yield from _resolved_lines(plan.resolved)
    yield ""
    widest = max((len(each.path) for each in plan.files), default=0)
    for each in plan.files:
        size = format_size(each.size) if each.size is not None else "?"
        state = _state_of(each)
        yield f"{state:<6} {size:>9}  {each.path:<{widest}}  {each.host}".rstrip()
    yield ""
    yield _plan_sums(plan)


def _state_of(file: PipelineFile) -> str:
    if not file.url:
        return "local"
    return "cached" if file.cached else "fetch"


def _resolved_lines(resolved: Sequence[ResolvedReference]) -> Iterator[str]:
    widest = max((len(each.role) for each in resolved), default=0)
    for each in resolved:
        version = f" at {each.version[:12]}" if each.version and not each.pinned else ""
        pinned = "" if each.pinned else "  (may change)"
        facts = (each.base_model and f"for {each.base_model}", each.license)
        about = "".join(f"  {fact}" for fact in facts if fact)
        yield f"  {each.role:<{widest}}  {each.uri}{version}{pinned}{about}"


def _plan_sums(plan: PipelinePlan) -> str:
    whole = format_size(sum(each.size or 0 for each in plan.files))
    files = counted(len(plan.files), "file")
    if not plan.missing:
        return f"{files}, {whole}: nothing to fetch"
    hosts = ", ".join(
        f"{format_size(size)} from {host}" for host, size in plan.bytes_by_host.items()
    )
    unknown = f", {plan.unknown_sizes} of unknown size" if plan.unknown_sizes else ""
    fetch = f"{len(plan.missing)} to fetch, {format_size(plan.bytes_to_fetch)}{unknown}"
    return f"{files}, {whole}: {fetch} ({hosts})"


def tree_table(trees: Sequence[ListedTree], kept: int, width: int | None) -> list[str]:
    """Return a heading, a line for each pipeline, and one of sums.

    Args:
        trees: the pipelines.
        kept: bytes of all their files, each counted once.
        width: columns of the terminal; None where lines may be of any length.
    """
    rows = [_HEADINGS, *map(_cells, trees)]
    once = "; files that they share are counted once" if len(trees) > 1 else ""
    return [
        *aligned_lines(rows, "<<<><<", 2, width),
        "",
        f"{counted(len(trees), 'pipeline')}, {format_size(kept)}{once}",
    ]


def _cells(tree: ListedTree) -> tuple[str, ...]:
    age = time.time() - tree.used
    return (
        tree.manifest.key[:KEY_DIGITS],
        one_line(tree.manifest.pipeline or "-"),
        one_line(_base_of(tree.manifest)),
        format_size(tree.size),
        f"{format_age(age)} ago" if age >= 1 else "now",
        "in use" if tree.held else "",
    )


def manifest_lines(manifest: BuildManifest, path: str) -> Iterator[str]:
    """Yield what is known about a pipeline on disk."""
    built = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.created))
    versions = ", ".join(f"{name} {each}" for name, each in sorted(manifest.versions.items()))
    yield f"key       {manifest.key}"
    yield f"pipeline  {one_line(manifest.pipeline)}"
    yield f"folder    {path}"
    yield f"built     {built} with {one_line(versions)}"
    for name, value in manifest.asked.items():
        if value and name not in ("pipeline", "share", "loras"):
            yield f"{name:<9} {one_line(_words(value))}"
    yield "resolved"
    yield from (f"  {one_line(line)}" for line in _resolved_lines(manifest.resolved))
    yield "files"
    for each in manifest.subjects:
        yield f"  {each.sha256[:12]}  {format_size(each.size):>9}  {each.path}"


def composition_lines(made: Sequence[BuildManifest]) -> Iterator[str]:
    """Yield a line for each composition of a base."""
    yield from ["compositions"] if made else []
    for each in made:
        loras = each.asked.get("loras")
        words = ", ".join(map(_lora_words, loras if isinstance(loras, list) else ()))
        yield f"  {each.key[:KEY_DIGITS]}  {one_line(words)}"


def _lora_words(lora: object) -> str:
    return f"{lora.get('path')} {lora.get('scale')}" if isinstance(lora, Mapping) else "?"


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return str(value)


def listing_record(tree: ListedTree) -> dict[str, object]:
    """Return a pipeline on disk for programs; the size is bytes, the time seconds since 1970."""
    return {
        "key": tree.manifest.key,
        "pipeline": tree.manifest.pipeline,
        "base": _base_of(tree.manifest),
        "path": str(tree.path),
        "size": tree.size,
        "created": tree.manifest.created,
        "used": tree.used,
        "in_use": tree.held,
    }


def _base_of(manifest: BuildManifest) -> str:
    return str(manifest.asked.get("base", ""))
