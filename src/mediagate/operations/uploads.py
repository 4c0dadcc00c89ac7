"""OpenAI's Uploads: create, add parts, complete or cancel.

What a refused `complete` leaves is the Upload as it was: it can be completed otherwise, cancelled, or left to expire.
Parts that came one after another become the file where they are. Any other order is put together in a blob of its own,
which needs the space of the file once more until the parts are gone.
"""

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

from blake3 import blake3

from mediagate.blobs.driver import BlobMissingError, BlobTrunk
from mediagate.blobs.store import Span, Stored, digest_of
from mediagate.core.errors import InvalidValue, StoreBusy
from mediagate.core.expiry import Lifetime
from mediagate.core.files import (
    BlobKey,
    Digest,
    FileObject,
    Purpose,
    new_blob_key,
    new_file_id,
    sanitise_filename,
)
from mediagate.core.leases import LEASE_S
from mediagate.core.scopes import Scope
from mediagate.core.uploads import (
    EXPIRES_AFTER_S,
    MAX_PARTS,
    Part,
    Upload,
    UploadStatus,
    check_pending,
    in_order,
    is_trunk,
    new_upload_id,
    order_of,
    parse_upload_id,
    upload_not_found,
)
from mediagate.executor import Executor, complete
from mediagate.index.driver import ReservationLostError
from mediagate.media.sniff import HEAD_BYTES
from mediagate.operations.files import file_not_found
from mediagate.operations.parts import Hashers, PartReceive, check_part_size
from mediagate.operations.receive import Receiver, new_file
from mediagate.operations.removal import Remover
from mediagate.operations.space import Space

logger = logging.getLogger(__name__)

POLL_S = 0.25
PATIENCE_S = LEASE_S + 30.0
"""How long a `complete` waits for another one of the same Upload. If that one's process died, its claim lapses and is
swept meanwhile."""


class Uploads:
    """Uploads of the store, as one scope sees them.

    Args:
        receiver: Whose limits, slots and quota hold for parts too.
        remover: Removes what an Upload leaves.
        executor: Where bytes are hashed that were not hashed as they came.
        poll_s: How often a `complete` that waits for another looks again, in seconds.
        patience_s: How long it does, in seconds.
    """

    def __init__(
        self,
        *,
        receiver: Receiver,
        remover: Remover,
        executor: Executor,
        poll_s: float = POLL_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._receiver = receiver
        self._index = receiver.index
        self._blobs = receiver.blobs
        self._claims = receiver.claims
        self._clock = receiver.clock
        self._remover = remover
        self._executor = executor
        self._poll_s = poll_s
        self._patience_s = patience_s
        self._hashers = Hashers()

    async def create(
        self,
        *,
        scope: Scope,
        size_bytes: int,
        filename: str | None,
        purpose: Purpose,
        lifetime: Lifetime | None,
    ) -> Upload:
        """Begin an Upload. It counts as a file from now on, and takes space as its parts come.

        Args:
            scope: Who will own the file.
            size_bytes: Of the whole file.
            filename: As the client gave it.
            purpose: As the client gave it.
            lifetime: What the client asked for; None: the server's.

        Raises:
            FileTooLarge: It exceeds the limit.
            InsufficientStorage: It can never fit, or the scope may have no more files.
        """
        self._receiver.check_size(size_bytes, param="bytes")
        now = int(self._clock())
        upload = Upload(
            id=new_upload_id(),
            scope=scope,
            file_id=new_file_id(),
            blob=new_blob_key(),
            size_bytes=size_bytes,
            filename=sanitise_filename(filename),
            purpose=purpose,
            fixed_s=None if lifetime is None else lifetime.seconds,
            created_at=now,
            expires_at=now + EXPIRES_AFTER_S,
        )
        quota = self._receiver.limits.quota
        await self._receiver.room.claim(
            partial(self._index.begin_upload, upload, quota=quota), scope=scope, size_bytes=0
        )
        return upload

    async def get(
        self, text: str, *, scope: Scope
    ) -> tuple[Upload, Sequence[Part], FileObject | None]:
        """One Upload, its parts in the order of their arrival, and its file, if there is one.

        Args:
            text: What the client gave as the id.
            scope: Who asks.

        Raises:
            UploadNotFound: There is none for `scope`: never was, over for long, or not an id at all.
        """
        upload, parts = await self._find(text, scope)
        file = None
        if upload.status is UploadStatus.COMPLETED:
            file = await self._index.get(upload.file_id, scope=scope, now=self._clock())
        return upload, parts, file

    async def receive_part(
        self, text: str, *, scope: Scope, at_least: int = 0, at_most: int | None = None
    ) -> PartReceive:
        """Take a slot for one part. The result is an async context manager, to be entered at once.

        Args:
            text: What the client gave as the id of the Upload.
            scope: Who sends.
            at_least: Bytes that the part has for certain, where a length was declared.
            at_most: Bytes that may come at the most, where a length was declared.

        Raises:
            UploadNotFound: As `get`.
            UploadNotPending: It has ended.
            InvalidValue: It has as many parts as an Upload may have.
            PartTooLarge: The declared length exceeds the limit.
            NoSlot: All slots are taken, or all that `scope` may have.
        """
        upload = await self._upload(text, scope)
        check_pending(upload, self._clock())
        check_part_size(at_least)
        if upload.parts >= MAX_PARTS:
            raise InvalidValue(f"An Upload has at most {MAX_PARTS} parts.", param="data")
        self._receiver.take_slot(scope)
        return PartReceive(self._receiver, self._hashers, upload, expected_bytes=at_most)

    async def cancel(self, text: str, *, scope: Scope) -> Upload:
        """End an Upload and remove its bytes; one that was cancelled stays so.

        Raises:
            UploadNotFound: As `get`.
            UploadNotPending: It was completed, or has expired.
        """
        upload = await self._upload(text, scope)
        if upload.status is not UploadStatus.CANCELLED:
            check_pending(upload, self._clock())
            await self._index.cancel_upload(upload.id, now=self._clock())
            await self._clean_up(upload)
            upload = await self._upload(text, scope)
        if upload.status is not UploadStatus.CANCELLED:
            check_pending(upload, self._clock())  # another request was first
        return upload

    async def complete(
        self, text: str, *, scope: Scope, part_ids: Sequence[str], md5: str | None
    ) -> tuple[Upload, FileObject]:
        """Make a file of parts; asked again for the same parts, it is the same file.

        Args:
            text: What the client gave as the id of the Upload.
            scope: Who asks.
            part_ids: What the client gave; their order is that of the bytes.
            md5: What the client says the bytes' MD5 is, in lower-case hex digits; None: nothing.

        Raises:
            UploadNotFound, UploadNotPending: As `cancel`.
            InvalidValue: `part_ids` or `md5` is not right.
            UnsupportedMedia: The bytes are no accepted media.
            InsufficientStorage: There is no room to put the parts together.
            FileNotFound: The file has been removed since.
            NoSlot: All slots are taken, or all that `scope` may have.
            StoreBusy: Another request has been completing it for too long.
        """
        give_up_at = time.monotonic() + self._patience_s
        while True:
            upload, parts = await self._find(text, scope)
            if upload.status is UploadStatus.COMPLETED:
                return upload, await self._completed(upload, part_ids)
            check_pending(upload, self._clock())
            chosen = in_order(upload, parts, part_ids)
            self._receiver.take_slot(scope)
            try:
                async with self._claimed(upload) as blob:
                    if blob is not None:
                        await self._complete(upload, chosen, blob, md5)
                        continue
            finally:
                self._receiver.release_slot(scope)
            if time.monotonic() > give_up_at:
                message = "Another request is completing this Upload. Ask again in a while."
                raise StoreBusy(message, retry_after_s=5)
            await asyncio.sleep(self._poll_s)

    async def _completed(self, upload: Upload, part_ids: Sequence[str]) -> FileObject:
        if order_of(part_ids) != upload.part_order:
            message = "The Upload was completed with other parts, or in another order."
            raise InvalidValue(message, param="part_ids")
        file = await self._index.get(upload.file_id, scope=upload.scope, now=self._clock())
        if file is None:
            raise file_not_found()
        return file

    @contextlib.asynccontextmanager
    async def _claimed(self, upload: Upload) -> AsyncIterator[BlobKey | None]:
        """Be the one who completes `upload`: a key for its file, if it needs another than the trunk's.

        None: somebody else does, or the Upload has ended. Whatever was not made a file is removed at the end.
        """
        blob = new_blob_key()
        until = self._claims.until()
        if not await self._index.claim_upload(upload.id, blob=blob, now=self._clock(), until=until):
            yield None
            return
        self._claims.add_reservation(upload.file_id)
        try:
            yield blob
        finally:
            self._claims.drop_reservation(upload.file_id)
            # Nothing happens to a row that is READY by now.
            await complete(self._receiver.abandon(upload.file_id, blob))

    async def _complete(
        self, upload: Upload, parts: Sequence[Part], blob: BlobKey, md5: str | None
    ) -> None:
        trunk: BlobTrunk | None = None
        try:
            trunk = await self._finished_trunk(upload, parts)
            if trunk is not None:
                blob = upload.blob
            else:
                await self._join(upload, parts, blob)
            mime_type, digest = await self._measure(upload, blob, md5)
            await complete(self._commit(upload, parts, blob, mime_type, digest))
        except (ReservationLostError, BlobMissingError, OSError) as error:
            # It was cancelled, or expired and was swept, while this went on; an OSError may have any other cause.
            check_pending(await self._upload(upload.id, upload.scope), self._clock())
            if isinstance(error, OSError):
                raise
            raise ReservationLostError from None
        finally:
            if trunk is not None:
                await complete(trunk.close())
        await self._clean_up(upload)

    async def _finished_trunk(self, upload: Upload, parts: Sequence[Part]) -> BlobTrunk | None:
        """The trunk as a readable blob, if it is just what `parts` are and nobody appends to it."""
        if not is_trunk(upload, parts):
            return None
        trunk = await self._blobs.resume(upload.blob)
        if trunk is None:
            return None
        try:
            upload = await self._upload(upload.id, upload.scope)
            if is_trunk(upload, parts):
                await trunk.cut(upload.trunk_bytes)
                await trunk.finish(size_bytes=upload.trunk_bytes)
                return trunk
        except BaseException:
            await complete(trunk.close())
            raise
        await trunk.close()
        return None

    async def _join(self, upload: Upload, parts: Sequence[Part], blob: BlobKey) -> None:
        space = Space(
            self._receiver.room,
            upload.file_id,
            scope=upload.scope,
            expected_bytes=upload.size_bytes,
            beside_bytes=upload.size_bytes,
        )
        await space.hold(upload.size_bytes)
        await self._blobs.join(blob, [Span(part.blob, part.start, part.stop) for part in parts])

    async def _measure(self, upload: Upload, blob: BlobKey, md5: str | None) -> tuple[str, Digest]:
        """The type and the digest of the whole; hashed off the event loop, as far as it was not hashed before."""
        known = self._hashers.at(upload.id, upload.size_bytes) if blob == upload.blob else None
        digest, check = known or blake3(), hashlib.md5(usedforsecurity=False)

        def take(chunk: bytes) -> None:
            if known is None:
                digest.update(chunk)
            if md5 is not None:
                check.update(chunk)

        reader = await self._blobs.read(blob)
        try:
            head = b"".join([chunk async for chunk in reader.chunks(0, HEAD_BYTES)])
            is_whole = upload.size_bytes <= HEAD_BYTES
            mime_type = await self._receiver.judge(head, is_whole=is_whole, param="part_ids")
            if known is None or md5 is not None:
                async for chunk in reader.chunks():
                    await self._executor.run(take, chunk)
        finally:
            await reader.close()
        if md5 is not None and md5 != check.hexdigest():
            message = "The MD5 of these parts, in this order, is another one."
            raise InvalidValue(message, param="md5")
        return mime_type, digest_of(digest)

    async def _commit(
        self,
        upload: Upload,
        parts: Sequence[Part],
        blob: BlobKey,
        mime_type: str,
        digest: Digest,
    ) -> None:
        lifetime = self._receiver.limits.lifetime
        if upload.fixed_s is not None:
            lifetime = Lifetime(upload.fixed_s, is_sliding=False)
        file = new_file(
            file_id=upload.file_id,
            scope=upload.scope,
            blob=blob,
            filename=upload.filename,
            purpose=upload.purpose,
            mime_type=mime_type,
            stored=Stored(upload.size_bytes, digest),
            lifetime=lifetime,
            now=self._clock(),
        )
        part_order = order_of([part.id for part in parts])
        if not await self._index.complete_upload(upload.id, file, part_order=part_order):
            raise ReservationLostError
        self._receiver.tell_received(file, began_at=upload.created_at)

    async def _clean_up(self, upload: Upload) -> None:
        """The Upload has ended: remove what is left of it."""
        self._hashers.drop(upload.id)
        try:
            await self._remover.remove_all()
        except Exception:
            # Ended it has, durably: whoever is told otherwise tries again in vain.
            logger.exception("the bytes of an Upload were not removed; the next sweep does it")

    async def _find(self, text: str, scope: Scope) -> tuple[Upload, Sequence[Part]]:
        """The Upload and, as long as it is pending, its parts."""
        upload = await self._upload(text, scope)
        parts = await self._index.parts(upload.id)
        # Once more: if it is pending after they were read, none of its parts was gone by then.
        upload = await self._upload(text, scope)
        if upload.status_at(self._clock()) is UploadStatus.PENDING:
            return upload, parts
        return upload, ()

    async def _upload(self, text: str, scope: Scope) -> Upload:
        upload_id = parse_upload_id(text)
        upload = None
        if upload_id is not None:
            upload = await self._index.get_upload(upload_id, scope=scope)
        if upload is None:
            raise upload_not_found()
        return upload
