"""What people who test predictors are given: a network in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgetpy import Policy, WeightsDownloadCache
from pgetpy.errors import HttpStatusError, NotAllowedError
from pgetpy.testing import Stored, Turn, network
from tests.support.bodies import body

URL = "http://192.0.2.1/model.bin"
BODY = body(300_000)


def test_what_a_cache_fetches_comes_from_memory_and_breaks_off_by_the_script(
    tmp_path: Path,
) -> None:
    weights = Stored(BODY, script=[Turn(cut_after=100)])
    with network({URL: weights}) as transport, WeightsDownloadCache(tmp_path) as cache:
        assert cache.ensure(URL).read_bytes() == BODY
    assert [request.url for request in transport.requests] == [URL, URL]


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with (
        network({}),
        WeightsDownloadCache(tmp_path) as cache,
        pytest.raises(HttpStatusError) as caught,
    ):
        cache.ensure(URL)
    assert caught.value.status == 404


def test_a_policy_holds_there_too(tmp_path: Path) -> None:
    policy = Policy.public()
    with (
        network({URL: Stored(BODY)}) as transport,
        WeightsDownloadCache(tmp_path, policy=policy) as cache,
        pytest.raises(NotAllowedError),
    ):
        cache.ensure(URL)
    assert transport.requests == []
