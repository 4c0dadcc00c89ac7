"""The system calls of the local driver, finished: partial writes go on, errors are named, names are synced."""

import errno
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from mediagate.blobs.driver import Buffer, DiskFullError

READ_BYTES = 256 * 1024

_IOV_MAX = 1024  # POSIX writev
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_COPYING = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.EPERM})
"""What systems say that cannot copy within the kernel, or not between these two files."""

OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def translate(error: OSError) -> Exception:
    """What an operating system error means to callers; one that means nothing to them stays itself."""
    return DiskFullError() if error.errno in _NO_ROOM else error


def write_all(fd: int, chunks: Sequence[Buffer]) -> None:
    """Append all of `chunks`.

    Raises:
        DiskFullError: There is no room.
    """
    pending = [memoryview(chunk) for chunk in chunks]
    try:
        while pending:
            written = os.writev(fd, list(islice(pending, _IOV_MAX)))
            pending = _after(pending, written)
    except OSError as exc:
        raise translate(exc) from exc


def copy_range(source: int, target: int, start: int, stop: int) -> None:
    """Append the bytes from `start` up to `stop` of one file to another, within the kernel where it can.

    Raises:
        DiskFullError: There is no room.
        OSError: The source is shorter.
    """
    while start < stop:
        try:
            copied = _copy_some(source, target, stop - start, start)
        except OSError as exc:
            raise translate(exc) from exc
        if not copied:
            raise OSError(errno.EIO, "a blob is shorter than what was kept of it")
        start += copied


def _copy_some(source: int, target: int, count: int, offset: int) -> int:
    try:
        return os.copy_file_range(source, target, count, offset_src=offset)
    except OSError as exc:
        if exc.errno not in _NO_COPYING:
            raise
    return os.write(target, os.pread(source, min(count, READ_BYTES), offset))


def check_size(fd: int, size_bytes: int) -> None:
    """Refuse a file that is shorter or longer than the bytes that were written to it."""
    if os.fstat(fd).st_size != size_bytes:
        message = "the file on disk has another size than the bytes that were written"
        raise OSError(errno.EIO, message)


def _after(pending: list[memoryview], written: int) -> list[memoryview]:
    """What remains of `pending` after its first `written` bytes."""
    for position, view in enumerate(pending):
        if written < len(view):
            return [view[written:], *pending[position + 1 :]]
        written -= len(view)
    return []


def sync_directory(directory: Path) -> None:
    """Make the names in it durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
