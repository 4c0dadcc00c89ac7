"""The store above the drivers: digests, batches, back-pressure, aborts."""

import asyncio
from collections.abc import Sequence

import pytest
from blake3 import blake3

from mediagate.blobs.driver import Buffer, DiskFullError
from mediagate.blobs.memory import MemoryBlobDriver, MemoryBlobWriter
from mediagate.blobs.store import BATCH_BYTES, BlobSink, BlobStore
from mediagate.core.files import new_blob_key


async def test_the_digest_and_the_size_are_those_of_the_bytes() -> None:
    store = BlobStore(MemoryBlobDriver())
    chunks = [bytes([n]) * (n * 1000 + 1) for n in range(50)]
    sink = await store.create(new_blob_key())

    for chunk in chunks:
        await sink.write(chunk)
    stored = await sink.finish()

    assert stored.size_bytes == sum(map(len, chunks))
    assert stored.digest == f"blake3:{blake3(b''.join(chunks)).hexdigest()}"


async def test_chunks_of_every_size_arrive_in_order() -> None:
    store = BlobStore(MemoryBlobDriver())
    key = new_blob_key()
    sink = await store.create(key)
    sizes = [1, 2, 20_000, 3, 1, 600_000, 16_384, 5, 70_000] * 3
    chunks = [bytes([n % 251]) * size for n, size in enumerate(sizes)]

    for chunk in chunks:
        await sink.write(memoryview(chunk))
    await sink.finish()

    reader = await store.read(key)
    assert b"".join([chunk async for chunk in reader.chunks()]) == b"".join(chunks)


class _Gated(MemoryBlobWriter):
    """A writer that waits for permission, and counts what it was handed."""

    def __init__(self) -> None:
        super().__init__(MemoryBlobDriver(), new_blob_key())
        self.gate = asyncio.Event()
        self.handed: list[int] = []

    async def write(self, chunks: Sequence[Buffer]) -> None:
        self.handed.append(sum(map(len, chunks)))
        await self.gate.wait()


async def test_no_more_than_two_batches_wait_for_a_slow_disk() -> None:
    writer = _Gated()
    sink = BlobSink(writer)
    chunk = bytes(64 * 1024)
    taken = 0

    async def push() -> None:
        nonlocal taken
        for _ in range(100):
            await sink.write(chunk)
            taken += len(chunk)

    pushing = asyncio.create_task(push())
    for _ in range(300):
        await asyncio.sleep(0)

    assert taken < 2 * BATCH_BYTES
    assert writer.handed == [BATCH_BYTES]
    writer.gate.set()
    await pushing


async def test_a_failed_batch_is_told_at_the_next_write_and_can_be_aborted() -> None:
    driver = MemoryBlobDriver(capacity_bytes=1000)
    key = new_blob_key()
    sink = await BlobStore(driver).create(key)

    with pytest.raises(DiskFullError):
        for _ in range(3):
            await sink.write(bytes(BATCH_BYTES))
    await sink.abort()

    assert [batch async for batch in driver.list()] == [[]]


async def test_only_drivers_with_files_have_paths() -> None:
    assert BlobStore(MemoryBlobDriver()).local_path(new_blob_key()) is None
