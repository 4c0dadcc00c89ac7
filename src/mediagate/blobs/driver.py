"""What a driver of bytes must do; everything callers rely on beyond this is in `BlobStore`."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from mediagate.core.files import BlobKey

Buffer = bytes | bytearray | memoryview


class BlobMissingError(Exception):
    """No blob has this key."""


class BlobBusyError(Exception):
    """Somebody else, in this or another process, goes on with this blob."""


class DiskFullError(Exception):
    """The driver has no room for more bytes (ENOSPC, EDQUOT, EFBIG)."""


class BlobWriter(Protocol):
    """One blob being written. Exactly one of `commit` and `abort` ends it; `abort` may follow a failed `commit`.

    Calls come one after another, never at once.
    """

    async def write(self, chunks: Sequence[Buffer]) -> None:
        """Append `chunks`, in order. The buffers are not kept after the return.

        Raises:
            DiskFullError: There is no room; the writer can only be aborted.
        """

    async def commit(self, *, size_bytes: int) -> None:
        """Make the blob durable, then readable under its key, in this order, in one step for readers.

        On return the bytes survive a power cut (where the driver is durable at all). On an exception or on
        cancellation the blob may or may not be readable: the caller aborts, or deletes the key.

        Args:
            size_bytes: What the blob must measure; another size is an error and nothing becomes readable.

        Raises:
            DiskFullError: There is no room.
        """

    async def abort(self) -> None:
        """Leave nothing behind. Safe to call more than once and after a failed `commit`."""


class BlobReader(Protocol):
    """One open blob. Its bytes stay readable until `close`, even if the key is deleted meanwhile."""

    @property
    def size_bytes(self) -> int:
        """Length of the whole blob."""

    def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `stop` (default: the end), in chunks of at most 256 KiB.

        May be called more than once, one iteration at a time.
        """

    async def close(self) -> None:
        """Release what is held. Safe to call more than once."""


class BlobDriver(Protocol):
    """Keeps immutable bytes under random keys. No method is called with a key that a client chose."""

    async def open(self) -> None:
        """Make the driver ready. Called once, before anything else."""

    async def close(self) -> None:
        """Release threads and handles; the bytes stay. Called once, last."""

    async def create(self, key: BlobKey) -> BlobWriter:
        """Begin a blob. Nothing is readable under `key` before `commit` returned."""

    async def read(self, key: BlobKey) -> BlobReader:
        """Open a blob.

        Raises:
            BlobMissingError: No blob has this key.
        """

    async def delete(self, key: BlobKey) -> None:
        """Remove the bytes of `key`, unfinished ones included; a key that does not exist is no error."""

    def list(self) -> AsyncIterator[Sequence[BlobKey]]:
        """All keys, unfinished ones included, in batches, in no order."""


class BlobTrunk(Protocol):
    """An unfinished blob that is gone on with. Until `close`, or the end of the process, nobody else does.

    What is in it is for the caller to know: `cut` comes first. Calls come one after another, never at once.
    """

    async def cut(self, size_bytes: int) -> None:
        """Drop everything beyond `size_bytes`; what is written next follows there.

        Raises:
            OSError: The blob is shorter.
        """

    async def write(self, chunks: Sequence[Buffer]) -> None:
        """As `BlobWriter.write`."""

    async def keep(self) -> None:
        """Make what was written durable; the blob stays unfinished.

        Raises:
            DiskFullError: There is no room.
        """

    async def finish(self, *, size_bytes: int) -> None:
        """As `BlobWriter.commit`; `cut` makes the blob unfinished again."""

    async def close(self) -> None:
        """Let others go on with it. What was not kept may remain, until they `cut`. Safe to call more than once.

        An unfinished blob without a byte is removed: of one that was deleted meanwhile, and so begun anew, nothing
        is left that nobody looks for.
        """


@runtime_checkable
class ResumesBlobs(Protocol):
    """Optional: a driver whose unfinished blobs can be gone on with, at another time, by another process."""

    async def resume(self, key: BlobKey) -> BlobTrunk:
        """Go on with a blob that was begun this way; the first time, begin it.

        Raises:
            BlobBusyError: Somebody else does.
        """


@runtime_checkable
class CopiesBlobs(Protocol):
    """Optional: a `BlobWriter` that takes bytes of other blobs of its driver without having them read first."""

    async def copy(self, key: BlobKey, start: int, stop: int) -> None:
        """Append the bytes from `start` up to `stop` of a blob, or of what is kept of an unfinished one.

        Raises:
            BlobMissingError: No blob has this key.
            DiskFullError: There is no room; the writer can only be aborted.
        """


@runtime_checkable
class HasLocalPath(Protocol):
    """Optional: a driver whose blobs are files on this machine."""

    def local_path(self, key: BlobKey) -> Path:
        """Where the bytes of a committed `key` are. Read-only for everyone but the driver."""
