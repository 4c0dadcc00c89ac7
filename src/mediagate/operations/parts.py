"""Taking in one part of an Upload.

    slot ─▶ row (RESERVED) ─▶ space ─▶ trunk free? ── yes ─▶ appended to it ─▶ kept ─▶ trunk grows by a row
                                            └──────── no ──▶ a blob of its own ─▶ durable ─▶ row of a part

The trunk is where the file will live if its parts come one after another. Whoever has it appends; parts that come
meanwhile, in this or any other process, go beside it.
"""

from types import TracebackType
from typing import Self

from blake3 import blake3

from mediagate.blobs.driver import BlobTrunk, Buffer
from mediagate.blobs.store import BlobSink
from mediagate.core.errors import EmptyFile, InvalidValue, PartTooLarge
from mediagate.core.files import new_blob_key
from mediagate.core.uploads import (
    MAX_PART_BYTES,
    Part,
    Upload,
    UploadId,
    check_pending,
    new_part_id,
    upload_not_found,
)
from mediagate.executor import complete
from mediagate.index.driver import ReservationLostError
from mediagate.operations.receive import Receiver
from mediagate.operations.space import Space


class Hashers:
    """The hash of each trunk as far as this process has seen it grow; what is not here is hashed from the bytes.

    Args:
        most: How many are kept; those that were not used for longest go.
    """

    def __init__(self, *, most: int = 1000) -> None:
        self._most = most
        self._kept: dict[UploadId, tuple[int, blake3]] = {}

    def at(self, upload_id: UploadId, trunk_bytes: int) -> blake3 | None:
        """A copy of the hash of the first `trunk_bytes`, if it is known."""
        if trunk_bytes == 0:
            return blake3()
        known_bytes, hasher = self._kept.get(upload_id, (0, None))
        return hasher.copy() if hasher is not None and known_bytes == trunk_bytes else None

    def keep(self, upload_id: UploadId, trunk_bytes: int, hasher: blake3) -> None:
        """The hash of the first `trunk_bytes`."""
        self._kept.pop(upload_id, None)
        self._kept[upload_id] = (trunk_bytes, hasher)
        if len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def drop(self, upload_id: UploadId) -> None:
        """The Upload has ended."""
        self._kept.pop(upload_id, None)


class PartReceive:
    """One part on its way in: `write` its bytes in order, then `finish`. One task at a time.

    Args:
        receiver: Whose slot this part has taken, and gets back.
        hashers: Those of this process.
        upload: Where the part belongs.
        expected_bytes: That may come at the most, where a length was declared.
    """

    def __init__(
        self, receiver: Receiver, hashers: Hashers, upload: Upload, *, expected_bytes: int | None
    ) -> None:
        self._receiver = receiver
        self._hashers = hashers
        self._upload = upload
        self._id = new_part_id()
        self._blob = new_blob_key()
        self._space = Space(
            receiver.room,
            self._id,
            scope=upload.scope,
            expected_bytes=expected_bytes,
            beside_bytes=upload.trunk_bytes,
            at_least=upload.size_bytes,
        )
        self._start = 0
        self._size_bytes = 0
        self._has_row = False
        self._trunk: BlobTrunk | None = None
        self._hasher: blake3 | None = None
        self._sink: BlobSink | None = None
        self._may_be_added = False

    async def __aenter__(self) -> Self:
        """Enter."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave: without `finish`, nothing remains."""
        try:
            await complete(self._leave())
        finally:
            self._receiver.claims.drop_reservation(self._id)
            self._receiver.release_slot(self._upload.scope)

    async def write(self, chunk: Buffer) -> None:
        """Take the next bytes, which must not change afterwards.

        Raises:
            PartTooLarge: Now there are too many.
            InvalidValue: There are more than the whole Upload has.
            InsufficientStorage: There is no room and nothing to evict.
            UploadNotFound, UploadNotPending: The Upload has ended meanwhile.
        """
        self._size_bytes += len(chunk)
        check_part_size(self._size_bytes)
        if self._size_bytes > self._upload.size_bytes:
            raise InvalidValue("The part is larger than its whole Upload.", param="data")
        if not self._has_row:
            await self._make_row()
        await self._space.hold(self._size_bytes)
        if self._sink is None:
            self._sink = await self._open()
        await self._sink.write(chunk)

    async def _make_row(self) -> None:
        claims = self._receiver.claims
        self._has_row = True
        await self._receiver.index.begin_part(
            self._id, scope=self._upload.scope, blob=self._blob, until=claims.until()
        )
        claims.add_reservation(self._id)

    async def _open(self) -> BlobSink:
        blobs = self._receiver.blobs
        trunk = self._trunk = await blobs.resume(self._upload.blob)
        if trunk is None:
            return await blobs.create(self._blob)
        # Nobody else adds to the trunk from here on: only now is what the index says of it certain to last.
        await self._reload()
        self._start = self._upload.trunk_bytes
        self._hasher = self._hashers.at(self._upload.id, self._start)
        return await blobs.append(trunk, at=self._start, hasher=self._hasher or blake3())

    async def _reload(self) -> None:
        upload = await self._receiver.index.get_upload(self._upload.id, scope=self._upload.scope)
        if upload is None:
            raise upload_not_found()
        check_pending(upload, self._receiver.clock())
        self._upload = upload

    async def finish(self) -> Part:
        """The last byte has come: make it durable, then part of the Upload.

        Raises:
            EmptyFile: There was no byte.
            InsufficientStorage, UploadNotFound, UploadNotPending: As `write`.
        """
        if self._sink is None:
            raise EmptyFile("The part is empty.", param="data")
        # From here a cancellation waits: the bytes and the row become durable together or not at all.
        return await complete(self._commit(self._sink))

    async def _commit(self, sink: BlobSink) -> Part:
        await sink.finish()
        part = Part(
            id=self._id,
            upload_id=self._upload.id,
            blob=self._blob if self._trunk is None else self._upload.blob,
            start=self._start,
            size_bytes=self._size_bytes,
            created_at=int(self._receiver.clock()),
        )
        await self._add(part)
        if self._hasher is not None:
            self._hashers.keep(self._upload.id, part.stop, self._hasher)
        return part

    async def _add(self, part: Part) -> None:
        self._may_be_added = True
        try:
            is_added = await self._receiver.index.add_part(part, now=self._receiver.clock())
        except ReservationLostError:
            is_added = False
        if not is_added:
            self._may_be_added = False
            await self._reload()
            raise ReservationLostError

    async def _leave(self) -> None:
        """Give the trunk back and, unless the part was added, remove what there is of it."""
        try:
            if self._has_row and not self._may_be_added:
                await self._abort()
        finally:
            if self._trunk is not None:
                await self._trunk.close()

    async def _abort(self) -> None:
        if self._sink is not None:
            await self._sink.abort()
        await self._receiver.abandon(self._id, self._blob)


def check_part_size(size_bytes: int) -> None:
    """Refuse what is too large for one part."""
    if size_bytes > MAX_PART_BYTES:
        message = f"The part exceeds the limit of {MAX_PART_BYTES // 1024**2} MiB per part."
        raise PartTooLarge(message, param="data")
