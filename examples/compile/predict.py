"""A compiled model whose second start compiles nothing.

What torch.compile makes in the first start is kept in COMPILE_CACHE, a folder or s3://BUCKET/PREFIX.
"""

import os
import time

import torch
from cog import BasePredictor, Input, current_scope

from pgetpy.compile_cache import CompileCache

LOCATION = os.environ.get("COMPILE_CACHE", "/src/compiled")


class Predictor(BasePredictor):
    def setup(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)
        )
        self.example = torch.randn(8, 16, device=device)
        self.cache = CompileCache(LOCATION, name="example-1")
        started = time.monotonic()
        with self.cache.around() as loaded, torch.inference_mode():
            self.model = torch.compile(model.to(device).eval())
            self.model(self.example)  # compiles, or finds what is loaded
        self.loaded = loaded.outcome
        self.seconds = time.monotonic() - started

    @torch.inference_mode()
    def predict(self, scale: float = Input(description="What the input is multiplied by")) -> str:
        found = self.cache.report()
        current_scope().record_metric("compile_cache", self.loaded)
        current_scope().record_metric("graphs_compiled", found.misses or 0)
        current_scope().record_metric("files_compiled_since_warm_up", found.new_files)
        current_scope().record_metric("warm_up_seconds", round(self.seconds, 2))
        return " ".join(f"{each:.6f}" for each in self.model(self.example * scale)[0].tolist())
