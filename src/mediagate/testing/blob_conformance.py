"""What every `BlobDriver` must do. Inherit, give a `driver` fixture, and the whole contract is tested.

class TestMyDriver(BlobConformance):
    @pytest.fixture
    async def driver(self) -> AsyncIterator[BlobDriver]:
        driver = MyDriver(...)
        await driver.open()
        yield driver
        await driver.close()
"""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from mediagate.blobs.driver import BlobDriver, BlobMissingError
from mediagate.core.files import BlobKey, new_blob_key


async def put(driver: BlobDriver, data: bytes, key: BlobKey | None = None) -> BlobKey:
    """Write one blob and return its key."""
    key = key or new_blob_key()
    writer = await driver.create(key)
    await writer.write([data])
    await writer.commit(size_bytes=len(data))
    return key


async def content(
    driver: BlobDriver, key: BlobKey, start: int = 0, stop: int | None = None
) -> bytes:
    """Read one blob, or a part of it."""
    reader = await driver.read(key)
    try:
        return b"".join([chunk async for chunk in reader.chunks(start, stop)])
    finally:
        await reader.close()


async def keys(driver: BlobDriver) -> list[BlobKey]:
    """All keys, sorted."""
    return sorted([key async for batch in driver.list() for key in batch])


class BlobConformance:
    """The contract of `BlobDriver`, sentence by sentence."""

    @pytest.fixture
    def driver(self) -> AsyncIterator[BlobDriver]:
        """An open, empty driver."""
        raise NotImplementedError

    async def test_what_was_committed_is_read_back(self, driver: BlobDriver) -> None:
        """Bytes come back as they went in."""
        data = random.Random(1).randbytes(1_000_003)

        key = await put(driver, data)

        assert await content(driver, key) == data

    async def test_an_empty_blob_is_a_blob(self, driver: BlobDriver) -> None:
        """No bytes are bytes too."""
        key = await put(driver, b"")

        assert await content(driver, key) == b""

    async def test_chunks_are_appended_in_order(self, driver: BlobDriver) -> None:
        """Several buffers, of several types, in several calls."""
        key = new_blob_key()
        writer = await driver.create(key)
        await writer.write([b"one", bytearray(b"two"), memoryview(b"xthreex")[1:-1]])
        await writer.write([b"4"] * 3000)
        await writer.commit(size_bytes=11 + 3000)

        assert await content(driver, key) == b"onetwothree" + b"4" * 3000

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (1, 5), (99_999, 300_001), (299_999, None), (300_000, None), (5, 5)],
    )
    async def test_a_range_is_exact(self, driver: BlobDriver, start: int, stop: int | None) -> None:
        """Ranges cut where they say, also across chunk borders and at the end."""
        data = random.Random(2).randbytes(300_000)
        key = await put(driver, data)

        assert await content(driver, key, start, stop) == data[start:stop]

    async def test_chunks_are_bounded(self, driver: BlobDriver) -> None:
        """No chunk is longer than 256 KiB, and the reader knows the size."""
        key = await put(driver, bytes(700_000))

        reader = await driver.read(key)
        sizes = [len(chunk) async for chunk in reader.chunks()]
        total = reader.size_bytes
        await reader.close()

        assert max(sizes) <= 256 * 1024
        assert sum(sizes) == total == 700_000

    async def test_nothing_is_readable_before_commit(self, driver: BlobDriver) -> None:
        """P2: no partial file is ever readable."""
        key = new_blob_key()
        writer = await driver.create(key)
        await writer.write([b"half"])

        with pytest.raises(BlobMissingError):
            await driver.read(key)

        await writer.abort()

    async def test_unfinished_blobs_are_listed(self, driver: BlobDriver) -> None:
        """So that what a crash left is found."""
        key = new_blob_key()
        writer = await driver.create(key)
        await writer.write([b"half"])

        assert await keys(driver) == [key]

        await writer.abort()

    async def test_abort_leaves_nothing(self, driver: BlobDriver) -> None:
        """Neither readable nor listed; twice is once."""
        key = new_blob_key()
        writer = await driver.create(key)
        await writer.write([b"half"])

        await writer.abort()
        await writer.abort()

        assert await keys(driver) == []

    async def test_a_wrong_size_is_not_committed(self, driver: BlobDriver) -> None:
        """A blob that lacks bytes never becomes readable."""
        key = new_blob_key()
        writer = await driver.create(key)
        await writer.write([b"1234"])

        with pytest.raises(OSError, match="size"):
            await writer.commit(size_bytes=5)

        with pytest.raises(BlobMissingError):
            await driver.read(key)
        await writer.abort()
        assert await keys(driver) == []

    async def test_abort_after_commit_removes(self, driver: BlobDriver) -> None:
        """A commit whose answer was lost can still be taken back."""
        key = new_blob_key()
        writer = await driver.create(key)
        await writer.write([b"x"])
        await writer.commit(size_bytes=1)

        await writer.abort()

        assert await keys(driver) == []

    async def test_delete_removes(self, driver: BlobDriver) -> None:
        """Gone means neither readable nor listed; deleting what is not there is no error."""
        key = await put(driver, b"x")

        await driver.delete(key)
        await driver.delete(key)

        with pytest.raises(BlobMissingError):
            await driver.read(key)
        assert await keys(driver) == []

    async def test_delete_removes_unfinished_blobs(self, driver: BlobDriver) -> None:
        """What a crash left can be swept."""
        key = new_blob_key()
        writer = await driver.create(key)
        await writer.write([b"half"])

        await driver.delete(key)

        assert await keys(driver) == []
        await writer.abort()

    async def test_an_open_reader_survives_delete(self, driver: BlobDriver) -> None:
        """A download that began ends with the right bytes (H51)."""
        data = random.Random(3).randbytes(600_000)
        key = await put(driver, data)
        reader = await driver.read(key)
        chunks = reader.chunks()
        first = await anext(chunks)

        await driver.delete(key)

        assert first + b"".join([chunk async for chunk in chunks]) == data
        await reader.close()
        await reader.close()

    async def test_a_missing_key_is_missing(self, driver: BlobDriver) -> None:
        """Not an empty blob, not another error."""
        with pytest.raises(BlobMissingError):
            await driver.read(new_blob_key())

    async def test_writers_do_not_disturb_each_other(self, driver: BlobDriver) -> None:
        """Many blobs at once."""
        contents = [random.Random(n).randbytes(50_000 + n) for n in range(20)]

        written = await asyncio.gather(*(put(driver, data) for data in contents))

        assert [await content(driver, key) for key in written] == contents
        assert await keys(driver) == sorted(written)
