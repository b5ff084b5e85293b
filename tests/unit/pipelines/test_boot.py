"""A fast start: flags, imports beside other work, warm-ups, and the report."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pgetpy.core.report.events import Finished, Progressed
from pgetpy.core.report.results import DownloadResult
from pgetpy.errors import BadSettingError, DestinationError
from pgetpy.pipelines import boot
from pgetpy.pipelines.recorder import BootRecorder


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> BootRecorder:
    """The recorder of a process that has just begun."""
    fresh = BootRecorder()
    monkeypatch.setattr(boot, "_RECORDER", fresh)
    return fresh


def stages() -> dict[str, Any]:
    return {stage.name: stage for stage in boot.report().timeline.stages}


# --------------------------------------------------------------------------------------- stages


def test_a_start_begins_with_the_process_and_stages_are_added() -> None:
    with boot.stage("pipeline", "load") as notes:
        notes.note = "2 components"
    first, second = boot.report().timeline.stages
    assert (first.name, first.kind, first.start) == ("interpreter and imports", "python", 0.0)
    assert first.stop > 0.0
    assert (second.name, second.kind, second.note) == ("pipeline", "load", "2 components")


def test_a_stage_that_raises_is_recorded_as_failed() -> None:
    with pytest.raises(RuntimeError), boot.stage("pipeline", "load"):
        raise RuntimeError("no")
    assert stages()["pipeline"].failed


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with (
        pytest.raises(BadSettingError, match="is not one of python, download"),
        boot.stage("x", "y"),
    ):
        pass


def test_names_are_shown_without_secrets() -> None:
    with boot.stage("https://user:hunter2@h/a?X-Amz-Signature=hunter2", "load"):
        pass
    assert "hunter2" not in str(boot.report())


def finished(**changes: Any) -> Finished:
    fields: dict[str, Any] = {
        "url": "https://h/models/unet.safetensors?sig=***",
        "final_url": "https://h/",
        "dest": "x",
        "size": 5_000_000_000,
        "digest": None,
        "seconds": 0.25,
        "bytes_per_second": 1.0,
    }
    return Finished(0, DownloadResult(**{**fields, **changes}))


def test_downloads_are_recorded_when_they_have_finished() -> None:
    boot.progress(Progressed(0, 1, 2, 1))
    boot.progress(finished())
    boot.progress(finished(url="https://h/b", served_from="remote"))
    boot.progress(finished(url="https://h/c", served_from="cache"))
    found = stages()
    assert found["models/unet.safetensors"].kind == "download"
    assert found["models/unet.safetensors"].size == 5_000_000_000
    assert found["models/unet.safetensors"].seconds <= 0.2501
    assert found["b"].note == "from remote"
    assert "c" not in found


def test_a_server_that_goes_on_downloading_does_not_fill_memory() -> None:
    for _ in range(5000):
        boot.progress(finished())
    assert len(boot.report().timeline.stages) == 2000


# -------------------------------------------------------------------------------------- imports


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("ahead_"):
            del sys.modules[name]


def test_imports_run_beside_the_block_and_are_waited_for(package: Path) -> None:
    (package / "ahead_a.py").write_text(
        "import threading, ahead_gate\nahead_gate.go.wait()\nthread = threading.get_ident()\n"
    )
    gate: Any = ModuleType("ahead_gate")
    gate.go = threading.Event()
    sys.modules["ahead_gate"] = gate
    with boot.import_ahead("ahead_a"):
        # The import is under way and cannot end before this block says so.
        gate.go.set()
    assert sys.modules["ahead_a"].thread != threading.get_ident()
    assert stages()["ahead_a"].kind == "import"


def test_a_name_of_a_lazy_package_is_used_as_well(package: Path) -> None:
    (package / "ahead_lazy.py").write_text(
        "used = []\ndef __getattr__(name):\n    used.append(name)\n    return 1\n"
    )
    boot.import_ahead("ahead_lazy:Pipeline").wait()
    assert sys.modules["ahead_lazy"].used == ["Pipeline"]


def test_a_failed_import_is_raised_where_it_is_waited_for(package: Path) -> None:
    (package / "ahead_bad.py").write_text("raise OSError('libcuda.so.1: not found')\n")
    ahead = boot.import_ahead("ahead_bad", "json")
    with pytest.raises(OSError, match="libcuda"):
        ahead.wait()
    assert stages()["ahead_bad"].failed
    with pytest.raises(ImportError), boot.import_ahead("ahead_absent"):
        pass


def test_an_error_of_the_block_is_not_replaced_by_that_of_an_import() -> None:
    with pytest.raises(KeyError), boot.import_ahead("ahead_absent"):
        raise KeyError


def test_imports_without_a_module_are_refused() -> None:
    for names in ((), ("",), (":Name",)):
        with pytest.raises(BadSettingError):
            boot.import_ahead(*names)


# ---------------------------------------------------------------------------------------- flags


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for torch with its flags."""
    module: Any = ModuleType("torch")
    module.precision, module.threads = "highest", 8
    module.get_float32_matmul_precision = lambda: module.precision
    module.set_float32_matmul_precision = lambda value: setattr(module, "precision", value)
    module.get_num_threads = lambda: module.threads
    module.set_num_threads = lambda value: setattr(module, "threads", value)
    module.backends = SimpleNamespace(cudnn=SimpleNamespace(benchmark=False))
    config: Any = ModuleType("torch._inductor.config")
    config.conv_1x1_as_mm = False
    config.coordinate_descent_tuning = False
    config.epilogue_fusion = True
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._inductor", ModuleType("torch._inductor"))
    monkeypatch.setitem(sys.modules, "torch._inductor.config", config)
    module.config = config
    return module


def test_flags_are_set_and_set_back(torch: Any) -> None:
    tuning = boot.tune(benchmark=True, inductor=True, threads=2)
    assert (torch.precision, torch.threads, torch.backends.cudnn.benchmark) == ("high", 2, True)
    assert (torch.config.conv_1x1_as_mm, torch.config.epilogue_fusion) == (True, False)
    assert tuning.changed["float32_matmul_precision"] == ("highest", "high")
    # This release of torch does not have it.
    name = "torch._inductor.config.coordinate_descent_check_all_directions"
    assert tuning.skipped[name].startswith("AttributeError")
    tuning.undo()
    tuning.undo()
    assert (torch.precision, torch.threads, torch.backends.cudnn.benchmark) == ("highest", 8, False)
    assert (torch.config.conv_1x1_as_mm, torch.config.epilogue_fusion) == (False, True)


def test_what_changes_from_start_to_start_is_left_alone_by_default(torch: Any) -> None:
    with boot.tune() as tuning:
        assert list(tuning.changed) == ["float32_matmul_precision"]
    assert torch.precision == "highest"


def test_what_something_else_has_set_since_stays(torch: Any) -> None:
    tuning = boot.tune()
    torch.precision = "medium"
    tuning.undo()
    assert torch.precision == "medium"


def test_without_torch_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    tuning = boot.tune(benchmark=True)
    assert (tuning.changed, tuning.skipped) == ({}, {"torch": "it is not installed"})


def test_offline_is_told_to_libraries_that_were_imported_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    constants: Any = ModuleType("huggingface_hub.constants")
    constants.HF_HUB_OFFLINE = False
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "0")
    with boot.go_offline():
        assert constants.HF_HUB_OFFLINE is True
        assert (os.environ["HF_HUB_OFFLINE"], os.environ["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    assert constants.HF_HUB_OFFLINE is False
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["TRANSFORMERS_OFFLINE"] == "0"


# -------------------------------------------------------------------------------------- warm-up


class CompileCacheStandIn:
    """Notes what happens around the block."""

    def __init__(self) -> None:
        self.events: list[str] = []

    @contextlib.contextmanager
    def around(self) -> Iterator[Any]:
        self.events.append("load")
        yield SimpleNamespace(outcome="partial", reason="one pack is damaged")
        self.events.append("save")


def test_each_size_is_made_once_inside_the_compile_cache() -> None:
    cache = CompileCacheStandIn()

    def pipeline(**arguments: Any) -> None:
        cache.events.append(f"{arguments['width']} x {arguments['height']}")
        assert arguments["num_inference_steps"] == 1
        assert (arguments["prompt"], arguments["guidance_scale"]) == ("a cat", 1.0)

    sizes = [1024, (768, 1344)]
    warm = boot.warm_up(pipeline, sizes, cache=cache, prompt="a cat", guidance_scale=1.0)
    assert cache.events == ["load", "1024 x 1024", "1344 x 768", "save"]
    assert list(warm.seconds) == [(1024, 1024), (768, 1344)]
    assert warm.loaded.outcome == "partial"
    found = stages()
    assert found["compiled code, loading"].note == "partial (one pack is damaged)"
    assert found["compiled code, saving"].kind == "compile"
    assert found["1344 x 768"].kind == "warm-up"


def test_nothing_is_saved_if_the_warm_up_fails() -> None:
    cache = CompileCacheStandIn()

    def pipeline(**_: Any) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        boot.warm_up(pipeline, [512], cache=cache)
    assert cache.events == ["load"]
    assert stages()["512 x 512"].failed


def test_another_call_can_be_given() -> None:
    calls: list[Any] = []
    boot.warm_up("pipe", [(64, 32)], call=lambda *arguments: calls.append(arguments))
    assert calls == [("pipe", 64, 32)]


def test_seconds_of_compiling_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    dynamo: Any = ModuleType("torch._dynamo.utils")
    dynamo.compilation_time_metrics = {"_compile.compile_inner": [3.0]}
    monkeypatch.setitem(sys.modules, "torch._dynamo.utils", dynamo)

    def call(_: Any, height: int, _width: int) -> None:
        if height == 64:
            dynamo.compilation_time_metrics["_compile.compile_inner"].append(4.5)

    warm = boot.warm_up(None, [64, 32], call=call)
    assert warm.compiling == 4.5
    assert (stages()["64 x 64"].kind, stages()["64 x 64"].note) == (
        "compile",
        "4.5 s of it compiling",
    )
    assert (stages()["32 x 32"].kind, stages()["32 x 32"].note) == ("warm-up", "")


def test_later_images_get_the_same_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch: Any = ModuleType("torch")
    forked: list[Any] = []

    @contextlib.contextmanager
    def fork_rng(devices: list[int]) -> Iterator[None]:
        forked.append(devices)
        yield
        forked.append("set back")

    torch.random = SimpleNamespace(fork_rng=fork_rng)
    torch.cuda = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, current_device=lambda: 1
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    boot.warm_up(None, [8], call=lambda *_: None)
    assert forked == [[1], "set back"]


def test_a_warm_up_needs_sizes() -> None:
    with pytest.raises(BadSettingError, match="sizes"):
        boot.warm_up(None, [])


# --------------------------------------------------------------------------------------- report


def test_a_report_is_a_table_json_and_a_picture(tmp_path: Path) -> None:
    with boot.stage("pipeline", "load"):
        pass
    report = boot.report("sdxl")
    assert str(report).splitlines()[-1].startswith("started in ")
    record = json.loads(report.save(tmp_path / "boot.json").read_text())
    assert (record["title"], record["stages"][1]["name"]) == ("sdxl", "pipeline")
    root = ET.fromstring(report.save(tmp_path / "boot.svg").read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert report.save(tmp_path / "boot.txt").read_text() == f"{report}\n"


def test_a_report_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(DestinationError):
        boot.report().save(tmp_path / "no folder" / "boot.svg")
