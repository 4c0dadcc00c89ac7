"""Taking in one file.

    slot ─▶ head (4 KiB) ─▶ type ─▶ row (RESERVED) ─▶ space, bytes ─▶ space, bytes ─▶ … ─▶ bytes durable ─▶ row (READY)

Nothing is written before the type is known. The row exists before the first byte of the blob and becomes visible
after the last one is durable. Whatever ends a receive early, `__aexit__` leaves nothing behind.
"""

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from mediagate.blobs.driver import Buffer
from mediagate.blobs.store import BlobSink, BlobStore, Stored
from mediagate.core.errors import (
    EmptyFile,
    FileTooLarge,
    InsufficientStorage,
    UnsupportedMedia,
)
from mediagate.core.events import (
    FileReceived,
    Observer,
    ReceiveBegan,
    ReceiveEnded,
)
from mediagate.core.expiry import Lifetime
from mediagate.core.files import (
    BlobKey,
    FileId,
    FileObject,
    Purpose,
    new_blob_key,
    new_file_id,
    sanitise_filename,
)
from mediagate.core.quotas import Quota
from mediagate.core.scopes import Scope
from mediagate.executor import complete
from mediagate.index.driver import Index
from mediagate.media.sniff import HEAD_BYTES
from mediagate.operations.claims import Claims
from mediagate.operations.removal import Remover
from mediagate.operations.slots import Slots
from mediagate.operations.space import Room, Space

Sniff = Callable[[bytes, bool], Awaitable[str]]
"""First bytes, and whether they are all → exact MIME type."""


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """Ceilings on one receive and on their number.

    Attributes:
        max_file_bytes: Largest file.
        max_concurrent: Receives at once, in this process.
        max_concurrent_per_scope: Those of one scope among them; None: no ceiling of their own.
        allowed_types: Exact MIME types.
        quota: Ceilings of the store.
        lifetime: Of a file for which the client asks none.
    """

    max_file_bytes: int
    max_concurrent: int
    allowed_types: Collection[str]
    quota: Quota
    lifetime: Lifetime
    max_concurrent_per_scope: int | None = None


class Receiver:
    """Takes files in, as many at once as there are slots."""

    def __init__(
        self,
        *,
        index: Index,
        blobs: BlobStore,
        claims: Claims,
        remover: Remover,
        sniff: Sniff,
        limits: ReceiveLimits,
        observer: Observer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.index = index
        self.blobs = blobs
        self.claims = claims
        self.sniff = sniff
        self.limits = limits
        self.clock = clock
        self.observer = observer
        self.room = Room(
            index=index, remover=remover, quota=limits.quota, observer=observer, clock=clock
        )
        self._slots = Slots(total=limits.max_concurrent, per_scope=limits.max_concurrent_per_scope)

    def receive(
        self,
        *,
        scope: Scope,
        at_least: int = 0,
        at_most: int | None = None,
        has_slot: bool = False,
    ) -> "Receive":
        """Take a slot. The result is an async context manager, to be entered at once.

        Args:
            scope: Who will own the file.
            at_least: Bytes that the file has for certain, where a length was declared.
            at_most: Bytes that may come at the most, where a length was declared.
            has_slot: The caller took one, for several receives one after another, and gives it back.

        Raises:
            FileTooLarge: The declared length exceeds the limit.
            InsufficientStorage: It can never fit.
            NoSlot: All slots are taken, or all that `scope` may have.
        """
        self.check_size(at_least)
        if not has_slot:
            self.take_slot(scope)
        return Receive(
            self,
            scope=scope,
            at_least=at_least,
            expected_bytes=at_most,
            gives_slot_back=not has_slot,
        )

    def take_slot(self, scope: Scope) -> None:
        """Take a slot, which must be given back.

        Raises:
            NoSlot: All are taken, or all that `scope` may have.
        """
        self._slots.take(scope)
        self.observer(ReceiveBegan())

    def release_slot(self, scope: Scope) -> None:
        """Give a slot back."""
        self._slots.give_back(scope)
        self.observer(ReceiveEnded())

    def check_size(self, size_bytes: int, *, param: str = "file") -> None:
        """Refuse what is too large for one file, or can never fit; `param` is what gave the size."""
        if size_bytes > self.limits.max_file_bytes:
            message = (
                f"The file exceeds the limit of {_human(self.limits.max_file_bytes)} per file."
            )
            raise FileTooLarge(message, param=param)
        if not self.limits.quota.can_ever_hold(size_bytes):
            message = "The file exceeds the space that this server keeps for your files together."
            raise InsufficientStorage(message, param=param)

    async def judge(self, head: bytes, *, is_whole: bool, param: str = "file") -> str:
        """The exact type of a file that begins with `head`, which came as `param`.

        Raises:
            UnsupportedMedia: It is none that is accepted.
        """
        mime_type = await self.sniff(head, is_whole)
        if mime_type not in self.limits.allowed_types:
            message = (
                f"The file's content is {mime_type}, which is not accepted. "
                "Images, audio and video are, in common formats; the name and the declared type do not count."
            )
            raise UnsupportedMedia(message, param=param)
        return mime_type

    async def abandon(self, row_id: FileId, blob: BlobKey) -> None:
        """Remove a row if it is still RESERVED, and the bytes unless a row names them."""
        await self.index.abandon(row_id)
        if await self.index.without_row((blob,)):
            await self.blobs.delete(blob)

    def tell_received(self, file: FileObject, *, began_at: float) -> None:
        """A file is there; `began_at`: when its bytes began to come, in Unix seconds."""
        self.observer(
            FileReceived(
                scope=file.scope,
                file_id=file.id,
                size_bytes=file.size_bytes,
                mime_type=file.mime_type,
                elapsed_s=self.clock() - began_at,
            )
        )


def new_file(
    *,
    file_id: FileId,
    scope: Scope,
    blob: BlobKey,
    filename: str,
    purpose: Purpose,
    mime_type: str,
    stored: Stored,
    lifetime: Lifetime,
    now: float,
) -> FileObject:
    """A file whose life begins `now`, with a first use."""
    return FileObject(
        id=file_id,
        scope=scope,
        blob=blob,
        filename=filename,
        purpose=purpose,
        mime_type=mime_type,
        size_bytes=stored.size_bytes,
        digest=stored.digest,
        created_at=int(now),
        last_used_at=now,
        expires_at=lifetime.expires_at(int(now)),
        ttl_s=lifetime.ttl_s,
    )


class Receive:
    """One file on its way in: `write` its bytes in order, then `finish`. One task at a time."""

    def __init__(
        self,
        receiver: Receiver,
        *,
        scope: Scope,
        at_least: int,
        expected_bytes: int | None,
        gives_slot_back: bool,
    ) -> None:
        self._receiver = receiver
        self._gives_slot_back = gives_slot_back
        self._scope = scope
        self._id = new_file_id()
        self._blob = new_blob_key()
        self._space = Space(
            receiver.room, self._id, scope=scope, expected_bytes=expected_bytes, at_least=at_least
        )
        self._head = bytearray()
        self._size_bytes = 0
        self._sink: BlobSink | None = None
        self._mime_type = ""
        self._may_be_visible = False
        self._is_finished = False
        self._began_at = receiver.clock()

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
            if not self._is_finished and self._mime_type:
                await complete(self._abort())
        finally:
            self._receiver.claims.drop_reservation(self._id)
            if self._gives_slot_back:
                self._receiver.release_slot(self._scope)

    @property
    def file_id(self) -> FileId:
        """What its id will be."""
        return self._id

    async def write(self, chunk: Buffer) -> None:
        """Take the next bytes, which must not change afterwards.

        Raises:
            FileTooLarge: Now there are too many.
            InsufficientStorage: There is no room and nothing to evict.
            UnsupportedMedia: The first bytes are no accepted media.
        """
        self._size_bytes += len(chunk)
        self._receiver.check_size(self._size_bytes)
        if self._sink is not None:
            await self._space.hold(self._size_bytes)
            await self._sink.write(chunk)
            return
        self._head += chunk
        if len(self._head) >= HEAD_BYTES:
            await self._begin(is_whole=False)

    async def _begin(self, *, is_whole: bool) -> BlobSink:
        """Judge the type, then make the row, then the blob."""
        head = bytes(self._head)
        self._mime_type = await self._receiver.judge(head[:HEAD_BYTES], is_whole=is_whole)
        claims = self._receiver.claims
        await self._receiver.index.begin(
            self._id, scope=self._scope, blob=self._blob, until=claims.until()
        )
        claims.add_reservation(self._id)
        await self._space.hold(len(head))
        sink = self._sink = await self._receiver.blobs.create(self._blob)
        await sink.write(head)
        self._head.clear()
        return sink

    async def finish(
        self, *, filename: str | None, purpose: Purpose, lifetime: Lifetime | None = None
    ) -> FileObject:
        """The last byte has come: make it durable, then visible.

        Args:
            filename: As the client gave it.
            purpose: As the client gave it.
            lifetime: What the client asked for; None: the server's.

        Raises:
            EmptyFile: There was no byte.
            UnsupportedMedia, InsufficientStorage: As `write`.
        """
        if self._size_bytes == 0:
            message = "The file is empty."
            raise EmptyFile(message, param="file")
        sink = self._sink or await self._begin(is_whole=True)
        lifetime = lifetime or self._receiver.limits.lifetime
        # From here a cancellation waits: the bytes and the row become durable together or not at all.
        return await complete(self._commit(sink, filename, purpose, lifetime))

    async def _commit(
        self, sink: BlobSink, filename: str | None, purpose: Purpose, lifetime: Lifetime
    ) -> FileObject:
        stored = await sink.finish()
        file = new_file(
            file_id=self._id,
            scope=self._scope,
            blob=self._blob,
            filename=sanitise_filename(filename),
            purpose=purpose,
            mime_type=self._mime_type,
            stored=stored,
            lifetime=lifetime,
            now=self._receiver.clock(),
        )
        self._may_be_visible = True
        await self._receiver.index.commit(file)
        self._is_finished = True
        self._receiver.tell_received(file, began_at=self._began_at)
        return file

    async def _abort(self) -> None:
        """Remove the row if it is still reserved, and the bytes unless a row names them."""
        if self._sink is not None and not self._may_be_visible:
            # First, and whatever the index says: on a full disk that can write only when there is room again.
            await self._sink.abort()
        await self._receiver.abandon(self._id, self._blob)


def _human(size_bytes: int) -> str:
    return f"{size_bytes / 1024**2:g} MiB"
