"""The options of `pgetpy pipeline`, and what they set.

They have a table of their own because no download needs them: the parser looks for a flag here only
if it is not in `settings.options`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pgetpy.core.text.values import read_text, read_texts, size_reader
from pgetpy.settings.folders import expand_user
from pgetpy.settings.options import PIPELINES, SPECIFY, Option
from pgetpy.settings.sections import Section

# fmt: off
ROWS: tuple[Option, ...] = (
    Option("pipeline-store", "", "DIR", "PipelineSettings.folder", expand_user,
           "folder of the pipelines (default: pipelines in the folder of the cache)", PIPELINES,
           environ="PIPELINE_STORE"),
    Option("pipeline-max-bytes", "", "SIZE", "PipelineSettings.max_bytes", size_reader(0),
           "maximum bytes of the cache that pipelines on disk keep from eviction "
           "(default: unlimited)", ("pipeline build", "pipeline gc"),
           environ="PIPELINE_STORE_MAX_BYTES"),
    Option("class", "", "CLASS", "PipelineOptions.pipeline", read_text,
           "class of diffusers (default: the one that the base names)", SPECIFY),
    Option("lora", "", "'REF [SCALE]'", "PipelineOptions.loras", read_texts,
           "LoRA on the base, and its scale if that is not 1; their order matters", SPECIFY,
           many=True),
    Option("variant", "", "NAME", "PipelineOptions.variant", read_text,
           "which weights to take where there are several, such as fp16", SPECIFY),
    Option("dtype", "", "NAME", "PipelineOptions.dtype", read_text,
           "float32, float16 or bfloat16 (default: as the files have it)", SPECIFY),
    Option("config", "", "REF", "PipelineOptions.config", read_text,
           "folder of the configurations, for a base of one file", SPECIFY),
)
# fmt: on


@dataclass(frozen=True)
class PipelineSettings(Section):
    """Where pipelines are kept, and how much of the cache they may keep.

    Attributes:
        folder: where they are; None for `pipelines` in the folder of the cache.
        max_bytes: bytes of the cache that they may keep; None for no limit.
    """

    options: ClassVar[tuple[Option, ...]] = ROWS

    folder: Path | None = None
    max_bytes: int | None = None


@dataclass(frozen=True)
class PipelineOptions(Section):
    """What one run of a command asks for, as text; see `core.pipelines.specs.PipelineSpec`."""

    options: ClassVar[tuple[Option, ...]] = ROWS

    pipeline: str = ""
    loras: tuple[str, ...] = ()
    variant: str = ""
    dtype: str = ""
    config: str = ""
