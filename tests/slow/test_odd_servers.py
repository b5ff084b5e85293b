"""Random servers with odd notions of ranges, over sockets: what curl gets whole is had."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pgetpy.errors import PgetError
from tests.support.bodies import body
from tests.support.fetching import fetch
from tests.support.odd_servers import CHOICES, Oddity, OddServer
from tests.support.odd_sockets import FRAMINGS, served

pytestmark = [pytest.mark.soak, pytest.mark.timeout(120)]

BODY = body(3_000_017)


def random_oddity(chance: random.Random) -> Oddity:
    """Return an oddity, but for late answers, which this server does not know."""
    chosen: dict[str, Any] = {name: chance.choice(choices) for name, choices in CHOICES.items()}
    return replace(Oddity(**chosen), late=0.0)


@pytest.mark.parametrize("seed", range(300))
def test_what_curl_gets_is_had(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    oddity, framing = random_oddity(chance), chance.choice(FRAMINGS)
    size = chance.choice([0, 1, 1000, 1 << 20, len(BODY)])
    chunk_size = chance.choice([200_000, 125_000_000])
    with served(OddServer(BODY[:size], oddity), framing) as url:
        command = ["curl", "-sfL", "--max-time", "60", "-o", tmp_path / "curl", url]
        curl = subprocess.run(command, check=False).returncode == 0
    if curl:
        there = (tmp_path / "curl").read_bytes() if (tmp_path / "curl").exists() else b""
        assert there == BODY[:size]
    limited = oddity.answers is not None and chunk_size < size
    with served(OddServer(BODY[:size], oddity), framing) as url:
        try:
            result = fetch(url, tmp_path / "ours", chunk_size=chunk_size, retries=3)
        except PgetError as error:
            if curl and not (oddity.spends_its_answer or limited):
                raise AssertionError(f"curl gets it from {oddity} ({framing})") from error
        else:
            assert (tmp_path / "ours").read_bytes() == BODY[:size]
            assert result.size == size
