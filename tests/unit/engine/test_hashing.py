from __future__ import annotations

import asyncio
import hashlib
import threading

import pytest

from pgetpy.core.references.checksums import Checksum
from pgetpy.engine.hashing import FileDigest
from pgetpy.system.threads import WORKERS

BLOCK = 1 << 20
CONTENT = bytes(range(256)) * (3 * BLOCK // 256)
CHECKSUM = Checksum.parse(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


class GatedFile:
    """Reads CONTENT back; each read waits until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.reached = threading.Event()

    def __call__(self, position: int, buffer: memoryview) -> int:
        self.reached.set()
        assert self.gate.wait(30)
        block = CONTENT[position : position + len(buffer)]
        buffer[: len(block)] = block
        return len(block)


def test_what_was_stopped_before_the_end_has_no_digest_and_holds_up_nothing() -> None:
    async def scenario() -> None:
        file = GatedFile()
        digest = FileDigest(file, CHECKSUM, WORKERS)
        finishing = asyncio.ensure_future(digest.finish(len(CONTENT)))
        await asyncio.to_thread(file.reached.wait, 30)
        stopping = asyncio.ensure_future(digest.stop())
        await asyncio.sleep(0)
        file.gate.set()
        await stopping
        with pytest.raises(asyncio.CancelledError):
            await finishing
        assert digest.position < len(CONTENT)

    asyncio.run(scenario())


def test_the_digest_is_that_of_all_bytes_whenever_the_front_moves() -> None:
    async def scenario() -> str:
        file = GatedFile()
        digest = FileDigest(file, CHECKSUM, WORKERS)
        digest.advance(BLOCK + 1)
        await asyncio.to_thread(file.reached.wait, 30)
        file.gate.set()
        return await digest.finish(len(CONTENT))

    assert asyncio.run(scenario()) == hashlib.sha256(CONTENT).hexdigest()
