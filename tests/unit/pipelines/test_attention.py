"""Attention backends are tried with a model's own inputs and pinned on its processors."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import numpy as np
import pytest

from pgetpy.errors import DeviceFaultError, MissingPackageError, UsageError
from pgetpy.pipelines import attention
from tests.unit.pipelines.stand_ins import (
    FLOAT32,
    Model,
    OldProcessor,
    Registry,
    Tensor,
    make_torch,
    math_attention,
)


def install(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> Any:
    """Have imports of torch and diffusers find stand-ins; return the registry's module."""
    from types import ModuleType

    diffusers, models = ModuleType("diffusers"), ModuleType("diffusers.models")
    dispatch = registry.module()
    models.attention_dispatch = dispatch  # type: ignore[attr-defined]
    diffusers.models = models  # type: ignore[attr-defined]
    # Arrays of numpy in float16 are slow, and no stand-in looks at lengths.
    monkeypatch.setattr(attention, "_LENGTH", 37)
    monkeypatch.setitem(sys.modules, "torch", make_torch())
    monkeypatch.setitem(sys.modules, "diffusers", diffusers)
    monkeypatch.setitem(sys.modules, "diffusers.models", models)
    monkeypatch.setitem(sys.modules, "diffusers.models.attention_dispatch", dispatch)
    return dispatch


def wrong(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    right = math_attention(query, key, value, mask)
    right.array[0, 0, 0, 0] += 0.5
    return right


def raising(error: Exception) -> Any:
    def call(*_: Any) -> Tensor:
        raise error

    return call


def test_a_good_package_is_chosen_and_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(flash=math_attention)
    dispatch = install(monkeypatch, registry)
    model = Model()
    choice = attention.choose(model, ("flash", "native"))
    assert (choice.name, choice.processors, model.pinned) == ("flash", 2, ["flash", "flash"])
    assert dispatch._AttentionBackendRegistry._active_backend == "the default of the process"
    # Each of the model's two shapes was tried.
    assert registry.called.count("flash") == 2


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        (raising(ImportError("undefined symbol: _ZN3c10")), "calling it raised ImportError: undef"),
        (raising(TypeError("'NoneType' object is not callable")), "calling it raised TypeError"),
        (raising(RuntimeError("no mask")), "calling it raised RuntimeError: no mask"),
        (wrong, "its result differs from exact math by 0.5"),
        (lambda q, *_: Tensor(np.full(q.shape, np.nan, q.dtype)), "not finite"),
        (lambda q, *_: Tensor(q.array[:, :1]), "a result of shape (2, 1, "),
        (lambda q, *_: q.float(), "a result of float32, not float16"),
    ],
    ids=["bad-abi", "old", "raising", "wrong", "nan", "shape", "dtype"],
)
def test_a_broken_package_is_refused_and_native_used(
    monkeypatch: pytest.MonkeyPatch, backend: Any, words: str
) -> None:
    dispatch = install(monkeypatch, Registry(flash=backend))
    model = Model()
    choice = attention.choose(model, ("flash",))
    assert choice.name == "native"
    assert words in choice.refused["flash"]
    assert model.pinned == ["native", "native"]
    assert dispatch._AttentionBackendRegistry._active_backend == "the default of the process"


def test_an_absent_package_is_refused_before_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(flash=math_attention)
    registry.missing["flash"] = RuntimeError("`flash_attn` is not installed")
    install(monkeypatch, registry)
    choice = attention.choose(Model(), ("flash", "_flash_3"))
    assert choice.refused == {
        "flash": "selecting it raised RuntimeError: `flash_attn` is not installed",
        "_flash_3": "the installed diffusers has no such backend",
    }
    assert "flash" not in registry.called


def test_what_cannot_take_a_mask_is_refused_where_there_will_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def maskless(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        return math_attention(query, key, value, None)

    install(monkeypatch, Registry(flash=maskless))
    assert attention.choose(Model(), ("flash",)).name == "flash"
    masked = attention.choose(Model(), ("flash",), masked=True)
    assert masked.name == "native"
    assert "differs from exact math" in masked.refused["flash"]


def test_kernels_of_the_hub_are_fetched_only_if_named(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(flash_hub=math_attention)
    install(monkeypatch, registry)
    assert attention.choose(Model(FLOAT32)).name == "native"
    assert registry.downloaded == ["native"]
    assert attention.choose(Model(), ("flash_hub",)).name == "flash_hub"
    assert "flash_hub" in registry.downloaded


def test_a_model_without_such_processors_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry(flash=math_attention)
    install(monkeypatch, registry)
    choice = attention.choose(Model(processor=OldProcessor), ("flash",))
    assert (choice.name, choice.processors, registry.called) == ("", 0, [])
    assert choice.refused == {"flash": "the model's attention processors do not take a backend"}
    assert choice.lines()[0] == "attention: the model keeps its own"


def test_nothing_is_pinned_if_all_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = raising(RuntimeError("broken"))
    install(monkeypatch, Registry(native=broken, _native_math=broken))
    model = Model()
    choice = attention.choose(model)
    assert (choice.name, choice.processors, model.pinned) == ("", 0, [None, None])


def test_a_fault_of_the_gpu_ends_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = raising(RuntimeError("CUDA error: an illegal memory access was encountered"))
    dispatch = install(monkeypatch, Registry(flash=fault))
    model = Model()
    with pytest.raises(DeviceFaultError, match="when the attention backend flash was tried"):
        attention.choose(model, ("flash",))
    assert model.pinned == [None, None]
    assert dispatch._AttentionBackendRegistry._active_backend == "the default of the process"


def test_an_interruption_goes_through_and_the_registry_is_set_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any) -> Tensor:
        raise KeyboardInterrupt

    dispatch = install(monkeypatch, Registry(flash=interrupted))
    with pytest.raises(KeyboardInterrupt):
        attention.choose(Model(), ("flash",))
    assert dispatch._AttentionBackendRegistry._active_backend == "the default of the process"


def test_the_choice_is_logged_and_can_be_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, Registry(flash=wrong))
    with caplog.at_level(logging.DEBUG, logger="pgetpy.pipelines"):
        choice = attention.choose(Model(), ("flash",))
    assert "attention backend native for 2 processors" in caplog.text
    assert "attention backend flash was not chosen: its result differs" in caplog.text
    record = json.loads(json.dumps(choice.record()))
    assert (record["backend"], record["processors"]) == ("native", 2)
    assert choice.lines()[1].startswith("  not flash: its result differs")
    metrics = choice.metrics()
    assert (metrics["attention_backend"], metrics["attention_refused"]) == ("native", "flash")


def test_mistakes_of_the_caller_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Registry())
    with pytest.raises(UsageError, match=r"such as pipe\.transformer"):
        attention.choose(object())
    with pytest.raises(UsageError, match="a tuple of names"):
        attention.choose(Model(), "flash")
    with pytest.raises(UsageError, match="load the model's weights"):
        attention.choose(Model(device="meta"))


def test_without_diffusers_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pgetpy\[pipelines\]'"):
        attention.choose(Model())
