"""Files that are there: what is a use, who may see them, what holds their bytes, and a clock that goes back."""

import asyncio
import errno
from collections.abc import Collection
from typing import NoReturn

import pytest

from mediagate.core.errors import FileNotFound, InvalidValue
from mediagate.core.events import (
    FileDeleted,
    FileDownloaded,
    FileEvent,
    FileReceived,
    FileRetrieved,
    FilesListed,
)
from mediagate.core.expiry import Lifetime
from mediagate.core.files import BlobKey, FileId, Purpose
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.index.driver import IndexBusyError
from stores import PNG, TTL_S, Clock, Store

HOUR_S = 3600.0


async def read(store: Store, file_id: str, *, scope: Scope = DEFAULT_SCOPE) -> bytes:
    opened = await store.files.open(file_id, scope=scope)
    try:
        return b"".join([chunk async for chunk in opened.chunks()])
    finally:
        await opened.close()


async def test_looking_is_no_use_and_reading_is_one(store: Store, clock: Clock) -> None:
    file = await store.receive()
    clock.now += 100

    looked_at = await store.files.get(file.id, scope=DEFAULT_SCOPE)
    listed = await store.files.list(scope=DEFAULT_SCOPE, limit=10)
    await read(store, file.id)
    used = await store.files.get(file.id, scope=DEFAULT_SCOPE)

    assert looked_at == listed.files[0] == file
    assert used.expires_at == clock.now + TTL_S
    assert used.last_used_at == clock.now


async def test_everything_is_told_to_the_observer(store: Store) -> None:
    file = await store.receive()
    await store.files.get(file.id, scope=DEFAULT_SCOPE)
    await read(store, file.id)
    await store.files.list(scope=DEFAULT_SCOPE, limit=10)
    await store.files.delete(file.id, scope=DEFAULT_SCOPE)

    told = [event for event in store.events if isinstance(event, FileEvent | FilesListed)]
    assert [type(event) for event in told] == [
        FileReceived,
        FileRetrieved,
        FileDownloaded,
        FilesListed,
        FileDeleted,
    ]
    of_files = [event for event in told if isinstance(event, FileEvent)]
    assert {(event.file_id, event.size_bytes) for event in of_files} == {(file.id, file.size_bytes)}


async def test_another_scope_sees_nothing(store: Store) -> None:
    file = await store.receive(scope=Scope("a"))
    other = Scope("b")

    for attempt in (store.files.get, store.files.open, store.files.delete):
        with pytest.raises(FileNotFound):
            await attempt(file.id, scope=other)
    with pytest.raises(InvalidValue):
        await store.files.list(scope=other, limit=1, after=file.id)
    assert not (await store.files.list(scope=other, limit=1)).files
    assert await read(store, file.id, scope=Scope("a")) == PNG


async def test_bytes_of_a_deleted_file_stay_until_the_last_reader_is_done(store: Store) -> None:
    file = await store.receive()
    first = await store.files.open(file.id, scope=DEFAULT_SCOPE)
    second = await store.files.open(file.id, scope=DEFAULT_SCOPE)

    await store.files.delete(file.id, scope=DEFAULT_SCOPE)
    await first.close()

    assert len(store.on_disk()) == 1
    assert b"".join([chunk async for chunk in second.chunks()]) == PNG
    await second.close()
    await second.close()
    assert await store.is_clean()


async def test_expired_file_cannot_be_revived_by_a_use(store: Store, clock: Clock) -> None:
    file = await store.receive()
    clock.now += TTL_S

    with pytest.raises(FileNotFound):
        await read(store, file.id)
    with pytest.raises(FileNotFound):
        await store.files.delete(file.id, scope=DEFAULT_SCOPE)


async def test_file_without_its_bytes_is_not_found_and_not_held(store: Store) -> None:
    file = await store.receive()
    await store.blobs.delete(file.blob)

    with pytest.raises(FileNotFound):
        await store.files.open(file.id, scope=DEFAULT_SCOPE)

    assert await store.index.evict(scope=DEFAULT_SCOPE, now=Clock().now) is not None


async def test_file_that_cannot_be_opened_is_not_held(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE, EIO: the error is passed on, the lease is not kept."""
    file = await store.receive()

    async def fail(_key: BlobKey) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(store.blobs, "read", fail)
    with pytest.raises(OSError, match="Too many"):
        await store.files.open(file.id, scope=DEFAULT_SCOPE)

    assert await store.index.evict(scope=DEFAULT_SCOPE, now=clock.now) is not None


async def test_cancelled_opening_holds_nothing(store: Store, clock: Clock) -> None:
    """At whatever step it is cancelled: later the file can be evicted."""
    for steps in range(40):
        file = await store.receive()
        opening = asyncio.create_task(store.files.open(file.id, scope=DEFAULT_SCOPE))
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        try:
            await (await opening).close()
        except asyncio.CancelledError:
            clock.now += 61  # a lease that was granted to nobody lapses
            await store.sweeper.sweep()

        evicted = await store.index.evict(scope=DEFAULT_SCOPE, now=clock.now)

        assert evicted is not None, f"held after {steps} steps"
        await store.remover.remove_all()
    assert await store.is_clean()


# the clock is set back one hour --------------------------------------------------------------------------


async def test_file_outlives_a_clock_set_back(store: Store, clock: Clock) -> None:
    """The issue: it is there, in order, and readable; its expiry does not move to an earlier time."""
    before = await store.receive()
    clock.now -= HOUR_S
    after = await store.receive()

    assert await store.files.get(before.id, scope=DEFAULT_SCOPE) == before
    assert await read(store, before.id) == PNG
    used = await store.files.get(before.id, scope=DEFAULT_SCOPE)
    assert used.expires_at == before.expires_at
    listed = (await store.files.list(scope=DEFAULT_SCOPE, limit=10)).files
    assert [file.id for file in listed] == [before.id, after.id]
    assert after.expires_at == after.created_at + TTL_S
    await store.sweeper.sweep()
    assert len(store.on_disk()) == 2


async def test_clock_set_back_and_forth_expires_nothing_early(store: Store, clock: Clock) -> None:
    file = await store.receive(lifetime=Lifetime(2 * HOUR_S, is_sliding=False))
    clock.now -= HOUR_S
    await store.sweeper.sweep()
    await read(store, file.id)
    clock.now += HOUR_S + 2 * HOUR_S - 1
    await store.sweeper.sweep()

    assert await read(store, file.id) == PNG
    clock.now += 1
    with pytest.raises(FileNotFound):
        await read(store, file.id)


async def test_reader_keeps_its_file_when_the_clock_is_set_back(store: Store, clock: Clock) -> None:
    file = await store.receive()
    opened = await store.files.open(file.id, scope=DEFAULT_SCOPE)
    clock.now -= HOUR_S

    await store.files.delete(file.id, scope=DEFAULT_SCOPE)
    await store.sweeper.sweep()

    assert b"".join([chunk async for chunk in opened.chunks()]) == PNG
    await opened.close()
    assert await store.is_clean()


async def test_receive_survives_a_clock_set_back(store: Store, clock: Clock) -> None:
    async with store.receiver.receive(scope=DEFAULT_SCOPE) as receive:
        await receive.write(PNG + bytes(10_000))
        clock.now -= HOUR_S
        await store.sweeper.sweep()
        await receive.write(bytes(10_000))
        file = await receive.finish(filename=None, purpose=Purpose.VISION)

    assert file.size_bytes == len(PNG) + 20_000
    assert file.created_at == int(clock.now)
    assert await read(store, file.id) == PNG + bytes(20_000)


async def test_deleted_file_is_gone_even_if_its_bytes_cannot_go_yet(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is told otherwise tries again, and is told that there is none."""
    file = await store.receive()

    async def forget(_ids: Collection[FileId]) -> None:
        raise IndexBusyError

    with monkeypatch.context() as patch:
        patch.setattr(store.index, "forget", forget)
        deleted = await store.files.delete(file.id, scope=DEFAULT_SCOPE)
    await store.sweeper.sweep()

    assert deleted == file.id
    assert await store.is_clean()
