"""Diffusers pipelines: resolved, fetched, kept on disk as links into the cache, started fast.

    from pgetpy.pipelines import PipelineSpec, PipelineStore, attention, boot

Belongs here: asking services, reading folders, linking, calls to torch and diffusers (both imported
only when a function needs them). Which files are needed, what a key is made of, what a manifest may
say, and which backend is chosen is decided in `core/pipelines`.
"""

from __future__ import annotations

from pgetpy.core.pipelines.build_manifest import BuildManifest
from pgetpy.core.pipelines.plans import PipelineFile, PipelinePlan
from pgetpy.core.pipelines.specs import LoraSpec, PipelineSpec
from pgetpy.pipelines import attention, boot
from pgetpy.pipelines.building import BuiltPipeline
from pgetpy.pipelines.requests import PipelineUse
from pgetpy.pipelines.store import PipelineStore
from pgetpy.system.model_loads import loading

__all__ = [
    "BuildManifest",
    "BuiltPipeline",
    "LoraSpec",
    "PipelineFile",
    "PipelinePlan",
    "PipelineSpec",
    "PipelineStore",
    "PipelineUse",
    "attention",
    "boot",
    "loading",
]
