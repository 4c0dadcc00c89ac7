"""The store's directory: whose it is, who uses it, and when it goes.

Each process that uses a directory holds a shared lock on its marker for as long as it lives; the kernel drops the
lock with the process, however that ends. So "nobody uses it" is a question with a reliable answer.

A directory that was not given is private, temporary, and removed by the last process out. One that a `kill -9` left
behind is removed by the next start. One that was given stays; it is cleared only if it is asked for, is marked as ours,
and in nobody's use.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from mediagate.blobs import layout
from mediagate.blobs.layout import INDEX, INDEX_FILES, LAYOUT_VERSION, MARKER
from mediagate.blobs.posix import sync_directory

_PREFIX = "mediagate-"
_DRAFT = f"{MARKER}."  # a first start that was killed, or found the disk full, may leave one
_NOT_OURS_BUT_FINE = frozenset({"lost+found"})  # what a freshly made file system holds


class DirectoryError(Exception):
    """The directory cannot be used; the text is one line for the operator."""


class StoreDirectory:
    """A directory that is ours, locked against being cleared. Use `given` or `temporary`."""

    def __init__(self, path: Path, *, is_temporary: bool) -> None:
        self.path = path
        self.is_temporary = is_temporary
        self._lock: int | None = _mark(path, is_temporary=is_temporary)

    @classmethod
    def given(cls, path: Path, *, is_cleared: bool = False) -> Self:
        """A directory that the operator named; made if it does not exist.

        Args:
            path: Its name.
            is_cleared: What was kept in it is removed first.

        Raises:
            DirectoryError: It holds other things, belongs to a newer version, or cannot be written; or it is to be
                cleared, and in use.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()} - _NOT_OURS_BUT_FINE
            strangers = {name for name in names if not name.startswith(_DRAFT)}
            if strangers and not (path / MARKER).exists():
                message = (
                    f"{path} is not empty and is no mediagate store: give it a directory of its own"
                )
                raise DirectoryError(message)
            if is_cleared and strangers:
                _clear(path)
            return cls(path.resolve(), is_temporary=False)
        except OSError as exc:
            raise DirectoryError(f"cannot use {path}: {exc.strerror or exc}") from exc

    @classmethod
    def temporary(cls) -> Self:
        """A private directory on a real disk, removed by `close`; removes what crashed processes left.

        Raises:
            DirectoryError: All places for temporary files are in memory.
        """
        place = _place_on_disk((Path(tempfile.gettempdir()), Path("/var/tmp")))  # noqa: S108 - mkdtemp makes a private one there
        for left in place.glob(f"{_PREFIX}*"):
            _remove_if_abandoned(left)
        return cls(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place)), is_temporary=True)

    @classmethod
    def joined(cls, path: Path) -> Self:
        """A temporary directory that another process made and still uses.

        Raises:
            DirectoryError: It is gone.
        """
        try:
            if not (path / MARKER).exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            return cls(path, is_temporary=True)
        except OSError as exc:
            raise DirectoryError(f"cannot use {path}: {exc.strerror or exc}") from exc

    @property
    def index_path(self) -> Path:
        """Where the rows are."""
        return self.path / INDEX

    def close(self) -> None:
        """Stop using it; a temporary one is removed with its last user."""
        self.leave()
        if self.is_temporary:
            _remove_if_abandoned(self.path)

    def leave(self) -> None:
        """Stop using it, and remove nothing: a forked child has the lock too, and may have no use for the store."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _mark(path: Path, *, is_temporary: bool) -> int:
    """Write the marker if there is none, and lock it; returns the descriptor that holds the lock."""
    marker = path / MARKER
    if not marker.exists():
        # Locked before it has its name: nobody ever sees the marker of a living store unlocked.
        draft = path / f"{_DRAFT}{os.getpid()}"
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        content = json.dumps({"layout": LAYOUT_VERSION, "temporary": is_temporary})
        try:
            os.write(fd, content.encode())
            os.fsync(fd)  # an empty marker after a power cut would make the store look foreign
            fcntl.flock(fd, fcntl.LOCK_SH)
            with contextlib.suppress(FileExistsError):
                os.link(draft, marker)
        except OSError:
            os.close(fd)
            raise
        finally:
            draft.unlink()
        if os.fstat(fd).st_nlink == 1:
            return fd
        os.close(fd)  # another process was first: lock its marker instead
    return _lock_marker(path, fcntl.LOCK_SH)


def _lock_marker(path: Path, lock: int) -> int:
    """The descriptor that holds `lock` on the marker of a store that we understand."""
    fd = os.open(path / MARKER, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, lock)
        _check_layout(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_layout(path: Path, fd: int) -> None:
    version = _read_marker(fd).get("layout")
    if not isinstance(version, int) or version > LAYOUT_VERSION:
        raise DirectoryError(
            f"{path} was written by a newer mediagate: use that version, or another directory"
        )


def _clear(path: Path) -> None:
    """Remove what a store that nobody uses has kept, and nothing that is not a store's; the marker stays.

    Rows go first, durably: bytes without a row are orphans, which the sweep finds if this is cut short.
    """
    try:
        fd = _lock_marker(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise DirectoryError(f"{path} is in use by another process: it was not cleared") from None
    try:
        for name in INDEX_FILES:
            (path / name).unlink(missing_ok=True)
        sync_directory(path)
        for blobs in layout.fan_out(path):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(blobs)
    finally:
        os.close(fd)


def _read_marker(fd: int) -> dict[str, object]:
    try:
        marker = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return marker if isinstance(marker, dict) else {}


def _remove_if_abandoned(path: Path) -> None:
    """Remove a temporary store of ours that no process uses."""
    try:
        fd = os.open(path / MARKER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _read_marker(fd).get("temporary") is True and os.fstat(fd).st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(fd)


def _place_on_disk(candidates: Iterable[Path]) -> Path:
    """The first of `candidates` that is not in memory: media of gigabytes do not belong there."""
    in_memory = _memory_mounts()
    for candidate in candidates:
        if candidate.is_dir() and os.access(candidate, os.W_OK | os.X_OK):
            resolved = candidate.resolve()
            mount = next((p for p in (resolved, *resolved.parents) if os.path.ismount(p)), resolved)
            if mount not in in_memory:
                return resolved
    raise DirectoryError(
        "every place for temporary files is in memory: name a directory with --file-upload-dir"
    )


def _memory_mounts() -> set[Path]:
    try:
        lines = Path("/proc/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    fields = (line.split(" ") for line in lines)
    return {Path(field[1]) for field in fields if field[2] in {"tmpfs", "ramfs"}}
