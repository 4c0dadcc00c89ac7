"""The one store above the drivers: hashing, counting and batching are written here, once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from mediagate.blobs.driver import (
    BlobBusyError,
    BlobDriver,
    BlobReader,
    BlobTrunk,
    BlobWriter,
    Buffer,
    CopiesBlobs,
    HasLocalPath,
    ResumesBlobs,
)
from mediagate.core.files import BlobKey, Digest
from mediagate.executor import complete

BATCH_BYTES = 512 * 1024
"""Bytes handed to the driver at once. One batch fills while one is written: a receive holds two at the most."""

COPY_BYTES = 16 * 1024**2
"""Bytes copied at once: a driver's threads are shared with those who write and wait."""

_SMALL_BYTES = 16 * 1024  # below it, copying costs less than one more buffer in a batch


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written: its exact length and digest."""

    size_bytes: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a blob, from `start` up to `stop`."""

    blob: BlobKey
    start: int
    stop: int


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

    async def resume(self, key: BlobKey) -> BlobTrunk | None:
        """Go on with an unfinished blob, or begin it; None: somebody else does, or the driver cannot.

        Raises:
            DiskFullError: There is no room.
        """
        if not isinstance(self._driver, ResumesBlobs):
            return None
        try:
            return await self._driver.resume(key)
        except BlobBusyError:
            return None

    async def append(self, trunk: BlobTrunk, *, at: int, hasher: blake3) -> "BlobSink":
        """Write to `trunk` from `at` on. The sink's `finish` keeps what was written, its `abort` takes it back.

        Args:
            trunk: What `resume` gave; still the caller's to close.
            at: Where; everything beyond is dropped.
            hasher: Continued, so that the digest is one of more than what is written now.
        """
        await trunk.cut(at)
        return BlobSink(_TrunkWriter(trunk, at), hasher)

    async def join(self, key: BlobKey, spans: Iterable[Span]) -> None:
        """Make a blob out of others, in this order, durable and readable; or nothing.

        Raises:
            BlobMissingError: One of them is not there.
            DiskFullError: There is no room.
        """
        writer = await self._driver.create(key)
        size_bytes = 0
        try:
            for span in spans:
                await self._copy(writer, span)
                size_bytes += span.stop - span.start
            await writer.commit(size_bytes=size_bytes)
        except BaseException:
            await complete(writer.abort())
            raise

    async def _copy(self, writer: BlobWriter, span: Span) -> None:
        if isinstance(writer, CopiesBlobs):
            for start in range(span.start, span.stop, COPY_BYTES):
                await writer.copy(span.blob, start, min(start + COPY_BYTES, span.stop))
            return
        reader = await self._driver.read(span.blob)
        try:
            async for chunk in reader.chunks(span.start, span.stop):
                await writer.write((chunk,))
        finally:
            await reader.close()

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

    def __init__(self, writer: BlobWriter, hasher: blake3 | None = None) -> None:
        self._writer = writer
        self._hash = blake3() if hasher is None else hasher
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
        return Stored(self._size_bytes, digest_of(self._hash))

    async def abort(self) -> None:
        """Leave nothing behind."""
        self._batch = []
        with contextlib.suppress(Exception):  # the write that failed is why we are here
            await self._settle()
        await self._writer.abort()


class _TrunkWriter:
    """What a sink writes to a trunk: kept at its end, taken back when it fails."""

    def __init__(self, trunk: BlobTrunk, at: int) -> None:
        self._trunk = trunk
        self._at = at

    async def write(self, chunks: Sequence[Buffer]) -> None:
        await self._trunk.write(chunks)

    async def commit(self, *, size_bytes: int) -> None:
        await self._trunk.keep()

    async def abort(self) -> None:
        await self._trunk.cut(self._at)


def digest_of(hasher: blake3) -> Digest:
    """The digest of all that `hasher` was given."""
    return Digest(f"blake3:{hasher.hexdigest()}")
