"""What a plan says, and what a pipeline is made of."""

from __future__ import annotations

from typing import Any

import pytest

from pgetpy.core.pipelines.files import PipelineFiles
from pgetpy.core.pipelines.plans import (
    PipelineFile,
    PipelinePlan,
    ResolvedReference,
    pipeline_content,
    small_files,
    undigested,
)
from pgetpy.core.pipelines.resolution import Resolution
from pgetpy.core.pipelines.specs import PipelineSpec

SHARD = "unet/diffusion_pytorch_model-0000{}-of-00002.safetensors"
INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"
CHOSEN = PipelineFiles(
    ("model_index.json", "unet/config.json", INDEX),
    {"unet": (SHARD.format(1), SHARD.format(2))},
)
DIGESTS = {name: f"{number:064x}" for number, name in enumerate(CHOSEN.names)}


def file(path: str, **fields: Any) -> PipelineFile:
    uri = f"hf://a/b/{path}"
    return PipelineFile(path, uri, uri, **{"url": "https://example.com/x", "size": 10, **fields})


def plan_of(*files: PipelineFile, pinned: bool = False) -> PipelinePlan:
    resolved = (ResolvedReference("base", "hf://a/b", "c", pinned),)
    return PipelinePlan("P", files, CHOSEN, resolved)


def key(
    spec: PipelineSpec, chosen: PipelineFiles = CHOSEN, digests: dict[str, str] = DIGESTS
) -> str:
    return pipeline_content(spec, PipelinePlan("P", (), chosen, ()), digests).key


SPEC = PipelineSpec("hf://a/b")


def test_the_index_of_shards_is_not_part_of_the_key() -> None:
    """It names files; what is in them is part of the key already."""
    assert key(SPEC, digests=DIGESTS | {INDEX: "f" * 64}) == key(SPEC)


def test_the_order_of_shards_is() -> None:
    swapped = DIGESTS | {
        SHARD.format(1): DIGESTS[SHARD.format(2)],
        SHARD.format(2): DIGESTS[SHARD.format(1)],
    }
    assert key(SPEC, digests=swapped) != key(SPEC)


def test_the_names_of_weights_are_not_part_of_the_key() -> None:
    names = ("unet/model.safetensors", "unet/other.safetensors")
    chosen = PipelineFiles(CHOSEN.configs, {"unet": names})
    digests = DIGESTS | {
        name: DIGESTS[SHARD.format(number)] for number, name in enumerate(names, 1)
    }
    assert key(SPEC, chosen, digests) == key(SPEC)


def test_a_dtype_that_no_component_has_is_not_part_of_the_key() -> None:
    assert key(PipelineSpec("hf://a/b", dtype={"vae": "float32"})) == key(SPEC)
    assert key(PipelineSpec("hf://a/b", dtype={"unet": "float32"})) != key(SPEC)


def test_a_missing_digest_is_noticed() -> None:
    with pytest.raises(KeyError):
        key(SPEC, digests={})


def test_bytes_are_counted_by_host() -> None:
    plan = plan_of(
        file("model_index.json", cached=True),
        file("unet/config.json"),
        file(SHARD.format(1), url="https://user:hidden@cdn.example.com/x", size=300, sha256="a"),
        file(SHARD.format(2), size=None),
    )
    assert plan.bytes_to_fetch == 310
    assert plan.unknown_sizes == 1
    assert plan.bytes_by_host == {"example.com": 10, "cdn.example.com": 300}
    assert [each.path for each in small_files(plan)] == ["model_index.json", "unet/config.json"]
    assert [each.path for each in undigested(plan)] == [SHARD.format(2)]


@pytest.mark.parametrize(
    ("pinned", "seconds", "due"),
    [(False, 299.9, False), (False, 300.0, True), (True, 1e9, False)],
)
def test_what_is_pinned_is_never_resolved_again(pinned: bool, seconds: float, due: bool) -> None:
    resolution = Resolution(plan_of(pinned=pinned), looked_up=50.0)
    assert resolution.is_due(50.0 + seconds, 300.0) is due
