"""What a specification resolves to at this moment: files, where they come from, and how many bytes
of them are not on this machine yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pgetpy.core.pipelines.configs import MODEL_INDEX, is_config
from pgetpy.core.pipelines.files import PipelineFiles
from pgetpy.core.pipelines.keys import ComponentContent, LoraContent, PipelineContent
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.core.weights.shards import is_index_name

# Below this folder of a tree are the LoRAs.
LORAS = "loras"
# Where a base of one file is in a tree, whatever its server calls it.
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class PipelineFile:
    """One file that a pipeline needs.

    Attributes:
        path: where it belongs in the pipeline's folder.
        reference: fetches exactly this file; it may contain secrets.
        uri: the same, without secrets.
        url: the http URL that serves it, without secrets; empty for a local file.
        size: bytes; None if its server does not say.
        sha256: hex digits; empty if they are not known before it is fetched.
        etag: the server's name for its content; empty if there is none.
        cached: whether this version of it is in the cache, or a local file.
        archive: whether it is an archive, whose members are the pipeline's files.
        member: where the file is in the archive that `reference` and `url` name; empty for a file
            that is not out of an archive.
    """

    path: str
    reference: str = field(repr=False)
    uri: str
    url: str = ""
    size: int | None = None
    sha256: str = ""
    etag: str = ""
    cached: bool = False
    archive: bool = False
    member: str = ""

    @property
    def wanted(self) -> str:
        """What the cache keeps of `reference`."""
        return "folder" if self.archive or self.member else "auto"

    @property
    def is_lora(self) -> bool:
        """Whether it is a LoRA on the base."""
        return self.path.startswith(f"{LORAS}/")

    @property
    def host(self) -> str:
        """The host that serves it; empty for a local file."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def to_json(self) -> dict[str, Any]:
        """Return what people and programs may see of it."""
        return {
            "path": self.path,
            "uri": self.uri,
            "host": self.host,
            "size": self.size,
            "sha256": self.sha256,
            "cached": self.cached,
        }


@dataclass(frozen=True)
class ResolvedReference:
    """What a reference resolved to.

    Attributes:
        role: `base`, `config`, a component's name, or `loras/N`.
        uri: the reference, without secrets.
        version: of what it named, such as a commit; empty if its source has none.
        pinned: whether it always means the same content.
        base_model: the model that it was made from, as its service says; empty if it does not.
        license: its license, as its service says.
        sha256: of a single file, once that is known; empty for a folder.
    """

    role: str
    uri: str
    version: str
    pinned: bool
    base_model: str = ""
    license: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class PipelinePlan:
    """All files of a pipeline.

    Attributes:
        pipeline: the class to build.
        files: those of the base by their paths, then the LoRAs in their order.
        chosen: which of them are whose, by their paths; empty for an archive, whose members are
            known once it is here.
        resolved: what the references resolved to.
    """

    pipeline: str
    files: tuple[PipelineFile, ...]
    chosen: PipelineFiles
    resolved: tuple[ResolvedReference, ...]

    @property
    def pinned(self) -> bool:
        """Whether resolving it again cannot change anything."""
        return all(each.pinned for each in self.resolved)

    @property
    def missing(self) -> tuple[PipelineFile, ...]:
        """The files that have to be fetched."""
        return tuple(each for each in self.files if not each.cached)

    @property
    def bytes_to_fetch(self) -> int:
        """The bytes to fetch, as far as sizes are known."""
        return sum(each.size or 0 for each in self.missing)

    @property
    def unknown_sizes(self) -> int:
        """How many files to fetch have no known size."""
        return sum(each.size is None for each in self.missing)

    @property
    def bytes_by_host(self) -> dict[str, int]:
        """The bytes to fetch from each host."""
        found: dict[str, int] = {}
        for each in self.missing:
            found[each.host] = found.get(each.host, 0) + (each.size or 0)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return what people and programs may see of it."""
        return {
            "pipeline": self.pipeline,
            "pinned": self.pinned,
            "bytes": sum(each.size or 0 for each in self.files),
            "bytes_to_fetch": self.bytes_to_fetch,
            "unknown_sizes": self.unknown_sizes,
            "bytes_by_host": self.bytes_by_host,
            "resolved": [vars(each) for each in self.resolved],
            "files": [each.to_json() for each in self.files],
        }


def small_files(plan: PipelinePlan) -> tuple[PipelineFile, ...]:
    """Return the files whose bytes are needed for the key: all but weights and LoRAs."""
    names = set(plan.chosen.configs)
    return tuple(each for each in plan.files if each.path in names)


def undigested(plan: PipelinePlan) -> tuple[PipelineFile, ...]:
    """Return the weights and LoRAs whose sha256 is not known yet."""
    names = set(plan.chosen.configs)
    return tuple(each for each in plan.files if each.path not in names and not each.sha256)


def pipeline_content(
    spec: PipelineSpec, plan: PipelinePlan, digests: Mapping[str, str]
) -> PipelineContent:
    """Return what the pipeline is made of.

    Args:
        spec: what was asked for.
        plan: what it resolved to.
        digests: of all files, by their paths: normalised ones of configurations
            (`configs.config_digest`), else the sha256.

    Raises:
        KeyError: a digest is missing.
    """
    names = {_component_of(name) for name in plan.chosen.configs} | plan.chosen.weights.keys()
    components = {name: _content(spec, plan.chosen, name, digests) for name in sorted(names)}
    loras = tuple(
        LoraContent(digests[f"{LORAS}/{at}.safetensors"], each.scale, each.component)
        for at, each in enumerate(spec.loras)
    )
    return PipelineContent(plan.pipeline, components, spec.quantization, loras)


def _content(
    spec: PipelineSpec, chosen: PipelineFiles, component: str, digests: Mapping[str, str]
) -> ComponentContent:
    configs = _configs_of(chosen.configs, component)
    return ComponentContent(
        # The index of shards names files, and what they contain is in the key already.
        {_last(name): digests[name] for name in configs if not is_index_name(name)},
        tuple(digests[name] for name in chosen.weights.get(component, ())),
        spec.dtype_of(component),
    )


def _configs_of(names: Iterable[str], component: str) -> list[str]:
    return [name for name in names if _component_of(name) == component]


def _component_of(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def needs_normalising(path: str) -> bool:
    """Whether the digest of the file at `path` is that of its values, see `pipeline_content`."""
    return is_config(path) or _last(path) == MODEL_INDEX
