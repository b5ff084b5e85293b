"""The build manifest of a pipeline: what was asked for, what it resolved to, and what came of it.

    {"schema": 1, "key": ..., "base_key": ...,
     "asked": {...},                                      the specification, without secrets
     "pipeline": ...,                                     the class
     "resolved": [{"role", "uri", "version", "pinned",    what its references meant
                   "sha256", "base_model", "license"}],
     "run": {"started": ..., "created": ..., "versions": {...}},
     "subjects": [{"path", "uri", "sha256", "size"}]}

It is divided as SLSA provenance v1 divides it: external parameters, resolved dependencies, run
details and subjects. A manifest is read from disks and images that others may have written, so
nothing in it is believed before it has been checked here: paths become links and file names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NoReturn

from pgetpy.core.pipelines.keys import PipelineContent
from pgetpy.core.pipelines.plans import LORAS, SINGLE, PipelinePlan, ResolvedReference
from pgetpy.core.pipelines.specs import PipelineSpec
from pgetpy.errors import IntegrityError

SCHEMA = 1
LONGEST_MANIFEST = 16 << 20
_MOST_SUBJECTS = 100_000
_DEEPEST = 8
_LONGEST_PART = 255
_LONGEST_TEXT = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1 << 60
_REFERENCE_TEXTS = ("role", "uri", "version")
_REFERENCE_FACTS = ("base_model", "license", "sha256")


@dataclass(frozen=True)
class ManifestSubject:
    """One file of a pipeline.

    Attributes:
        path: where it is in the pipeline's folder.
        sha256: of its bytes, in hex.
        size: bytes.
        uri: where it came from, without secrets.
    """

    path: str
    sha256: str
    size: int
    uri: str = ""


@dataclass(frozen=True)
class BuildManifest:
    """What is known about a pipeline that was built.

    Attributes:
        key: of the pipeline, LoRAs included.
        base_key: of what is on disk, which all compositions of LoRAs share.
        asked: the specification, without secrets.
        resolved: what its references meant.
        created: seconds since the epoch.
        versions: of the packages that took part, by name.
        subjects: its files.
        pipeline: its class.
        started: when the build began, in seconds since the epoch; 0.0 if that is not known.
        attention: which attention backend this process uses, and why not others; empty on disk,
            because it depends on the machine.
    """

    key: str
    base_key: str
    asked: Mapping[str, Any]
    resolved: tuple[ResolvedReference, ...]
    created: float
    versions: Mapping[str, str]
    subjects: tuple[ManifestSubject, ...] = field(default=())
    pipeline: str = ""
    started: float = 0.0
    attention: Mapping[str, Any] = field(default_factory=dict)

    def with_attention(self, record: Mapping[str, Any]) -> BuildManifest:
        """Return the manifest with the choice of an attention backend, as its `record` has it."""
        return replace(self, attention=dict(record))

    def to_json(self) -> bytes:
        """Return the content of a manifest.json, which people read as well."""
        value = {
            "schema": SCHEMA,
            "key": self.key,
            "base_key": self.base_key,
            "pipeline": self.pipeline,
            "asked": self.asked,
            "resolved": [asdict(each) for each in self.resolved],
            "run": {
                "started": self.started,
                "created": self.created,
                "versions": dict(self.versions),
                **({"attention": dict(self.attention)} if self.attention else {}),
            },
            "subjects": [asdict(each) for each in self.subjects],
        }
        return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def parse_manifest(data: bytes, name: str) -> BuildManifest:
    """Return the manifest in `data`.

    Args:
        data: the file's bytes.
        name: what it is called in errors.

    Raises:
        IntegrityError: it is damaged, of another release, or names files outside its folder.
    """
    if len(data) > LONGEST_MANIFEST:
        _refuse(name, f"it has {len(data)} bytes")
    try:
        found = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        _refuse(name, "it is not JSON")
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        _refuse(name, "it is not a manifest that this release knows")
    reader = _ManifestReader(name)
    run = reader.mapping(found.get("run"), "run")
    subjects = tuple(reader.subject(each) for each in reader.items(found.get("subjects")))
    reader.check_paths([each.path for each in subjects])
    return BuildManifest(
        reader.digest(found.get("key"), "key"),
        reader.digest(found.get("base_key"), "base_key"),
        reader.mapping(found.get("asked"), "asked"),
        tuple(reader.reference(each) for each in reader.items(found.get("resolved"))),
        reader.time(run.get("created"), "created"),
        reader.texts(run.get("versions"), "versions"),
        subjects,
        reader.text(found.get("pipeline"), "pipeline"),
        reader.time(run.get("started"), "started"),
        reader.mapping(run.get("attention", {}), "attention"),
    )


def is_safe_path(path: str) -> bool:
    """Whether `path` stays below a folder, on every system, and has no surprising characters."""
    parts = path.split("/")
    return len(parts) <= _DEEPEST and all(map(_is_plain, parts))


def _is_plain(part: str) -> bool:
    strange = any(char in '\\:*?"<>|' or not char.isprintable() for char in part)
    fits = 0 < len(part.encode(errors="replace")) <= _LONGEST_PART
    return fits and not strange and part not in (".", "..") and not part.endswith((" ", "."))


@dataclass(frozen=True)
class _ManifestReader:
    """Takes values from the manifest `name`, and refuses all that are not what they should be."""

    name: str

    def text(self, value: object, what: str) -> str:
        if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
            _refuse(self.name, f"{what} is not a text")
        return value

    def digest(self, value: object, what: str) -> str:
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            _refuse(self.name, f"{what} is not 64 hexadecimal digits")
        return value

    def time(self, value: object, what: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e11:
            _refuse(self.name, f"{what} is not a time")
        return float(value)

    def mapping(self, value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            _refuse(self.name, f"{what} is not an object")
        return value

    def texts(self, value: object, what: str) -> dict[str, str]:
        found = self.mapping(value, what)
        return {key: self.text(each, f"{what}.{key[:100]}") for key, each in found.items()}

    def items(self, value: object) -> list[dict[str, Any]]:
        if not isinstance(value, list) or len(value) > _MOST_SUBJECTS:
            _refuse(self.name, "a list is missing or too long")
        return [self.mapping(each, "an item of a list") for each in value]

    def reference(self, value: Mapping[str, Any]) -> ResolvedReference:
        pinned = value.get("pinned")
        if not isinstance(pinned, bool):
            _refuse(self.name, "pinned is neither true nor false")
        role, uri, version = (self.text(value.get(each), each) for each in _REFERENCE_TEXTS)
        facts = (self.text(value.get(each), each) for each in _REFERENCE_FACTS)
        return ResolvedReference(role, uri, version, pinned, *facts)

    def subject(self, value: Mapping[str, Any]) -> ManifestSubject:
        path, size = self.text(value.get("path"), "path"), value.get("size")
        if not is_safe_path(path):
            _refuse(self.name, f"it names a file {path[:100]!r}")
        if type(size) is not int or not 0 <= size <= _MOST_BYTES:
            _refuse(self.name, f"the size of {path} is not a number of bytes")
        digest = self.digest(value.get("sha256"), f"the sha256 of {path}")
        return ManifestSubject(path, digest, size, self.text(value.get("uri"), "uri"))

    def check_paths(self, paths: list[str]) -> None:
        """Check that no path is there twice, also where case does not count, nor within another."""
        folded = [path.casefold() for path in paths]
        if len(set(folded)) < len(folded):
            _refuse(self.name, "it names a file twice")
        folders = {
            "/".join(parts[:at])
            for parts in (path.split("/") for path in folded)
            for at in range(1, len(parts))
        }
        if folders & set(folded):
            _refuse(self.name, "it names a file that is a folder as well")


def _refuse(name: str, reason: str) -> NoReturn:
    raise IntegrityError(f"{name} cannot be used: {reason}")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def manifest_for(
    spec: PipelineSpec,
    plan: PipelinePlan,
    content: PipelineContent,
    subjects: tuple[ManifestSubject, ...],
    times: tuple[float, float],
    versions: Mapping[str, str],
) -> BuildManifest:
    """Return the manifest of a pipeline that is being built.

    Args:
        spec: what was asked for.
        plan: what it resolved to.
        content: what it is made of.
        subjects: its files, LoRAs included.
        times: when the build began and ended, in seconds since the epoch.
        versions: of the packages that take part, by name.
    """
    digests = {each.path: each.sha256 for each in subjects}
    resolved = tuple(
        replace(each, sha256=digests.get(_path_of(each.role), "")) for each in plan.resolved
    )
    return BuildManifest(
        content.key,
        content.base.key,
        spec.shown(),
        resolved,
        times[1],
        versions,
        subjects,
        plan.pipeline,
        times[0],
    )


def _path_of(role: str) -> str:
    """Return where the one file of a reference is, if it is a single file."""
    return SINGLE if role == "base" else f"{role}.safetensors"


def base_of(manifest: BuildManifest) -> BuildManifest:
    """Return the manifest of the base, which all compositions of LoRAs share on disk."""
    loras = f"{LORAS}/"
    return replace(
        manifest,
        key=manifest.base_key,
        asked={**manifest.asked, "loras": []},
        resolved=tuple(each for each in manifest.resolved if not each.role.startswith(loras)),
        subjects=tuple(each for each in manifest.subjects if not each.path.startswith(loras)),
    )
