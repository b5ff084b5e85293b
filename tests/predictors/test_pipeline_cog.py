"""A store in an async predictor on a real Cog server: each image is the one that is made alone."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .cogs import CogServer, Prediction, pixels_of, running
from .pipelines import load_composed
from .stores import Lora, Shop

pytestmark = pytest.mark.usefixtures("one_thread")
AT_A_TIME = 6
PROMPTS = ("a", "b c d e", "x y z")


@pytest.fixture
def cog(shop: Shop, tmp_path: Path) -> Iterator[CogServer]:
    folder = tmp_path / "predictor"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("pipeline_predictor.py"), folder / "predict.py")
    env = {
        "BASE": str(shop.base),
        "PGET_CACHE_DIR": str(tmp_path / "cache"),
        "COG_MAX_CONCURRENCY": str(AT_A_TIME),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    with running(str(folder), **env) as server:
        yield server


def picture(shop: Shop, prompt: str, seed: int, loras: tuple[Lora, ...]) -> bytes:
    """The image of diffusers itself, on a pipeline that has seen nothing else."""
    pipeline = load_composed(shop.base, *loras)
    generator = torch.Generator("cpu").manual_seed(seed)
    image = pipeline(prompt, num_inference_steps=2, generator=generator).images[0]
    file = io.BytesIO()
    image.save(file, "PNG")
    return pixels_of(file)


def begin(cog: CogServer, prompt: str, seed: int, loras: tuple[Lora, ...]) -> Prediction:
    inputs: dict[str, object] = {"prompt": prompt, "seed": seed}
    for slot, (path, scale) in zip(("lora", "extra_lora"), loras, strict=False):
        inputs |= {slot: str(path), f"{slot}_scale": scale}
    return cog.begin(**inputs)


def test_each_request_gets_its_own_loras_whatever_runs_beside_it(
    shop: Shop, cog: CogServer
) -> None:
    first, second = shop.first, shop.second
    compositions: list[tuple[Lora, ...]] = [
        (),
        ((first, 0.7),),
        ((first, 0.2),),
        ((first, 0.7), (second, 0.4)),
        ((second, 0.4), (first, 0.7)),
    ]
    wanted = [
        (prompt, seed, loras)
        for seed, prompt in enumerate(PROMPTS)
        for loras in (*compositions, compositions[1])
    ]
    expected = {each: picture(shop, *each) for each in set(wanted)}
    for _ in range(2):
        # As many as run at a time, so that none is refused.
        for at in range(0, len(wanted), AT_A_TIME):
            some = wanted[at : at + AT_A_TIME]
            begun = [begin(cog, *each) for each in some]
            assert [each.reply().pixels for each in begun] == [expected[each] for each in some]


def test_a_request_that_is_cancelled_leaves_no_trace(shop: Shop, cog: CogServer) -> None:
    loras = ((shop.first, 0.7), (shop.second, 0.4))
    cancelled = [begin(cog, "a", seed, loras) for seed in range(3)]
    for each in cancelled:
        with contextlib.suppress(AssertionError):  # it was faster
            each.cancel()
    for each in cancelled:
        reply = each.reply()
        # Cog calls it a failure when it cancels a prediction before predict() has begun.
        before_predict = reply.status == "failed" and "CancelationException" in reply.error
        assert before_predict or reply.status in ("canceled", "succeeded"), reply
    assert begin(cog, "a", 0, ()).reply().pixels == picture(shop, "a", 0, ())
    assert begin(cog, "a", 0, loras).reply().pixels == picture(shop, "a", 0, loras)
