"""What every `Index` has to do for Uploads, as tests; inherit it beside `IndexConformance`, with the same fixture."""

import asyncio
from dataclasses import replace

import pytest

from mediagate.core.files import FileObject, Purpose, new_blob_key, new_file_id
from mediagate.core.leases import LEASE_S
from mediagate.core.quotas import Quota, Usage
from mediagate.core.scopes import Scope
from mediagate.core.uploads import (
    EXPIRES_AFTER_S,
    REMEMBERED_S,
    Part,
    Upload,
    UploadStatus,
    new_part_id,
    new_upload_id,
)
from mediagate.index.driver import Index, ReservationLostError
from mediagate.testing.index_conformance import (
    NOW,
    OURS,
    ROOMY,
    THEIRS,
    listed,
    new_file,
    removable,
    store,
)

EXPIRED = NOW + EXPIRES_AFTER_S


def new_upload(*, scope: Scope = OURS, size_bytes: int = 30) -> Upload:
    """A pending one, as `create` makes it."""
    return Upload(
        id=new_upload_id(),
        scope=scope,
        file_id=new_file_id(),
        blob=new_blob_key(),
        size_bytes=size_bytes,
        filename="häuser am see.mp4",
        purpose=Purpose.VISION,
        fixed_s=7200.0,
        created_at=int(NOW),
        expires_at=int(EXPIRED),
    )


async def begin_upload(index: Index, upload: Upload | None = None) -> Upload:
    """Insert one."""
    upload = upload or new_upload()
    assert await index.begin_upload(upload, quota=ROOMY)
    return upload


async def arriving(
    index: Index, upload: Upload, size_bytes: int = 10, *, start: int | None = None, held: int = 16
) -> Part:
    """A part whose bytes are there: at `start` of the trunk, or in a blob of its own."""
    part_id, blob = new_part_id(), new_blob_key()
    await index.begin_part(part_id, scope=upload.scope, blob=blob, until=NOW + LEASE_S)
    assert await index.reserve(part_id, held, quota=ROOMY)
    return Part(
        id=part_id,
        upload_id=upload.id,
        blob=blob if start is None else upload.blob,
        start=start or 0,
        size_bytes=size_bytes,
        created_at=int(NOW),
    )


async def add(index: Index, upload: Upload, size_bytes: int, *, start: int | None = None) -> Part:
    """Add such a part."""
    part = await arriving(index, upload, size_bytes, start=start, held=size_bytes + 6)
    assert await index.add_part(part, now=NOW)
    return part


def file_of(upload: Upload, *, in_trunk: bool) -> FileObject:
    """What the Upload becomes; in a blob of its own, that is still to be claimed with."""
    blob = upload.blob if in_trunk else new_blob_key()
    return replace(
        new_file(scope=upload.scope, size_bytes=upload.size_bytes), id=upload.file_id, blob=blob
    )


async def claim(index: Index, upload: Upload, file: FileObject, *, now: float = NOW) -> bool:
    """Try to be the one who completes it."""
    blob = new_blob_key() if file.blob == upload.blob else file.blob
    return await index.claim_upload(upload.id, blob=blob, now=now, until=now + LEASE_S)


async def current(index: Index, upload: Upload) -> Upload:
    """As the index has it now."""
    found = await index.get_upload(upload.id, scope=upload.scope)
    assert found is not None
    return found


class UploadConformance:
    """Create, add parts in any order, complete once or cancel; what is taken is counted, what is over goes."""

    @pytest.fixture
    def index(self) -> Index:
        """An open, empty index."""
        raise NotImplementedError

    # pending -------------------------------------------------------------------------------------

    async def test_upload_is_found_by_its_scope_alone(self, index: Index) -> None:
        upload = await begin_upload(index)

        assert await index.get_upload(upload.id, scope=OURS) == upload
        assert await index.get_upload(upload.id, scope=THEIRS) is None
        assert await index.get_upload(new_upload_id(), scope=OURS) is None

    async def test_pending_upload_is_one_file_of_no_bytes(self, index: Index) -> None:
        await begin_upload(index)

        assert await index.usage(OURS) == await index.usage() == Usage(0, 1)
        assert await listed(index) == set()

    async def test_upload_counts_against_the_number_of_files(self, index: Index) -> None:
        quota = Quota(store_bytes=1000, scope_files=1)
        first = await index.begin_upload(new_upload(), quota=quota)
        upload = new_upload()

        second = await index.begin_upload(upload, quota=quota)

        assert (first, second) == (True, False)
        assert await index.get_upload(upload.id, scope=OURS) is None
        assert await index.without_row([upload.blob]) == {upload.blob}

    async def test_all_bytes_of_an_upload_have_a_row_from_the_start(self, index: Index) -> None:
        # Else what is being written would be taken for an orphan.
        upload = await begin_upload(index)
        part = await arriving(index, upload)

        assert await index.without_row([upload.blob, part.blob]) == set()

    async def test_parts_are_listed_in_the_order_of_their_arrival(self, index: Index) -> None:
        upload = await begin_upload(index)
        added = [await add(index, upload, 10, start=n * 10) for n in range(2)]
        added.append(await add(index, upload, 5))
        added.append(await add(index, upload, 10, start=20))
        await add(index, await begin_upload(index), 5)

        assert list(await index.parts(upload.id)) == added
        assert (await current(index, upload)).trunk_bytes == 30
        assert (await current(index, upload)).parts == 4

    async def test_parts_take_exactly_their_size_and_count_as_no_file(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 10, start=0)
        await add(index, upload, 7)
        before = await index.usage(OURS)
        await arriving(index, upload, held=100)

        assert before == Usage(17, 1)
        assert await index.usage(OURS) == await index.usage() == Usage(117, 1)
        assert await index.reserved() == Usage(117, 1)

    async def test_parts_share_the_quota_with_files(self, index: Index) -> None:
        await begin_upload(index)
        await store(index, new_file(size_bytes=90))
        part_id = new_part_id()
        await index.begin_part(part_id, scope=OURS, blob=new_blob_key(), until=NOW + LEASE_S)

        fits = [
            await index.reserve(part_id, size, quota=Quota(store_bytes=100)) for size in (11, 10, 1)
        ]

        assert fits == [False, True, False]

    async def test_full_scope_of_files_still_takes_parts(self, index: Index) -> None:
        await begin_upload(index)
        part_id = new_part_id()
        await index.begin_part(part_id, scope=OURS, blob=new_blob_key(), until=NOW + LEASE_S)

        assert await index.reserve(part_id, 10, quota=Quota(store_bytes=100, scope_files=1))

    async def test_part_that_is_given_up_leaves_nothing(self, index: Index) -> None:
        upload = await begin_upload(index)
        part = await arriving(index, upload)

        await index.abandon(part.id)

        assert await index.usage() == Usage(0, 1)
        assert await index.without_row([part.blob]) == {part.blob}
        with pytest.raises(ReservationLostError):
            await index.add_part(part, now=NOW)
        assert len(await index.parts(upload.id)) == 0

    async def test_part_needs_the_space_that_it_takes(self, index: Index) -> None:
        upload = await begin_upload(index)
        part = await arriving(index, upload, 17, held=16)

        with pytest.raises(ReservationLostError):
            await index.add_part(part, now=NOW)

        assert (await current(index, upload)).parts == 0

    async def test_only_the_end_of_the_trunk_is_appended_to(self, index: Index) -> None:
        # Two processes that both believe to be next: the index decides.
        upload = await begin_upload(index)
        await add(index, upload, 10, start=0)

        late = await index.add_part(await arriving(index, upload, start=0), now=NOW)
        early = await index.add_part(await arriving(index, upload, start=11), now=NOW)

        assert (late, early) == (False, False)
        assert (await current(index, upload)).trunk_bytes == 10
        assert await index.usage() == Usage(10 + 16 + 16, 1)

    # expiry --------------------------------------------------------------------------------------

    async def test_expired_upload_takes_nothing_more(self, index: Index) -> None:
        upload = await begin_upload(index)
        part = await arriving(index, upload)

        assert not await index.add_part(part, now=EXPIRED)
        assert not await claim(index, upload, file_of(upload, in_trunk=True), now=EXPIRED)
        assert not await index.cancel_upload(upload.id, now=EXPIRED)
        assert await index.add_part(part, now=EXPIRED - 1)

    async def test_expiry_frees_all_of_it(self, index: Index) -> None:
        upload = await begin_upload(index)
        trunk_part = await add(index, upload, 10, start=0)
        segment = await add(index, upload, 10)

        await index.lapse(now=EXPIRED - 1, limit=10)
        too_early = await removable(index)
        await index.lapse(now=EXPIRED, limit=10)
        gone = await removable(index)
        await index.forget(gone)

        assert too_early == set()
        assert gone == {upload.id, segment.id}
        assert trunk_part.blob == upload.blob
        assert await index.usage() == await index.usage(OURS) == Usage(0, 0)

    async def test_expired_upload_is_remembered_for_a_while(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 10)
        other = await begin_upload(index, replace(new_upload(), expires_at=int(EXPIRED) + 1))
        await add(index, other, 10)

        await index.lapse(now=EXPIRED + REMEMBERED_S - 1, limit=10)
        remembered = await index.get_upload(upload.id, scope=OURS)
        await index.lapse(now=EXPIRED + REMEMBERED_S, limit=10)

        assert remembered is not None
        assert await index.get_upload(upload.id, scope=OURS) is None
        assert len(await index.parts(upload.id)) == 0
        assert await index.get_upload(other.id, scope=OURS) is not None
        assert len(await index.parts(other.id)) == 1

    async def test_part_of_a_process_that_died_lapses_and_leaves_the_upload(
        self, index: Index
    ) -> None:
        upload = await begin_upload(index)
        kept = await add(index, upload, 10)
        lost = await arriving(index, upload)

        await index.lapse(now=NOW + LEASE_S, limit=10)

        assert await removable(index) == {lost.id}
        assert [part.id for part in await index.parts(upload.id)] == [kept.id]
        with pytest.raises(ReservationLostError):
            await index.add_part(lost, now=NOW)

    async def test_arriving_part_is_kept_alive_by_renewal(self, index: Index) -> None:
        upload = await begin_upload(index)
        part = await arriving(index, upload)

        await index.renew(leases=(), reservations=(part.id,), until=NOW + 2 * LEASE_S)
        await index.lapse(now=NOW + LEASE_S, limit=10)

        assert await index.add_part(part, now=NOW)

    # completed -----------------------------------------------------------------------------------

    async def test_trunk_becomes_the_file_where_it_is(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 10, start=0)
        await add(index, upload, 20, start=10)
        unused = await add(index, upload, 7)
        file = file_of(upload, in_trunk=True)
        assert await claim(index, upload, file)

        assert await index.complete_upload(upload.id, file, part_order="abc")

        assert await index.get(file.id, scope=OURS, now=NOW) == file
        assert await removable(index) == {unused.id}
        assert await index.usage() == await index.usage(OURS) == Usage(37, 1)
        await index.forget([unused.id])
        assert await index.usage() == Usage(30, 1)
        ended = await current(index, upload)
        assert (ended.status, ended.part_order) == (UploadStatus.COMPLETED, "abc")
        assert len(await index.parts(upload.id)) == 0

    async def test_parts_that_were_put_together_go_once_the_file_is_there(
        self, index: Index
    ) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 10, start=0)
        segment = await add(index, upload, 20)
        file = file_of(upload, in_trunk=False)
        assert await claim(index, upload, file)
        assert await index.reserve(file.id, 40, quota=ROOMY)
        twice = await index.usage()

        assert await index.complete_upload(upload.id, file, part_order="abc")

        # Counted until their bytes are gone: the quota is never exceeded, not even in between.
        assert (twice, await index.usage()) == (Usage(70, 1), Usage(60, 1))
        assert await removable(index) == {upload.id, segment.id}
        await index.forget([upload.id, segment.id])
        assert await index.usage() == await index.usage(OURS) == Usage(30, 1)
        assert await index.get(file.id, scope=OURS, now=NOW) == file

    async def test_file_of_an_upload_is_a_file_like_any_other(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 30)
        file = file_of(upload, in_trunk=False)
        await claim(index, upload, file)
        await index.reserve(file.id, 30, quota=ROOMY)
        await index.complete_upload(upload.id, file, part_order="")
        await index.lapse(now=EXPIRED + REMEMBERED_S, limit=10)

        assert await listed(index) == {file.id}
        assert await index.delete(file.id, scope=OURS, now=NOW) == file
        await index.forget(await removable(index))
        assert await index.usage() == await index.usage(OURS) == Usage(0, 0)

    async def test_one_of_all_who_want_to_complete_it_may(self, index: Index) -> None:
        upload = await begin_upload(index)
        file = file_of(upload, in_trunk=True)

        claimed = await asyncio.gather(*(claim(index, upload, file) for _ in range(5)))

        assert sorted(claimed) == [False] * 4 + [True]
        assert await index.usage() == Usage(0, 1)
        await index.abandon(file.id)
        assert await claim(index, upload, file)

    async def test_claim_of_a_process_that_died_lapses(self, index: Index) -> None:
        upload = await begin_upload(index)
        file = file_of(upload, in_trunk=True)
        await claim(index, upload, file)

        await index.lapse(now=NOW + LEASE_S, limit=10)
        await index.forget(await removable(index))

        assert await claim(index, upload, file, now=NOW + LEASE_S)

    async def test_completing_twice_changes_nothing(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 30, start=0)
        file = file_of(upload, in_trunk=True)
        await claim(index, upload, file)
        await index.complete_upload(upload.id, file, part_order="first")
        late = await arriving(index, upload)

        assert not await index.complete_upload(upload.id, file, part_order="second")
        assert not await claim(index, upload, file)
        assert not await index.add_part(late, now=NOW)
        assert not await index.cancel_upload(upload.id, now=NOW)
        assert (await current(index, upload)).part_order == "first"
        assert await index.get(file.id, scope=OURS, now=NOW) == file

    @pytest.mark.parametrize("in_trunk", [True, False])
    async def test_file_needs_its_claim_and_its_space(self, index: Index, in_trunk: bool) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 29, start=0)
        file = file_of(upload, in_trunk=in_trunk)
        with pytest.raises(ReservationLostError):
            await index.complete_upload(upload.id, file, part_order="")
        await claim(index, upload, file)
        if not in_trunk:
            await index.reserve(file.id, 29, quota=ROOMY)
        before = await index.usage()

        with pytest.raises(ReservationLostError):
            await index.complete_upload(upload.id, file, part_order="")

        assert (await current(index, upload)).status is UploadStatus.PENDING
        assert await index.get(file.id, scope=OURS, now=NOW) is None
        assert (await index.usage(), await removable(index)) == (before, set())

    async def test_swept_trunk_becomes_no_file(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 30, start=0)
        file = file_of(upload, in_trunk=True)
        await claim(index, upload, file)
        await index.renew(leases=(), reservations=(file.id,), until=EXPIRED + LEASE_S)
        await index.lapse(now=EXPIRED, limit=10)

        with pytest.raises(ReservationLostError):
            await index.complete_upload(upload.id, file, part_order="")

        assert await index.get(file.id, scope=OURS, now=NOW) is None

    # cancelled -----------------------------------------------------------------------------------

    async def test_cancelled_upload_frees_all_of_it(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 10, start=0)
        segment = await add(index, upload, 10)
        others = await add(index, await begin_upload(index), 10)
        late = await arriving(index, upload)

        first = await index.cancel_upload(upload.id, now=NOW)
        second = await index.cancel_upload(upload.id, now=NOW)

        assert (first, second) == (True, False)
        assert (await current(index, upload)).status is UploadStatus.CANCELLED
        assert await removable(index) == {upload.id, segment.id}
        assert not await index.add_part(late, now=NOW)
        await index.abandon(late.id)
        await index.forget([upload.id, segment.id])
        assert await index.usage() == Usage(others.size_bytes, 1)

    async def test_cancelled_upload_becomes_no_file(self, index: Index) -> None:
        upload = await begin_upload(index)
        await add(index, upload, 30, start=0)
        file = file_of(upload, in_trunk=False)
        await claim(index, upload, file)
        await index.reserve(file.id, 30, quota=ROOMY)
        await index.cancel_upload(upload.id, now=NOW)

        assert not await index.complete_upload(upload.id, file, part_order="")
        assert await index.get(file.id, scope=OURS, now=NOW) is None
        await index.abandon(file.id)
        await index.forget(await removable(index))
        assert await index.usage() == await index.usage(OURS) == Usage(0, 0)
