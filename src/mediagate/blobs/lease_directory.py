"""Links through which an engine on the same disk reads what a request leases, and nothing else.

    DIR/                    0700, or 0750 and the group's, if there is one
    ├── .mediagate-leases   0600  names the store whose links these are; locked for as long as a process uses it
    └── <36 hex digits>     a hard link to a blob: the lease, and the file's position in it

The store's own tree stays 0700. A link is a second name of the same inode, so nothing is copied, and its bytes stay
readable until it is dropped, whatever happens to the blob. Mode and group are the inode's too; behind 0700 that gives
nothing away. A name that is not of this form is never removed.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from mediagate.blobs.directory import DirectoryError
from mediagate.blobs.driver import BlobMissingError
from mediagate.blobs.lease_findings import (
    LINK,
    MARKER,
    Aspect,
    Candidate,
    Finding,
    give,
    is_link,
    look,
)
from mediagate.blobs.posix import OPEN_FLAGS, translate
from mediagate.core.files import BlobKey, new_blob_key
from mediagate.executor import Executor


class HasBlobPaths(Protocol):
    """Knows where blobs are files on this machine, if they are; `BlobStore` does."""

    def local_path(self, key: BlobKey) -> Path | None:
        """Where the bytes of `key` are."""


class LeaseDirectory:
    """A directory of links to the blobs of one store, whose processes share it.

    Args:
        path: The directory; absolute.
        blobs: The store.
        upstream_path: What the upstream calls the directory; None: the same.
        group: Who may read the links beside this process's user, by name or number; None: nobody.
    """

    def __init__(
        self,
        path: Path,
        *,
        blobs: HasBlobPaths,
        upstream_path: PurePosixPath | None = None,
        group: str | int | None = None,
    ) -> None:
        self.path = path
        self._blobs = blobs
        self._upstream_path = upstream_path
        self._group = group
        self._gid: int | None = None
        self._lock: int | None = None
        self._executor = Executor("lease-links", threads=2)

    def open(self) -> None:
        """Make the directory if it is missing, look at it, and take it. Blocks; the blobs are open before.

        Raises:
            DirectoryError: It cannot be used; the text is one line for the operator.
        """
        candidate = self._candidate()
        try:
            with contextlib.suppress(FileExistsError):  # which is then no directory
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for finding in look(candidate):
                if not finding.is_fine:
                    raise DirectoryError(finding.text)
                if finding.aspect is Aspect.CONTENT:
                    _open_to_group(candidate)  # not before: it might be anything of this user's
            self._gid = candidate.gid
            # Where links can be made from there, the number stands for no other store.
            self._lock = _take(self.path, store=str(candidate.blobs.parent.stat().st_ino))
        except OSError as exc:
            raise DirectoryError(f"cannot use {self.path}: {exc.strerror or exc}") from exc

    async def close(self) -> None:
        """End the threads and give the directory up; links stay, for a sweep. Safe to call more than once."""
        self._executor.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def findings(self) -> Sequence[Finding]:
        """What there is to say of the directory, up to the first thing that is wrong. Blocks, changes nothing.

        Raises:
            DirectoryError: The store has no files on this machine.
        """
        try:
            return tuple(look(self._candidate()))
        except OSError as exc:
            text = f"cannot use {self.path}: {exc.strerror or exc}"
            return (Finding(Aspect.KIND, is_fine=False, text=text),)

    async def link(self, name: str, key: BlobKey) -> None:
        """Name a blob, and let the group read it. A call that is cancelled leaves no name behind.

        Raises:
            BlobMissingError: No blob has this key.
            DiskFullError: There is no room for a name.
            OSError: The directory is not what it was.
            ValueError: `name` is not 36 lower-case hexadecimal digits.
        """
        path, blob = self._path_of(name), self._blob_path(key)
        try:
            await self._executor.run(_link, blob, path, self._gid)
        except asyncio.CancelledError:
            await self.unlink((name,))
            raise

    async def unlink(self, names: Iterable[str]) -> None:
        """Remove links; one that is missing is no error.

        Raises:
            OSError: The directory is not what it was.
            ValueError: A name is not 36 lower-case hexadecimal digits.
        """
        await self._executor.run(_unlink, [self._path_of(name) for name in names])

    async def names(self) -> Sequence[str]:
        """The links that are there, whichever process made them."""
        return await self._executor.run(_links_in, self.path)

    def seen_by_upstream(self, name: str) -> PurePosixPath:
        """Where the upstream finds a link; absolute."""
        return (self._upstream_path or PurePosixPath(self.path)) / name

    def _candidate(self) -> Candidate:
        return Candidate(
            path=self.path,
            blobs=self._blob_path(new_blob_key()).parent,
            group=self._group,
            is_mounted_elsewhere=self._upstream_path is not None,
        )

    def _path_of(self, name: str) -> Path:
        if not LINK.fullmatch(name):
            raise ValueError("a link is named by 36 lower-case hexadecimal digits")
        return self.path / name

    def _blob_path(self, key: BlobKey) -> Path:
        path = self._blobs.local_path(key)
        if path is None:
            raise DirectoryError(
                "--media-path needs a store of files on this machine: links lead to nothing else"
            )
        return path


def _open_to_group(candidate: Candidate) -> None:
    """Hand a directory that is private by now to the group; where that fails, the next finding says so."""
    if candidate.gid is not None and not candidate.path.stat().st_mode & 0o027:
        with contextlib.suppress(PermissionError):
            give(candidate.path.resolve(), candidate.gid, candidate.mode)


def _take(path: Path, *, store: str) -> int:
    """Share the directory with the processes of `store`; returns the descriptor that holds the lock.

    Two stores in one directory would each take the other's links for left behind, and remove them.

    Raises:
        DirectoryError: Another store uses it.
    """
    fd = os.open(path / MARKER, os.O_RDWR | os.O_CREAT | OPEN_FLAGS, 0o600)
    try:
        owner = _lock(fd, store)
    except BaseException:
        os.close(fd)
        raise
    if owner != store:
        os.close(fd)
        message = (
            f"{path} is in use by another store: give each a directory of its own with --media-path"
        )
        raise DirectoryError(message)
    return fd


def _lock(fd: int, store: str) -> str:
    """Take a shared lock, and put `store` there if nobody else has one; whose it is then."""
    owner = ""
    while not owner:  # who was first may have died before it wrote
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, store.encode(), 0)
        # Not in one step with what is above, so whose it is now is read afterwards.
        fcntl.flock(fd, fcntl.LOCK_SH)
        owner = os.pread(fd, 64, 0).decode(errors="replace")
    return owner


def _link(blob: Path, path: Path, gid: int | None) -> None:
    try:
        os.link(blob, path, follow_symlinks=False)
    except FileNotFoundError:
        if not blob.exists():
            raise BlobMissingError from None
        raise
    except OSError as exc:
        raise translate(exc) from exc
    if gid is not None:
        try:
            give(path, gid, 0o640)
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _links_in(path: Path) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for entry in entries if is_link(entry)]
