"""Which names are laid down, and in which order."""

from __future__ import annotations

import pytest

from pgetpy.core.compile_cache.layouts import LAYOUTS, may_hold, rank_of, unit_of

KEY = "c" + "a" * 51
GOOD = [
    ("inductor", f"aa/{KEY}.py"),
    ("inductor", f"aa/{KEY}.main.so"),
    ("inductor", f"fxgraph/aa/f{KEY}/{KEY}"),
    ("inductor", f"aotautograd/a{KEY}/{KEY}"),
    ("inductor", f"cache/{KEY}"),
    ("inductor", f"triton/0/{KEY.upper()}/kernel.cubin"),
    ("headers", f"{KEY}.h.gch"),
    ("headers", f"{KEY}.h"),
    ("triton", f"{KEY.upper()}/__grp__kernel.json"),
    ("vllm", "0a1b2c/rank_0_0/backbone/vllm_compile_cache.py"),
    ("vllm", "torch_aot_compile/0a1b2c/rank_3_1/model"),
]
BAD = [
    ("inductor", ""),
    ("inductor", f"/aa/{KEY}.py"),
    ("inductor", f"../aa/{KEY}.py"),
    ("inductor", f"aa/../{KEY}.py"),
    ("inductor", f"aa/..{KEY}"),
    ("inductor", "aa/.hidden"),
    ("inductor", f"aa/{KEY}.py\n"),
    ("inductor", f"aa/{KEY}\0.py"),
    ("inductor", f"aa\\{KEY}.py"),
    ("inductor", f"locks/{KEY}.lock"),
    ("inductor", f"aa/{KEY}.lock"),
    ("inductor", f"aa/.{KEY}.tmp"),
    ("inductor", f"aa/{KEY}.tmp"),
    ("inductor", f"aa/{KEY}.123.tmp.so"),
    ("inductor", f"aa/{KEY}/deeper/{KEY}.py"),
    ("inductor", "site-packages/torch/__init__.py"),
    ("inductor", "aa/" + "x" * 300),
    ("headers", "locks/a.lock"),
    ("headers", "a.sh"),
    ("triton", f"{KEY}/a/b"),
    ("triton", f"{KEY}"),
    ("vllm", "0a1b2c/config.py"),
    ("vllm", "0a1b2c/rank_0_0/../../../x"),
    ("cuda", "aa/bb"),
]


@pytest.mark.parametrize(("kind", "path"), GOOD)
def test_names_that_compilers_write_are_taken(kind: str, path: str) -> None:
    assert may_hold(kind, path)


@pytest.mark.parametrize(("kind", "path"), BAD)
def test_all_other_names_are_left_out(kind: str, path: str) -> None:
    assert not may_hold(kind, path)


def test_kernels_and_ranks_are_units() -> None:
    assert unit_of("triton", "K1/a.ptx") == "K1"
    assert unit_of("inductor", "triton/0/K1/a.ptx") == "triton/0/K1"
    assert unit_of("inductor", "aa/b.py") == "aa/b.py"
    assert unit_of("vllm", "ab/rank_0_0/backbone/x") == "ab/rank_0_0"
    assert unit_of("vllm", "torch_aot_compile/ab/rank_0_0/model") == "torch_aot_compile/ab/rank_0_0"
    assert [kind for kind, layout in LAYOUTS.items() if layout.whole] == ["vllm"]


def test_what_others_refer_to_comes_first() -> None:
    order = ["aa/x.so", "aa/x.py", "triton/0/K/__grp__k.json", "fxgraph/aa/k/x"]
    ranks = [rank_of("inductor", path) for path in order]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)
