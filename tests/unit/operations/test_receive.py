"""Taking one file in: what cannot be taken, and that nothing is left however a receive ends."""

import asyncio
import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

import stores
from mediagate.blobs.driver import DiskFullError
from mediagate.core.errors import (
    EmptyFile,
    FileTooLarge,
    InsufficientStorage,
    NoSlot,
    UnsupportedMedia,
)
from mediagate.core.events import FileEvicted, FileExpired, FileReceived
from mediagate.core.expiry import Lifetime
from mediagate.core.files import BlobKey, FileId, FileObject, Purpose
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.index.driver import IndexBusyError, IndexFullError, Removal
from stores import PNG, Clock

MIB = 1024**2


async def test_file_is_what_was_sent(tmp_path: Path) -> None:
    clock = Clock()
    async with stores.opened(tmp_path, clock) as store:
        file = await store.receive(PNG + bytes(100_000))

        assert file.size_bytes == len(PNG) + 100_000
        assert file.mime_type == "image/png"
        assert file.filename == "a.png"
        assert (file.created_at, file.last_used_at) == (int(clock.now), clock.now)
        (event,) = (event for event in store.events if isinstance(event, FileReceived))
        assert (event.file_id, event.size_bytes) == (file.id, file.size_bytes)


@pytest.mark.parametrize("lifetime", [Lifetime(7200, is_sliding=False), None])
async def test_clients_lifetime_wins_over_the_servers(
    tmp_path: Path, lifetime: Lifetime | None
) -> None:
    clock = Clock()
    async with stores.opened(tmp_path, clock) as store:
        file = await store.receive(lifetime=lifetime)

    assert file.expires_at == int(clock.now) + (7200 if lifetime else stores.TTL_S)
    assert file.ttl_s == (None if lifetime else stores.TTL_S)


async def test_what_can_never_fit_is_refused_before_anything_goes(tmp_path: Path) -> None:
    """H60: nothing is evicted for it."""
    async with stores.opened(tmp_path, Clock(), store_bytes=MIB) as store:
        kept = await store.receive()

        with pytest.raises(InsufficientStorage):
            store.receiver.receive(scope=DEFAULT_SCOPE, at_least=MIB + 1)

        assert await store.files.get(kept.id, scope=DEFAULT_SCOPE) == kept


async def test_what_turns_out_never_to_fit_is_refused_while_streaming(tmp_path: Path) -> None:
    """H60: with no length declared."""
    async with stores.opened(tmp_path, Clock(), store_bytes=MIB) as store:
        with pytest.raises(InsufficientStorage):
            await store.receive(PNG + bytes(MIB))

        assert await store.is_clean()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EmptyFile),
        (b"<html>", UnsupportedMedia),
        (b"<html>" + bytes(10_000), UnsupportedMedia),
        (PNG + bytes(2 * MIB), FileTooLarge),
    ],
)
async def test_refusal_leaves_nothing_and_frees_the_slot(
    tmp_path: Path, data: bytes, error: type[Exception]
) -> None:
    async with stores.opened(tmp_path, Clock(), max_file_bytes=2 * MIB, max_concurrent=1) as store:
        for _ in range(2):
            with pytest.raises(error):
                await store.receive(data)

        assert await store.is_clean()
        await store.receive()


async def test_all_slots_taken_is_told_with_a_time(tmp_path: Path) -> None:
    async with (
        stores.opened(tmp_path, Clock(), max_concurrent=1) as store,
        store.receiver.receive(scope=DEFAULT_SCOPE),
    ):
        with pytest.raises(NoSlot) as caught:
            store.receiver.receive(scope=DEFAULT_SCOPE)

    assert 1 <= caught.value.retry_after_s <= 120


async def test_cancellation_at_any_step_is_all_or_nothing(tmp_path: Path) -> None:
    """H22, P3: a row with its bytes, or neither; and the slot is free."""
    data = PNG + bytes(600_000)
    outcomes = set()
    async with stores.opened(tmp_path, Clock(), max_concurrent=1) as store:
        # Before the end on the fastest machine, and after it on the slowest.
        for delay_s in (*(n * 0.0004 for n in range(60)), 10.0):
            receiving = asyncio.create_task(store.receive(data))
            await asyncio.wait((receiving,), timeout=delay_s)
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await receiving

            files = (await store.files.list(scope=DEFAULT_SCOPE, limit=10)).files
            outcomes.add(len(files))
            assert [file.blob for file in files] == store.on_disk(), f"after {delay_s} s"
            usage = await store.index.usage()
            assert usage.used_bytes == sum(file.size_bytes for file in files)
            for file in files:
                await store.files.delete(file.id, scope=DEFAULT_SCOPE)
            assert await store.is_clean(), f"after {delay_s} s"
    assert outcomes == {0, 1}


async def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H31: the kernel says so while the bytes are written."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with stores.opened(tmp_path, Clock()) as store:
        monkeypatch.setattr(os, "writev", refuse)

        for size_bytes in (100, 5 * MIB):
            with pytest.raises(DiskFullError):
                await store.receive(PNG + bytes(size_bytes))

            assert await store.is_clean()


async def test_eviction_is_told_to_the_observer(tmp_path: Path) -> None:
    clock = Clock()
    async with stores.opened(tmp_path, clock, store_bytes=MIB) as store:
        old = await store.receive(PNG + bytes(600_000))
        clock.now += 1
        await store.receive(PNG + bytes(600_000))

        evicted = [event for event in store.events if isinstance(event, FileEvicted)]
        assert [(e.file_id, e.size_bytes) for e in evicted] == [(old.id, old.size_bytes)]
        assert len(store.on_disk()) == 1


async def test_no_file_of_another_scope_makes_room(tmp_path: Path) -> None:
    """H62: not even the least recently used one of all."""
    clock = Clock()
    ours, theirs = Scope("ours"), Scope("theirs")
    async with stores.opened(tmp_path, clock, store_bytes=2 * MIB) as store:
        of_theirs = await store.receive(PNG + bytes(600_000), scope=theirs)
        for _ in range(5):
            clock.now += 1
            newest = await store.receive(PNG + bytes(600_000), scope=ours)

        evicted = [event for event in store.events if isinstance(event, FileEvicted)]
        assert {event.scope for event in evicted} == {ours}
        assert await store.files.get(of_theirs.id, scope=theirs) == of_theirs
        assert await store.files.get(newest.id, scope=ours) == newest


@pytest.mark.parametrize("at_least", [0, 900_000])
async def test_nothing_is_removed_for_a_file_that_finds_no_room_beside_the_others(
    tmp_path: Path, at_least: int
) -> None:
    """H62: known from its declared length, or from what has come."""
    ours, theirs = Scope("ours"), Scope("theirs")
    async with stores.opened(tmp_path, Clock(), store_bytes=MIB) as store:
        kept = await store.receive(PNG + bytes(400_000), scope=ours)
        await store.receive(PNG + bytes(400_000), scope=theirs)

        with pytest.raises(InsufficientStorage):
            async with store.receiver.receive(scope=ours, at_least=at_least) as receive:
                await receive.write(PNG + bytes(300_000 if at_least else 900_000))

        assert await store.files.get(kept.id, scope=ours) == kept
        assert (await store.index.usage()).files == 2


async def test_expired_files_go_first_whoever_owned_them(tmp_path: Path) -> None:
    """H56, H62: nobody can see them; no file that anybody can see goes before."""
    clock = Clock()
    ours, theirs = Scope("ours"), Scope("theirs")
    async with stores.opened(tmp_path, clock, store_bytes=MIB) as store:
        over = await store.receive(PNG + bytes(400_000), scope=theirs)
        clock.now += stores.TTL_S - 1
        kept = await store.receive(PNG + bytes(400_000), scope=ours)
        clock.now += 1

        await store.receive(PNG + bytes(400_000), scope=ours)

        assert await store.files.get(kept.id, scope=ours) == kept
        (event,) = [event for event in store.events if isinstance(event, FileExpired)]
        assert (event.file_id, event.scope) == (over.id, theirs)
        assert not [event for event in store.events if isinstance(event, FileEvicted)]


async def test_what_another_has_evicted_and_not_yet_removed_makes_room(tmp_path: Path) -> None:
    """H61: several want space at once; who comes last finds no victim left, and is not refused for that."""
    clock = Clock()
    async with stores.opened(tmp_path, clock, store_bytes=2 * MIB) as store:
        victim = await store.receive(PNG.ljust(MIB, b"\0"))
        await store.index.evict(scope=DEFAULT_SCOPE, now=clock())

        file = await store.receive(PNG.ljust(2 * MIB, b"\0"))

        assert store.on_disk() == [file.blob] != [victim.blob]


async def test_what_another_has_removed_at_the_last_moment_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H61: between the question for a victim and its answer, another has removed the last one."""
    clock = Clock()
    async with stores.opened(tmp_path, clock, store_bytes=2 * MIB) as store:
        victim = await store.receive(PNG.ljust(MIB, b"\0"))
        await store.index.evict(scope=DEFAULT_SCOPE, now=clock())
        removable = store.index.removable

        async def after_another(*, now: float, limit: int) -> Sequence[Removal]:
            await store.remover.remove(await removable(now=now, limit=limit))
            return await removable(now=now, limit=limit)

        monkeypatch.setattr(store.index, "removable", after_another)
        file = await store.receive(PNG.ljust(2 * MIB, b"\0"))

        assert store.on_disk() == [file.blob] != [victim.blob]


async def test_where_bytes_cannot_be_removed_one_file_is_lost_and_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stores.opened(tmp_path, Clock(), store_bytes=3 * MIB) as store:
        kept = [await store.receive(PNG.ljust(MIB, b"\0")) for _ in range(3)]
        delete = store.blobs.delete

        async def refuse(key: BlobKey) -> None:
            if key in {file.blob for file in kept}:
                raise PermissionError
            await delete(key)

        monkeypatch.setattr(store.blobs, "delete", refuse)
        with pytest.raises(InsufficientStorage):
            await store.receive(PNG.ljust(MIB, b"\0"))

        page = await store.files.list(scope=DEFAULT_SCOPE, limit=10)
        assert len(page.files) == 2


async def test_many_receives_at_once_stay_within_the_quota(tmp_path: Path) -> None:
    """H61."""
    async with stores.opened(tmp_path, Clock(), store_bytes=2 * MIB, max_concurrent=8) as store:
        receives = (store.receive(PNG + bytes(500_000)) for _ in range(8))

        ended = await asyncio.gather(*receives, return_exceptions=True)

        assert all(
            isinstance(end, InsufficientStorage) or not isinstance(end, BaseException)
            for end in ended
        )
        usage = await store.index.usage()
        assert 0 < usage.used_bytes <= 2 * MIB
        assert usage.files == len(store.on_disk())


async def test_filename_is_sanitised_whatever_it_is(tmp_path: Path) -> None:
    async with stores.opened(tmp_path, Clock()) as store:
        for raw, kept in ((None, "upload.bin"), ("../x\0.png", "x.png")):
            async with store.receiver.receive(scope=DEFAULT_SCOPE) as receive:
                await receive.write(PNG)
                file = await receive.finish(filename=raw, purpose=Purpose.VISION)

            assert file.filename == kept


async def test_full_index_does_not_keep_the_bytes_of_a_failed_receive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P8: on a full disk the index can write again only when the bytes are gone."""

    async def abandon(_file_id: FileId) -> None:
        raise IndexFullError

    async with stores.opened(tmp_path, Clock()) as store:
        monkeypatch.setattr(store.index, "abandon", abandon)
        with pytest.raises(IndexFullError):
            async with store.receiver.receive(scope=DEFAULT_SCOPE) as receive:
                await receive.write(PNG + bytes(MIB))
                raise ConnectionError

        assert store.on_disk() == []
        assert stores.open_files(tmp_path / "blobs") == []


async def test_commit_that_happened_and_failed_all_the_same_keeps_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3: no row without bytes."""
    async with stores.opened(tmp_path, Clock()) as store:
        commit = store.index.commit

        async def commit_and_fail(file: FileObject) -> None:
            await commit(file)
            raise IndexBusyError

        monkeypatch.setattr(store.index, "commit", commit_and_fail)
        with pytest.raises(IndexBusyError):
            await store.receive()

        (file,) = (await store.files.list(scope=DEFAULT_SCOPE, limit=2)).files
        opened = await store.files.open(file.id, scope=DEFAULT_SCOPE)
        assert b"".join([chunk async for chunk in opened.chunks()]) == PNG
        await opened.close()
