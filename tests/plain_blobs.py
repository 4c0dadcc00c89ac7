"""A blob driver that can do nothing but what every driver has to: as one of an object store."""

from collections.abc import AsyncIterator, Sequence

from mediagate.blobs.driver import BlobReader, BlobWriter, Buffer
from mediagate.blobs.memory import MemoryBlobDriver
from mediagate.core.files import BlobKey


class PlainBlobDriver:
    """Blobs in memory, begun and ended in one go."""

    def __init__(self) -> None:
        self._driver = MemoryBlobDriver()

    async def open(self) -> None:
        await self._driver.open()

    async def close(self) -> None:
        await self._driver.close()

    async def create(self, key: BlobKey) -> BlobWriter:
        return _PlainWriter(await self._driver.create(key))

    async def read(self, key: BlobKey) -> BlobReader:
        return await self._driver.read(key)

    async def delete(self, key: BlobKey) -> None:
        await self._driver.delete(key)

    def list(self) -> AsyncIterator[Sequence[BlobKey]]:
        return self._driver.list()


class _PlainWriter:
    def __init__(self, writer: BlobWriter) -> None:
        self._writer = writer

    async def write(self, chunks: Sequence[Buffer]) -> None:
        await self._writer.write(chunks)

    async def commit(self, *, size_bytes: int) -> None:
        await self._writer.commit(size_bytes=size_bytes)

    async def abort(self) -> None:
        await self._writer.abort()
