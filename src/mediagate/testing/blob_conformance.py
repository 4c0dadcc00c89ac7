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
from typing import Protocol, cast

import pytest

from mediagate.blobs.driver import (
    BlobBusyError,
    BlobDriver,
    BlobMissingError,
    BlobTrunk,
    BlobWriter,
    CopiesBlobs,
    ResumesBlobs,
)
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


async def resume(driver: BlobDriver, key: BlobKey, *, at: int) -> BlobTrunk:
    """Go on with a trunk that has `at` bytes."""
    assert isinstance(driver, ResumesBlobs)
    trunk = await driver.resume(key)
    await trunk.cut(at)
    return trunk


async def append(driver: BlobDriver, key: BlobKey, data: bytes, *, at: int) -> None:
    """One go: what a part of an Upload does."""
    trunk = await resume(driver, key, at=at)
    await trunk.write([data])
    await trunk.keep()
    await trunk.close()


async def finish(driver: BlobDriver, key: BlobKey, *, size_bytes: int) -> None:
    """Make a trunk readable."""
    trunk = await resume(driver, key, at=size_bytes)
    await trunk.finish(size_bytes=size_bytes)
    await trunk.close()


class TrunkConformance:
    """The contract of `ResumesBlobs` and `CopiesBlobs`; inherit it beside `BlobConformance`, with the same fixture."""

    @pytest.fixture
    def driver(self) -> BlobDriver:
        """An open, empty driver."""
        raise NotImplementedError

    async def test_a_trunk_grows_in_several_goes(self, driver: BlobDriver) -> None:
        """Each finds what the one before kept."""
        data = random.Random(4).randbytes(1_000_003)
        key = new_blob_key()
        for start in range(0, len(data), 300_000):
            await append(driver, key, data[start : start + 300_000], at=start)

        await finish(driver, key, size_bytes=len(data))

        assert await content(driver, key) == data
        assert await keys(driver) == [key]

    async def test_a_trunk_is_unfinished_until_it_is_finished(self, driver: BlobDriver) -> None:
        """P2: listed, so that it is found; not readable."""
        key = new_blob_key()
        await append(driver, key, b"half", at=0)

        with pytest.raises(BlobMissingError):
            await driver.read(key)

        assert await keys(driver) == [key]

    async def test_what_was_not_kept_is_cut_off(self, driver: BlobDriver) -> None:
        """A go that broke off in the middle leaves a tail."""
        key = new_blob_key()
        await append(driver, key, b"kept", at=0)
        broken = await resume(driver, key, at=4)
        await broken.write([b"never acknowledged"])
        await broken.close()

        await append(driver, key, b"!", at=4)
        await finish(driver, key, size_bytes=5)

        assert await content(driver, key) == b"kept!"

    async def test_one_at_a_time_goes_on_with_a_trunk(self, driver: BlobDriver) -> None:
        """Two would write over each other."""
        assert isinstance(driver, ResumesBlobs)
        key = new_blob_key()
        first = await driver.resume(key)
        other = await driver.resume(new_blob_key())

        with pytest.raises(BlobBusyError):
            await driver.resume(key)

        await first.close()
        await first.close()
        second = await driver.resume(key)
        await second.close()
        await other.close()

    async def test_a_trunk_that_lost_bytes_is_no_trunk(self, driver: BlobDriver) -> None:
        """It is not filled up with zeros."""
        assert isinstance(driver, ResumesBlobs)
        key = new_blob_key()
        await append(driver, key, b"1234", at=0)
        trunk = await driver.resume(key)

        with pytest.raises(OSError, match="shorter"):
            await trunk.cut(5)

        await trunk.close()

    async def test_a_trunk_of_another_size_is_not_finished(self, driver: BlobDriver) -> None:
        """A blob that lacks bytes never becomes readable."""
        key = new_blob_key()
        trunk = await resume(driver, key, at=0)
        await trunk.write([b"1234"])

        with pytest.raises(OSError, match="size"):
            await trunk.finish(size_bytes=5)

        await trunk.close()
        with pytest.raises(BlobMissingError):
            await driver.read(key)

    async def test_a_finished_trunk_can_be_gone_on_with(self, driver: BlobDriver) -> None:
        """It was refused as a file, or the process died before it was one."""
        key = new_blob_key()
        await append(driver, key, b"one", at=0)
        await finish(driver, key, size_bytes=3)

        await append(driver, key, b"two", at=3)

        with pytest.raises(BlobMissingError):
            await driver.read(key)
        await finish(driver, key, size_bytes=6)
        assert await content(driver, key) == b"onetwo"
        assert await keys(driver) == [key]

    async def test_looking_at_a_finished_trunk_leaves_it_readable(self, driver: BlobDriver) -> None:
        """Whoever finds that it is a file by now closes it, and has done nothing."""
        assert isinstance(driver, ResumesBlobs)
        key = new_blob_key()
        await append(driver, key, b"one", at=0)
        await finish(driver, key, size_bytes=3)

        trunk = await driver.resume(key)
        await trunk.close()

        assert await content(driver, key) == b"one"

    async def test_a_trunk_that_stays_empty_leaves_nothing(self, driver: BlobDriver) -> None:
        """Whether it was begun for nothing, or what came was taken back."""
        assert isinstance(driver, ResumesBlobs)
        key, empty = new_blob_key(), new_blob_key()
        for each in (key, empty):
            await (await driver.resume(each)).close()
        trunk = await resume(driver, key, at=0)
        await trunk.write([b"half"])
        await trunk.cut(0)

        await trunk.close()

        assert await keys(driver) == []
        await finish(driver, empty, size_bytes=0)
        assert await content(driver, empty) == b""

    async def test_a_trunk_that_is_deleted_meanwhile_is_not_begun_anew(
        self, driver: BlobDriver
    ) -> None:
        """Neither when whoever deletes it is done, nor when somebody goes on with it after that."""
        assert isinstance(driver, ResumesBlobs)
        key = new_blob_key()
        await append(driver, key, b"kept", at=0)
        await driver.delete(key)
        trunk = await driver.resume(key)

        with pytest.raises(OSError, match="shorter"):
            await trunk.cut(4)
        await trunk.close()

        assert await keys(driver) == []

    async def test_a_trunk_is_deleted_like_any_blob(self, driver: BlobDriver) -> None:
        """Whatever its state, and while somebody goes on with it."""
        key, finished = new_blob_key(), new_blob_key()
        trunk = await resume(driver, key, at=0)
        await trunk.write([b"half"])
        await append(driver, finished, b"whole", at=0)
        await finish(driver, finished, size_bytes=5)

        for each in (key, finished):
            await driver.delete(each)

        assert await keys(driver) == []
        await trunk.close()

    async def test_a_blob_is_put_together_from_others(self, driver: BlobDriver) -> None:
        """Whole ones, ranges, and what was kept of unfinished ones."""
        data = random.Random(5).randbytes(700_000)
        whole, trunk = await put(driver, data), new_blob_key()
        await append(driver, trunk, b"0123456789", at=0)
        key = new_blob_key()
        writer = await copying(driver, key)
        await writer.write([b"first "])
        await writer.copy(trunk, 2, 5)
        await writer.copy(whole, 0, len(data))
        await writer.copy(whole, 100, 100)
        await writer.copy(whole, 100, 300_100)
        await writer.write([b" last"])
        expected = b"first 234" + data + data[100:300_100] + b" last"

        await writer.commit(size_bytes=len(expected))

        assert await content(driver, key) == expected
        assert await content(driver, whole) == data

    async def test_what_is_not_there_is_not_copied(self, driver: BlobDriver) -> None:
        """The writer can only be aborted."""
        key = new_blob_key()
        writer = await copying(driver, key)

        with pytest.raises(BlobMissingError):
            await writer.copy(new_blob_key(), 0, 1)

        await writer.abort()
        assert await keys(driver) == []

    async def test_bytes_that_are_missing_are_not_made_up(self, driver: BlobDriver) -> None:
        """Asked for more than there is."""
        source = await put(driver, b"1234")
        writer = await copying(driver, new_blob_key())

        with pytest.raises(OSError, match="shorter"):
            await writer.copy(source, 0, 5)

        await writer.abort()


class _CopyingWriter(BlobWriter, CopiesBlobs, Protocol):
    """A writer that copies."""


async def copying(driver: BlobDriver, key: BlobKey) -> _CopyingWriter:
    """Begin a blob with a writer that copies."""
    writer = await driver.create(key)
    assert isinstance(writer, CopiesBlobs)
    return cast("_CopyingWriter", writer)
