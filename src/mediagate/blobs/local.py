"""Blobs as files of one directory.

The order of a write (that of restic's local backend): exclusive temporary file in the directory of its destination →
bytes → size check → fsync → rename → fsync of the directory. What can be read is therefore complete and durable.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from mediagate.blobs import layout
from mediagate.blobs.driver import BlobMissingError, Buffer
from mediagate.blobs.local_trunk import LocalBlobTrunk
from mediagate.blobs.posix import (
    OPEN_FLAGS,
    READ_BYTES,
    check_size,
    copy_range,
    sync_directory,
    translate,
    write_all,
)
from mediagate.core.files import BlobKey
from mediagate.executor import Executor


class LocalBlobDriver:
    """Blobs in a directory that several processes may share.

    Args:
        root: The store's directory; must exist.
        durable: Whether to fsync; False for a store that does not outlive its process.
        write_threads: Threads that write, sync, rename and remove.
        read_threads: Threads that read, apart from them: a sync never delays a download.
    """

    def __init__(
        self, root: Path, *, durable: bool = True, write_threads: int = 8, read_threads: int = 8
    ) -> None:
        self._root = root
        self._durable = durable
        self._writes = Executor("blob-write", threads=write_threads)
        self._reads = Executor("blob-read", threads=read_threads)

    async def open(self) -> None:
        """Make the directories."""
        await self._writes.run(self._make_directories)

    def _make_directories(self) -> None:
        # One by one: `parents=True` would give the parents the umask's mode, not 0700.
        for directory in (layout.blobs(self._root), *layout.fan_out(self._root)):
            directory.mkdir(mode=0o700, exist_ok=True)
        if self._durable:
            sync_directory(layout.blobs(self._root))
            sync_directory(self._root)

    async def close(self) -> None:
        """End the threads."""
        self._writes.close()
        self._reads.close()

    async def create(self, key: BlobKey) -> "LocalBlobWriter":
        """Begin a blob in its temporary file."""
        writer = LocalBlobWriter(self._root, key, executor=self._writes, durable=self._durable)
        await _begin(self._writes, writer.begin, undo=writer.abort)
        return writer

    async def resume(self, key: BlobKey) -> LocalBlobTrunk:
        """Go on with the temporary file of a trunk."""
        trunk = LocalBlobTrunk(self._root, key, executor=self._writes, durable=self._durable)
        await _begin(self._writes, trunk.begin, undo=trunk.close)
        return trunk

    async def read(self, key: BlobKey) -> "LocalBlobReader":
        """Open a blob; its open descriptor keeps the bytes readable whatever happens to the name."""
        reader = LocalBlobReader(self.local_path(key), executor=self._reads)
        await _begin(self._reads, reader.open, undo=reader.close)
        return reader

    async def delete(self, key: BlobKey) -> None:
        """Unlink the complete and the partial file."""
        await self._writes.run(self._unlink, key)

    def _unlink(self, key: BlobKey) -> None:
        # In this order: a commit that is under way moves the file from the first name to the second.
        layout.partial_path(self._root, key).unlink(missing_ok=True)
        layout.blob_path(self._root, key).unlink(missing_ok=True)

    async def list(self) -> AsyncIterator[Sequence[BlobKey]]:
        """The keys, one fan-out directory at a time."""
        for directory in layout.fan_out(self._root):
            yield await self._reads.run(_keys_in, directory)

    def local_path(self, key: BlobKey) -> Path:
        """Where the bytes of a committed `key` are."""
        return layout.blob_path(self._root, key)


async def _begin(
    executor: Executor, begin: Callable[[], None], *, undo: Callable[[], Awaitable[None]]
) -> None:
    """Run `begin`; a cancellation is delivered when it has happened all the same, and is undone."""
    try:
        await executor.run(begin)
    except asyncio.CancelledError:
        await undo()
        raise


class LocalBlobWriter:
    """One temporary file on its way to become a blob; see `BlobWriter`."""

    def __init__(self, root: Path, key: BlobKey, *, executor: Executor, durable: bool) -> None:
        self._root = root
        self._partial = layout.partial_path(root, key)
        self._final = layout.blob_path(root, key)
        self._executor = executor
        self._durable = durable
        self._fd = -1

    def begin(self) -> None:
        """Create the temporary file; blocks."""
        try:
            self._fd = os.open(
                self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600
            )
        except OSError as exc:
            raise translate(exc) from exc

    async def write(self, chunks: Sequence[Buffer]) -> None:
        """Append `chunks`."""
        await self._executor.run(write_all, self._fd, chunks)

    async def copy(self, key: BlobKey, start: int, stop: int) -> None:
        """Append bytes of another blob, within the kernel where it can."""
        await self._executor.run(self._copy, key, start, stop)

    def _copy(self, key: BlobKey, start: int, stop: int) -> None:
        source = self._open_any(key)
        try:
            copy_range(source, self._fd, start, stop)
        finally:
            os.close(source)

    def _open_any(self, key: BlobKey) -> int:
        partial, final = layout.partial_path(self._root, key), layout.blob_path(self._root, key)
        for path in (partial, final, partial):  # it may be renamed meanwhile, and back
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | OPEN_FLAGS)
        raise BlobMissingError

    async def commit(self, *, size_bytes: int) -> None:
        """Check, sync, rename, sync the directory."""
        await self._executor.run(self._commit, size_bytes)

    def _commit(self, size_bytes: int) -> None:
        check_size(self._fd, size_bytes)
        try:
            if self._durable:
                os.fsync(self._fd)
            self._close()
            self._partial.rename(self._final)
            if self._durable:
                sync_directory(self._final.parent)
        except OSError as exc:
            raise translate(exc) from exc

    async def abort(self) -> None:
        """Remove whatever there is."""
        await self._executor.run(self._abort)

    def _abort(self) -> None:
        self._close()
        self._partial.unlink(missing_ok=True)
        self._final.unlink(missing_ok=True)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class LocalBlobReader:
    """One open file; see `BlobReader`."""

    def __init__(self, path: Path, *, executor: Executor) -> None:
        self._path = path
        self._executor = executor
        self._fd = -1
        self._size_bytes = 0

    def open(self) -> None:
        """Open the file; blocks."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | OPEN_FLAGS)
        except FileNotFoundError:
            raise BlobMissingError from None
        self._size_bytes = os.fstat(self._fd).st_size

    @property
    def size_bytes(self) -> int:
        """Length of the whole blob."""
        return self._size_bytes

    async def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `stop`."""
        end = self._size_bytes if stop is None else min(stop, self._size_bytes)
        position = start
        while position < end:
            wanted = min(READ_BYTES, end - position)
            chunk = await self._executor.run(os.pread, self._fd, wanted, position)
            if not chunk:
                raise OSError(errno.EIO, "a blob became shorter while it was read")
            position += len(chunk)
            yield chunk

    async def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            await self._executor.run(os.close, fd)


def _keys_in(directory: Path) -> Sequence[BlobKey]:
    with os.scandir(directory) as entries:
        return [layout.key_of(entry.name) for entry in entries]
