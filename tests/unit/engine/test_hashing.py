from __future__ import annotations

import asyncio
import hashlib
import threading

import pytest

from pgetpy.engine.hashing import FileDigest, new_hash
from pgetpy.system.threads import WORKERS

BLOCK = 1 << 20
CONTENT = bytes(range(256)) * (3 * BLOCK // 256)


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
        digest = FileDigest(file, hashlib.sha256(), WORKERS)
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
        digest = FileDigest(file, hashlib.sha256(), WORKERS)
        digest.advance(BLOCK + 1)
        await asyncio.to_thread(file.reached.wait, 30)
        file.gate.set()
        return await digest.finish(len(CONTENT))

    assert asyncio.run(scenario()) == hashlib.sha256(CONTENT).hexdigest()


def test_bytes_that_pass_in_order_are_not_read_back() -> None:
    async def scenario() -> str:
        file = GatedFile()
        file.gate.set()
        digest = FileDigest(file, hashlib.sha256(), WORKERS)
        for pos in range(0, len(CONTENT), BLOCK):
            digest.take(pos, memoryview(CONTENT)[pos : pos + BLOCK])
        found = await digest.finish_reporting(len(CONTENT), lambda *_: None)
        assert not file.reached.is_set()
        return found

    assert asyncio.run(scenario()) == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("blocks", [(1, 0, 2), (0, 2, 1), (0, 0, 2), (2, 1), ()])
def test_bytes_that_pass_in_another_order_are_read_back(blocks: tuple[int, ...]) -> None:
    async def scenario() -> str:
        file = GatedFile()
        file.gate.set()
        digest = FileDigest(file, hashlib.sha256(), WORKERS)
        for number in blocks:
            block = memoryview(CONTENT)[number * BLOCK : (number + 1) * BLOCK]
            digest.take(number * BLOCK, block)
        return await digest.finish(len(CONTENT))

    assert asyncio.run(scenario()) == hashlib.sha256(CONTENT).hexdigest()


# The check values of the catalogue of parametrised CRC algorithms, for "123456789".
@pytest.mark.parametrize(
    ("algorithm", "value"),
    [("crc32", "cbf43926"), ("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888")],
)
@pytest.mark.parametrize("cut", [0, 4, 9])
def test_checksums_go_on_from_block_to_block(algorithm: str, value: str, cut: int) -> None:
    made = new_hash(algorithm)
    if made is None:
        pytest.skip("awscrt is not installed")
    for block in (b"123456789"[:cut], b"123456789"[cut:]):
        made.update(memoryview(bytearray(block)))
    assert made.hexdigest() == value


def test_git_hashes_its_header_first() -> None:
    made = new_hash("sha1", b"blob 0\0")
    assert made is not None
    assert made.hexdigest() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
