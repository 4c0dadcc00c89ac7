"""Who did what to which file: one JSON line for each operation, refused ones included.

    {"op":"file.upload","file_id":"id-3f0c…","bytes":1048576,"scope":"scope-91ab…","client_host":"10.1.2.3",
     "request_id":"req_5d…","ts":1800000000.25}

An id opens its file and a scope may be somebody's name, so both are written as tags: keyed digests, the same in every
line, out of which nobody without the store's key makes anything. Filenames are not written at all.

A line is written before the answer that it tells of, with one system call, so that the lines of several processes do
not run into one another. One that cannot be written is lost, and the request it tells of is answered all the same.
"""

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mediagate.core.errors import FileNotFound
from mediagate.core.events import (
    Event,
    FileDeleted,
    FileDownloaded,
    FileEvent,
    FileEvicted,
    FileExpired,
    FileReceived,
    FileResolved,
    FileRetrieved,
    FilesListed,
    RequestFailed,
)
from mediagate.core.files import FileId
from mediagate.core.scopes import Scope
from mediagate.core.store_key import StoreKey, Use
from mediagate.observe.reasons import reason_of
from mediagate.observe.request import current_request

OPERATIONS: Mapping[type[Event], str] = {
    FileReceived: "file.upload",
    FileRetrieved: "file.retrieve",
    FileDownloaded: "file.download",
    FilesListed: "file.list",
    FileDeleted: "file.delete",
    FileResolved: "file.resolve",
    RequestFailed: "file.reject",
    FileEvicted: "file.evict",
    FileExpired: "file.expire",
}

REMOVED: Mapping[type[Event], str] = {FileEvicted: "quota_eviction", FileExpired: "ttl_expired"}
"""Reasons for which a file goes without its owner's asking."""

FIELDS: Mapping[str, str] = {
    "op": "the operation",
    "file_id": "tag of the file's id; `null`: no file is concerned, or none was named",
    "bytes": "size of the file; `null`: no file is concerned",
    "scope": "tag of the file's scope, or of the caller's; `null`: the caller was not found out",
    "client_host": "address of the peer; `null`: nobody asked, or the server does not know it",
    "request_id": "`X-Request-Id` of the request; `null`: nobody asked",
    "ts": "time, in Unix seconds",
    "reason": "of `file.reject`, `file.evict` and `file.expire` only: why",
}

_TAG_DIGITS = 16

Write = Callable[[bytes], None]
"""Takes one line, with its end, in one piece; raises `OSError` if it does not."""

logger = logging.getLogger(__name__)


class AuditLog:
    """An observer that writes.

    Args:
        key: Makes the tags.
        write: Takes the lines.
        clock: Unix seconds.
    """

    def __init__(
        self, *, key: StoreKey, write: Write, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._write = write
        self._clock = clock
        self._lost = 0

    def __call__(self, event: Event) -> None:
        """Write down what happened, if it is an operation on files."""
        operation = OPERATIONS.get(type(event))
        if operation is None:
            return
        line: dict[str, object] = {"op": operation, "file_id": None, "bytes": None, "scope": None}
        reason = REMOVED.get(type(event))
        match event:
            case FileEvent(scope=scope, file_id=file_id, size_bytes=size_bytes):
                line |= {"file_id": self._id(file_id), "bytes": size_bytes}
                line["scope"] = self._scope(scope)
            case FilesListed(scope=scope):
                line["scope"] = self._scope(scope)
            case RequestFailed(scope=scope, error=error):
                reason = reason_of(error)
                if reason is None:
                    return
                line["scope"] = None if scope is None else self._scope(scope)
                if isinstance(error, FileNotFound) and error.file_id is not None:
                    line["file_id"] = self._id(error.file_id)
        # An expiry may be found by whoever needs room: it is nobody's doing.
        request = None if isinstance(event, FileExpired) else current_request()
        line["client_host"] = None if request is None else request.client_host
        line["request_id"] = None if request is None else request.id
        line["ts"] = round(self._clock(), 3)
        if reason is not None:
            line["reason"] = reason
        self._put(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def _id(self, file_id: FileId) -> str:
        return "id-" + self._key.tag(Use.LOG, "file", file_id)[:_TAG_DIGITS]

    def _scope(self, scope: Scope) -> str:
        return "scope-" + self._key.tag(Use.LOG, "scope", scope)[:_TAG_DIGITS]

    def _put(self, line: bytes) -> None:
        try:
            self._write(line)
        except OSError as error:
            if not self._lost:  # once, or a full disk would fill the other log too
                logger.warning("the audit log cannot be written, its lines are lost: %s", error)
            self._lost += 1
        else:
            if self._lost:
                message = "the audit log is being written again; lines that were lost: %d"
                logger.warning(message, self._lost)
            self._lost = 0


class LineFile:
    """A file that lines are appended to, by any number of processes.

    Its name may be given to another file at any time, as tools that rotate logs do: what follows goes to whatever has
    the name then. A file that is truncated in its place is written on from its new end.

    Args:
        path: Made if it is not there.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = self._open()
        self._is_torn = False

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        # Only a pipe heeds O_NONBLOCK: nobody waits until its reader comes, or makes room.
        return os.open(self._path, flags | os.O_NONBLOCK, 0o640)

    def write(self, line: bytes) -> None:
        """Append one line.

        Raises:
            OSError: It was not written, or not as a whole.
        """
        self._follow_name()
        data = b"\n" + line if self._is_torn else line
        self._is_torn = os.write(self._fd, data) < len(data)
        if self._is_torn:  # the disk is full: what comes next must not go on with half a line
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _follow_name(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._fd)):
                return
        opened = self._open()
        os.close(self._fd)
        self._fd = opened

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)
