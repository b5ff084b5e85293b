"""Tensors of a file: from the network, from the cache, from a path."""

from __future__ import annotations

import numpy as np
import pytest

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.errors import BadSettingError, DigestMismatchError

from ..support.server import Server
from ..weights.made import MIB, serve
from .made import file_of, floats

MADE = {"a.weight": floats(MIB // 2, "a"), "a.bias": floats(100, "b"), "b.weight": floats(MIB, "c")}


def test_tensors_come_from_the_network_and_then_from_the_cache(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, file_of(MADE), "/model.safetensors")
    for _ in range(2):
        found = tensors.load(url, cache=cache, framework="numpy")
        assert list(found) == list(MADE)
        for name, made in MADE.items():
            assert found[name].tobytes() == made.data
            assert (found[name].dtype, list(found[name].shape)) == (np.float32, list(made.shape))
    assert cache.cache_info()[:2] == (1, 1)


def test_only_what_is_wanted_is_asked_for(server: Server, cache: WeightsDownloadCache) -> None:
    data = file_of(MADE)
    url = serve(server, data, "/model.safetensors")
    found = tensors.load(url, only=["b.weight"], cache=cache, framework="numpy")
    assert {name: each.tobytes() for name, each in found.items()} == {
        "b.weight": MADE["b.weight"].data
    }
    asked = sum((stop or 0) - (start or 0) for start, stop in server.asked("/model.safetensors"))
    assert asked <= 1.02 * len(MADE["b.weight"].data)
    assert cache.lookup(url) is None
    found = tensors.load(url, only="a.", cache=cache, framework="numpy")
    assert list(found) == ["a.weight", "a.bias"]
    with pytest.raises(BadSettingError, match="c.weight"):
        tensors.load(url, only=["c.weight"], cache=cache, framework="numpy")


def test_a_stream_of_wrong_bytes_raises_at_its_end(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, file_of(MADE), "/model.safetensors")
    got = []
    with pytest.raises(DigestMismatchError):
        for name, _ in tensors.stream(url, cache=cache, digest="0" * 64, framework="numpy"):
            got.append(name)
    assert cache.lookup(url) is None
