"""Compile caches: what torch.compile and Triton have compiled, saved once and loaded at each start.

    from pgetpy.compile_cache import CompileCache

    cache = CompileCache("/src/compiled", name="flux-1.1")
    with cache.around():
        model = torch.compile(model)
        model(example)

Belongs here: looking at this machine and its live folders, packing, and laying down. What a key is
made of, which names are allowed and how saves are united is decided in `core/compile_cache`. torch
is never imported here, and nothing is unpickled.
"""

from __future__ import annotations

from pgetpy.compile_cache.cache import CompileCache
from pgetpy.compile_cache.operations import BackgroundOperation
from pgetpy.compile_cache.results import CompileCacheReport, CompileCacheResult

__all__ = ["BackgroundOperation", "CompileCache", "CompileCacheReport", "CompileCacheResult"]
