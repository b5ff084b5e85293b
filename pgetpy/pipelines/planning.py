"""From a specification to a plan: services are asked what there is, and nothing large is fetched.

    spec --> base folder listed --> model_index.json read --> files chosen --> what the cache has
         --> parts, configuration and LoRAs located ---------------------'

Of the model itself only model_index.json is read, because it says which folders are components.
For a key, all small files are read, and those weights whose sha256 no service says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pgetpy.core.cache.records import Record
from pgetpy.core.pipelines.configs import LONGEST_CONFIG, MODEL_INDEX, config_digest, parse_config
from pgetpy.core.pipelines.files import (
    PipelineFiles,
    class_of,
    component_files,
    components_of,
    is_pickle,
    is_small,
    pipeline_files,
)
from pgetpy.core.pipelines.keys import PipelineContent
from pgetpy.core.pipelines.plans import (
    LORAS,
    SINGLE,
    PipelineFile,
    PipelinePlan,
    ResolvedReference,
    needs_normalising,
    pipeline_content,
    small_files,
    undigested,
)
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.core.weights.shards import SUFFIX
from pgetpy.engine.engine import Engine
from pgetpy.errors import BadReferenceError, BadSettingError, IntegrityError, NotWeightsError
from pgetpy.errors.reasons import system_reason
from pgetpy.errors.redact import redact
from pgetpy.pipelines.digests import FileDigests
from pgetpy.pipelines.fetching import fetch_file, held_files
from pgetpy.pipelines.folders import LocatedModel, ModelFile, locate_members, locate_model
from pgetpy.system.event_loop import gather_or_cancel, run_blocking
from pgetpy.weights.cache import WeightsDownloadCache


class Planner:
    """Makes plans, and keys of them.

    Args:
        cache: has the files that were fetched before; its settings say how services are asked.
        digests: hashes files of which no service says the sha256.

    Attributes:
        cache: as given.
        digests: as given.
    """

    def __init__(self, cache: WeightsDownloadCache, digests: FileDigests | None = None) -> None:
        self.cache = cache
        self.digests = digests or FileDigests()
        self._settings = cache.settings

    def plan(self, spec: PipelineSpec) -> PipelinePlan:
        """Return what `spec` means at this moment, and what of it has to be fetched.

        Raises:
            TransferError: a service refuses, or does not answer.
            IntegrityError: the model is incomplete, or has pickles alone.
            UsageError: a reference or an option is invalid.
        """
        return run_blocking(self._plan(spec))

    def resolve(self, spec: PipelineSpec) -> PipelinePlan:
        """As `plan`, with all files known: a base that is an archive is fetched for that.

        Raises:
            PgetError: see `plan`; or the archive cannot be fetched.
        """
        plan = self.plan(spec)
        archives = [each for each in plan.files if each.archive]
        if not archives:
            return plan
        with held_files(self.cache, archives):
            return run_blocking(self._plan(spec, extracted=True))

    def content(
        self, spec: PipelineSpec, plan: PipelinePlan, paths: Mapping[str, Path] | None = None
    ) -> PipelineContent:
        """Return what the pipeline is made of; fetches small files, and weights without a digest.

        Args:
            spec: what was asked for.
            plan: what it resolved to.
            paths: all files of the plan, if the caller holds them; then nothing is fetched.

        Raises:
            PgetError: one cannot be fetched.
            IntegrityError: a configuration is not JSON.
        """
        archive = next((each for each in plan.files if each.archive), None)
        if archive is not None:
            raise BadReferenceError(archive.uri, "its files are not known before it is extracted")
        needed = (*small_files(plan), *undigested(plan))
        if paths is None:
            with held_files(self.cache, needed) as held:
                return self._content(spec, plan, {each.path: held[each.path] for each in needed})
        return self._content(spec, plan, {each.path: paths[each.path] for each in needed})

    def _content(
        self, spec: PipelineSpec, plan: PipelinePlan, paths: Mapping[str, Path]
    ) -> PipelineContent:
        digests = {each.path: each.sha256 for each in plan.files}
        digests |= {name: self._digest_of(name, path) for name, path in paths.items()}
        return pipeline_content(spec, plan, digests)

    def _digest_of(self, name: str, path: Path) -> str:
        """Return the digest that goes into keys of a file called `name` in the pipeline."""
        if needs_normalising(name):
            return config_digest(_bytes_of(path), name)
        return self.digests.sha256(path)

    # ------------------------------------------------------------------------------------ resolving

    async def _plan(self, spec: PipelineSpec, *, extracted: bool = False) -> PipelinePlan:
        async with Engine(self._settings) as engine:
            models = await self._locate_all(spec, engine)
        if models["base"].archive:
            models["base"] = await self._extracted(models["base"], known=extracted)
        chosen, sources, index = await self._choose(spec, models)
        name = spec.pipeline or class_of(index)
        if not name and chosen.names:
            hint = "name the class, as pipeline='StableDiffusionXLPipeline'"
            raise BadSettingError("pipeline", "", f"the base does not name its class; {hint}")
        files = [self._file(path, source) for path, source in sources.items()]
        if models["base"].archive:
            files[0] = replace(files[0], archive=True)
        resolved = (
            ResolvedReference(role, model.uri, model.version, model.pinned, *model.facts)
            for role, model in models.items()
        )
        return PipelinePlan(name, tuple(files), chosen, tuple(resolved))

    async def _extracted(self, model: LocatedModel, *, known: bool) -> LocatedModel:
        """Return the members of an archive if they are in the cache, else the archive as it is.

        Args:
            model: the archive.
            known: whether it has just been fetched; otherwise its version must be the current one.
        """
        (archive,) = model.files
        record = self.cache.record(archive.reference, wanted="folder")
        if record is None or not (known or _is_current(record, archive)):
            return model
        folder = await self.cache.ensure_async(archive.reference, wanted="folder")
        return locate_members(model, folder)

    async def _locate_all(self, spec: PipelineSpec, engine: Engine) -> dict[str, LocatedModel]:
        """Return what each reference means, by its role, asked at the same time."""
        wanted = {"base": (spec.base, "folder")}
        if spec.config:
            wanted["config"] = (spec.config, "folder")
        parts = {name: part for name, part in spec.components.items() if part is not None}
        wanted |= {name: (part, "folder") for name, part in parts.items()}
        wanted |= {f"{LORAS}/{at}": (each.path, "auto") for at, each in enumerate(spec.loras)}
        sources = self._settings.sources
        tasks = [
            asyncio.ensure_future(locate_model(text, engine, sources, how))
            for text, how in wanted.values()
        ]
        return dict(zip(wanted, await gather_or_cancel(tasks), strict=True))

    async def _choose(
        self, spec: PipelineSpec, models: Mapping[str, LocatedModel]
    ) -> tuple[PipelineFiles, dict[str, ModelFile], Mapping[str, object]]:
        """Return which files belong to the pipeline, where each comes from, and its index."""
        base = models["base"]
        loras = {
            f"{role}.safetensors": _only(model)
            for role, model in models.items()
            if role.startswith(f"{LORAS}/")
        }
        if base.archive:
            archive = base.files[0]
            return PipelineFiles(), {archive.name: archive} | loras, {}
        folder = base if base.folder else models.get("config")
        if folder is None or not folder.folder:
            reason = "is needed for a base of one file: the folder of its configurations"
            raise BadSettingError("config", spec.config, reason)
        theirs = {each.name: each for each in folder.files}
        index = await self._index(folder, theirs)
        spec.check_components(name for name, each in index.items() if isinstance(each, list))
        given = {name for name, part in spec.components.items() if part is not None}
        omitted = {name for name, part in spec.components.items() if part is None}
        own = [each for each in components_of(index) if each not in given | omitted]
        variant = spec.variant if base.folder else ""
        names = theirs if base.folder else [each for each in theirs if is_small(each)]
        chosen = pipeline_files(names, own, variant, folder.uri)
        sources = {name: theirs[name] for name in chosen.configs}
        weights = dict(chosen.weights)
        sources |= {name: theirs[name] for names in weights.values() for name in names}
        if not base.folder:
            single = _only(base)
            if is_pickle(single.name):
                raise NotWeightsError(base.uri, "a pickle")
            weights[""] = (SINGLE,)
            sources[SINGLE] = single
        configs = list(chosen.configs)
        for name in sorted(given):
            part = _part_of(name, models[name], spec.variant)
            weights[name] = tuple(path for path in part if _is_weights(path))
            configs += [path for path in part if not _is_weights(path)]
            sources |= part
        return PipelineFiles(tuple(configs), weights), sources | loras, index

    async def _index(
        self, folder: LocatedModel, files: Mapping[str, ModelFile]
    ) -> Mapping[str, object]:
        found = files.get(MODEL_INDEX)
        if found is None:
            raise BadReferenceError(folder.uri, f"it has no {MODEL_INDEX}")
        path = await fetch_file(self.cache, self._file(MODEL_INDEX, found))
        return parse_config(_bytes_of(path), found.uri)

    def _file(self, path: str, source: ModelFile) -> PipelineFile:
        """Return a planned file, with what is known of it here and at its service."""
        remote = source.remote
        if source.member and remote is not None:
            return PipelineFile(
                path, source.reference, source.uri, redact(remote.url), source.size,
                cached=True, member=source.member,
            )  # fmt: skip
        if remote is None:
            return PipelineFile(path, source.reference, source.uri, size=source.size, cached=True)
        digest = remote.digest
        sha256 = digest.hexdigest if digest is not None and digest.algorithm == "sha256" else ""
        record = self.cache.record(source.reference)
        cached = record is not None
        if record is not None:
            theirs = record.digest.partition(":")[2]
            current = theirs == sha256 if sha256 and theirs else _is_current(record, source)
            cached = current and source.size in (None, record.size)
            sha256 = sha256 or (theirs if cached else "")
        return PipelineFile(
            path, source.reference, source.uri, redact(remote.url), source.size, sha256,
            remote.etag, cached,
        )  # fmt: skip


def _is_current(record: Record, source: ModelFile) -> bool:
    """Whether a cached file is of the version that its server names; True if one of them has none.

    Only for files without a sha256.
    """
    etag = source.remote.etag if source.remote is not None else ""
    theirs = record.about.validator
    return source.pinned or not etag or not theirs or theirs.strip('"') == etag.strip('"')


def _part_of(component: str, model: LocatedModel, variant: str) -> dict[str, ModelFile]:
    """Return the files of a component that comes from elsewhere, by their paths.

    Raises:
        BadReferenceError: it is not a folder with weights.
    """
    if not model.folder:
        reason = f"the component {component} needs a folder with its configuration"
        raise BadReferenceError(model.uri, reason)
    files = {f"{component}/{each.name}": each for each in model.files if "/" not in each.name}
    own = component_files(files, component, variant, model.uri)
    return {name: files[name] for name in (*own.configs, *own.weights)}


def _only(model: LocatedModel) -> ModelFile:
    """Return the one file of a model.

    Raises:
        BadReferenceError: it is a folder.
    """
    if model.folder:
        raise BadReferenceError(model.uri, "it is a folder, and a single file is wanted")
    return model.files[0]


def _is_weights(name: str) -> bool:
    return PurePosixPath(name).suffix == SUFFIX


def _bytes_of(path: Path) -> bytes:
    """Return what is in a small file.

    Raises:
        IntegrityError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_CONFIG + 1)
    except OSError as error:
        raise IntegrityError(f"{path.name} cannot be read: {system_reason(error)}") from None
