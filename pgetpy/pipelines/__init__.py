"""Pipelines of diffusers: resolved, fetched, kept on disk as links into the cache.

Belongs here: asking services, reading folders, linking. Which files are needed, what a key is made
of, and what a manifest may say is decided in `core/pipelines`.
"""

from __future__ import annotations

from pgetpy.core.pipelines.build_manifest import BuildManifest
from pgetpy.core.pipelines.plans import PipelineFile, PipelinePlan
from pgetpy.core.pipelines.specs import LoraSpec, PipelineSpec
from pgetpy.pipelines.building import BuiltPipeline
from pgetpy.pipelines.store import PipelineStore

__all__ = [
    "BuildManifest",
    "BuiltPipeline",
    "LoraSpec",
    "PipelineFile",
    "PipelinePlan",
    "PipelineSpec",
    "PipelineStore",
]
