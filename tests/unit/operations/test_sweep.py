"""The pass that needs no traffic: what is over goes, what is in use stays, failures do not end it."""

import asyncio

import pytest

from mediagate.core.events import FileExpired
from mediagate.core.expiry import Lifetime
from mediagate.core.files import Purpose, new_blob_key
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.core.uploads import EXPIRES_AFTER_S
from stores import PNG, TTL_S, Clock, Store


async def test_one_sweep_takes_expired_files_off_the_disk(store: Store, clock: Clock) -> None:
    """H56: and tells it; those that still have time stay."""
    old = [await store.receive() for _ in range(3)]
    clock.now += TTL_S / 2
    young = await store.receive()
    clock.now += TTL_S / 2

    await store.sweeper.sweep()

    assert store.on_disk() == [young.blob]
    assert (await store.index.usage()).used_bytes == young.size_bytes
    expired = [event.file_id for event in store.events if isinstance(event, FileExpired)]
    assert sorted(expired) == sorted(file.id for file in old)


async def test_expired_file_in_use_keeps_its_bytes_until_its_reader_is_done(
    store: Store, clock: Clock
) -> None:
    """P5."""
    file = await store.receive(lifetime=Lifetime(TTL_S, is_sliding=False))
    clock.now += TTL_S - 1
    opened = await store.files.open(file.id, scope=DEFAULT_SCOPE)
    clock.now += 1

    await store.sweeper.sweep()

    assert store.on_disk() == [file.blob]
    assert b"".join([chunk async for chunk in opened.chunks()]) == PNG
    await opened.close()
    assert await store.is_clean()


async def test_sweep_goes_on_where_there_is_more_than_one_batch(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediagate.operations.sweep.BATCH", 2)
    monkeypatch.setattr("mediagate.operations.removal.BATCH", 2)
    for _ in range(7):
        await store.receive()
    clock.now += TTL_S

    await store.sweeper.sweep()

    assert await store.is_clean()


async def test_one_sweep_frees_all_of_an_upload_however_many_parts_it_has(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P3, H89: its space is free within a minute, which is six sweeps."""
    monkeypatch.setattr("mediagate.operations.sweep.BATCH", 2)
    upload = await store.uploads.create(
        scope=DEFAULT_SCOPE, size_bytes=9, filename=None, purpose=Purpose.VISION, lifetime=None
    )
    async with await store.uploads.receive_part(upload.id, scope=DEFAULT_SCOPE) as appended:
        await appended.write(b"x")
        for _ in range(7):
            async with await store.uploads.receive_part(upload.id, scope=DEFAULT_SCOPE) as beside:
                await beside.write(b"x")
                await beside.finish()
        await appended.finish()
    clock.now += EXPIRES_AFTER_S

    await store.sweeper.sweep()

    assert await store.is_clean()


async def test_run_sweeps_at_once_and_collects_orphans(store: Store) -> None:
    """A restart after a crash: nobody has to wait an hour for it."""
    writer = await store.blobs.create(new_blob_key())
    await writer.write(PNG)
    await writer.finish()
    assert len(store.on_disk()) == 1

    task = asyncio.create_task(store.sweeper.run())
    async with asyncio.timeout(10):
        while store.on_disk():
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait((task,))

    assert await store.is_clean()


async def test_failure_is_logged_and_the_next_sweep_comes(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = await store.receive()
    clock.now += TTL_S
    expire = store.index.expire
    failures = 0

    async def fail_once(*, now: float, limit: int) -> object:
        nonlocal failures
        if failures == 0:
            failures += 1
            raise OSError("the disk")
        return await expire(now=now, limit=limit)

    monkeypatch.setattr(store.index, "expire", fail_once)
    task = asyncio.create_task(store.sweeper.run(sweep_every_s=0.001))
    async with asyncio.timeout(10):
        while store.on_disk():
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait((task,))

    assert "the sweep failed" in caplog.text
    assert file.id not in caplog.text


async def test_bytes_that_cannot_be_removed_keep_nothing_else_from_going(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    stuck, *others = [await store.receive() for _ in range(3)]
    path = store.blobs.local_path(stuck.blob)
    assert path is not None
    path.unlink()
    path.mkdir()  # `unlink` fails on it, whoever asks

    for file in (stuck, *others):
        await store.files.delete(file.id, scope=DEFAULT_SCOPE)
    failed = store.on_disk(), (await store.index.usage()).files
    path.rmdir()
    await store.sweeper.sweep()

    assert failed == ([stuck.blob], 1)
    assert "not removed" in caplog.text
    assert await store.is_clean()
