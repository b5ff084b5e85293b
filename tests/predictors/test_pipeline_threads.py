"""One model and many threads: every image compared bit for bit with the one made alone."""

from __future__ import annotations

import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline

from pgetpy.errors import IntegrityError, PoisonedProcessError, UsageError
from pgetpy.pipelines import PipelineSpec, PipelineStore, load_checks, loading

from ..support.processes import Run
from .pipelines import image_of, load_pipeline, save_pipeline
from .stores import Shop, in_threads, make_shop, opened_store

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = ("a", "a b c d e f g", "x y", "q w e r t")
THREADS = 6


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Its scheduler counts steps, which most do, and which threads must not share."""
    return make_shop(tmp_path_factory.mktemp("shop"), EulerDiscreteScheduler)


def made(store: PipelineStore, spec: PipelineSpec, prompt: str, seed: int) -> bytes:
    with store.pipeline(spec) as pipe:
        return image_of(pipe, prompt, seed=seed)


def test_six_threads_make_the_images_that_one_makes(shop: Shop, store: PipelineStore) -> None:
    wanted = [(prompt, seed) for prompt in PROMPTS for seed in range(6)]
    expected = [shop.alone(prompt=prompt, seed=seed) for prompt, seed in wanted] * 3
    works = [partial(made, store, shop.spec(), *each) for each in wanted] * 3
    assert in_threads(works, THREADS) == expected


def test_six_threads_each_have_their_own_loras_and_scales(shop: Shop, store: PipelineStore) -> None:
    first, second = shop.first, shop.second
    compositions = [
        (),
        ((first, 0.7),),
        ((first, 0.3),),
        ((first, 0.7), (second, 0.4)),
        ((second, 0.4), (first, 0.7)),
    ]
    wanted = [(loras, prompt) for prompt in PROMPTS[:3] for loras in compositions]
    expected = [shop.alone(*loras, prompt=prompt) for loras, prompt in wanted] * 2
    works = [partial(made, store, shop.spec(*loras), prompt, 7) for loras, prompt in wanted] * 2
    assert in_threads(works, THREADS) == expected


def test_requests_with_the_same_loras_run_side_by_side(shop: Shop, store: PipelineStore) -> None:
    spec = shop.spec((shop.first, 0.7))
    meeting = threading.Barrier(3, timeout=60)

    def meet() -> bytes:
        with store.pipeline(spec) as pipe:
            meeting.wait()
            return image_of(pipe)

    assert in_threads([meet] * 3, 3) == [shop.alone((shop.first, 0.7))] * 3


def test_another_composition_waits_until_the_first_is_done(
    shop: Shop, store: PipelineStore
) -> None:
    order: list[str] = []
    entered, done = threading.Event(), threading.Event()

    def first() -> None:
        with store.pipeline(shop.spec((shop.first, 0.7))):
            entered.set()
            assert done.wait(60)
            order.append("first")

    def second() -> None:
        entered.wait(60)
        done.set()
        with store.pipeline(shop.spec((shop.second, 0.4))):
            order.append("second")

    in_threads([first, second], 2)
    assert order == ["first", "second"]


def test_threads_that_nest_two_bases_in_opposite_order_do_not_wait_for_ever(
    shop: Shop, store: PipelineStore, tmp_path: Path
) -> None:
    other = save_pipeline(tmp_path / "other", 3)
    one, two = shop.spec((shop.first, 0.7)), PipelineSpec(str(other))
    entered = threading.Barrier(2, timeout=60)

    def nest(outer: PipelineSpec, inner: PipelineSpec) -> bytes | str:
        with store.pipeline(outer):
            entered.wait()
            try:
                return made(store, inner, "a b c", 7)
            except UsageError as error:
                return str(error)

    inner_one, inner_two = shop.spec(), PipelineSpec(str(other), loras=[str(shop.second)])
    found = in_threads([partial(nest, one, inner_two), partial(nest, two, inner_one)], 2)
    assert len([each for each in found if "in the same order" in str(each)]) == 1
    assert made(store, shop.spec(), "a b c", 7) == shop.alone()


def test_a_pipeline_is_not_entered_while_others_cannot_load(
    shop: Shop, store: PipelineStore
) -> None:
    with loading(), pytest.raises(UsageError, match="within loading"):
        made(store, shop.spec(), "a", 7)


def test_a_model_that_keeps_state_while_it_works_is_used_by_one_at_a_time(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the decoders of videos: they keep frames on themselves, and have such a method."""
    monkeypatch.setattr(AutoencoderKL, "clear_cache", lambda self: None, raising=False)
    inside: list[int] = []

    def use(number: int) -> int:
        with store.pipeline(shop.spec()) as pipe:
            inside.append(number)
            image_of(pipe)
            most = len(inside)
            inside.remove(number)
            return most

    assert in_threads([partial(use, number) for number in range(6)], 3) == [1] * 6


# ------------------------------------------------------------------------------------------ loads


def whole(pipe: Any) -> None:
    tensors = [
        tensor
        for module in pipe.components.values()
        if isinstance(module, torch.nn.Module)
        for tensor in (*module.parameters(), *module.buffers())
    ]
    assert tensors
    assert not any(tensor.is_meta for tensor in tensors)


def test_four_loads_at_once_are_as_four_in_turn(shop: Shop, tmp_path: Path) -> None:
    bases = [shop.base, *(save_pipeline(tmp_path / f"base{seed}", seed) for seed in (1, 2, 3))]
    expected = [image_of(load_pipeline(base)) for base in bases]
    with opened_store(tmp_path / "one") as one, opened_store(tmp_path / "two") as two:
        for _ in range(3):
            works = [
                partial(made, store, PipelineSpec(str(base)), "a b c", 7)
                for base in bases
                for store in (one, two)
            ]
            found = in_threads(works, 4)
            assert found == [each for each in expected for _ in (one, two)]
            one.forget()
            two.forget()
    assert not torch.nn.Linear(1, 1).weight.is_meta


def test_own_loads_take_part_by_the_same_lock(shop: Shop, store: PipelineStore) -> None:
    def plain() -> bytes:
        with loading(), loading():
            pipeline = load_pipeline(shop.base)
        whole(pipeline)
        return image_of(pipeline)

    def stored() -> bytes:
        found = made(store, shop.spec(), "a b c", 7)
        store.forget()
        return found

    assert in_threads([plain, stored] * 4, 4) == [shop.alone()] * 8


def test_loads_beside_a_plain_one_are_whole_or_say_why(shop: Shop, tmp_path: Path) -> None:
    """In a process of its own, which may be broken afterwards."""
    program = f"""
import sys, threading
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline
from pathlib import Path
from pgetpy.errors import IntegrityError, PoisonedProcessError
from pgetpy.pipelines import PipelineSpec, load_checks
from tests.predictors.pipelines import image_of, load_pipeline
from tests.predictors.stores import opened_store
torch.set_num_threads(1)
base = Path({str(shop.base)!r})
expected = image_of(load_pipeline(base))
load_checks._PATIENCE = 1.0
stop = threading.Event()
def plainly():
    while not stop.is_set():
        try:
            load_pipeline(base)
        except Exception:
            pass
with opened_store(Path({str(tmp_path)!r})) as store:
    threads = [threading.Thread(target=plainly, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    outcomes = []
    for _ in range(12):
        try:
            with store.pipeline(PipelineSpec(str(base))) as pipe:
                outcomes.append("right" if image_of(pipe) == expected else "WRONG")
            store.forget()
        except (IntegrityError, PoisonedProcessError) as error:
            outcomes.append(type(error).__name__)
    stop.set()
    print("outcomes:", *outcomes)
"""
    root = Path(__file__).parents[2]
    with Run("-c", program, program=(sys.executable,), cwd=root) as run:
        ended = run.wait(240)
    lines = [line for line in ended.out.splitlines() if line.startswith("outcomes:")]
    assert lines, ended.err
    told = lines[0]
    assert "WRONG" not in told
    assert len(told.split()) == 13


def test_a_process_that_cannot_load_says_so_in_one_sentence(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_checks, "_PATIENCE", 0.2)
    with torch.device("meta"), pytest.raises(PoisonedProcessError) as caught:
        made(store, shop.spec(), "a", 7)
    assert "cannot load models any more" in str(caught.value)
    assert "restart" in str(caught.value)
    assert made(store, shop.spec(), "a b c", 7) == shop.alone()


def test_a_load_that_was_disturbed_for_a_moment_is_made_again(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = StableDiffusionPipeline.from_pretrained.__func__  # type: ignore[attr-defined]

    def disturbed(kind: Any, *given: Any, **options: Any) -> Any:
        pipeline = load(kind, *given, **options)
        loads.append(pipeline)
        if len(loads) == 1:
            pipeline.vae.to_empty(device="meta")
        return pipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", classmethod(disturbed))
    assert made(store, shop.spec(), "a b c", 7) == shop.alone()
    assert len(loads) == 2


def test_what_has_no_values_after_loading_is_named(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = StableDiffusionPipeline.from_pretrained.__func__  # type: ignore[attr-defined]

    def broken(kind: Any, *given: Any, **options: Any) -> Any:
        pipeline = load(kind, *given, **options)
        model = pipeline.text_encoder
        model.register_buffer("unsaved", torch.empty(1, device="meta"), persistent=False)
        model.plain = torch.empty(1, device="meta")
        return pipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", classmethod(broken))
    with pytest.raises(IntegrityError) as caught:
        made(store, shop.spec(), "a", 7)
    for name in ("text_encoder.unsaved", "text_encoder.plain"):
        assert name in str(caught.value)
