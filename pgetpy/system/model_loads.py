"""One load of a model at a time in this process, from whichever thread it comes.

diffusers, transformers and accelerate make a model without memory by replacing methods of
`torch.nn.Module` and functions of `torch.nn.init` for the whole process. Two threads that do so at
once put each other's replacements back in the wrong order: weights stay on the meta device, and so
does every module that the process makes afterwards (huggingface/diffusers#4296,
huggingface/transformers#41782). Loading a LoRA makes modules too (huggingface/peft#3605).
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pgetpy.system.forks import call_in_children
from pgetpy.system.interruptible_lock import InterruptibleLock, QueueSlot


class _LoadTurns:
    """The lock, and the slot that each thread has in it."""

    def __init__(self) -> None:
        self.begin()
        call_in_children(self.begin)

    def begin(self) -> None:
        """Start unlocked. Also runs in a forked child, where another thread may have loaded."""
        self.lock = InterruptibleLock()
        self.slots: dict[int, weakref.ref[QueueSlot]] = {}

    def held(self) -> bool:
        """Whether this thread has the lock already."""
        found = self.slots.get(threading.get_ident())
        slot = found() if found is not None else None
        return slot is not None and not slot.over


_TURNS = _LoadTurns()
# Where the bars of loaders are turned on and off, for the whole process.
_BARS = ("diffusers.utils.logging", "transformers.utils.logging")


def in_loading() -> bool:
    """Whether this thread is in a block of `loading`."""
    return _TURNS.held()


@contextmanager
def loading() -> Iterator[None]:
    """Run a block in which no other thread of this process loads a model through pgetpy.

    Put your own `from_pretrained` calls into such a block if a PipelineStore or a LoraComposer may
    load in another thread. Blocks may be nested.
    """
    if in_loading():
        yield
        return
    with _TURNS.lock.take() as slot:
        _TURNS.slots[slot.thread] = weakref.ref(slot)
        yield


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep progress bars of diffusers and transformers out of a log; a terminal shows them.

    Only in a block of `loading`, so that no other thread sets them back meanwhile.
    """
    with ExitStack() as restoring:
        if sys.stderr is None or not sys.stderr.isatty():
            for name in _BARS:
                bars = sys.modules.get(name)
                if bars is not None and bars.is_progress_bar_enabled():
                    restoring.callback(bars.enable_progress_bar)
                    bars.disable_progress_bar()
        yield
