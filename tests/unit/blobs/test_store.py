"""The store above the drivers: digests, batches, back-pressure, aborts."""

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest
from blake3 import blake3

from mediagate.blobs.driver import BlobDriver, BlobMissingError, BlobTrunk, Buffer, DiskFullError
from mediagate.blobs.memory import MemoryBlobDriver, MemoryBlobWriter
from mediagate.blobs.store import BATCH_BYTES, COPY_BYTES, BlobSink, BlobStore, Span
from mediagate.core.files import BlobKey, new_blob_key
from plain_blobs import PlainBlobDriver


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


@pytest.mark.parametrize("driver", [MemoryBlobDriver, PlainBlobDriver])
async def test_blobs_are_joined_in_the_order_that_is_asked_for(
    driver: Callable[[], BlobDriver],
) -> None:
    store = BlobStore(driver())
    data = random.Random(6).randbytes(2 * COPY_BYTES + 5)
    first, second, key = (new_blob_key() for _ in range(3))
    for blob, content in ((first, b"0123456789"), (second, data)):
        sink = await store.create(blob)
        await sink.write(content)
        await sink.finish()

    await store.join(key, [Span(second, 1, len(data)), Span(first, 3, 5), Span(first, 0, 3)])

    assert await read(store, key) == data[1:] + b"34012"


@pytest.mark.parametrize("driver", [MemoryBlobDriver, PlainBlobDriver])
async def test_a_join_that_fails_leaves_nothing(driver: Callable[[], BlobDriver]) -> None:
    store = BlobStore(driver())
    first, key = new_blob_key(), new_blob_key()
    sink = await store.create(first)
    await sink.write(b"0123456789")
    await sink.finish()

    with pytest.raises(BlobMissingError):
        await store.join(key, [Span(first, 0, 10), Span(new_blob_key(), 0, 1)])

    assert [each async for batch in store.list() for each in batch] == [first]


async def test_an_append_goes_on_with_the_digest_and_a_failed_one_is_taken_back() -> None:
    store = BlobStore(MemoryBlobDriver())
    key, hasher = new_blob_key(), blake3()
    trunk = await store.resume(key)
    assert trunk is not None

    first = await (await _appended(store, trunk, b"one", at=0, hasher=hasher)).finish()
    await (await _appended(store, trunk, b"broken", at=3, hasher=hasher.copy())).abort()
    second = await (await _appended(store, trunk, b"two", at=3, hasher=hasher)).finish()
    await trunk.finish(size_bytes=6)
    await trunk.close()

    assert await read(store, key) == b"onetwo"
    assert (first.size_bytes, second.size_bytes) == (3, 3)
    assert second.digest == f"blake3:{blake3(b'onetwo').hexdigest()}"


async def _appended(
    store: BlobStore, trunk: BlobTrunk, data: bytes, *, at: int, hasher: blake3
) -> BlobSink:
    sink = await store.append(trunk, at=at, hasher=hasher)
    await sink.write(data)
    return sink


async def test_a_trunk_that_cannot_be_had_is_none() -> None:
    busy, key = BlobStore(MemoryBlobDriver()), new_blob_key()
    holder = await busy.resume(key)

    assert holder is not None
    assert await busy.resume(key) is None
    assert await BlobStore(PlainBlobDriver()).resume(key) is None


async def read(store: BlobStore, key: BlobKey) -> bytes:
    reader = await store.read(key)
    chunks = [chunk async for chunk in reader.chunks()]
    await reader.close()
    return b"".join(chunks)
