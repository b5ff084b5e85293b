"""The bars of diffusers and transformers: on a terminal, and not in a log."""

from __future__ import annotations

import io
import sys

import pytest
from diffusers.utils import logging as diffusers_bars
from transformers.utils import logging as transformers_bars

from pgetpy.pipelines import PipelineSpec, PipelineStore

from .stores import Shop


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make(store: PipelineStore, spec: PipelineSpec) -> None:
    """Load, put a LoRA on it, and bake."""
    with store.pipeline(spec), store.bake(spec):
        pass


def test_a_log_has_no_bars_and_they_are_as_before_afterwards(
    shop: Shop, store: PipelineStore, capfd: pytest.CaptureFixture[str]
) -> None:
    make(store, shop.spec((shop.first, 0.7)))
    assert "%|" not in "".join(capfd.readouterr())
    assert diffusers_bars.is_progress_bar_enabled()
    assert transformers_bars.is_progress_bar_enabled()


def test_bars_that_the_user_has_disabled_stay_so(shop: Shop, store: PipelineStore) -> None:
    diffusers_bars.disable_progress_bar()
    try:
        make(store, shop.spec((shop.first, 0.7)))
        assert not diffusers_bars.is_progress_bar_enabled()
    finally:
        diffusers_bars.enable_progress_bar()


def test_bars_are_back_after_a_load_that_failed(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    during = []

    def broken(*_: object, **__: object) -> None:
        during.append(diffusers_bars.is_progress_bar_enabled())
        raise KeyError

    kind = "diffusers.StableDiffusionPipeline.from_pretrained"
    monkeypatch.setattr(kind, broken)
    with pytest.raises(Exception, match="cannot be loaded: KeyError"):
        make(store, shop.spec())
    assert during == [False]
    assert diffusers_bars.is_progress_bar_enabled()


def test_a_terminal_shows_them(
    shop: Shop, store: PipelineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with store.pipeline(shop.spec()):
        pass
    assert "Loading pipeline components" in terminal.getvalue()
