"""Which files of a folder belong to a pipeline."""

from __future__ import annotations

import pytest

from pgetpy.core.pipelines.files import PipelineFiles, class_of, components_of, pipeline_files
from pgetpy.errors import IntegrityError, NotOneFileError

UNET = "unet/diffusion_pytorch_model"
TEXT = "text_encoder/model"


def chosen(
    *names: str, variant: str = "", components: tuple[str, ...] = ("text_encoder", "unet")
) -> PipelineFiles:
    return pipeline_files(names, components, variant, "hf://a/b")


def weights(*names: str, variant: str = "") -> dict[str, tuple[str, ...]]:
    return dict(chosen(*names, variant=variant).weights)


def test_components_are_those_with_a_library_and_a_class() -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "requires_safety_checker": True,
        "safety_checker": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    assert components_of(index) == ("text_encoder", "unet")
    assert class_of(index) == "StableDiffusionPipeline"


@pytest.mark.parametrize("name", ["../unet", "a/b", "", "un et", "x" * 101])
def test_a_component_that_cannot_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="component"):
        components_of({name: ["diffusers", "Model"]})


def test_too_many_components_are_refused() -> None:
    with pytest.raises(IntegrityError, match="65"):
        components_of({f"c{number}": ["diffusers", "Model"] for number in range(65)})


@pytest.mark.parametrize("name", [3, None, "os; import", "a.b"])
def test_a_class_that_is_not_a_name_is_not_one(name: object) -> None:
    assert class_of({"_class_name": name}) == ""


def test_files_of_other_loaders_and_folders_stay_away() -> None:
    found = chosen(
        "README.md",
        "model_index.json",
        "v1-5-pruned.safetensors",
        "unet/config.json",
        f"{UNET}.safetensors",
        f"{UNET}.bin",
        f"{UNET}.onnx",
        "unet/code.py",
        "unet/.hidden.json",
        "unet/deeper/config.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    )
    assert found.names == ("model_index.json", "unet/config.json", f"{UNET}.safetensors")


def test_vocabularies_of_a_tokenizer_are_taken() -> None:
    names = ("tokenizer/merges.txt", "tokenizer/spiece.model", "tokenizer/vocab.json")
    assert chosen(*names, components=("tokenizer",)).configs == names


BOTH = (f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{TEXT}.safetensors")


def test_a_variant_is_taken_where_it_is_there() -> None:
    assert weights(*BOTH, variant="fp16") == {
        "text_encoder": (f"{TEXT}.safetensors",),
        "unet": (f"{UNET}.fp16.safetensors",),
    }


def test_no_variant_is_taken_unasked() -> None:
    assert weights(*BOTH)["unet"] == (f"{UNET}.safetensors",)


def test_a_variant_that_no_component_has_is_an_error_that_names_others() -> None:
    with pytest.raises(NotOneFileError, match="fp16"):
        weights(*BOTH, variant="bf16")


def test_variants_alone_are_not_taken_unasked() -> None:
    with pytest.raises(NotOneFileError, match="fp16"):
        weights(f"{UNET}.fp16.safetensors")


@pytest.mark.parametrize("infix", ["", ".fp16"])
def test_shards_are_taken_in_their_order_with_their_index(infix: str) -> None:
    shards = [f"{UNET}{infix}-0000{number}-of-00002.safetensors" for number in (2, 1)]
    index = f"{UNET}.safetensors.index{infix}.json"
    other = f"{UNET}.safetensors.index.other.json"
    found = chosen(*shards, index, other, variant=infix[1:])
    assert found.weights["unet"] == tuple(reversed(shards))
    assert found.configs == (index,)


def test_a_missing_shard_is_noticed() -> None:
    with pytest.raises(IntegrityError, match="1 of 2 shards"):
        weights(f"{UNET}-00001-of-00002.safetensors")


def test_shards_of_two_checkpoints_are_refused() -> None:
    names = [f"{UNET}-00001-of-0000{count}.safetensors" for count in (1, 2)]
    with pytest.raises(IntegrityError, match="several"):
        weights(*names)


def test_of_a_file_and_shards_the_one_that_the_library_takes_is_taken() -> None:
    """diffusers looks for an index first, transformers for the single file."""
    names = [f"{stem}{end}.safetensors" for stem in (UNET, TEXT) for end in ("", "-00001-of-00001")]
    assert weights(*names) == {
        "text_encoder": (f"{TEXT}.safetensors",),
        "unet": (f"{UNET}-00001-of-00001.safetensors",),
    }


def test_pickles_alone_are_refused() -> None:
    with pytest.raises(IntegrityError, match="pickle"):
        weights(f"{UNET}.bin")
