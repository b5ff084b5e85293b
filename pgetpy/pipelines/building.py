"""From a plan to a folder on disk: what is missing is fetched, checked, recorded and linked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pgetpy._version import __version__
from pgetpy.core.pipelines.build_manifest import (
    BuildManifest,
    ManifestSubject,
    base_of,
    manifest_for,
)
from pgetpy.core.pipelines.plans import LORAS, PipelineFile, PipelinePlan
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.core.weights.shards import SUFFIX
from pgetpy.pipelines.compositions import note_composition
from pgetpy.pipelines.fetching import held_files
from pgetpy.pipelines.planning import Planner
from pgetpy.pipelines.tree_links import TreeSource
from pgetpy.pipelines.tree_use import PipelineTree
from pgetpy.pipelines.trees import TreeStore
from pgetpy.weights.validate import check_header


class BuiltPipeline:
    """A pipeline whose files are on disk. A context manager; they stay until it is closed.

    Attributes:
        manifest: what it is, LoRAs included.
        path: the folder of the base, for loaders.
        loras: the files of its LoRAs, in order.
    """

    def __init__(
        self, manifest: BuildManifest, tree: PipelineTree, loras: tuple[Path, ...], held: ExitStack
    ) -> None:
        self.manifest = manifest
        self.path = tree.path
        self.loras = loras
        self._held = held

    def close(self) -> None:
        """End the use. Calling it again has no effect."""
        self._held.close()

    def __enter__(self) -> BuiltPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(eq=False)
class PipelineBuilder:
    """Builds pipelines on disk.

    Args:
        planner: makes plans and keys; its cache has the files.
        trees: where pipelines are kept.
        now: the clock, in seconds since the epoch.
    """

    planner: Planner
    trees: TreeStore
    now: Callable[[], float] = time.time

    def build(self, spec: PipelineSpec, plan: PipelinePlan) -> BuiltPipeline:
        """Return the pipeline of `plan`, whose files are fetched if they are not here.

        Raises:
            PgetError: a file cannot be fetched, or is not what was planned.
        """
        started = self.now()
        with ExitStack() as held:
            # Leased until it is closed: no eviction takes a file between here and the loader.
            paths = held.enter_context(held_files(self.planner.cache, plan.files))
            content = self.planner.content(spec, plan, paths)
            subjects = tuple(self._subject(each, paths[each.path]) for each in plan.files)
            versions = {"pgetpy": __version__}
            manifest = manifest_for(spec, plan, content, subjects, (started, self.now()), versions)
            base = base_of(manifest)
            tree = self.trees.open(base.key)
            if tree is None:
                _check_local(plan.files, paths)
                tree = self.trees.publish(base, _sources(plan, paths))
            held.callback(tree.close)
            if spec.loras:
                _check_local([each for each in plan.files if each.is_lora], paths)
                note_composition(tree.path.parent, manifest)
            made = tree.manifest
            manifest = replace(
                manifest, started=made.started, created=made.created, versions=made.versions
            )
            loras = tuple(paths[f"{LORAS}/{at}.safetensors"] for at in range(len(spec.loras)))
            return BuiltPipeline(manifest, tree, loras, held.pop_all())

    def _subject(self, file: PipelineFile, path: Path) -> ManifestSubject:
        """Return what is recorded about a file. A sha256 that its service gave was verified when
        the file entered the cache."""
        sha256 = file.sha256 or self.planner.digests.sha256(path)
        return ManifestSubject(file.path, sha256, path.stat().st_size, file.uri)


def _sources(plan: PipelinePlan, paths: Mapping[str, Path]) -> list[TreeSource]:
    return [
        TreeSource(each.path, paths[each.path], each.reference if each.url else "", each.wanted)
        for each in plan.files
        if not each.is_lora
    ]


def _check_local(files: Sequence[PipelineFile], paths: Mapping[str, Path]) -> None:
    """Check that local weights are whole; others are checked when they enter the cache.

    Raises:
        NotWeightsError: one is not, or is something else.
    """
    for each in files:
        if not each.url and each.path.endswith(SUFFIX):
            with paths[each.path].open("rb") as file:
                check_header(file, os.fstat(file.fileno()).st_size, each.uri)
