"""Artifacts: a pipeline with its LoRAs fused, or quantised already, saved as a folder of its own.

Compositions are kept as manifests and files that others share, because fusing changes the last bits
of weights and takes a whole copy of them. Who wants the copy anyway, for a start without LoRA
loading or quantisation, asks for it. What is saved depends on the packages that computed it, so
their versions are in its key.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pgetpy._version import __version__
from pgetpy.core.pipelines.build_manifest import ManifestSubject, manifest_for
from pgetpy.core.pipelines.configs import MODEL_INDEX, is_config, parse_config
from pgetpy.core.pipelines.files import components_of, pipeline_files
from pgetpy.core.pipelines.plans import PipelinePlan
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.errors import BadSettingError, IntegrityError, PgetError
from pgetpy.errors.redact import redact
from pgetpy.lora.composer import LoraComposer
from pgetpy.pipelines.building import BuiltPipeline, PipelineBuilder
from pgetpy.pipelines.loader import LoadSource, load_pipeline, words_of
from pgetpy.pipelines.lora_files import PlannedLoras, slots_for
from pgetpy.pipelines.tree_links import TreeSource
from pgetpy.system.logs import RoomLog
from pgetpy.system.model_loads import loading, without_bars

_LOG = RoomLog("pipelines")
# Whose code computes what is saved.
_WRITERS = ("diffusers", "transformers", "torch")
# On the CPU everywhere: what a GPU computes depends on its kind.
_DEVICE = "cpu"


class PipelineBaker:
    """Makes artifacts.

    Args:
        builder: builds what an artifact is made from; artifacts are kept beside that.
    """

    def __init__(self, builder: PipelineBuilder) -> None:
        self._builder = builder
        self._planner = builder.planner
        self._trees = builder.trees

    def bake(self, spec: PipelineSpec, plan: PipelinePlan) -> BuiltPipeline:
        """Return the artifact of `spec`, made if it is not on disk.

        Raises:
            PgetError: see `PipelineStore.bake`.
        """
        if not spec.loras and spec.quantization is None:
            reason = "there is nothing to bake without loras and quantization: build() keeps links"
            raise BadSettingError("spec", redact(spec.base), reason)
        started = time.time()
        versions = _versions(spec)
        with ExitStack() as held:
            built = held.enter_context(self._builder.build(spec, plan))
            content = replace(self._planner.content(spec, plan), made_by=versions)
            tree = self._trees.open(content.key)
            if tree is None:
                folder = held.enter_context(self._trees.staging())
                self._save(spec, plan, built, folder)
                subjects = self._subjects(folder)
                manifest = manifest_for(
                    spec, plan, content, subjects, (started, time.time()),
                    {"pgetpy": __version__, **versions},
                )  # fmt: skip
                # LoRAs are not files of it, but what they resolved to is part of its origin.
                manifest = replace(manifest, resolved=built.manifest.resolved)
                sources = [TreeSource(each.path, folder / each.path) for each in subjects]
                tree = self._trees.publish(manifest, sources, move=True)
                _LOG.debug("baked %s: %s", redact(spec.base), tree.path)
        held_tree = ExitStack()
        held_tree.callback(tree.close)
        return BuiltPipeline(tree.manifest, tree, (), held_tree)

    def _save(
        self, spec: PipelineSpec, plan: PipelinePlan, built: BuiltPipeline, folder: Path
    ) -> None:
        """Load the pipeline, fuse its LoRAs, save it in `folder`, and see that it can be loaded."""
        source = LoadSource(built.path, plan.pipeline, plan.chosen.weights, spec)
        with loading():
            pipeline = load_pipeline(source, _DEVICE, lambda _: None)
            try:
                if spec.loras:
                    self._fuse(pipeline, spec, built)
                with without_bars():
                    pipeline.save_pretrained(folder, safe_serialization=True)
            except PgetError:
                raise
            except Exception as error:  # whatever libraries raise for what they cannot fuse or save
                shown = redact(spec.base)
                raise IntegrityError(f"{shown} cannot be baked: {words_of(error)}") from error
            del pipeline
            _normalise_configs(folder)
            load_pipeline(_saved(folder, spec, plan.pipeline), _DEVICE, lambda _: None)

    def _fuse(self, pipeline: Any, spec: PipelineSpec, built: BuiltPipeline) -> None:
        loras = PlannedLoras(self._planner.cache)
        loras.put({os.fspath(path): path for path in built.loras})
        references = [os.fspath(path) for path in built.loras]
        LoraComposer(pipeline, loras).apply(slots_for(spec.loras, references))
        pipeline.fuse_lora()
        # With adapters in it, a pipeline is saved under names that no loader expects.
        pipeline.unload_lora_weights()

    def _subjects(self, folder: Path) -> tuple[ManifestSubject, ...]:
        files = sorted(each for each in folder.rglob("*") if each.is_file())
        return tuple(
            ManifestSubject(
                each.relative_to(folder).as_posix(),
                self._planner.digests.sha256(each),
                each.stat().st_size,
            )
            for each in files
        )


def _versions(spec: PipelineSpec) -> dict[str, str]:
    """Return the versions of the packages that compute what is saved."""
    names = [*_WRITERS, *(["peft"] if spec.loras else [])]
    names += sorted(_quantisers(spec.quantization or {}))
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # loading says what is missing
    return found


def _quantisers(quantization: Mapping[str, Any]) -> set[str]:
    """Return the packages that quantise."""
    configs = dict(quantization.get("quant_mapping") or {}).values()
    backends = [quantization.get("quant_backend"), *(each.get("quant_method") for each in configs)]
    # `bitsandbytes_4bit` is a way of the package bitsandbytes.
    return {each.partition("_")[0] for each in backends if isinstance(each, str)}


def _normalise_configs(folder: Path) -> None:
    """Remove the paths of this machine from configurations, as keys ignore them too."""
    for path in folder.rglob("*.json"):
        if is_config(path.name):
            found = parse_config(path.read_bytes(), path.name)
            if found.pop("_name_or_path", None) is not None:
                path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _saved(folder: Path, spec: PipelineSpec, pipeline: str) -> LoadSource:
    """Return what was saved as something to load: whatever is in it is as it should be."""
    names = [each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()]
    index: Mapping[str, Any] = parse_config((folder / MODEL_INDEX).read_bytes(), MODEL_INDEX)
    chosen = pipeline_files(names, components_of(index), "", folder.name)
    omitted = {name: None for name, part in spec.components.items() if part is None}
    own = PipelineSpec(os.fspath(folder), pipeline, components=omitted)
    return LoadSource(folder, pipeline, chosen.weights, own)
