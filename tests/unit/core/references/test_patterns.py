"""Patterns choose the files that huggingface_hub would choose, which judges them."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import filter_repo_objects
from hypothesis import given
from hypothesis import strategies as st

from pgetpy.core.references.patterns import Patterns
from pgetpy.errors import BadSettingError

_TEXTS = st.text("ab.*?[]!/-\\A", min_size=1, max_size=6)
_SOME = st.lists(_TEXTS, min_size=1, max_size=3)


@given(allow=st.none() | _TEXTS | _SOME, ignore=st.none() | _TEXTS | _SOME, names=_SOME)
def test_the_hubs_own_client_chooses_the_same(
    allow: str | list[str] | None, ignore: str | list[str] | None, names: list[str]
) -> None:
    chosen = list(filter_repo_objects(names, allow_patterns=allow, ignore_patterns=ignore))
    patterns = Patterns.of(allow, ignore)
    assert [name for name in names if patterns.admits(name)] == chosen


@given(allow=st.none() | _SOME, ignore=_SOME)
def test_they_are_read_back_as_they_were_printed(
    allow: list[str] | None, ignore: list[str]
) -> None:
    patterns = Patterns.of(allow, ignore)
    assert Patterns.parse(patterns.query) == patterns
    assert Patterns.parse(f"download=true&{patterns.query}") == patterns


def test_their_order_and_number_mean_nothing() -> None:
    assert Patterns.of(["b", "a", "b"]) == Patterns.of(("a", "b"))
    assert Patterns.of("a") == Patterns.of(["a"])
    assert Patterns.of("a") != Patterns.of(None, "a")


def test_the_default_is_everything() -> None:
    assert not Patterns.of(None, None)
    assert not Patterns.of(None, [])
    assert Patterns.of(None, "a")
    assert Patterns().admits("anything")


@pytest.mark.parametrize("allow", [[], (), "", ["a", ""], [None], [3], "a\nb", "\x00"])
def test_what_is_no_pattern_is_refused(allow: list[str]) -> None:
    with pytest.raises(BadSettingError, match="allow_patterns"):
        Patterns.of(allow)
