"""What can be done with files that are there: look, list, read, delete."""

import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mediagate.blobs.driver import BlobMissingError, BlobReader
from mediagate.blobs.store import BlobStore
from mediagate.core.errors import FileNotFound, InvalidValue
from mediagate.core.events import (
    FileDeleted,
    FileDownloaded,
    FileRetrieved,
    FilesListed,
    Observer,
)
from mediagate.core.files import FileId, FileObject, Purpose, parse_file_id
from mediagate.core.quotas import Usage
from mediagate.core.scopes import Scope
from mediagate.executor import complete
from mediagate.index.driver import Index, Order, Page, UnknownCursorError
from mediagate.operations.claims import Claims, Hold
from mediagate.operations.removal import Remover

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file whose bytes stay readable until `close`, whatever happens to it meanwhile."""

    file: FileObject
    reader: BlobReader
    hold: Hold

    def chunks(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to `stop`, in chunks of at most 256 KiB."""
        return self.reader.chunks(start, stop)

    async def close(self) -> None:
        """Let go of the bytes."""
        await complete(self._close())

    async def _close(self) -> None:
        await self.reader.close()
        await self.hold.release()


class Files:
    """Files of the store, as one scope sees them. Another scope's file does not exist."""

    def __init__(
        self,
        *,
        index: Index,
        blobs: BlobStore,
        claims: Claims,
        remover: Remover,
        observer: Observer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._index = index
        self._blobs = blobs
        self._claims = claims
        self._remover = remover
        self._observer = observer
        self._clock = clock

    async def get(self, text: str, *, scope: Scope) -> FileObject:
        """The metadata of one file; no use.

        Args:
            text: What the client gave as the id.
            scope: Who asks.

        Raises:
            FileNotFound: There is none for `scope`: never was, expired, deleted, evicted or not an id at all.
        """
        file_id = _parse(text)
        file = await self._index.get(file_id, scope=scope, now=self._clock())
        if file is None:
            raise await self._missing(file_id)
        self._observer(FileRetrieved(scope=scope, file_id=file_id, size_bytes=file.size_bytes))
        return file

    async def list(
        self,
        *,
        scope: Scope,
        limit: int,
        order: Order = Order.DESC,
        after: str | None = None,
        purpose: Purpose | None = None,
    ) -> Page:
        """One page of the files of `scope`; no use.

        Raises:
            InvalidValue: `after` is no file of `scope`.
        """
        cursor = None if after is None else parse_file_id(after)
        try:
            if after is not None and cursor is None:
                raise UnknownCursorError  # noqa: TRY301 - one answer for both kinds of unknown
            page = await self._index.list(
                scope=scope,
                now=self._clock(),
                limit=limit,
                order=order,
                after=cursor,
                purpose=purpose,
            )
        except UnknownCursorError:
            message = "'after' is not the id of a file you have. Begin again without it."
            raise InvalidValue(message, param="after") from None
        self._observer(FilesListed(scope=scope))
        return page

    async def open(self, text: str, *, scope: Scope) -> OpenFile:
        """Open the content of one file: a use, and a lease until `OpenFile.close`.

        Raises:
            FileNotFound: There is none for `scope`.
        """
        file_id = _parse(text)
        hold = await self._claims.hold((file_id,), scope=scope)
        try:
            file = hold.files[file_id]
            reader = await self._blobs.read(file.blob)
        except KeyError:
            await hold.release()
            raise await self._missing(file_id) from None
        except BlobMissingError:
            await hold.release()
            raise file_not_found(file_id=file_id) from None
        except BaseException:
            await hold.release()
            raise
        self._observer(FileDownloaded(scope=scope, file_id=file_id, size_bytes=file.size_bytes))
        return OpenFile(file, reader, hold)

    async def delete(self, text: str, *, scope: Scope) -> FileId:
        """Make one file invisible at once, durably; its bytes go when the last lease ends.

        Raises:
            FileNotFound: There is none for `scope`.
        """
        file_id = _parse(text)
        file = await self._index.delete(file_id, scope=scope, now=self._clock())
        if file is None:
            raise await self._missing(file_id)
        self._observer(FileDeleted(scope=scope, file_id=file_id, size_bytes=file.size_bytes))
        try:
            await self._remover.remove_all()
        except Exception:
            # Deleted it is, durably: whoever is told otherwise tries again and finds nothing.
            logger.exception("the bytes of deleted files were not removed; the next sweep does it")
        return file_id

    async def check(self) -> None:
        """Ask the index a question, to see whether it answers."""
        await self._index.usage()

    async def usage(self) -> tuple[Usage, Usage]:
        """What the whole store takes, and how much of it is only reserved for files on their way in."""
        reserved = await self._index.reserved()
        return await self._index.usage(), reserved

    async def _missing(self, file_id: FileId) -> FileNotFound:
        """The error for a file that is not there for the caller.

        Whether it is there for another one is asked after every miss, so that the time it takes tells nothing.
        """
        is_foreign = await self._index.exists(file_id, now=self._clock())
        return file_not_found(file_id=file_id, is_foreign=is_foreign)


def file_not_found(
    *, param: str | None = None, file_id: FileId | None = None, is_foreign: bool = False
) -> FileNotFound:
    """The one answer for whatever is not there, whatever the reason."""
    message = (
        "No such file. It may have expired or been deleted: upload it again with POST /v1/files."
    )
    return FileNotFound(message, param=param, file_id=file_id, is_foreign=is_foreign)


def _parse(text: str) -> FileId:
    file_id = parse_file_id(text)
    if file_id is None:
        raise file_not_found()
    return file_id
