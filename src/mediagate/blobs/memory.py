"""Blobs in memory: for tests and for trying things out; held to the same conformance suite."""

from collections.abc import AsyncIterator, Sequence

from mediagate.blobs.driver import BlobBusyError, BlobMissingError, Buffer, DiskFullError
from mediagate.core.files import BlobKey

_READ_BYTES = 256 * 1024


class MemoryBlobDriver:
    """Blobs in a dictionary.

    Args:
        capacity_bytes: After how many bytes it is full; None: never.
    """

    def __init__(self, *, capacity_bytes: int | None = None) -> None:
        self._capacity_bytes = capacity_bytes
        self._blobs: dict[BlobKey, bytes] = {}
        self._partial: dict[BlobKey, bytearray] = {}
        self._resumed: set[BlobKey] = set()

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def create(self, key: BlobKey) -> "MemoryBlobWriter":
        """Begin a blob."""
        self._partial[key] = bytearray()
        return MemoryBlobWriter(self, key)

    async def resume(self, key: BlobKey) -> "MemoryBlobTrunk":
        """Go on with a blob."""
        if key in self._resumed:
            raise BlobBusyError
        self._resumed.add(key)
        if key not in self._blobs:
            self._partial.setdefault(key, bytearray())
        return MemoryBlobTrunk(self, key)

    def let_go(self, key: BlobKey) -> None:
        """Let others go on with a blob, unless it is empty."""
        self._resumed.discard(key)
        if not self._partial.get(key, b"-"):
            del self._partial[key]

    async def read(self, key: BlobKey) -> "MemoryBlobReader":
        """Open a blob."""
        try:
            return MemoryBlobReader(self._blobs[key])
        except KeyError:
            raise BlobMissingError from None

    async def delete(self, key: BlobKey) -> None:
        """Drop the bytes."""
        self.drop(key)

    def drop(self, key: BlobKey) -> None:
        """Forget `key`, finished or not."""
        self._blobs.pop(key, None)
        self._partial.pop(key, None)

    def append(self, key: BlobKey, chunks: Sequence[Buffer]) -> None:
        """Append to an unfinished blob."""
        for chunk in chunks:
            if not self._has_room_for(len(chunk)):
                raise DiskFullError
            self._partial[key] += chunk

    def cut(self, key: BlobKey, size_bytes: int) -> None:
        """Make a blob unfinished and drop what it has beyond `size_bytes`."""
        data = self._partial.pop(key, None)
        if data is None:
            data = bytearray(self._blobs.pop(key, b""))
        if len(data) < size_bytes:
            message = "the blob is shorter than what was kept of it"
            raise OSError(message)
        self._partial[key] = data[:size_bytes]

    def peek(self, key: BlobKey, start: int, stop: int) -> bytes:
        """Bytes of a blob, finished or not."""
        found = self._partial.get(key, self._blobs.get(key))
        if found is None:
            raise BlobMissingError
        if len(found) < stop:
            message = "a blob is shorter than what was kept of it"
            raise OSError(message)
        return bytes(found[start:stop])

    def finish(self, key: BlobKey, size_bytes: int) -> None:
        """Make an unfinished blob readable."""
        if len(self._partial[key]) != size_bytes:
            message = "the blob has another size than the bytes that were written"
            raise OSError(message)
        self._blobs[key] = bytes(self._partial.pop(key))

    async def list(self) -> AsyncIterator[Sequence[BlobKey]]:
        """All keys at once."""
        yield [*self._blobs, *self._partial]

    def _has_room_for(self, extra_bytes: int) -> bool:
        if self._capacity_bytes is None:
            return True
        taken = sum(map(len, self._blobs.values())) + sum(map(len, self._partial.values()))
        return taken + extra_bytes <= self._capacity_bytes


class MemoryBlobWriter:
    """One blob being written; see `BlobWriter`."""

    def __init__(self, driver: MemoryBlobDriver, key: BlobKey) -> None:
        self._driver = driver
        self._key = key

    async def write(self, chunks: Sequence[Buffer]) -> None:
        """Append `chunks`."""
        self._driver.append(self._key, chunks)

    async def copy(self, key: BlobKey, start: int, stop: int) -> None:
        """Append bytes of another blob."""
        self._driver.append(self._key, [self._driver.peek(key, start, stop)])

    async def commit(self, *, size_bytes: int) -> None:
        """Make it readable."""
        self._driver.finish(self._key, size_bytes)

    async def abort(self) -> None:
        """Drop it."""
        self._driver.drop(self._key)


class MemoryBlobTrunk:
    """One blob that is gone on with; see `BlobTrunk`."""

    def __init__(self, driver: MemoryBlobDriver, key: BlobKey) -> None:
        self._driver = driver
        self._key = key

    async def cut(self, size_bytes: int) -> None:
        """Go back to `size_bytes`."""
        self._driver.cut(self._key, size_bytes)

    async def write(self, chunks: Sequence[Buffer]) -> None:
        """Append `chunks`."""
        self._driver.append(self._key, chunks)

    async def keep(self) -> None:
        """Nothing to do."""

    async def finish(self, *, size_bytes: int) -> None:
        """Make it readable."""
        self._driver.finish(self._key, size_bytes)

    async def close(self) -> None:
        """Let others go on with it."""
        self._driver.let_go(self._key)


class MemoryBlobReader:
    """One open blob; see `BlobReader`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        """Length of the whole blob."""
        return len(self._data)

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `stop`."""
        end = self.size_bytes if stop is None else min(stop, self.size_bytes)
        for position in range(start, end, _READ_BYTES):
            yield self._data[position : min(position + _READ_BYTES, end)]

    async def close(self) -> None:
        """Let go of the bytes."""
        self._data = b""
