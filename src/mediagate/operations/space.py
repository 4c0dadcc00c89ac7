"""Space in the store: claimed before bytes are written, and made by removing what may go.

What may go: files that have expired, whoever's they are; then files of the scope that needs space, the least recently
used first. Never anything for a file that would not find room even then.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from mediagate.core.errors import InsufficientStorage
from mediagate.core.events import FileEvicted, FileExpired, Observer
from mediagate.core.files import FileId
from mediagate.core.quotas import Quota, next_step
from mediagate.core.scopes import Scope
from mediagate.executor import complete
from mediagate.index.driver import Index, Removal
from mediagate.operations.removal import BATCH, Remover


class Room:
    """The space of the store.

    Args:
        index: Where it is counted.
        remover: Removes what goes.
        quota: Its ceilings.
        observer: Told of what goes.
        clock: Unix seconds.
    """

    def __init__(
        self,
        *,
        index: Index,
        remover: Remover,
        quota: Quota,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._index = index
        self._remover = remover
        self._quota = quota
        self._observer = observer
        self._clock = clock

    async def reserve(self, row_id: FileId, extra_bytes: int) -> bool:
        """`Index.reserve` within the quota."""
        return await self._index.reserve(row_id, extra_bytes, quota=self._quota)

    async def claim(
        self, attempt: Callable[[], Awaitable[bool]], *, scope: Scope, size_bytes: int
    ) -> None:
        """Attempt to take space until it succeeds; in between, files make room for it.

        Args:
            attempt: Whether it succeeded.
            scope: Who needs space.
            size_bytes: Of the file that it is for, as far as that is certain.

        Raises:
            InsufficientStorage: There is no room, and nothing to remove.
        """
        has_hope = True
        while not await attempt():
            if not has_hope:
                message = (
                    "There is no room for this file, and nothing of yours that could be removed "
                    "to make some."
                )
                raise InsufficientStorage(message)
            # Where there was nothing to remove, others may have removed it just now: one more attempt.
            has_hope = await self._make(scope, size_bytes=size_bytes)

    async def _make(self, scope: Scope, *, size_bytes: int) -> bool:
        """Remove something where space is short: what has expired, whoever's it is, else a file of `scope` itself.

        Returns:
            Whether anything was removed; otherwise there is nothing, or it would be in vain.
        """
        expired = await self._index.expire(now=self._clock(), limit=BATCH)
        if expired:
            for file in expired:
                self._observer(
                    FileExpired(scope=file.scope, file_id=file.id, size_bytes=file.size_bytes)
                )
            await complete(self._remover.remove_all())
            return True
        store = await self._index.usage()
        own = await self._index.usage(scope)
        if not self._quota.leaves_room(size_bytes, own=own, store=store):
            return False
        victim = await self._index.evict(scope=scope, now=self._clock())
        if victim is None:
            # Perhaps others, in need of space as well, have evicted what there was, and are about to remove it.
            waiting = await self._index.removable(now=self._clock(), limit=BATCH)
            return await complete(self._remover.remove(waiting)) > 0
        removal = Removal(victim.id, victim.scope, victim.blob, victim.size_bytes)
        self._observer(
            FileEvicted(scope=victim.scope, file_id=victim.id, size_bytes=victim.size_bytes)
        )
        # Where bytes cannot be removed, no space comes of it: one file is lost for that, and not all, one by one.
        return await complete(self._remover.remove((removal,))) > 0


class Space:
    """Space for the bytes of one RESERVED row, claimed as they come.

    Args:
        room: Where it is claimed.
        row_id: Of the row.
        scope: Its owner.
        expected_bytes: That may come at the most, where a length was declared.
        beside_bytes: That the same file takes in other rows.
        at_least: Bytes that the file has for certain, in all rows; nothing is removed for one that finds no room then.
    """

    def __init__(
        self,
        room: Room,
        row_id: FileId,
        *,
        scope: Scope,
        expected_bytes: int | None,
        beside_bytes: int = 0,
        at_least: int = 0,
    ) -> None:
        self._room = room
        self._row_id = row_id
        self._scope = scope
        self._expected_bytes = expected_bytes
        self._beside_bytes = beside_bytes
        self._at_least = at_least
        self._held_bytes = 0

    async def hold(self, size_bytes: int) -> None:
        """Claim what `size_bytes` in all lack: a whole step if it is free, removing files only for what is needed.

        Raises:
            InsufficientStorage: There is no room and nothing to remove.
        """
        needed = size_bytes - self._held_bytes
        if needed <= 0:
            return
        expected = None
        if self._expected_bytes is not None:
            expected = max(self._expected_bytes - self._held_bytes, 0)
        step = next_step(needed=needed, expected=expected)
        if await self._room.reserve(self._row_id, step):
            self._held_bytes += step
            return
        await self._room.claim(
            partial(self._room.reserve, self._row_id, needed),
            scope=self._scope,
            size_bytes=max(self._beside_bytes + self._held_bytes + needed, self._at_least),
        )
        self._held_bytes += needed
