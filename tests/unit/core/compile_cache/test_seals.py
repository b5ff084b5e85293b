"""Seals: what is believed of them, and how several become one."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from pgetpy.core.compile_cache.environments import CompileEnvironment
from pgetpy.core.compile_cache.seals import Seal, SealedFile, parse_seal, seal_name, unite
from pgetpy.errors import IntegrityError

ENVIRONMENT = CompileEnvironment({"torch": "2.13"}, {"glibc": "glibc 2.36"})
FILE = SealedFile("inductor", "aa/x.py", 5, "0" * 64, 0, False, 7)
SEAL = Seal("1" * 64, 100, [FILE], ENVIRONMENT)


def parsed(seal: Seal, secret: bytes | None = None, wanted: bytes | None = None) -> Seal:
    data = seal.to_json(secret)
    return parse_seal(data, seal_name(data, 12345), ENVIRONMENT.key, wanted)


def test_a_seal_survives_its_file() -> None:
    assert replace(parsed(SEAL), name="") == SEAL


def test_a_signature_is_asked_for() -> None:
    assert parsed(SEAL, b"s", b"s").pack == SEAL.pack
    assert parsed(SEAL, b"s").pack == SEAL.pack
    for mine in (None, b"other"):
        with pytest.raises(IntegrityError, match="not signed with our secret"):
            parsed(SEAL, mine, b"s")


def test_every_flipped_bit_is_seen() -> None:
    data = SEAL.to_json(b"s")
    name = seal_name(data, 1)
    for position in range(len(data)):
        wrong = bytearray(data)
        wrong[position] ^= 1 << (position % 8)
        with pytest.raises(IntegrityError):
            parse_seal(bytes(wrong), name, ENVIRONMENT.key, b"s")


def test_a_forged_seal_with_a_right_name_is_not_signed() -> None:
    body = json.loads(SEAL.to_json(b"s"))
    body["seal"]["files"]["inductor"][0][2] = "2" * 64
    data = json.dumps(body).encode()
    with pytest.raises(IntegrityError, match="not signed"):
        parse_seal(data, seal_name(data, 1), ENVIRONMENT.key, b"s")


@pytest.mark.parametrize("path", ["../x.py", "/etc/x.py", "aa/../../x.py", "locks/a.lock", "x\n"])
def test_names_that_no_compiler_writes_are_left_out(path: str) -> None:
    seal = replace(SEAL, files=[replace(FILE, path=path), FILE])
    assert [each.path for each in parsed(seal).files] == ["aa/x.py"]


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"offset": -5},
        {"sha256": "xyz"},
        {"mtime_ns": -1},
        {"size": 1 << 70},
    ],
)
def test_impossible_figures_are_damage(change: dict[str, int | str]) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        parsed(replace(SEAL, files=[replace(FILE, **change)]))  # type: ignore[arg-type]


def test_a_seal_of_another_key_is_not_taken() -> None:
    data = SEAL.to_json(None)
    with pytest.raises(IntegrityError, match="another key"):
        parse_seal(data, seal_name(data, 1), "f" * 64, None)


def test_the_first_seal_of_a_path_wins_whatever_the_order_they_are_seen_in() -> None:
    seals = [
        Seal(f"{n:064x}", 1, [replace(FILE, sha256=f"{n:064x}")], ENVIRONMENT, f"{n:020d}")
        for n in range(8)
    ]
    for seed in range(20):
        mixed = list(seals)
        random.Random(seed).shuffle(mixed)
        (held,) = unite(mixed)[FILE.place]
        assert held.seal.name == f"{0:020d}"
    (held,) = unite(seals, broken={seals[0].pack})[FILE.place]
    assert held.seal is seals[1]


def test_all_versions_of_a_table_count() -> None:
    table = replace(FILE, path="cache/k")
    seals = [
        Seal(f"{n:064x}", 1, [replace(table, sha256=f"{n % 2:064x}")], ENVIRONMENT, f"{n:020d}")
        for n in range(4)
    ]
    assert [each.file.sha256[-1] for each in unite(seals)[table.place]] == ["0", "1"]
