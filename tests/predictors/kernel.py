"""A program that compiles a kernel of Triton for a GPU that need not be there.

    python -m tests.predictors.kernel LOCATION [refuse]

With `refuse` a compilation fails, so that only what is found in the cache can be used.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend
from triton.compiler import ASTSource

from pgetpy.compile_cache import CompileCache


@triton.jit
def add(x, y, out, count, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    tl.store(out + places, tl.load(x + places, inside) + tl.load(y + places, inside), inside)


def _refuse(*_: Any) -> None:
    raise RuntimeError("the kernel is compiled, and not found")


def main(location: str, what: str = "") -> None:
    cache = CompileCache(location, kinds=("triton",))
    loaded = cache.load()
    if what == "refuse":
        CUDABackend.make_cubin = _refuse
        CUDABackend.make_ttir = _refuse
    pointers = dict.fromkeys(("x", "y", "out"), "*fp32")
    signature = {**pointers, "count": "i32", "BLOCK": "constexpr"}
    source = ASTSource(add, signature=signature, constexprs={"BLOCK": 128})
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    print(
        json.dumps(
            {
                "loaded": loaded.as_record(),
                "saved": cache.save().as_record(),
                "new_files": cache.report().new_files,
                "cubin": hashlib.sha256(kernel.asm["cubin"]).hexdigest(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
