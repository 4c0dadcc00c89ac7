"""In which order a receive, a removal and a sweep touch rows and bytes: what a crash between two steps leaves."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest

from mediagate.blobs.driver import Buffer
from mediagate.blobs.memory import MemoryBlobDriver, MemoryBlobWriter
from mediagate.blobs.store import BATCH_BYTES, BlobStore
from mediagate.core.errors import (
    FileTooLarge,
    InsufficientStorage,
    NoSlot,
    UnsupportedMedia,
)
from mediagate.core.expiry import Lifetime
from mediagate.core.files import BlobKey, FileId, FileObject, Purpose, new_blob_key
from mediagate.core.leases import LEASE_S
from mediagate.core.quotas import Quota, Usage
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.index.memory import MemoryIndex
from mediagate.operations.claims import Claims
from mediagate.operations.receive import ReceiveLimits, Receiver
from mediagate.operations.removal import Remover
from mediagate.operations.sweep import Sweeper

MIB = 1024**2


class Journal:
    """What happened, in order; and that no byte was written without space for it."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.reserved_bytes = 0
        self.written_bytes = 0

    def note(self, step: str) -> None:
        """Repetitions count once."""
        if self.steps[-1:] != [step]:
            self.steps.append(step)


class NotedIndex(MemoryIndex):
    """A memory index that writes the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    async def begin(self, file_id: FileId, *, scope: Scope, blob: BlobKey, until: float) -> None:
        self._journal.note("row")
        await super().begin(file_id, scope=scope, blob=blob, until=until)

    async def reserve(self, file_id: FileId, extra_bytes: int, *, quota: Quota) -> bool:
        await asyncio.sleep(0)  # as a real one, it lets others go on meanwhile
        fits = await super().reserve(file_id, extra_bytes, quota=quota)
        if fits:
            self._journal.note("space")
            self._journal.reserved_bytes += extra_bytes
        return fits

    async def commit(self, file: FileObject) -> None:
        self._journal.note("row visible")
        await super().commit(file)

    async def delete(self, file_id: FileId, *, scope: Scope, now: float) -> FileObject | None:
        self._journal.note("row invisible")
        return await super().delete(file_id, scope=scope, now=now)

    async def forget(self, file_ids: Collection[FileId]) -> None:
        self._journal.note("row gone")
        await super().forget(file_ids)


class NotedDriver(MemoryBlobDriver):
    """A memory driver that writes the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    async def create(self, key: BlobKey) -> MemoryBlobWriter:
        self._journal.note("blob")
        return await super().create(key)

    def append(self, key: BlobKey, chunks: Sequence[Buffer]) -> None:
        self._journal.written_bytes += sum(map(len, chunks))
        assert self._journal.written_bytes <= self._journal.reserved_bytes, (
            "bytes are written for which there is no space"
        )
        super().append(key, chunks)

    def finish(self, key: BlobKey, size_bytes: int) -> None:
        self._journal.note("bytes durable")
        super().finish(key, size_bytes)

    async def delete(self, key: BlobKey) -> None:
        self._journal.note("bytes gone")
        await super().delete(key)


@dataclass(slots=True)
class Parts:
    """A store in memory, at a time that stands still until it is moved."""

    journal: Journal = field(default_factory=Journal)
    now: float = 1_000_000.0
    store_bytes: int = 4 * MIB
    index: NotedIndex = field(init=False)
    blobs: BlobStore = field(init=False)
    remover: Remover = field(init=False)
    receiver: Receiver = field(init=False)
    sweeper: Sweeper = field(init=False)

    def __post_init__(self) -> None:
        def clock() -> float:
            return self.now

        async def sniff(head: bytes, _is_whole: bool) -> str:
            return "image/png" if head.startswith(b"png") else "text/html"

        self.index = NotedIndex(self.journal)
        self.blobs = BlobStore(NotedDriver(self.journal))
        self.remover = Remover(index=self.index, blobs=self.blobs, clock=clock)
        self.receiver = Receiver(
            index=self.index,
            blobs=self.blobs,
            claims=Claims(index=self.index, remover=self.remover, clock=clock),
            remover=self.remover,
            sniff=sniff,
            limits=ReceiveLimits(
                max_file_bytes=2 * MIB,
                max_concurrent=1,
                allowed_types={"image/png"},
                quota=Quota(store_bytes=self.store_bytes),
                lifetime=Lifetime(3600, is_sliding=True),
            ),
            observer=lambda _event: None,
            clock=clock,
        )
        self.sweeper = Sweeper(
            index=self.index,
            blobs=self.blobs,
            remover=self.remover,
            observer=lambda _event: None,
            clock=clock,
        )

    async def receive(self, *chunks: bytes, at_most: int | None = None) -> FileObject:
        async with self.receiver.receive(scope=DEFAULT_SCOPE, at_most=at_most) as receive:
            for chunk in chunks:
                await receive.write(chunk)
            return await receive.finish(filename="a.png", purpose=Purpose.USER_DATA)

    async def keys(self) -> list[BlobKey]:
        return [key async for keys in self.blobs.list() for key in keys]


async def test_row_then_space_then_bytes_then_visible() -> None:
    parts = Parts()

    await parts.receive(b"png" + bytes(MIB))

    assert parts.journal.steps == ["row", "space", "blob", "bytes durable", "row visible"]


async def test_no_byte_is_written_without_space_for_it_however_little_was_announced() -> None:
    parts = Parts()
    chunk = bytes(BATCH_BYTES)

    file = await parts.receive(b"png" + bytes(4093), chunk, chunk, at_most=4096)

    assert parts.journal.written_bytes == file.size_bytes == 4096 + 2 * BATCH_BYTES


async def test_nothing_is_written_before_the_type_is_known() -> None:
    parts = Parts()

    with pytest.raises(UnsupportedMedia):
        await parts.receive(b"<html>", bytes(MIB))

    assert parts.journal.steps == []


async def test_a_receive_that_is_left_early_leaves_nothing_and_gives_its_slot_back() -> None:
    parts = Parts()

    with pytest.raises(ConnectionError):
        async with parts.receiver.receive(scope=DEFAULT_SCOPE) as receive:
            await receive.write(b"png" + bytes(MIB))
            raise ConnectionError

    assert await parts.keys() == []
    assert await parts.index.usage() == Usage()
    assert (await parts.receive(b"png")).size_bytes == 3


async def test_a_declared_length_over_the_limit_takes_no_slot() -> None:
    parts = Parts()

    with pytest.raises(FileTooLarge):
        parts.receiver.receive(scope=DEFAULT_SCOPE, at_least=2 * MIB + 1)

    await parts.receive(b"png")


async def test_one_receive_too_many_is_refused_at_once() -> None:
    parts = Parts()

    async with parts.receiver.receive(scope=DEFAULT_SCOPE):
        with pytest.raises(NoSlot):
            parts.receiver.receive(scope=DEFAULT_SCOPE)


@pytest.mark.parametrize("at_most", [None, 10])
async def test_the_limit_counts_what_came_not_what_was_declared(at_most: int | None) -> None:
    parts = Parts()

    with pytest.raises(FileTooLarge):
        await parts.receive(b"png" + bytes(MIB), bytes(MIB), at_most=at_most)

    assert await parts.keys() == []


async def test_announced_bytes_evict_nothing() -> None:
    parts = Parts(store_bytes=2 * MIB)
    kept = await parts.receive(b"png" + bytes(MIB), at_most=MIB + 3)

    await parts.receive(b"png", at_most=2 * MIB)

    assert await parts.index.get(kept.id, scope=DEFAULT_SCOPE, now=parts.now) == kept


async def test_bytes_that_came_evict_the_least_recently_used() -> None:
    parts = Parts(store_bytes=2 * MIB)
    old = await parts.receive(b"png" + bytes(MIB - 3))
    parts.now += 1
    young = await parts.receive(b"png" + bytes(MIB // 2))
    parts.now += 1

    new = await parts.receive(b"png" + bytes(MIB))

    assert set(await parts.keys()) == {young.blob, new.blob}
    assert await parts.index.get(old.id, scope=DEFAULT_SCOPE, now=parts.now) is None


async def test_a_leased_file_makes_no_room() -> None:
    parts = Parts(store_bytes=2 * MIB)
    used = await parts.receive(b"png" + bytes(MIB))

    async with parts.receiver.receive(scope=DEFAULT_SCOPE) as receive:
        hold = await parts.receiver.claims.hold((used.id,), scope=DEFAULT_SCOPE)
        with pytest.raises(InsufficientStorage):
            await receive.write(b"png" + bytes(MIB))
        await hold.release()

    assert await parts.keys() == [used.blob]


async def test_the_way_out_is_row_invisible_then_bytes_then_row() -> None:
    parts = Parts()
    file = await parts.receive(b"png")
    parts.journal.steps.clear()

    await parts.index.delete(file.id, scope=DEFAULT_SCOPE, now=parts.now)
    await parts.remover.remove_all()

    assert parts.journal.steps == ["row invisible", "bytes gone", "row gone"]


async def test_orphans_are_collected_and_whatever_has_a_row_is_not() -> None:
    parts = Parts()
    file = await parts.receive(b"png")
    orphans = {new_blob_key(), new_blob_key()}
    for key in orphans:
        await parts.blobs.create(key)

    async with parts.receiver.receive(scope=DEFAULT_SCOPE) as receive:
        await receive.write(b"png" + bytes(MIB))
        arriving = set(await parts.keys()) - {file.blob} - orphans
        await parts.sweeper.collect()
        left = set(await parts.keys())

    assert len(arriving) == 1
    assert left == {file.blob} | arriving


async def test_a_stale_reservation_and_its_bytes_are_gone_after_one_sweep() -> None:
    parts = Parts()
    receive = parts.receiver.receive(scope=DEFAULT_SCOPE)
    await receive.write(b"png" + bytes(MIB))
    await parts.sweeper.sweep()
    before = await parts.keys()
    parts.now += LEASE_S

    await parts.sweeper.sweep()

    assert len(before) == 1
    assert await parts.keys() == []
    assert await parts.index.usage() == Usage()
