"""Keys and facts of environments."""

from __future__ import annotations

import json

import pytest

from pgetpy.core.compile_cache.environments import (
    CompileEnvironment,
    isa_tier,
    parse_environment,
)
from pgetpy.errors import IntegrityError

AVX512 = {"avx512f", "avx512dq", "avx512vl", "avx512bw", "fma", "avx2"}
REQUIRED = {"torch": "2.13.0", "isa": "avx2", "gpus": ["NVIDIA H100"], "name": "m"}


@pytest.mark.parametrize(
    ("flags", "capability", "tier"),
    [
        (set(), "", "default"),
        ({"avx2"}, "", "default"),
        ({"avx2", "fma"}, "", "avx2"),
        (AVX512, "", "avx512"),
        (AVX512 - {"avx512bw"}, "", "avx2"),
        (AVX512 | {"avx512_vnni"}, "", "avx512_vnni"),
        (AVX512 | {"avx512_vnni", "amx_tile", "amx_bf16", "amx_int8"}, "", "amx"),
        (AVX512, "avx2", "avx2"),
        (AVX512, "default", "default"),
        (set(), "avx2", "default"),
    ],
)
def test_the_tier_is_what_inductor_would_choose(
    flags: set[str], capability: str, tier: str
) -> None:
    assert isa_tier("x86_64", flags, capability) == tier


def test_arm_has_tiers_of_its_own() -> None:
    assert isa_tier("aarch64", {"asimd", "sve"}) == "sve"
    assert isa_tier("arm64", {"asimd"}) == "neon"
    assert isa_tier("riscv64", set()) == "default"


@pytest.mark.parametrize("name", REQUIRED)
def test_each_required_fact_changes_the_key(name: str) -> None:
    other = CompileEnvironment({**REQUIRED, name: "another"}, {})
    mine = CompileEnvironment(REQUIRED, {})
    assert other.key != mine.key
    assert len(mine.differing(other)) == 1
    assert mine.differing(other)[0].startswith(f"{name}: another, here ")


def test_facts_do_not_change_the_key() -> None:
    one = CompileEnvironment(REQUIRED, {"prefix": "/a"})
    two = CompileEnvironment(dict(reversed(REQUIRED.items())), {"prefix": "/b"})
    assert one.key == two.key


def test_the_tag_names_the_tier() -> None:
    assert CompileEnvironment(REQUIRED, {}).cache_tag == "isa-avx2"


def test_what_a_shared_object_may_need_is_told() -> None:
    mine = CompileEnvironment(REQUIRED, {"cpu_flags": ["avx2", "fma"], "glibc": "glibc 2.31"})
    more = CompileEnvironment(REQUIRED, {"cpu_flags": ["avx2", "gfni"], "glibc": "glibc 2.31"})
    newer = CompileEnvironment(REQUIRED, {"cpu_flags": [], "glibc": "glibc 2.36"})
    older = CompileEnvironment(REQUIRED, {"cpu_flags": [], "glibc": "glibc 2.9"})
    assert mine.lacks(more) == "the processor lacks gfni"
    assert mine.lacks(newer) == "glibc is older than glibc 2.36"
    assert mine.lacks(older) == mine.lacks(mine) == ""


def test_an_environment_survives_its_file() -> None:
    one = CompileEnvironment(REQUIRED, {"glibc": "glibc 2.36"})
    assert parse_environment(one.to_json(), "env.json") == one


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", json.dumps({"required": 1}).encode()])
def test_a_damaged_file_is_said_to_be_one(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_environment(data, "env.json")
