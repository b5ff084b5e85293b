"""Which tensors are wanted."""

from __future__ import annotations

import pytest

from pgetpy.core.tensors.choices import Choice
from pgetpy.errors import BadSettingError

NAMES = ("te.a", "te.b", "unet.a", "unet")


def chosen(only: str | list[str] | None) -> list[str]:
    choice = Choice.of(only)
    return [name for name in NAMES if name in choice]


def test_nothing_named_is_all() -> None:
    for only in (None, ""):
        assert not Choice.of(only)
        assert chosen(only) == list(NAMES)
        Choice.of(only).check([], "it")


def test_a_text_is_the_beginning_of_names() -> None:
    assert chosen("te.") == ["te.a", "te.b"]
    assert chosen("unet") == ["unet.a", "unet"]
    assert chosen(".a") == []


def test_texts_are_names_and_no_beginnings() -> None:
    assert chosen(["unet", "te"]) == ["unet"]
    assert chosen(["te.b", "te.b", "te.a"]) == ["te.a", "te.b"]


def test_no_names_are_a_choice_of_nothing() -> None:
    choice = Choice.of([])
    assert choice
    assert chosen([]) == []
    choice.check(NAMES, "it")


@pytest.mark.parametrize(
    ("only", "said"),
    [
        (["te.a", "te.c", "te.d"], "te.c, te.d"),
        ("vae.", "vae."),
        ([f"n{at}" for at in range(9)], "n0, n1, n2, n3, n4, ..."),
    ],
)
def test_what_is_not_there_is_named(only: str | list[str], said: str) -> None:
    with pytest.raises(BadSettingError) as caught:
        Choice.of(only).check(NAMES, "https://host/model")
    assert caught.value.name == "only"
    assert caught.value.value == said
    assert "https://host/model" in str(caught.value)
