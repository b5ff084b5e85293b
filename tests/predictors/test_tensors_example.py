"""examples/tensors on a real Cog server: its weights are those of the file, bit for bit."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import save_file

from ..support.delivery import Gate
from ..support.faults import GateAfter, Status, When
from ..support.resources import Resource
from ..support.server import Server
from .cogs import Reply, pixels_of, running, starting

WEIGHTS = "/autoencoder.safetensors"


@dataclass(frozen=True)
class Model:
    """The weights of an autoencoder, an image for it, and what comes out."""

    weights: bytes
    image: str
    expected: bytes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        autoencoder = AutoencoderTiny().eval()
        # As it is made, all that comes out is nearly black.
        autoencoder.decoder.layers[-1].weight.mul_(10)
        autoencoder.decoder.layers[-1].bias.add_(0.5)
        colours = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    path = tmp_path_factory.mktemp("model") / "weights.safetensors"
    save_file(autoencoder.state_dict(), path)
    given = Image.fromarray(colours.numpy())
    processor = VaeImageProcessor(vae_scale_factor=8)
    with torch.inference_mode():
        decoded = autoencoder(processor.preprocess(given)).sample
    expected = pixels_of(_png(processor.postprocess(decoded)[0]))
    assert len(set(expected)) > 50
    text = base64.b64encode(_png(given).getvalue()).decode()
    yield Model(path.read_bytes(), f"data:image/png;base64,{text}", expected)
    torch.set_num_threads(before)


def _png(image: Image.Image) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, "PNG")
    return io.BytesIO(file.getvalue())


def started(origin: Server, folder: Path, model: Model) -> Reply:
    """What a machine that has just started makes of the image."""
    with running("tensors", WEIGHTS_URL=origin.url(WEIGHTS), PGET_CACHE_DIR=folder) as cog:
        return cog.predict(image=model.image)


def test_weights_from_the_network_and_from_the_cache_give_the_same_image(
    server: Server, tmp_path: Path, model: Model
) -> None:
    server.add(WEIGHTS, Resource(model.weights))
    assert started(server, tmp_path, model).pixels == model.expected
    asked = len(server.requests)
    assert asked > 0
    assert started(server, tmp_path, model).pixels == model.expected
    assert len(server.requests) == asked


def test_weights_that_cannot_be_had_fail_the_setup_in_one_sentence(
    server: Server, tmp_path: Path, model: Model
) -> None:
    server.add(WEIGHTS, Resource(model.weights, faults=[Status(404)]))
    with starting("tensors", WEIGHTS_URL=server.url(WEIGHTS), PGET_CACHE_DIR=tmp_path) as cog:
        health = cog.wait_for_setup()
    assert health["status"] == "SETUP_FAILED"
    assert WEIGHTS in health["setup"]["logs"]
    assert "404" in health["setup"]["logs"]


def test_a_machine_that_goes_while_tensors_come_is_followed_by_one_that_starts(
    server: Server, tmp_path: Path, model: Model
) -> None:
    gate = Gate()
    held = GateAfter(None, gate, when=When(covers=len(model.weights) // 2, times=1))
    server.add(WEIGHTS, Resource(model.weights, faults=[held]))
    with starting("tensors", WEIGHTS_URL=server.url(WEIGHTS), PGET_CACHE_DIR=tmp_path) as cog:
        gate.wait_reached(within=120)
        cog.kill()
    gate.open()
    assert started(server, tmp_path, model).pixels == model.expected
