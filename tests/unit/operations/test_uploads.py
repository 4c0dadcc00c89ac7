"""Uploads: parts in any order and at once, one file at the end, and nothing left of what was in between."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest
from blake3 import blake3

import corpus
import stores
from mediagate.blobs.driver import BlobTrunk
from mediagate.core.errors import (
    EmptyFile,
    FileNotFound,
    FileTooLarge,
    InsufficientStorage,
    InvalidValue,
    NoSlot,
    PartTooLarge,
    StoreBusy,
    UnsupportedMedia,
    UploadNotFound,
    UploadNotPending,
)
from mediagate.core.events import FileReceived
from mediagate.core.expiry import Lifetime
from mediagate.core.files import BlobKey, FileObject, Purpose, new_blob_key
from mediagate.core.quotas import Usage
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.core.uploads import MAX_PART_BYTES, MAX_PARTS, Part, Upload, UploadStatus
from mediagate.index.driver import ReservationLostError
from mediagate.operations.parts import Hashers, PartReceive
from plain_blobs import PlainBlobDriver
from stores import Clock, Store

IMAGE = corpus.encode_image(container="bmp", width=120, height=100).data
MD5 = hashlib.md5(IMAGE, usedforsecurity=False).hexdigest()
THEIRS = Scope("theirs")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    async with stores.opened(tmp_path, clock) as opened:
        yield opened


@pytest.fixture
async def other(store: Store, clock: Clock) -> AsyncIterator[Store]:
    """Another process on the same store."""
    async with stores.opened(store.path, clock) as opened:
        yield opened


async def create(
    store: Store, data: bytes = IMAGE, *, scope: Scope = DEFAULT_SCOPE, fixed_s: float | None = None
) -> Upload:
    return await store.uploads.create(
        scope=scope,
        size_bytes=len(data),
        filename="../a.bmp",
        purpose=Purpose.VISION,
        lifetime=None if fixed_s is None else Lifetime(fixed_s, is_sliding=False),
    )


async def receiving(store: Store, upload: Upload) -> PartReceive:
    return await store.uploads.receive_part(upload.id, scope=upload.scope)


async def add(store: Store, upload: Upload, data: bytes) -> Part:
    async with await receiving(store, upload) as receive:
        for start in range(0, len(data), 10_000):
            await receive.write(data[start : start + 10_000])
        return await receive.finish()


async def complete(
    store: Store, upload: Upload, parts: Sequence[Part], *, md5: str | None = None
) -> FileObject:
    _, file = await store.uploads.complete(
        upload.id, scope=upload.scope, part_ids=[part.id for part in parts], md5=md5
    )
    return file


async def content(store: Store, file: FileObject) -> bytes:
    opened = await store.files.open(file.id, scope=file.scope)
    try:
        return b"".join([chunk async for chunk in opened.chunks()])
    finally:
        await opened.close()


def cut(data: bytes, *at: int) -> Iterator[bytes]:
    """`data` in pieces."""
    for start, stop in zip((0, *at), (*at, len(data)), strict=True):
        yield data[start:stop]


async def status(store: Store, upload: Upload) -> UploadStatus:
    found, _, _ = await store.uploads.get(upload.id, scope=upload.scope)
    return found.status_at(store.receiver.clock())


# the way of the parts --------------------------------------------------------------------------------


async def test_parts_in_order_land_where_the_file_will_live(store: Store) -> None:
    """H88."""
    upload = await create(store)
    parts = [await add(store, upload, piece) for piece in cut(IMAGE, 7, 20_000)]
    before = store.on_disk()

    file = await complete(store, upload, parts)

    assert before == [f"{upload.blob}.partial"]
    assert store.on_disk() == [upload.blob] == [file.blob]
    assert await content(store, file) == IMAGE
    assert file.digest == f"blake3:{blake3(IMAGE).hexdigest()}"
    assert await store.index.usage() == Usage(len(IMAGE), 1)


async def test_parts_in_another_order_are_put_together_in_it(store: Store) -> None:
    """H88."""
    upload = await create(store)
    first, second, third = cut(IMAGE, 7, 20_000)
    parts = [await add(store, upload, piece) for piece in (third, first, second)]

    file = await complete(store, upload, [parts[1], parts[2], parts[0]])

    assert await content(store, file) == IMAGE
    assert file.digest == f"blake3:{blake3(IMAGE).hexdigest()}"
    assert store.on_disk() == [file.blob]
    assert await store.index.usage() == Usage(len(IMAGE), 1)


async def test_a_part_that_comes_beside_another_goes_beside_it(store: Store, other: Store) -> None:
    """H88: in this process or in another one."""
    upload = await create(store)
    first, second, third = cut(IMAGE, 7, 20_000)
    async with await receiving(store, upload) as holder:
        await holder.write(first)
        beside = [await add(store, upload, second), await add(other, upload, third)]
        appended = await holder.finish()

    file = await complete(other, upload, [appended, *beside])

    assert appended.blob == upload.blob
    assert upload.blob not in {part.blob for part in beside}
    assert await content(store, file) == IMAGE
    assert store.on_disk() == [file.blob]
    assert await store.index.usage() == Usage(len(IMAGE), 1)


async def test_processes_take_turns_at_the_trunk(store: Store, other: Store) -> None:
    """H88: neither knows the hash of the whole, and neither needs to."""
    upload = await create(store)
    parts = []
    for process, piece in zip((store, other, store), cut(IMAGE, 7, 20_000), strict=True):
        parts.append(await add(process, upload, piece))

    file = await complete(store, upload, parts)

    assert file.blob == upload.blob
    assert await content(store, file) == IMAGE
    assert file.digest == f"blake3:{blake3(IMAGE).hexdigest()}"


async def test_a_store_that_cannot_append_puts_parts_together(tmp_path: Path, clock: Clock) -> None:
    async with stores.opened(tmp_path, clock, driver=PlainBlobDriver()) as store:
        upload = await create(store)
        parts = [await add(store, upload, piece) for piece in cut(IMAGE, 7, 20_000)]

        file = await complete(store, upload, parts)

        assert await content(store, file) == IMAGE
        assert file.digest == f"blake3:{blake3(IMAGE).hexdigest()}"
        assert [key async for batch in store.blobs.list() for key in batch] == [file.blob]


async def test_a_part_that_breaks_off_leaves_the_upload_as_it_was(store: Store) -> None:
    upload = await create(store)
    first, second = cut(IMAGE, 20_000)
    appended = await add(store, upload, first)
    usage = await store.index.usage()

    for _ in range(2):
        with pytest.raises(ConnectionError):
            async with await receiving(store, upload) as receive:
                await receive.write(bytes(10_000))
                raise ConnectionError

    assert await store.index.usage() == usage
    assert (store.path / "blobs" / upload.blob[:2] / f"{upload.blob}.partial").stat().st_size == (
        20_000
    )
    file = await complete(store, upload, [appended, await add(store, upload, second)])
    assert await content(store, file) == IMAGE


async def test_a_broken_part_beside_the_trunk_leaves_nothing(store: Store) -> None:
    upload = await create(store)
    async with await receiving(store, upload) as holder:
        await holder.write(b"x")
        with pytest.raises(ConnectionError):
            async with await receiving(store, upload) as receive:
                await receive.write(bytes(10_000))
                raise ConnectionError
        on_disk = store.on_disk()
        await holder.finish()

    assert on_disk == [f"{upload.blob}.partial"]
    assert await store.index.usage() == Usage(1, 1)


async def test_bytes_of_a_process_that_died_are_not_taken_for_the_file(
    store: Store, other: Store
) -> None:
    """P3: what was never acknowledged is cut off by whoever goes on."""
    upload = await create(store)
    first, second = cut(IMAGE, 20_000)
    appended = await add(store, upload, first)
    tail = store.path / "blobs" / upload.blob[:2] / f"{upload.blob}.partial"
    with tail.open("ab") as file:
        file.write(b"half a part, of a process that was killed")

    whole = await complete(store, upload, [appended, await add(other, upload, second)])

    assert await content(store, whole) == IMAGE


async def test_a_tail_is_cut_off_by_a_complete_too(store: Store) -> None:
    """P3."""
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    tail = store.path / "blobs" / upload.blob[:2] / f"{upload.blob}.partial"
    with tail.open("ab") as file:
        file.write(b"half a part, of a process that was killed")

    whole = await complete(store, upload, [part])

    assert await content(store, whole) == IMAGE


async def test_a_part_whose_answer_was_lost_can_be_sent_again_and_left_out(store: Store) -> None:
    upload = await create(store)
    first, second = cut(IMAGE, 20_000)
    sent = await add(store, upload, first)
    unheard = await add(store, upload, second)
    again = await add(store, upload, second)
    _, listed, _ = await store.uploads.get(upload.id, scope=upload.scope)

    file = await complete(store, upload, [sent, again])

    assert list(listed) == [sent, unheard, again]
    assert await content(store, file) == IMAGE
    assert await store.index.usage() == Usage(len(IMAGE), 1)


async def test_a_part_in_flight_does_not_hold_up_a_complete_that_does_not_name_it(
    store: Store,
) -> None:
    # A connection that is lost, and nobody has noticed yet.
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    async with await receiving(store, upload) as lost:
        await lost.write(b"x")

        file = await complete(store, upload, [part])

        with pytest.raises(UploadNotPending):
            await lost.finish()

    assert await content(store, file) == IMAGE
    assert store.on_disk() == [file.blob]
    assert await store.index.usage() == Usage(len(IMAGE), 1)


# limits ----------------------------------------------------------------------------------------------


async def test_a_part_has_bytes_but_not_more_than_a_part_may_have(store: Store) -> None:
    """H89."""
    upload = await store.uploads.create(
        scope=DEFAULT_SCOPE,
        size_bytes=2 * MAX_PART_BYTES,
        filename=None,
        purpose=Purpose.VISION,
        lifetime=None,
    )
    chunk = bytes(MAX_PART_BYTES // 4)

    with pytest.raises(PartTooLarge) as too_large:
        async with await receiving(store, upload) as receive:
            for _ in range(4):
                await receive.write(chunk)
            await receive.write(b"x")
    with pytest.raises(PartTooLarge):
        await store.uploads.receive_part(
            upload.id, scope=DEFAULT_SCOPE, at_least=MAX_PART_BYTES + 1
        )
    with pytest.raises(EmptyFile):
        async with await receiving(store, upload) as receive:
            await receive.finish()

    assert too_large.value.param == "data"
    assert await store.index.usage() == Usage(0, 1)
    assert store.on_disk() == []


async def test_a_part_is_not_larger_than_its_upload(store: Store) -> None:
    upload = await create(store)

    with pytest.raises(InvalidValue, match="larger than its whole Upload"):
        await add(store, upload, IMAGE + b"x")

    assert await store.index.usage() == Usage(0, 1)


async def test_parts_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mediagate.operations.uploads.MAX_PARTS", 2)
    upload = await create(store)
    await add(store, upload, b"1")
    await add(store, upload, b"2")

    with pytest.raises(InvalidValue, match="at most 2 parts"):
        await receiving(store, upload)

    assert MAX_PARTS == 10_000


async def test_parts_and_completions_take_the_slots_of_receives(
    tmp_path: Path, clock: Clock
) -> None:
    async with stores.opened(tmp_path, clock, max_concurrent=1) as store:
        upload = await create(store)
        part = await add(store, upload, IMAGE)
        async with await receiving(store, upload):
            with pytest.raises(NoSlot):
                await receiving(store, upload)
            with pytest.raises(NoSlot):
                await complete(store, upload, [part])
            with pytest.raises(NoSlot):
                await store.receive()

        assert await complete(store, upload, [part])
        assert await store.receive()


async def test_a_file_that_is_too_large_is_refused_before_its_first_part(
    tmp_path: Path, clock: Clock
) -> None:
    async with stores.opened(tmp_path, clock, max_file_bytes=1000, store_bytes=2000) as store:
        with pytest.raises(FileTooLarge) as caught:
            await create(store, bytes(1001))
        assert caught.value.param == "bytes"
    async with stores.opened(tmp_path, clock, max_file_bytes=1000, store_bytes=500) as store:
        with pytest.raises(InsufficientStorage):
            await create(store, bytes(501))
        assert await store.is_clean()


async def test_parts_make_room_by_eviction_and_are_never_evicted(
    tmp_path: Path, clock: Clock
) -> None:
    """H61: the quota is one for files and parts."""
    size = len(IMAGE)
    async with stores.opened(tmp_path, clock, store_bytes=size + 10_000) as store:
        old = await store.receive(IMAGE)
        upload = await create(store)
        first = await add(store, upload, IMAGE[:20_000])
        second = await add(store, upload, IMAGE[20_000:])
        with pytest.raises(FileNotFound):
            await store.files.get(old.id, scope=DEFAULT_SCOPE)

        with pytest.raises(InsufficientStorage):
            await add(store, upload, bytes(20_000))

        file = await complete(store, upload, [first, second])
        assert await content(store, file) == IMAGE
        assert await store.index.usage() == Usage(size, 1)


async def test_putting_parts_together_needs_the_space_once_more(
    tmp_path: Path, clock: Clock
) -> None:
    size = len(IMAGE)
    async with stores.opened(tmp_path, clock, store_bytes=2 * size - 1) as store:
        upload = await create(store)
        second = await add(store, upload, IMAGE[20_000:])
        first = await add(store, upload, IMAGE[:20_000])

        with pytest.raises(InsufficientStorage):
            await complete(store, upload, [first, second])

        assert await status(store, upload) is UploadStatus.PENDING
        assert await store.index.usage() == Usage(size, 1)
        # In the order in which they came it needs none.
        with pytest.raises(UnsupportedMedia):
            await complete(store, upload, [second, first])


# complete --------------------------------------------------------------------------------------------


async def test_the_file_is_what_was_asked_for_and_what_its_bytes_are(
    store: Store, clock: Clock
) -> None:
    upload = await create(store, fixed_s=7200)
    part = await add(store, upload, IMAGE)
    clock.now += 100

    file = await complete(store, upload, [part])

    assert (file.id, file.filename, file.purpose) == (upload.file_id, "a.bmp", Purpose.VISION)
    assert (file.mime_type, file.size_bytes) == ("image/bmp", len(IMAGE))
    assert (file.created_at, file.expires_at) == (int(clock.now), int(clock.now) + 7200)
    assert file.ttl_s is None
    received = [event for event in store.events if isinstance(event, FileReceived)]
    assert [(event.file_id, event.size_bytes) for event in received] == [(file.id, len(IMAGE))]


async def test_a_file_without_a_lifetime_of_its_own_slides_as_all_do(store: Store) -> None:
    upload = await create(store)

    file = await complete(store, upload, [await add(store, upload, IMAGE)])

    assert file.ttl_s == stores.TTL_S


@pytest.mark.parametrize("in_order", [True, False])
async def test_the_md5_is_checked(store: Store, in_order: bool) -> None:
    """H88."""
    upload = await create(store)
    pieces = list(cut(IMAGE, 20_000))
    sent = [await add(store, upload, p) for p in (pieces if in_order else pieces[::-1])]
    parts = sent if in_order else sent[::-1]

    with pytest.raises(InvalidValue) as caught:
        await complete(store, upload, parts, md5="0" * 32)

    assert caught.value.param == "md5"
    assert await store.index.usage() == Usage(len(IMAGE), 1)
    file = await complete(store, upload, parts, md5=MD5)
    assert await content(store, file) == IMAGE


@pytest.mark.parametrize("in_order", [True, False])
async def test_a_refused_complete_leaves_the_upload_as_it_was(store: Store, in_order: bool) -> None:
    data = bytes(50_000)
    upload = await create(store, data)
    parts = [await add(store, upload, piece) for piece in cut(data, 20_000)]

    with pytest.raises(UnsupportedMedia):
        await complete(store, upload, parts if in_order else parts[::-1])

    assert await status(store, upload) is UploadStatus.PENDING
    assert await store.index.usage() == Usage(50_000, 1)
    more = await add(store, upload, b"more")
    _, listed, _ = await store.uploads.get(upload.id, scope=upload.scope)
    assert list(listed) == [*parts, more]
    await store.uploads.cancel(upload.id, scope=upload.scope)
    assert await store.is_clean()


async def test_a_repeated_complete_is_the_same_file(
    store: Store, other: Store, clock: Clock
) -> None:
    """H91: by the same process, and by another."""
    upload = await create(store)
    parts = [await add(store, upload, piece) for piece in cut(IMAGE, 20_000)]
    file = await complete(store, upload, parts)
    clock.now += 1800

    again = [await complete(each, upload, parts) for each in (store, other)]

    assert again == [file, file]
    with pytest.raises(InvalidValue) as caught:
        await complete(store, upload, parts[::-1])
    assert caught.value.param == "part_ids"


async def test_a_file_that_was_deleted_since_is_not_made_again(store: Store) -> None:
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    file = await complete(store, upload, [part])
    await store.files.delete(file.id, scope=DEFAULT_SCOPE)

    with pytest.raises(FileNotFound):
        await complete(store, upload, [part])

    found, _, gone = await store.uploads.get(upload.id, scope=DEFAULT_SCOPE)
    assert (found.status, gone) == (UploadStatus.COMPLETED, None)


@pytest.mark.parametrize("in_order", [True, False])
async def test_completes_at_once_make_one_file(store: Store, other: Store, in_order: bool) -> None:
    """H91."""
    upload = await create(store)
    pieces = list(cut(IMAGE, 20_000))
    sent = [await add(store, upload, p) for p in (pieces if in_order else pieces[::-1])]
    parts = sent if in_order else sent[::-1]

    files = await asyncio.gather(
        *(complete(each, upload, parts) for each in (store, other, store, other))
    )

    assert {file.id for file in files} == {upload.file_id}
    assert await content(store, files[0]) == IMAGE
    assert store.on_disk() == [files[0].blob]
    assert await store.index.usage() == Usage(len(IMAGE), 1)


async def test_a_complete_waits_for_the_claim_of_a_process_that_died(
    store: Store, clock: Clock
) -> None:
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    dead = await store.index.claim_upload(
        upload.id, blob=new_blob_key(), now=clock(), until=clock() + 60
    )
    waiting = asyncio.create_task(complete(store, upload, [part]))
    done, _ = await asyncio.wait((waiting,), timeout=0.1)

    clock.now += 61
    await store.sweeper.sweep()
    file = await waiting

    assert (dead, done) == (True, set())
    assert await content(store, file) == IMAGE


async def test_a_complete_does_not_wait_for_ever(tmp_path: Path, clock: Clock) -> None:
    async with stores.opened(tmp_path, clock, patience_s=0) as store:
        upload = await create(store)
        part = await add(store, upload, IMAGE)
        async with store.uploads._claimed(upload):
            with pytest.raises(StoreBusy):
                await complete(store, upload, [part])

        assert await complete(store, upload, [part])


@pytest.mark.parametrize("in_order", [True, False])
async def test_a_complete_that_is_overtaken_by_a_cancel_leaves_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    upload = await create(store)
    pieces = list(cut(IMAGE, 20_000))
    sent = [await add(store, upload, p) for p in (pieces if in_order else pieces[::-1])]
    parts = sent if in_order else sent[::-1]
    measure = store.uploads._measure

    async def cancel_meanwhile(*args: object) -> object:
        measured = await measure(*args)  # type: ignore[arg-type]
        await store.uploads.cancel(upload.id, scope=upload.scope)
        return measured

    monkeypatch.setattr(store.uploads, "_measure", cancel_meanwhile)

    with pytest.raises(UploadNotPending, match="cancelled"):
        await complete(store, upload, parts)

    assert await store.is_clean()


@pytest.mark.parametrize("is_locked", [False, True])
async def test_a_cancel_between_the_claim_of_a_complete_and_its_rename_leaves_nothing(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    """H89: before the trunk is locked, it is begun anew; after that, its name is gone."""
    upload = await create(store)
    parts = [await add(store, upload, piece) for piece in cut(IMAGE, 20_000)]
    resume = store.blobs.resume

    async def cancel_around(key: BlobKey) -> BlobTrunk | None:
        trunk = await resume(key) if is_locked else None
        await other.uploads.cancel(upload.id, scope=upload.scope)
        return trunk or await resume(key)

    monkeypatch.setattr(store.blobs, "resume", cancel_around)

    with pytest.raises(UploadNotPending, match="cancelled"):
        await complete(store, upload, parts)

    assert await store.is_clean()


async def test_a_complete_that_finds_parts_swept_tells_that_it_expired(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await create(store)
    second = await add(store, upload, IMAGE[20_000:])
    first = await add(store, upload, IMAGE[:20_000])
    join = store.blobs.join

    async def expire_meanwhile(*args: object) -> None:
        clock.now += 3601
        await store.index.renew(leases=(), reservations=(upload.file_id,), until=clock() + 60)
        await store.sweeper.sweep()
        await join(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store.blobs, "join", expire_meanwhile)

    with pytest.raises(UploadNotPending, match="expired"):
        await complete(store, upload, [first, second])

    assert await store.is_clean()


async def test_a_trunk_that_grew_while_it_was_waited_for_is_put_together(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between the look at the index and the lock another process appends.
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    resume = store.blobs.resume

    async def append_before(key: object) -> object:
        await add(other, upload, b"late")
        return await resume(key)  # type: ignore[arg-type]

    monkeypatch.setattr(store.blobs, "resume", append_before)

    file = await complete(store, upload, [part])

    assert await content(store, file) == IMAGE
    assert store.on_disk() == [file.blob]


async def test_a_trunk_that_cannot_be_finished_is_let_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    path = store.path / "blobs" / upload.blob[:2] / f"{upload.blob}.partial"
    path.write_bytes(IMAGE[:-1])

    with pytest.raises(OSError, match="shorter"):
        await complete(store, upload, [part])

    assert stores.open_files(store.path / "blobs") == []
    path.write_bytes(IMAGE)
    assert await complete(store, upload, [part])


async def test_what_could_not_be_removed_is_left_to_the_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    upload = await create(store)
    part = await add(store, upload, IMAGE)

    async def fail() -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(store.remover, "remove_all", fail)
        file = await complete(store, upload, [part])

    assert await content(store, file) == IMAGE
    assert "the next sweep does it" in caplog.text


# the end without a file ------------------------------------------------------------------------------


async def test_a_cancelled_upload_is_gone_at_once_and_stays_cancelled(store: Store) -> None:
    """H89."""
    upload = await create(store)
    async with await receiving(store, upload) as holder:
        await holder.write(b"x")
        await add(store, upload, IMAGE)
        await holder.finish()

    cancelled = await store.uploads.cancel(upload.id, scope=upload.scope)

    assert cancelled.status is UploadStatus.CANCELLED
    assert await store.is_clean()
    assert await store.uploads.cancel(upload.id, scope=upload.scope) == cancelled
    with pytest.raises(UploadNotPending):
        await receiving(store, upload)
    with pytest.raises(UploadNotPending):
        await complete(store, upload, [])


async def test_a_part_in_flight_does_not_survive_a_cancel(store: Store) -> None:
    upload = await create(store)
    async with await receiving(store, upload) as appended:
        await appended.write(b"x")
        async with await receiving(store, upload) as beside:
            await beside.write(b"x")
            await store.uploads.cancel(upload.id, scope=upload.scope)
            with pytest.raises(UploadNotPending):
                await beside.finish()
        with pytest.raises(UploadNotPending):
            await appended.finish()

    assert await store.is_clean()


async def test_a_part_that_begins_the_trunk_anew_after_a_cancel_removes_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await create(store)
    resume = store.blobs.resume

    async def cancel_before(key: object) -> object:
        await store.uploads.cancel(upload.id, scope=upload.scope)
        return await resume(key)  # type: ignore[arg-type]

    monkeypatch.setattr(store.blobs, "resume", cancel_before)

    with pytest.raises(UploadNotPending):
        await add(store, upload, IMAGE)

    assert await store.is_clean()


@pytest.mark.parametrize("verb", ["part", "complete"])
async def test_a_trunk_is_not_begun_anew_while_a_cancel_removes_it(
    store: Store, other: Store, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """P3: its bytes are gone, its row is not yet."""
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    resume, delete = store.blobs.resume, other.blobs.delete
    is_claimed, is_deleted, is_refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def resume_late(key: BlobKey) -> BlobTrunk | None:
        is_claimed.set()
        await is_deleted.wait()
        return await resume(key)

    async def delete_slowly(key: BlobKey) -> None:
        await delete(key)
        is_deleted.set()
        await is_refused.wait()

    monkeypatch.setattr(store.blobs, "resume", resume_late)
    monkeypatch.setattr(other.blobs, "delete", delete_slowly)
    late = asyncio.create_task(
        add(store, upload, b"x") if verb == "part" else complete(store, upload, [part])
    )
    await is_claimed.wait()
    cancelling = asyncio.create_task(other.uploads.cancel(upload.id, scope=upload.scope))

    with pytest.raises(UploadNotPending):
        await late

    is_refused.set()
    await cancelling
    assert await store.is_clean()


async def test_a_completed_upload_cannot_be_cancelled(store: Store) -> None:
    """H89."""
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    file = await complete(store, upload, [part])

    with pytest.raises(UploadNotPending, match="completed"):
        await store.uploads.cancel(upload.id, scope=upload.scope)
    with pytest.raises(UploadNotPending, match="completed"):
        await receiving(store, upload)

    assert await content(store, file) == IMAGE


async def test_cancels_at_once_are_all_told_so(store: Store, other: Store) -> None:
    upload = await create(store)
    await add(store, upload, IMAGE)

    ended = await asyncio.gather(
        *(each.uploads.cancel(upload.id, scope=upload.scope) for each in (store, other, store))
    )

    assert {each.status for each in ended} == {UploadStatus.CANCELLED}
    assert await store.is_clean()


async def test_an_expired_upload_frees_the_disk_by_itself(store: Store, clock: Clock) -> None:
    """H89."""
    upload = await create(store)
    async with await receiving(store, upload) as holder:
        await holder.write(b"x")
        await add(store, upload, IMAGE)
        await holder.finish()
    clock.now += 3599
    await store.sweeper.sweep()
    before = await store.index.usage()

    clock.now += 1
    await store.sweeper.sweep()

    assert before == Usage(len(IMAGE) + 1, 1)
    assert await store.is_clean()
    assert await status(store, upload) is UploadStatus.EXPIRED
    with pytest.raises(UploadNotPending, match="expired"):
        await receiving(store, upload)
    with pytest.raises(UploadNotPending, match="expired"):
        await store.uploads.cancel(upload.id, scope=upload.scope)
    clock.now += 3600
    await store.sweeper.sweep()
    with pytest.raises(UploadNotFound):
        await store.uploads.get(upload.id, scope=upload.scope)


async def test_a_pending_upload_is_no_orphan(store: Store) -> None:
    upload = await create(store)
    async with await receiving(store, upload) as holder:
        await holder.write(IMAGE[:20_000])
        beside = await add(store, upload, IMAGE[20_000:])
        await store.sweeper.collect()
        appended = await holder.finish()
    await store.sweeper.collect()

    file = await complete(store, upload, [appended, beside])

    assert await content(store, file) == IMAGE


async def test_another_scope_does_not_find_it(store: Store) -> None:
    """H66."""
    upload = await create(store)
    part = await add(store, upload, IMAGE)
    messages = set()

    for text in (upload.id, "upload_" + "0" * 32, "upload_x", "", "../etc/passwd"):
        with pytest.raises(UploadNotFound) as caught:
            await store.uploads.get(text, scope=THEIRS)
        messages.add(str(caught.value))
        with pytest.raises(UploadNotFound):
            await store.uploads.receive_part(text, scope=THEIRS)
        with pytest.raises(UploadNotFound):
            await store.uploads.cancel(text, scope=THEIRS)
        with pytest.raises(UploadNotFound):
            await store.uploads.complete(text, scope=THEIRS, part_ids=[part.id], md5=None)

    assert len(messages) == 1
    assert await complete(store, upload, [part])


async def test_parts_of_another_upload_are_not_taken(store: Store) -> None:
    """H88."""
    mine, theirs = await create(store), await create(store, scope=THEIRS)
    part = await add(store, theirs, IMAGE)

    with pytest.raises(InvalidValue, match="not the id of a part") as caught:
        await complete(store, mine, [part])

    assert caught.value.param == "part_ids"


async def test_a_part_whose_row_lapsed_is_not_added(store: Store, clock: Clock) -> None:
    # The process stood still for longer than a claim lasts.
    upload = await create(store)
    async with await receiving(store, upload) as receive:
        await receive.write(b"x")
        clock.now += 61
        await store.sweeper.sweep()
        with pytest.raises(ReservationLostError):
            await receive.finish()

    assert await store.index.usage() == Usage(0, 1)
    _, listed, _ = await store.uploads.get(upload.id, scope=upload.scope)
    assert list(listed) == []


async def test_a_part_of_which_nobody_knows_whether_it_was_added_is_left_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The commit may have happened: what it names must not be taken away.
    upload = await create(store)
    add_part = store.index.add_part

    async def lose_the_answer(*args: object, **kwargs: object) -> bool:
        await add_part(*args, **kwargs)  # type: ignore[arg-type]
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(store.index, "add_part", lose_the_answer)
        for piece in cut(IMAGE, 20_000):
            with pytest.raises(ConnectionError):
                await add(store, upload, piece)

    _, listed, _ = await store.uploads.get(upload.id, scope=upload.scope)
    file = await complete(store, upload, listed)
    assert await content(store, file) == IMAGE


def test_hashes_are_kept_for_so_many_uploads_only() -> None:
    hashers = Hashers(most=2)
    ids = [f"upload_{n}" for n in range(3)]
    for n in (0, 1, 0, 2):
        hashers.keep(ids[n], 1, blake3(b"x"))  # type: ignore[arg-type]

    known = [hashers.at(each, 1) for each in ids]  # type: ignore[arg-type]

    assert [each is not None for each in known] == [True, False, True]
    assert hashers.at(ids[0], 2) is None  # type: ignore[arg-type]
    fresh = hashers.at(ids[1], 0)  # type: ignore[arg-type]
    assert fresh is not None
    assert fresh.hexdigest() == blake3().hexdigest()


def test_a_hash_that_is_given_out_is_a_copy() -> None:
    # A part that breaks off must not spoil it.
    hashers = Hashers()
    hashers.keep("upload_0", 1, blake3(b"x"))  # type: ignore[arg-type]
    taken = hashers.at("upload_0", 1)  # type: ignore[arg-type]
    assert taken is not None

    taken.update(b"broken")

    again = hashers.at("upload_0", 1)  # type: ignore[arg-type]
    assert again is not None
    assert again.hexdigest() == blake3(b"x").hexdigest()
