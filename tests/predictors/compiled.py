"""A program that compiles a model with a compile cache, and says in JSON how that went.

python -m tests.predictors.compiled LOCATION [load|save-killed|load-killed]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from pgetpy.compile_cache import CompileCache


def _die_at_rename(left: int) -> None:
    """Kill this process at a rename of a file."""

    def hook(event: str, args: Any) -> None:
        nonlocal left
        if event == "os.rename":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(location: str, what: str = "") -> None:
    cache = CompileCache(location)
    if what.startswith("load-killed"):
        _die_at_rename(int(what.rpartition("-")[2]))
    loaded = cache.load()
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4))
    started = time.monotonic()
    with torch.inference_mode():
        compiled = torch.compile(model.to(device).eval())
        output = compiled(torch.randn(8, 16).to(device)).cpu()
    seconds = time.monotonic() - started
    report = cache.report()
    if what == "save-killed":
        _die_at_rename(1)
    saved = cache.save()
    print(
        json.dumps(
            {
                "loaded": loaded.as_record(),
                "saved": saved.as_record(),
                "hits": report.hits,
                "misses": report.misses,
                "new_files": report.new_files,
                "seconds": seconds,
                "output": output.numpy().tobytes().hex(),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
