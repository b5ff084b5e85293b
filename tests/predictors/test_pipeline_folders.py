"""Broken models, and what a store says of them where loaders say nothing, or too much."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pgetpy.errors import (
    BadReferenceError,
    BadSettingError,
    IntegrityError,
    PgetError,
)
from pgetpy.pipelines import PipelineSpec, PipelineStore

from ..support.hub import Hub
from ..support.hub_caches import opened_at
from ..support.secrets import TOKEN
from ..support.server import Server
from .pipelines import image_of
from .stores import Shop, quiet

pytestmark = pytest.mark.usefixtures("one_thread")
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def model(shop: Shop, tmp_path: Path) -> Path:
    """A folder of the test's own."""
    return Path(shutil.copytree(shop.base, tmp_path / "model"))


def without(name: str, tensor: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        tensors = load_file(model / name)
        del tensors[tensor]
        rewrite(model / name, tensors)

    return change


def reshaped(name: str, tensor: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        tensors = load_file(model / name)
        rewrite(model / name, {**tensors, tensor: torch.zeros(3, 3)})

    return change


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    # What load_file gives is a mapping of the file that is replaced.
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    path.unlink()
    save_file(own, path, metadata={"format": "pt"})


def cut(name: str, left: int) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / name).write_bytes((model / name).read_bytes()[:left])

    return change


def removed(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def replaced(name: str, data: bytes) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        (model / name).write_bytes(data)

    return change


def pickled(model: Path) -> None:
    (model / UNET).rename(model / "unet/diffusion_pytorch_model.bin")


# How a folder is broken, the error, and words in it.
BROKEN: list[tuple[str, Callable[[Path], None], type[PgetError], str]] = [
    ("no tensor of the UNet", without(UNET, "conv_in.bias"), IntegrityError, "lack conv_in.bias"),
    (
        "no tensor of the text encoder",
        without(TEXT, "final_layer_norm.weight"),
        IntegrityError,
        "text_encoder of .* lack final_layer_norm.weight",
    ),
    ("another shape", reshaped(UNET, "conv_in.bias"), IntegrityError, "conv_in.bias"),
    (
        "another shape of the text encoder",
        reshaped(TEXT, "final_layer_norm.weight"),
        IntegrityError,
        "final_layer_norm.weight",
    ),
    ("a truncated file", cut(UNET, -1000), IntegrityError, "safetensors"),
    ("a file cut in its header", cut(UNET, 100), IntegrityError, "safetensors"),
    ("an empty file", cut(TEXT, 0), IntegrityError, "safetensors"),
    ("a page for weights", replaced(UNET, b"<html>" * 99), IntegrityError, "safetensors"),
    ("pickles alone", pickled, IntegrityError, "pickle"),
    ("no weights", removed(UNET), IntegrityError, "unet"),
    ("no index", removed("model_index.json"), BadReferenceError, "has no model_index.json"),
    ("an index that is not JSON", replaced("model_index.json", b"{"), IntegrityError, "JSON"),
    ("no configuration", removed("unet/config.json"), IntegrityError, "config.json"),
    ("a configuration that is not JSON", replaced("vae/config.json", b"{"), IntegrityError, "JSON"),
    ("no scheduler", removed("scheduler/scheduler_config.json"), IntegrityError, "scheduler"),
    ("no vocabulary", removed("tokenizer/tokenizer.json"), IntegrityError, "lacks tokenizer.json"),
]


@pytest.mark.parametrize(
    ("change", "error", "words"), [each[1:] for each in BROKEN], ids=[each[0] for each in BROKEN]
)
def test_a_broken_model_is_an_error_that_names_what_is_wrong(
    shop: Shop,
    store: PipelineStore,
    model: Path,
    change: Callable[[Path], None],
    error: type[PgetError],
    words: str,
) -> None:
    change(model)
    with pytest.raises(error, match=words) as caught, store.pipeline(PipelineSpec(str(model))):
        pass
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    # The store, and the process, are as they were.
    with store.pipeline(shop.spec()) as pipe:
        assert image_of(pipe) == shop.alone()


def test_a_flipped_bit_is_found_where_a_service_says_the_digest(
    shop: Shop, other_server: Server, tmp_path: Path
) -> None:
    files = {
        path.relative_to(shop.base).as_posix(): path.read_bytes()
        for path in shop.base.rglob("*")
        if path.is_file()
    }
    with Hub(other_server, tokens={TOKEN}) as hub, opened_at(hub, tmp_path / "at", TOKEN) as cache:
        hub.repo("owner/name", files)
        spec = PipelineSpec("hf://owner/name")
        store = PipelineStore(cache, prepare=quiet)
        with store.pipeline(spec) as pipe:
            assert image_of(pipe) == shop.alone()
        store.forget()
        # On disk, after it was checked: found by verifying, as loading does not read it again.
        (tree,) = (cache.path / "pipelines").glob("*/tree")
        entry = (tree / UNET).resolve()
        flipped = bytearray(entry.read_bytes())
        flipped[-1] ^= 1
        entry.chmod(0o644)
        entry.write_bytes(flipped)
        assert store.verify(store.key(spec)) == [UNET]


def test_a_lora_file_with_a_flipped_bit_has_another_key(
    shop: Shop, store: PipelineStore, tmp_path: Path
) -> None:
    flipped = bytearray(shop.first.read_bytes())
    flipped[-1] ^= 1
    other = tmp_path / "flipped.safetensors"
    other.write_bytes(flipped)
    assert store.key(shop.spec((shop.first, 1.0))) != store.key(shop.spec((other, 1.0)))


def test_a_file_with_several_dtypes_is_loaded_in_that_of_most_of_it(
    store: PipelineStore, model: Path
) -> None:
    tensors = load_file(model / UNET)
    half = {name: tensor.half() for name, tensor in tensors.items()}
    rewrite(model / UNET, {**half, "conv_in.bias": tensors["conv_in.bias"]})
    with store.pipeline(PipelineSpec(str(model))) as pipe:
        assert {each.dtype for each in pipe.unet.parameters()} == {torch.float16}


def test_eight_bits_without_a_dtype_are_refused(store: PipelineStore, model: Path) -> None:
    tensors = load_file(model / UNET)
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}
    rewrite(model / UNET, small)
    with pytest.raises(BadSettingError, match="F8_E4M3"), store.pipeline(PipelineSpec(str(model))):
        pass
    with store.pipeline(PipelineSpec(str(model), dtype="float32")) as pipe:
        assert {each.dtype for each in pipe.unet.parameters()} == {torch.float32}


def test_a_component_of_the_index_must_be_a_known_class(store: PipelineStore, model: Path) -> None:
    index = json.loads((model / "model_index.json").read_text())
    index["unet"] = ["os", "system"]
    (model / "model_index.json").write_text(json.dumps(index))
    with (
        pytest.raises(IntegrityError, match="cannot be loaded"),
        store.pipeline(PipelineSpec(str(model))),
    ):
        pass
