"""Files that arrive in several goes: the temporary file stays between them.

Whoever writes to it holds its lock (`flock`), which the kernel takes back when the process dies: two never write to it,
whatever either believes.
"""

import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from mediagate.blobs import layout
from mediagate.blobs.driver import BlobBusyError, Buffer
from mediagate.blobs.posix import OPEN_FLAGS, check_size, sync_directory, translate, write_all
from mediagate.core.files import BlobKey
from mediagate.executor import Executor


class LocalBlobTrunk:
    """One temporary file that is gone on with; see `BlobTrunk`."""

    def __init__(self, root: Path, key: BlobKey, *, executor: Executor, durable: bool) -> None:
        self._partial = layout.partial_path(root, key)
        self._final = layout.blob_path(root, key)
        self._executor = executor
        self._durable = durable
        self._fd = -1
        self._is_finished = False

    def begin(self) -> None:
        """Open the file, whichever name it has, and lock it; blocks."""
        try:
            self._open()
            is_ours = self._lock()
        except OSError as exc:
            self._close()
            raise translate(exc) from exc
        if not is_ours:
            self._close()
            raise BlobBusyError

    def _lock(self) -> bool:
        """Whether the file is ours to write to: locked, and still the one of that name."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held the lock until now may have renamed or removed it.
            named = os.lstat(self._final if self._is_finished else self._partial)
        except (BlockingIOError, FileNotFoundError):
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def _open(self) -> None:
        try:
            self._fd = os.open(self._partial, os.O_WRONLY | OPEN_FLAGS)
        except FileNotFoundError:
            try:
                self._fd = os.open(self._final, os.O_WRONLY | OPEN_FLAGS)
                self._is_finished = True
            except FileNotFoundError:
                self._fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | OPEN_FLAGS, 0o600)

    async def cut(self, size_bytes: int) -> None:
        """Truncate."""
        await self._executor.run(self._cut, size_bytes)

    def _cut(self, size_bytes: int) -> None:
        if os.fstat(self._fd).st_size < size_bytes:
            raise OSError(errno.EIO, "a blob is shorter than what was kept of it")
        if self._is_finished:
            self._final.rename(self._partial)
            self._is_finished = False
        os.ftruncate(self._fd, size_bytes)
        os.lseek(self._fd, size_bytes, os.SEEK_SET)

    async def write(self, chunks: Sequence[Buffer]) -> None:
        """Append `chunks`."""
        await self._executor.run(write_all, self._fd, chunks)

    async def keep(self) -> None:
        """Sync the file, and its name."""
        if self._durable:
            await self._executor.run(self._sync)

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
            sync_directory(self._partial.parent)
        except OSError as exc:
            raise translate(exc) from exc

    async def finish(self, *, size_bytes: int) -> None:
        """Check, sync, rename, sync the directory."""
        await self._executor.run(self._finish, size_bytes)

    def _finish(self, size_bytes: int) -> None:
        check_size(self._fd, size_bytes)
        try:
            if self._durable:
                os.fsync(self._fd)
            self._partial.rename(self._final)
            self._is_finished = True
            if self._durable:
                sync_directory(self._final.parent)
        except OSError as exc:
            raise translate(exc) from exc

    async def close(self) -> None:
        """Close the file, and so unlock it."""
        await self._executor.run(self._let_go)

    def _let_go(self) -> None:
        try:
            if self._fd >= 0 and not self._is_finished and not os.fstat(self._fd).st_size:
                self._partial.unlink(missing_ok=True)
        finally:
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
