"""The one store above the drivers: hashing, counting and batching are written here, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from mediagate.blobs.driver import BlobDriver, BlobReader, BlobWriter, Buffer, HasLocalPath
from mediagate.core.files import BlobKey, Digest
from mediagate.executor import complete

BATCH_BYTES = 512 * 1024
"""Bytes handed to the driver at once. One batch fills while one is written: a receive holds two at the most."""

_SMALL_BYTES = 16 * 1024  # below it, copying costs less than one more buffer in a batch


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written: its exact length and digest."""

    size_bytes: int
    digest: Digest


class BlobStore:
    """Immutable bytes under random keys, over any driver."""

    def __init__(self, driver: BlobDriver) -> None:
        self._driver = driver

    async def open(self) -> None:
        """Make the driver ready."""
        await self._driver.open()

    async def close(self) -> None:
        """Release what the driver holds."""
        await self._driver.close()

    async def create(self, key: BlobKey) -> "BlobSink":
        """Begin a blob.

        Raises:
            DiskFullError: There is no room.
        """
        return BlobSink(await self._driver.create(key))

    async def read(self, key: BlobKey) -> BlobReader:
        """Open a blob.

        Raises:
            BlobMissingError: There is none of this key.
        """
        return await self._driver.read(key)

    async def delete(self, key: BlobKey) -> None:
        """Remove the bytes of `key`, if there are any."""
        await self._driver.delete(key)

    def list(self) -> AsyncIterator[Sequence[BlobKey]]:
        """All keys, unfinished ones included, in batches."""
        return self._driver.list()

    def local_path(self, key: BlobKey) -> Path | None:
        """The file on this machine that holds exactly these bytes, where the driver has one."""
        return self._driver.local_path(key) if isinstance(self._driver, HasLocalPath) else None


class BlobSink:
    """One blob being written: hashed and counted on the way, handed to the driver in batches.

    Exactly one of `finish` and `abort` ends it; `abort` may follow a failed `finish`. One task at a time.
    """

    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer
        self._hash = blake3()
        self._size_bytes = 0
        self._batch: list[Buffer] = []
        self._batch_bytes = 0
        self._writing: asyncio.Task[None] | None = None

    async def write(self, chunk: Buffer) -> None:
        """Append `chunk`, which must not change afterwards.

        Waits only when the previous batch is still being written: that is the back-pressure.

        Raises:
            DiskFullError: There is no room, now or for an earlier batch.
        """
        # 64 KiB take 10 µs here; handing them to a thread costs more than that.
        self._hash.update(chunk)
        self._size_bytes += len(chunk)
        self._collect(chunk)
        if self._batch_bytes >= BATCH_BYTES:
            await self._flush()

    def _collect(self, chunk: Buffer) -> None:
        last = self._batch[-1] if self._batch else None
        if len(chunk) >= _SMALL_BYTES:
            self._batch.append(chunk)
        elif isinstance(last, bytearray):
            last += chunk
        else:
            self._batch.append(bytearray(chunk))
        self._batch_bytes += len(chunk)

    async def _flush(self) -> None:
        await self._settle()
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        self._writing = asyncio.create_task(self._writer.write(batch))

    async def _settle(self) -> None:
        """Wait for the batch that is being written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await complete(writing)

    async def finish(self) -> Stored:
        """Write the rest and make the blob durable and readable.

        Raises:
            DiskFullError: There is no room.
        """
        await self._settle()
        if self._batch:
            await self._writer.write(self._batch)
            self._batch = []
        await self._writer.commit(size_bytes=self._size_bytes)
        return Stored(self._size_bytes, Digest(f"blake3:{self._hash.hexdigest()}"))

    async def abort(self) -> None:
        """Leave nothing behind."""
        self._batch = []
        with contextlib.suppress(Exception):  # the write that failed is why we are here
            await self._settle()
        await self._writer.abort()
