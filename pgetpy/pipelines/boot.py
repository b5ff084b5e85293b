"""A fast start: flags, imports beside downloads, a warm-up, and a report of what took how long.

    from pgetpy.pipelines import boot

    boot.tune()
    with boot.import_ahead("torch", "diffusers:StableDiffusionXLPipeline"):
        folder = WeightsDownloadCache(progress=boot.progress).ensure("hf://OWNER/NAME")
    with boot.stage("pipeline", "load"):
        pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    boot.warm_up(pipe, [(1024, 1024)], cache=CompileCache("s3://bucket/compiled", name="sdxl"))
    boot.report().save("boot.svg")

Nothing is imported from torch or diffusers here unless the caller names it or has done so.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pgetpy.core.pipelines.timeline import BootTimeline
from pgetpy.core.pipelines.timeline_picture import picture
from pgetpy.core.report.events import Event
from pgetpy.errors import BadSettingError, ThreadLimitError
from pgetpy.pipelines.recorder import BootRecorder, StageNotes
from pgetpy.pipelines.tuning import Tuning, go_offline, tune
from pgetpy.system.filesystem import disk_errors
from pgetpy.system.polling import SLICE
from pgetpy.system.threads import start_thread

__all__ = [
    "BootReport",
    "ImportAhead",
    "Tuning",
    "WarmUp",
    "go_offline",
    "import_ahead",
    "progress",
    "report",
    "stage",
    "tune",
    "warm_up",
]

_RECORDER = BootRecorder()
# A warm-up is called a compilation if that took most of it.
_MOST = 0.5


def stage(name: str, kind: str = "other") -> AbstractContextManager[StageNotes]:
    """Record what runs in the block as a stage of the start.

    Args:
        name: for people.
        kind: download, import, load, compile, warm-up or other.

    Raises:
        BadSettingError: there is no such kind.
    """
    return _RECORDER.stage(name, kind)


def progress(event: Event) -> None:
    """Record downloads: the `progress` of a WeightsDownloadCache or of `pgetpy.download`."""
    _RECORDER.hear(event)


# ------------------------------------------------------------------------------------- imports


class ImportAhead:
    """Imports under way in a thread. As a context manager it waits for them at the end.

    Do not import the same packages elsewhere until `wait` has returned: two threads can then meet
    half-imported modules.

    Args:
        names: of modules; `module:NAME` for one of its names, because packages such as diffusers
            import most of themselves only when a name is used.
        recorder: gets a stage for each.
    """

    def __init__(self, names: Sequence[str], recorder: BootRecorder) -> None:
        self._names, self._recorder = names, recorder
        self._ended = threading.Event()
        self._error: BaseException | None = None
        try:
            start_thread(self._run, "pgetpy-imports")
        except ThreadLimitError:
            self._run()

    def wait(self) -> None:
        """Wait until everything is imported.

        Raises:
            ImportError: or whatever else the first import that failed has raised.
        """
        while not self._ended.wait(SLICE):
            pass
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for name in self._names:
                module, _, attribute = name.partition(":")
                with self._recorder.stage(name, "import"):
                    imported = importlib.import_module(module)
                    if attribute:
                        getattr(imported, attribute)
        except BaseException as error:  # it is raised where the imports are waited for
            self._error = error
        finally:
            self._ended.set()

    def __enter__(self) -> ImportAhead:
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        if error is None:
            self.wait()


def import_ahead(*names: str) -> ImportAhead:
    """Import modules in a thread, one after the other, while the caller does something else.

    A download leaves most of a core idle, and torch and diffusers take seconds to import.

    Args:
        names: `torch`, or `diffusers:StableDiffusionXLPipeline` for a module and one of its names.

    Returns:
        What to `wait` for, or to use as a context manager around the download.
    """
    if not names or any(not name or name.startswith(":") for name in names):
        raise BadSettingError("names", ", ".join(names), "has no module")
    return ImportAhead(names, _RECORDER)


# ------------------------------------------------------------------------------------- warm-up


class _CompileCache(Protocol):
    """What `warm_up` needs of a `pgetpy.compile_cache.CompileCache`."""

    def around(self) -> AbstractContextManager[Any]:
        """Load before the block, and save after it."""
        ...


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up took.

    Attributes:
        seconds: by height and width.
        compiling: how much of it PyTorch spent compiling; 0.0 if nothing was compiled.
        loaded: the compile cache's result of loading; None without a cache.
    """

    seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    compiling: float = 0.0
    loaded: Any = None


def warm_up(
    pipeline: Any,
    sizes: Sequence[tuple[int, int] | int],
    *,
    cache: _CompileCache | None = None,
    call: Callable[[Any, int, int], object] | None = None,
    **arguments: Any,
) -> WarmUp:
    """Make one image of each size, so that the first request does not pay for compiling.

    Random numbers that later images get are the same as without it.

    Args:
        pipeline: from diffusers.
        sizes: (height, width) in pixels, or one number for a square. After two sizes, a model
            compiled for dynamic shapes usually needs no third.
        cache: a CompileCache: what it has is loaded before, and what is new is saved after.
        call: makes the image, given pipeline, height and width; by default the pipeline is called
            for one step.
        arguments: further ones for the pipeline, or others than `prompt="warm-up"` and
            `num_inference_steps=1`.

    Raises:
        BadSettingError: there are no sizes.
    """
    chosen = [(size, size) if isinstance(size, int) else (size[0], size[1]) for size in sizes]
    if not chosen:
        raise BadSettingError("sizes", str(sizes), "is empty")
    seconds: dict[tuple[int, int], float] = {}
    begun = _compile_seconds()
    with _around(cache) as loaded, _random_state_kept():
        for height, width in chosen:
            before = _compile_seconds()
            with stage(f"{width} x {height}", "warm-up") as notes:
                started = _RECORDER.now()
                if call is not None:
                    call(pipeline, height, width)
                else:
                    options = {"prompt": "warm-up", "num_inference_steps": 1, **arguments}
                    pipeline(height=height, width=width, **options)
                seconds[height, width] = _RECORDER.now() - started
                compiling = _compile_seconds() - before
                if compiling > 0.0:
                    notes.note = f"{compiling:.1f} s of it compiling"
                if compiling > _MOST * seconds[height, width]:
                    notes.kind = "compile"
    return WarmUp(seconds, _compile_seconds() - begun, loaded)


@contextlib.contextmanager
def _around(cache: _CompileCache | None) -> Iterator[Any]:
    """Run a block inside the compile cache, with its loading and saving as stages."""
    if cache is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        with stage("compiled code, loading", "compile") as notes:
            loaded = stack.enter_context(cache.around())
            notes.note = " ".join(
                filter(None, (loaded.outcome, f"({loaded.reason})" if loaded.reason else ""))
            )
        yield loaded
        with stage("compiled code, saving", "compile"):
            stack.close()


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Run a block that draws random numbers, and set PyTorch's generators back."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    cuda = torch.cuda
    devices = [cuda.current_device()] if cuda.is_available() and cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        yield


def _compile_seconds() -> float:
    """Return the seconds that torch.compile has spent in this process; 0.0 if it was not used."""
    found = sys.modules.get("torch._dynamo.utils")
    times = getattr(found, "compilation_time_metrics", None) or {}
    # The outermost of its phases, by the names of newer and older releases.
    phases = ("_compile.compile_inner", "entire_frame_compile")
    return float(next((sum(times[phase]) for phase in phases if times.get(phase)), 0.0))


# -------------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class BootReport:
    """A start as a table (`str`), as JSON, and as a picture.

    Attributes:
        timeline: its stages.
        title: what started.
    """

    timeline: BootTimeline
    title: str = ""

    def __str__(self) -> str:
        return "\n".join(self.timeline.lines())

    def json(self) -> str:
        """Return the report as JSON; times are in seconds, sizes in bytes."""
        return json.dumps({"title": self.title, **self.timeline.record()})

    def svg(self) -> str:
        """Return the report as the text of an SVG file, which browsers show."""
        return picture(self.timeline, self.title)

    def save(self, path: str | Path) -> Path:
        """Write the report: SVG or JSON by the suffix of `path`, else the table.

        Raises:
            DestinationError: the file cannot be written.
        """
        target = Path(path)
        made = {".svg": self.svg, ".json": self.json}.get(target.suffix.lower(), self.__str__)
        with disk_errors(target):
            target.write_text(f"{made().rstrip()}\n", encoding="utf-8")
        return target


def report(title: str = "") -> BootReport:
    """Return what has been recorded of this process's start so far.

    Args:
        title: what starts, such as the model's name.
    """
    return BootReport(_RECORDER.timeline(), title)
