"""Starts with the real torch and huggingface_hub: kept compiled code, flags, and offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_START = """
import json, sys
from pgetpy.pipelines import boot

with boot.import_ahead("torch", "huggingface_hub:HfApi", "transformers:CLIPTextModel"):
    pass
import torch, transformers.utils.hub
from huggingface_hub import HfApi, constants
from pgetpy.compile_cache import CompileCache

before = torch.get_float32_matmul_precision()
tuning = boot.tune()
tuned = torch.get_float32_matmul_precision()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)).eval()
model = torch.compile(model)

def step(model, height, width):
    with torch.inference_mode():
        return model(torch.ones(height, 16))

made = boot.warm_up(model, [8], cache=CompileCache(sys.argv[1], name="t"), call=step)
output = step(model, 8, 8).flatten().tolist()
offline = boot.go_offline()
try:
    HfApi().model_info("owner/name")
    refused = ""
except Exception as error:
    refused = type(error).__name__
offline.undo()
tuning.undo()
report = boot.report("small")
report.save(sys.argv[2])
print(json.dumps({
    "loaded": made.loaded.outcome,
    "reason": made.loaded.reason,
    "compiling": made.compiling,
    "output": output,
    "refused": refused,
    "online": not constants.HF_HUB_OFFLINE,
    "flags": [before, tuned, torch.get_float32_matmul_precision()],
    "kinds": sorted({stage.kind for stage in report.timeline.stages}),
}))
"""


def start(folder: Path, number: int) -> dict[str, Any]:
    """Return what a start in a process of its own says, with compilers' folders of its own."""
    own = folder / str(number)
    done = subprocess.run(
        [sys.executable, "-c", _START, str(folder / "kept"), str(folder / f"{number}.svg")],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"),
            "TRITON_CACHE_DIR": str(own / "triton"),
            "HF_ENDPOINT": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_second_start_loads_what_the_first_has_compiled(tmp_path: Path) -> None:
    first, second = start(tmp_path, 1), start(tmp_path, 2)
    assert first["loaded"] == "miss", first["reason"]
    assert second["loaded"] == "loaded", second["reason"]
    assert second["output"] == first["output"]
    assert second["compiling"] < first["compiling"]
    for each in (first, second):
        before, tuned, after = each["flags"]
        assert before == after != tuned
        assert each["refused"] == "OfflineModeIsEnabled"
        assert each["online"]
        assert {"python", "import", "compile"} <= set(each["kinds"])
    assert (tmp_path / "2.svg").read_text().startswith("<svg")
