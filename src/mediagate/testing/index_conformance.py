"""What every `Index` has to do, as tests: inherit, give one fixture, run.

    class TestMyIndex(IndexConformance):
        @pytest.fixture
        async def index(self) -> AsyncIterator[Index]:
            index = MyIndex()
            await index.open()
            yield index
            await index.close()

The fixture gives an open, empty index to each test. Needs pytest with pytest-asyncio.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from mediagate.core.files import (
    Digest,
    FileId,
    FileObject,
    Purpose,
    new_blob_key,
    new_file_id,
)
from mediagate.core.leases import LEASE_S, LeaseId, new_lease_id
from mediagate.core.quotas import Quota, Usage
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.core.store_key import Use
from mediagate.index.driver import (
    CURSOR_S,
    Index,
    Order,
    ReservationLostError,
    UnknownCursorError,
)

NOW = 1_800_000_000.0
HOUR = 3600.0
ROOMY = Quota(store_bytes=1024**4)

OURS = Scope("ours")
THEIRS = Scope("theirs")
ODD_SCOPES = (
    DEFAULT_SCOPE,
    Scope("*"),
    Scope("store"),
    Scope("scope:"),
    Scope("a'b\"c;--%_\\"),
    Scope("Ünï-ço∂é 🙂"),
    Scope("OURS"),
)


def new_file(
    *,
    scope: Scope = OURS,
    size_bytes: int = 100,
    created_at: float = NOW,
    used_at: float | None = None,
    expires_at: float | None = NOW + HOUR,
    ttl_s: float | None = HOUR,
    purpose: Purpose = Purpose.USER_DATA,
) -> FileObject:
    """A file as `receive` would make it: fresh id and blob, sliding by an hour."""
    return FileObject(
        id=new_file_id(),
        scope=scope,
        blob=new_blob_key(),
        filename="häuser am see.mp4",
        purpose=purpose,
        mime_type="video/mp4",
        size_bytes=size_bytes,
        digest=Digest("blake3:" + "0" * 64),
        created_at=int(created_at),
        last_used_at=created_at if used_at is None else used_at,
        expires_at=expires_at,
        ttl_s=ttl_s,
    )


async def begin(index: Index, file: FileObject, *, until: float = NOW + LEASE_S) -> FileObject:
    """Insert the RESERVED row of `file`."""
    await index.begin(file.id, scope=file.scope, blob=file.blob, until=until)
    return file


async def store(index: Index, file: FileObject | None = None, quota: Quota = ROOMY) -> FileObject:
    """Take `file` through begin, reserve and commit."""
    file = await begin(index, file or new_file())
    assert await index.reserve(file.id, file.size_bytes, quota=quota)
    await index.commit(file)
    return file


async def hold(
    index: Index, *files: FileObject, now: float = NOW, for_s: float = LEASE_S
) -> LeaseId:
    """Lease `files`, all of one scope; fails if one is missing."""
    lease_id = new_lease_id()
    ids = [f.id for f in files]
    found = await index.lease(
        ids, lease_id=lease_id, scope=files[0].scope, now=now, until=now + for_s
    )
    assert set(found) == set(ids)
    return lease_id


async def listed(index: Index, scope: Scope = OURS, now: float = NOW) -> set[FileId]:
    """The ids that a listing of `scope` shows."""
    page = await index.list(scope=scope, now=now, limit=10_000)
    return {f.id for f in page.files}


async def removable(index: Index, now: float = NOW) -> set[FileId]:
    """The ids whose bytes may go."""
    return {r.id for r in await index.removable(now=now, limit=10_000)}


class IndexConformance:
    """The protocol, sentence by sentence. The fixture `index` is the subclass's."""

    pytestmark = pytest.mark.asyncio

    async def test_the_key_stays_the_same(self, index: Index) -> None:
        first, second = await index.key(), await index.key()

        assert first.tag(Use.LOG, "a") == second.tag(Use.LOG, "a")

    # states --------------------------------------------------------------------------------------

    async def test_reserved_file_is_invisible(self, index: Index) -> None:
        file = await begin(index, new_file())
        await index.reserve(file.id, 100, quota=ROOMY)

        got = await index.get(file.id, scope=OURS, now=NOW)
        leased = await index.lease(
            [file.id], lease_id=new_lease_id(), scope=OURS, now=NOW, until=NOW + 1
        )
        deleted = await index.delete(file.id, scope=OURS, now=NOW)

        assert got is None
        assert leased == {}
        assert deleted is None
        assert await listed(index) == set()

    async def test_reserved_file_is_neither_evicted_nor_removable(self, index: Index) -> None:
        file = await begin(index, new_file())
        await index.reserve(file.id, 100, quota=ROOMY)

        assert await index.evict(scope=OURS, now=NOW) is None
        assert await removable(index) == set()

    async def test_committed_file_comes_back_as_it_was_given(self, index: Index) -> None:
        odd = replace(
            new_file(purpose=Purpose.VISION),
            filename="a'b\"; DROP TABLE files;-- ünï 🙂.mp4",
            created_at=2**33,
            last_used_at=NOW + 0.125,
            expires_at=NOW + 7.75,
            ttl_s=0.5,
            size_bytes=5 * 1024**3,
        )

        await store(index, odd)

        assert await index.get(odd.id, scope=OURS, now=NOW) == odd
        page = await index.list(scope=OURS, now=NOW, limit=10)
        assert list(page.files) == [odd]

    async def test_file_without_expiry_never_expires(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=None, ttl_s=None))

        assert await index.get(file.id, scope=OURS, now=NOW * 1000) == file
        assert list(await index.expire(now=NOW * 1000, limit=10)) == []

    async def test_unknown_ids_are_nothing_everywhere(self, index: Index) -> None:
        nobody = new_file_id()

        await index.abandon(nobody)
        await index.forget([nobody])
        await index.renew(leases=[new_lease_id()], reservations=[nobody], until=NOW)

        assert await index.get(nobody, scope=OURS, now=NOW) is None
        assert await index.delete(nobody, scope=OURS, now=NOW) is None
        assert list(await index.release(new_lease_id(), now=NOW)) == []

    async def test_empty_collections_are_accepted(self, index: Index) -> None:
        await index.forget([])
        await index.renew(leases=[], reservations=[], until=NOW)

        leased = await index.lease([], lease_id=new_lease_id(), scope=OURS, now=NOW, until=NOW)

        assert leased == {}
        assert await index.without_row([]) == set()

    # accounting ----------------------------------------------------------------------------------

    async def test_begin_holds_no_space(self, index: Index) -> None:
        await begin(index, new_file())

        assert await index.usage() == Usage(0, 0)
        assert await index.usage(OURS) == Usage(0, 0)

    async def test_reservations_add_up_and_count_one_file(self, index: Index) -> None:
        file = await begin(index, new_file())

        await index.reserve(file.id, 100, quota=ROOMY)
        await index.reserve(file.id, 50, quota=ROOMY)

        assert await index.usage() == Usage(150, 1)
        assert await index.usage(OURS) == Usage(150, 1)
        assert await index.usage(THEIRS) == Usage(0, 0)

    async def test_what_is_only_reserved_is_told_apart(self, index: Index) -> None:
        await store(index)
        nothing = await index.reserved()
        arriving = await begin(index, new_file())
        await begin(index, new_file())
        await index.reserve(arriving.id, 40, quota=ROOMY)

        assert nothing == Usage(0, 0)
        assert await index.reserved() == Usage(40, 1)
        assert await index.usage() == Usage(140, 2)

    async def test_commit_gives_back_what_was_reserved_beyond_the_size(self, index: Index) -> None:
        file = await begin(index, new_file(size_bytes=70))
        await index.reserve(file.id, 100, quota=ROOMY)

        await index.commit(file)

        assert await index.usage() == Usage(70, 1)
        assert await index.usage(OURS) == Usage(70, 1)

    async def test_abandon_gives_all_back_and_leaves_no_row(self, index: Index) -> None:
        file = await begin(index, new_file())
        await index.reserve(file.id, 100, quota=ROOMY)

        await index.abandon(file.id)

        assert await index.usage() == Usage(0, 0)
        assert await index.usage(OURS) == Usage(0, 0)
        assert await index.without_row([file.blob]) == {file.blob}
        with pytest.raises(ReservationLostError):
            await index.reserve(file.id, 1, quota=ROOMY)

    async def test_abandon_before_any_reservation_counts_nothing_back(self, index: Index) -> None:
        kept = await store(index)
        file = await begin(index, new_file())

        await index.abandon(file.id)
        await index.abandon(file.id)

        assert await index.usage() == Usage(kept.size_bytes, 1)

    async def test_abandon_leaves_other_states_alone(self, index: Index) -> None:
        ready = await store(index)
        deleting = await store(index)
        await index.delete(deleting.id, scope=OURS, now=NOW)

        await index.abandon(ready.id)
        await index.abandon(deleting.id)

        assert await listed(index) == {ready.id}
        assert await removable(index) == {deleting.id}
        assert await index.usage() == Usage(200, 2)

    async def test_space_is_held_until_forget(self, index: Index) -> None:
        file = await store(index)

        await index.delete(file.id, scope=OURS, now=NOW)
        while_deleting = await index.usage()
        await index.forget([file.id])
        await index.forget([file.id])

        assert while_deleting == Usage(100, 1)
        assert await index.usage() == Usage(0, 0)
        assert await index.usage(OURS) == Usage(0, 0)

    async def test_forget_accounts_per_scope(self, index: Index) -> None:
        gone = [
            await store(index, new_file(scope=scope, size_bytes=size))
            for scope, size in ((OURS, 1), (OURS, 10), (THEIRS, 100))
        ]
        await store(index, new_file(scope=THEIRS, size_bytes=1000))
        for file in gone:
            await index.delete(file.id, scope=file.scope, now=NOW)

        await index.forget([f.id for f in gone])

        assert await index.usage() == Usage(1000, 1)
        assert await index.usage(OURS) == Usage(0, 0)
        assert await index.usage(THEIRS) == Usage(1000, 1)

    async def test_forget_leaves_other_states_alone(self, index: Index) -> None:
        ready = await store(index)
        reserved = await begin(index, new_file())
        await index.reserve(reserved.id, 5, quota=ROOMY)

        await index.forget([ready.id, reserved.id])

        assert await index.usage() == Usage(105, 2)
        assert await index.get(ready.id, scope=OURS, now=NOW) == ready
        assert await index.reserve(reserved.id, 5, quota=ROOMY)

    async def test_forget_leaves_a_ready_files_lease_alone(self, index: Index) -> None:
        file = await store(index)
        await hold(index, file)

        await index.forget([file.id])

        assert await index.evict(scope=OURS, now=NOW) is None

    async def test_odd_scopes_are_told_apart(self, index: Index) -> None:
        files = [
            await store(index, new_file(scope=scope, size_bytes=2**n))
            for n, scope in enumerate(ODD_SCOPES)
        ]

        for n, file in enumerate(files):
            assert await index.usage(file.scope) == Usage(2**n, 1)
            assert await listed(index, file.scope) == {file.id}
        assert await index.usage() == Usage(2 ** len(files) - 1, len(files))

    # quotas --------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "quota",
        [
            Quota(store_bytes=100),
            Quota(store_bytes=1000, scope_bytes=100),
            Quota(store_bytes=100, scope_bytes=1000),
        ],
    )
    async def test_quota_is_filled_to_the_last_byte_and_no_further(
        self, index: Index, quota: Quota
    ) -> None:
        file = await begin(index, new_file())

        all_of_it = await index.reserve(file.id, 100, quota=quota)
        one_more = await index.reserve(file.id, 1, quota=quota)

        assert (all_of_it, one_more) == (True, False)
        assert await index.usage() == Usage(100, 1)
        assert await index.usage(OURS) == Usage(100, 1)

    @pytest.mark.parametrize(
        "quota", [Quota(store_bytes=99), Quota(store_bytes=1000, scope_bytes=99)]
    )
    async def test_refused_first_reservation_changes_nothing(
        self, index: Index, quota: Quota
    ) -> None:
        file = await begin(index, new_file())

        fitted = await index.reserve(file.id, 100, quota=quota)

        assert not fitted
        assert await index.usage() == Usage(0, 0)
        assert await index.usage(OURS) == Usage(0, 0)
        assert await index.reserve(file.id, 99, quota=quota)

    async def test_scope_quota_does_not_concern_other_scopes(self, index: Index) -> None:
        quota = Quota(store_bytes=1000, scope_bytes=100)
        await store(index, new_file(scope=OURS, size_bytes=100), quota)
        theirs = await begin(index, new_file(scope=THEIRS))

        assert await index.reserve(theirs.id, 100, quota=quota)

    async def test_store_quota_concerns_all_scopes(self, index: Index) -> None:
        quota = Quota(store_bytes=150)
        await store(index, new_file(scope=OURS, size_bytes=100), quota)
        theirs = await begin(index, new_file(scope=THEIRS))

        assert not await index.reserve(theirs.id, 51, quota=quota)
        assert await index.reserve(theirs.id, 50, quota=quota)

    async def test_file_quota_counts_from_the_first_reservation(self, index: Index) -> None:
        quota = Quota(store_bytes=1000, scope_files=2)
        first, second, third = [await begin(index, new_file()) for _ in range(3)]
        theirs = await begin(index, new_file(scope=THEIRS))

        assert await index.reserve(first.id, 1, quota=quota)
        assert await index.reserve(second.id, 1, quota=quota)
        assert not await index.reserve(third.id, 1, quota=quota)
        assert await index.reserve(first.id, 1, quota=quota)
        assert await index.reserve(theirs.id, 1, quota=quota)
        await index.abandon(second.id)
        assert await index.reserve(third.id, 1, quota=quota)

    async def test_lowered_quota_refuses_until_there_is_room(self, index: Index) -> None:
        big = await store(index, new_file(size_bytes=100))
        file = await begin(index, new_file())
        lowered = Quota(store_bytes=50)

        before = await index.reserve(file.id, 1, quota=lowered)
        await index.delete(big.id, scope=OURS, now=NOW)
        await index.forget([big.id])
        after = await index.reserve(file.id, 50, quota=lowered)

        assert (before, after) == (False, True)

    async def test_concurrent_reservations_never_overshoot(self, index: Index) -> None:
        quota = Quota(store_bytes=1000, scope_bytes=700)
        files = [await begin(index, new_file(scope=(OURS, THEIRS)[n % 2])) for n in range(40)]

        fitted = await asyncio.gather(*(index.reserve(f.id, 70, quota=quota) for f in files))

        used = await index.usage()
        assert used == Usage(70 * sum(fitted), sum(fitted))
        assert used.used_bytes == 980
        assert (await index.usage(OURS)).used_bytes <= 700
        assert (await index.usage(THEIRS)).used_bytes <= 700

    # lost reservations ---------------------------------------------------------------------------

    async def test_reservation_that_was_never_made_is_lost(self, index: Index) -> None:
        with pytest.raises(ReservationLostError):
            await index.reserve(new_file_id(), 1, quota=ROOMY)
        with pytest.raises(ReservationLostError):
            await index.commit(new_file())

        assert await index.usage() == Usage(0, 0)

    async def test_swept_reservation_is_lost(self, index: Index) -> None:
        file = await begin(index, new_file(), until=NOW + 10)
        await index.reserve(file.id, 100, quota=ROOMY)

        await index.lapse(now=NOW + 10, limit=10)

        with pytest.raises(ReservationLostError):
            await index.reserve(file.id, 1, quota=ROOMY)
        with pytest.raises(ReservationLostError):
            await index.commit(file)
        assert await index.get(file.id, scope=OURS, now=NOW) is None
        assert await index.usage() == Usage(100, 1)

    async def test_second_commit_is_lost(self, index: Index) -> None:
        file = await store(index)

        with pytest.raises(ReservationLostError):
            await index.commit(replace(file, filename="other.mp4"))

        assert await index.get(file.id, scope=OURS, now=NOW) == file
        assert await index.usage() == Usage(100, 1)

    async def test_commit_of_more_than_was_reserved_is_lost(self, index: Index) -> None:
        unreserved = await begin(index, new_file(size_bytes=1))
        short = await begin(index, new_file(size_bytes=101))
        await index.reserve(short.id, 100, quota=ROOMY)

        for file in (unreserved, short):
            with pytest.raises(ReservationLostError):
                await index.commit(file)

        assert await listed(index) == set()
        assert await index.usage() == Usage(100, 1)

    async def test_commit_for_another_scope_or_blob_is_lost(self, index: Index) -> None:
        file = await begin(index, new_file())
        await index.reserve(file.id, 100, quota=ROOMY)

        for foreign in (replace(file, scope=THEIRS), replace(file, blob=new_blob_key())):
            with pytest.raises(ReservationLostError):
                await index.commit(foreign)

        await index.commit(file)
        assert await index.get(file.id, scope=OURS, now=NOW) == file

    async def test_lapse_takes_reservations_whose_time_is_up(self, index: Index) -> None:
        over = await begin(index, new_file(), until=NOW)
        bare = await begin(index, new_file(), until=NOW - 1)
        live = await begin(index, new_file(), until=NOW + 0.5)
        for file in (over, live):
            await index.reserve(file.id, 100, quota=ROOMY)

        await index.lapse(now=NOW, limit=10)
        removals = {r.id: r for r in await index.removable(now=NOW, limit=10)}
        await index.forget(list(removals))

        assert set(removals) == {over.id, bare.id}
        assert (removals[over.id].blob, removals[over.id].size_bytes) == (over.blob, 100)
        assert removals[bare.id].size_bytes == 0
        assert await index.usage() == Usage(100, 1)
        assert await index.reserve(live.id, 1, quota=ROOMY)

    async def test_lapse_takes_no_more_than_its_limit(self, index: Index) -> None:
        for _ in range(5):
            await begin(index, new_file(), until=NOW)

        moved = [await index.lapse(now=NOW, limit=3)]

        assert len(await removable(index)) == 3
        moved += [await index.lapse(now=NOW, limit=3) for _ in range(2)]
        assert moved == [3, 2, 0]

    async def test_renewed_reservation_does_not_lapse(self, index: Index) -> None:
        renewed = await begin(index, new_file(), until=NOW + 10)
        other = await begin(index, new_file(), until=NOW + 10)

        await index.renew(leases=[], reservations=[renewed.id], until=NOW + 70)
        await index.renew(leases=[], reservations=[renewed.id], until=NOW + 5)
        await index.lapse(now=NOW + 10, limit=10)

        assert await removable(index) == {other.id}
        assert await index.reserve(renewed.id, 1, quota=ROOMY)

    async def test_swept_claims_stay_gone(self, index: Index) -> None:
        reserved = await begin(index, new_file(), until=NOW)
        leased = await store(index)
        lease_id = await hold(index, leased, for_s=1)
        await index.lapse(now=NOW + 1, limit=10)

        await index.renew(leases=[lease_id], reservations=[reserved.id], until=NOW + 100)

        assert await removable(index) == {reserved.id}
        victim = await index.evict(scope=OURS, now=NOW + 2)
        assert victim is not None
        assert victim.id == leased.id

    async def test_lapse_leaves_ready_files_alone(self, index: Index) -> None:
        file = await store(index)

        await index.lapse(now=NOW + 10 * HOUR, limit=10)

        assert await index.get(file.id, scope=OURS, now=NOW) == file

    # expiry --------------------------------------------------------------------------------------

    async def test_expired_file_is_invisible_before_any_sweep(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=NOW + 10))

        assert await index.get(file.id, scope=OURS, now=NOW + 9.9) == file
        assert await index.get(file.id, scope=OURS, now=NOW + 10) is None
        assert await listed(index, now=NOW + 9.9) == {file.id}
        assert await listed(index, now=NOW + 10) == set()
        assert await index.delete(file.id, scope=OURS, now=NOW + 10) is None

    async def test_lease_does_not_revive_an_expired_file(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=NOW + 10))

        found = await index.lease(
            [file.id], lease_id=new_lease_id(), scope=OURS, now=NOW + 10, until=NOW + 70
        )

        assert found == {}
        assert await index.get(file.id, scope=OURS, now=NOW + 10) is None
        assert [f.id for f in await index.expire(now=NOW + 10, limit=10)] == [file.id]
        assert await removable(index, now=NOW + 10) == {file.id}

    async def test_expire_moves_what_is_expired_and_returns_it(self, index: Index) -> None:
        expired = {
            (await store(index, new_file(scope=scope, expires_at=NOW + 10))).id
            for scope in (OURS, THEIRS)
        }
        later = await store(index, new_file(expires_at=NOW + 10.5))

        moved = await index.expire(now=NOW + 10, limit=10)
        again = await index.expire(now=NOW + 10, limit=10)

        assert {f.id for f in moved} == expired
        assert list(again) == []
        assert await removable(index, now=NOW + 10) == expired
        assert await index.get(later.id, scope=OURS, now=NOW + 10) == later
        assert await index.usage() == Usage(300, 3)

    async def test_expire_takes_no_more_than_its_limit(self, index: Index) -> None:
        for _ in range(5):
            await store(index, new_file(expires_at=NOW))

        counts = [len(await index.expire(now=NOW, limit=2)) for _ in range(4)]

        assert counts == [2, 2, 1, 0]

    async def test_expired_file_stays_readable_for_its_lease(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=NOW + 10, ttl_s=None))
        lease_id = await hold(index, file)

        await index.expire(now=NOW + 10, limit=10)
        while_leased = await removable(index, now=NOW + 10)
        freed = await index.release(lease_id, now=NOW + 11)

        assert while_leased == set()
        assert [r.id for r in freed] == [file.id]

    async def test_use_prolongs_a_sliding_expiry(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=NOW + 100, ttl_s=100))

        found = await index.lease(
            [file.id], lease_id=new_lease_id(), scope=OURS, now=NOW + 50, until=NOW + 60
        )

        expected = replace(file, last_used_at=NOW + 50, expires_at=NOW + 150)
        assert found == {file.id: expected}
        assert await index.get(file.id, scope=OURS, now=NOW + 120) == expected

    async def test_use_leaves_a_fixed_expiry_alone(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=NOW + 100, ttl_s=None))

        await hold(index, file, now=NOW + 50)

        expected = replace(file, last_used_at=NOW + 50)
        assert await index.get(file.id, scope=OURS, now=NOW + 50) == expected
        assert await index.get(file.id, scope=OURS, now=NOW + 100) is None

    async def test_use_gives_no_expiry_to_a_file_without_one(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=None, ttl_s=None))

        await hold(index, file, now=NOW + 50)

        got = await index.get(file.id, scope=OURS, now=NOW + 50)
        assert got == replace(file, last_used_at=NOW + 50)

    async def test_expiry_never_moves_earlier_when_the_clock_goes_back(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=NOW + HOUR, ttl_s=HOUR))

        await hold(index, file, now=NOW - HOUR)

        got = await index.get(file.id, scope=OURS, now=NOW - HOUR)
        assert got is not None
        assert got.expires_at == NOW + HOUR

    async def test_get_and_list_are_no_use(self, index: Index) -> None:
        file = await store(index)

        await index.get(file.id, scope=OURS, now=NOW + 1000)
        await index.list(scope=OURS, now=NOW + 1000, limit=10)

        assert await index.get(file.id, scope=OURS, now=NOW + 1000) == file

    # listing -------------------------------------------------------------------------------------

    async def test_listing_is_ordered_by_creation_then_id(self, index: Index) -> None:
        files = [await store(index, new_file(created_at=NOW + n // 3)) for n in range(9)]

        falling = await index.list(scope=OURS, now=NOW, limit=100)
        rising = await index.list(scope=OURS, now=NOW, limit=100, order=Order.ASC)

        assert list(rising.files) == sorted(files, key=lambda f: (f.created_at, f.id))
        assert list(falling.files) == list(rising.files)[::-1]
        assert not rising.has_more

    async def test_use_does_not_reorder_a_listing(self, index: Index) -> None:
        files = [await store(index, new_file(created_at=NOW + n)) for n in range(3)]

        await hold(index, files[0], now=NOW + 50)

        page = await index.list(scope=OURS, now=NOW + 50, limit=10)
        assert [f.id for f in page.files] == [f.id for f in files[::-1]]

    async def test_empty_listing_is_an_empty_page(self, index: Index) -> None:
        page = await index.list(scope=OURS, now=NOW, limit=1)

        assert list(page.files) == []
        assert not page.has_more

    @pytest.mark.parametrize("order", list(Order))
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
    async def test_pages_have_no_gap_and_no_duplicate(
        self, index: Index, order: Order, limit: int
    ) -> None:
        for n in range(7):
            await store(index, new_file(created_at=NOW + n // 4))
        await store(index, new_file(scope=THEIRS))
        whole = await index.list(scope=OURS, now=NOW, limit=100, order=order)

        walked: list[FileObject] = []
        has_more = True
        while has_more:
            after = walked[-1].id if walked else None
            page = await index.list(scope=OURS, now=NOW, limit=limit, order=order, after=after)
            walked.extend(page.files)
            has_more = page.has_more

        assert walked == list(whole.files)
        assert len(walked) == 7

    async def test_page_that_ends_the_listing_has_no_more(self, index: Index) -> None:
        for _ in range(4):
            await store(index)

        exact = await index.list(scope=OURS, now=NOW, limit=4)
        short = await index.list(scope=OURS, now=NOW, limit=3)
        past_the_end = await index.list(scope=OURS, now=NOW, limit=4, after=exact.files[-1].id)

        assert (exact.has_more, short.has_more) == (False, True)
        assert (len(past_the_end.files), past_the_end.has_more) == (0, False)

    async def test_purpose_filters_before_paging(self, index: Index) -> None:
        vision = [
            await store(index, new_file(created_at=NOW + n, purpose=Purpose.VISION))
            for n in (0, 2, 4)
        ]
        for n in (1, 3):
            await store(index, new_file(created_at=NOW + n))

        first = await index.list(scope=OURS, now=NOW, limit=2, purpose=Purpose.VISION)
        second = await index.list(
            scope=OURS, now=NOW, limit=2, purpose=Purpose.VISION, after=first.files[-1].id
        )

        assert [*first.files, *second.files] == vision[::-1]
        assert (first.has_more, second.has_more) == (True, False)

    async def test_cursor_of_another_purpose_is_a_place_like_any_other(self, index: Index) -> None:
        older = await store(index, new_file(created_at=NOW, purpose=Purpose.VISION))
        cursor = await store(index, new_file(created_at=NOW + 1))

        page = await index.list(
            scope=OURS, now=NOW, limit=5, purpose=Purpose.VISION, after=cursor.id
        )

        assert list(page.files) == [older]

    @pytest.mark.parametrize("way", ["delete", "expire", "evict"])
    @pytest.mark.parametrize("forgotten", [False, True])
    async def test_file_that_is_gone_remains_a_cursor(
        self, index: Index, way: str, forgotten: bool
    ) -> None:
        old, cursor, new = [
            await store(index, new_file(created_at=NOW + n, expires_at=None)) for n in range(2)
        ] + [await store(index, new_file(created_at=NOW + 2, expires_at=None))]
        if way == "delete":
            await index.delete(cursor.id, scope=OURS, now=NOW)
        elif way == "expire":
            cursor = await store(index, new_file(created_at=NOW + 1, expires_at=NOW))
            await index.expire(now=NOW, limit=1)
        else:
            await hold(index, old, new, now=NOW + 50)
            await index.evict(scope=OURS, now=NOW + 50)
        if forgotten:
            await index.forget([cursor.id])
            await index.lapse(now=NOW + CURSOR_S - 1, limit=10)

        falling = await index.list(scope=OURS, now=NOW, limit=1, after=cursor.id)
        rising = await index.list(scope=OURS, now=NOW, limit=9, after=cursor.id, order=Order.ASC)

        assert new.id in {f.id for f in rising.files}
        assert cursor.id not in {f.id for f in (*rising.files, *falling.files)}
        assert old.id not in {f.id for f in rising.files}
        with pytest.raises(UnknownCursorError):
            await index.list(scope=THEIRS, now=NOW, limit=1, after=cursor.id)

    async def test_expired_unswept_file_is_a_cursor(self, index: Index) -> None:
        old = await store(index, new_file(created_at=NOW))
        cursor = await store(index, new_file(created_at=NOW + 1, expires_at=NOW + 5))

        page = await index.list(scope=OURS, now=NOW + 5, limit=10, after=cursor.id)

        assert list(page.files) == [old]

    async def test_cursor_that_was_never_a_file_is_unknown(self, index: Index) -> None:
        reserved = await begin(index, new_file())
        await store(index)

        for cursor in (new_file_id(), reserved.id):
            with pytest.raises(UnknownCursorError):
                await index.list(scope=OURS, now=NOW, limit=1, after=cursor)

    async def test_cursor_of_another_scope_is_unknown(self, index: Index) -> None:
        theirs = await store(index, new_file(scope=THEIRS))
        await store(index)

        with pytest.raises(UnknownCursorError):
            await index.list(scope=OURS, now=NOW, limit=1, after=theirs.id)

    # scopes --------------------------------------------------------------------------------------

    async def test_foreign_file_is_absent(self, index: Index) -> None:
        theirs = await store(index, new_file(scope=THEIRS))
        ours = await store(index)

        got = await index.get(theirs.id, scope=OURS, now=NOW)
        deleted = await index.delete(theirs.id, scope=OURS, now=NOW)
        leased = await index.lease(
            [theirs.id, ours.id],
            lease_id=new_lease_id(),
            scope=OURS,
            now=NOW + 1,
            until=NOW + 61,
        )

        assert got is None
        assert deleted is None
        assert set(leased) == {ours.id}
        assert await listed(index) == {ours.id}
        assert await index.get(theirs.id, scope=THEIRS, now=NOW) == theirs
        victim = await index.evict(scope=THEIRS, now=NOW + 1)
        assert victim is not None
        assert victim.id == theirs.id

    # leases --------------------------------------------------------------------------------------

    async def test_existence_is_told_whoever_owns_the_file(self, index: Index) -> None:
        file = await store(index, new_file(scope=THEIRS, expires_at=NOW + 10))
        arriving = await begin(index, new_file())
        deleted = await store(index)
        await index.delete(deleted.id, scope=OURS, now=NOW)

        assert await index.exists(file.id, now=NOW + 9)
        assert not await index.exists(file.id, now=NOW + 10)
        for absent in (arriving.id, deleted.id, new_file_id()):
            assert not await index.exists(absent, now=NOW)

    async def test_ids_that_are_missing_are_not_leased(self, index: Index) -> None:
        file = await store(index)
        deleted = await store(index)
        await index.delete(deleted.id, scope=OURS, now=NOW)
        lease_id = new_lease_id()

        found = await index.lease(
            [file.id, deleted.id, new_file_id(), file.id],
            lease_id=lease_id,
            scope=OURS,
            now=NOW,
            until=NOW + 60,
        )

        assert set(found) == {file.id}
        assert await removable(index) == {deleted.id}

    async def test_one_lease_holds_many_files(self, index: Index) -> None:
        files = [await store(index) for _ in range(1200)]
        lease_id = await hold(index, *files)

        assert await index.evict(scope=OURS, now=NOW) is None
        await index.release(lease_id, now=NOW)
        assert await index.evict(scope=OURS, now=NOW) is not None

    async def test_live_lease_tells_which_files_it_holds_by_position(self, index: Index) -> None:
        files = [await store(index) for _ in range(3)]
        await store(index)
        lease_id = await hold(index, *files, for_s=60)
        await index.delete(files[1].id, scope=OURS, now=NOW)

        found = [await index.leased(lease_id, n, now=NOW + 59) for n in range(4)]

        expected = sorted(files, key=lambda f: f.id)
        assert [f and f.id for f in found] == [f.id for f in expected] + [None]
        assert [f and f.blob for f in found] == [f.blob for f in expected] + [None]

    async def test_lease_that_has_ended_holds_nothing(self, index: Index) -> None:
        file = await store(index)
        released, lapsed = await hold(index, file, for_s=60), await hold(index, file, for_s=60)
        await index.release(released, now=NOW)

        assert await index.leased(released, 0, now=NOW) is None
        assert await index.leased(new_lease_id(), 0, now=NOW) is None
        assert await index.leased(lapsed, 0, now=NOW + 59) is not None
        assert await index.leased(lapsed, 0, now=NOW + 60) is None

    async def test_asking_for_a_leased_file_is_no_use_of_it(self, index: Index) -> None:
        file = await store(index, new_file(expires_at=NOW + 10, ttl_s=10))
        lease_id = await hold(index, file, now=NOW + 1)
        before = await index.get(file.id, scope=OURS, now=NOW + 2)

        await index.leased(lease_id, 0, now=NOW + 5)

        assert await index.get(file.id, scope=OURS, now=NOW + 5) == before

    async def test_leased_file_is_deleted_at_once_and_removed_after(self, index: Index) -> None:
        file = await store(index)
        lease_id = await hold(index, file)

        deleted = await index.delete(file.id, scope=OURS, now=NOW)
        visible = await listed(index)
        while_leased = await removable(index)
        freed = await index.release(lease_id, now=NOW + 1)

        assert deleted is not None
        assert deleted.blob == file.blob
        assert visible == set()
        assert while_leased == set()
        assert [(r.id, r.scope, r.blob, r.size_bytes) for r in freed] == [
            (file.id, OURS, file.blob, 100)
        ]
        assert await removable(index) == {file.id}

    async def test_only_the_last_release_frees_the_bytes(self, index: Index) -> None:
        file = await store(index)
        first, second = await hold(index, file), await hold(index, file)
        await index.delete(file.id, scope=OURS, now=NOW)

        by_first = await index.release(first, now=NOW)
        in_between = await removable(index)
        by_second = await index.release(second, now=NOW)

        assert list(by_first) == []
        assert in_between == set()
        assert [r.id for r in by_second] == [file.id]

    async def test_release_frees_only_what_it_held(self, index: Index) -> None:
        held, other = await store(index), await store(index)
        lease_id = await hold(index, held)
        await index.delete(other.id, scope=OURS, now=NOW)

        freed = await index.release(lease_id, now=NOW)
        again = await index.release(lease_id, now=NOW)

        assert list(freed) == []
        assert list(again) == []
        assert await index.get(held.id, scope=OURS, now=NOW) is not None

    async def test_lapsed_lease_does_not_protect(self, index: Index) -> None:
        evicted, deleted = await store(index), await store(index)
        await hold(index, evicted, deleted, for_s=60)
        await index.delete(deleted.id, scope=OURS, now=NOW)

        still = await index.evict(scope=OURS, now=NOW + 59)
        victim = await index.evict(scope=OURS, now=NOW + 60)

        assert still is None
        assert victim is not None
        assert victim.id == evicted.id
        assert await removable(index, now=NOW + 59) == set()
        assert await removable(index, now=NOW + 60) == {evicted.id, deleted.id}

    async def test_lapsed_lease_of_another_does_not_delay_a_release(self, index: Index) -> None:
        file = await store(index)
        await hold(index, file, for_s=5)
        lease_id = await hold(index, file, for_s=60)
        await index.delete(file.id, scope=OURS, now=NOW)

        freed = await index.release(lease_id, now=NOW + 6)

        assert [r.id for r in freed] == [file.id]

    async def test_renewed_lease_protects_longer(self, index: Index) -> None:
        file = await store(index)
        lease_id = await hold(index, file, for_s=60)

        await index.renew(leases=[lease_id], reservations=[], until=NOW + 90)
        await index.renew(leases=[lease_id], reservations=[], until=NOW + 30)

        assert await index.evict(scope=OURS, now=NOW + 89) is None
        assert await index.evict(scope=OURS, now=NOW + 90) is not None

    async def test_leasing_again_under_one_id_prolongs_and_shortens_never(
        self, index: Index
    ) -> None:
        file, other = await store(index), await store(index)
        lease_id = new_lease_id()
        for ids, until in (
            ([file.id], NOW + 60),
            ([file.id, other.id], NOW + 90),
            ([file.id], NOW + 30),
        ):
            await index.lease(ids, lease_id=lease_id, scope=OURS, now=NOW, until=until)

        assert await index.evict(scope=OURS, now=NOW + 89) is None
        await index.release(lease_id, now=NOW + 89)
        assert await index.evict(scope=OURS, now=NOW + 89) is not None

    async def test_removable_takes_no_more_than_its_limit(self, index: Index) -> None:
        for _ in range(5):
            file = await store(index)
            await index.delete(file.id, scope=OURS, now=NOW)

        assert len(await index.removable(now=NOW, limit=3)) == 3
        assert len(await index.removable(now=NOW, limit=9)) == 5

    # delete --------------------------------------------------------------------------------------

    async def test_deleted_file_is_gone_for_every_question(self, index: Index) -> None:
        file = await store(index)

        first = await index.delete(file.id, scope=OURS, now=NOW)
        second = await index.delete(file.id, scope=OURS, now=NOW)

        assert first == file
        assert second is None
        assert await index.get(file.id, scope=OURS, now=NOW) is None
        assert await listed(index) == set()
        assert await index.evict(scope=OURS, now=NOW) is None
        assert list(await index.expire(now=NOW + 10 * HOUR, limit=10)) == []

    async def test_one_of_many_concurrent_deletes_wins(self, index: Index) -> None:
        file = await store(index)

        answers = await asyncio.gather(
            *(index.delete(file.id, scope=OURS, now=NOW) for _ in range(8))
        )

        assert sorted(answers, key=lambda a: a is None) == [file] + [None] * 7

    # evict ---------------------------------------------------------------------------------------

    async def test_eviction_takes_the_least_recently_used_first(self, index: Index) -> None:
        files = [await store(index, new_file(used_at=NOW + n)) for n in (3, 1, 2)]
        oldest_by_use = sorted(files, key=lambda f: f.last_used_at)
        lease_id = await hold(index, oldest_by_use[0], now=NOW + 50)
        await index.release(lease_id, now=NOW + 50)

        victims = [await index.evict(scope=OURS, now=NOW + 50) for _ in range(4)]

        expected = [oldest_by_use[1], oldest_by_use[2], oldest_by_use[0]]
        assert [v.id if v else None for v in victims] == [*(f.id for f in expected), None]

    async def test_eviction_breaks_ties_by_id(self, index: Index) -> None:
        ids = sorted([(await store(index)).id for _ in range(6)])

        victims = [await index.evict(scope=OURS, now=NOW) for _ in range(6)]

        assert [v.id for v in victims if v] == ids

    async def test_eviction_passes_over_leased_files(self, index: Index) -> None:
        leased = await store(index, new_file(used_at=NOW - 100))
        free = await store(index, new_file(used_at=NOW))
        await hold(index, leased, now=NOW - 50)

        victim = await index.evict(scope=OURS, now=NOW)

        assert victim is not None
        assert victim.id == free.id
        assert await index.evict(scope=OURS, now=NOW) is None

    async def test_eviction_for_a_scope_stays_inside_it(self, index: Index) -> None:
        await store(index, new_file(scope=THEIRS, used_at=NOW - 100))
        ours = await store(index, new_file(used_at=NOW))

        victims = [await index.evict(scope=OURS, now=NOW) for _ in range(2)]

        assert victims == [ours, None]

    async def test_evicted_file_is_invisible_and_removable(self, index: Index) -> None:
        file = await store(index)

        await index.evict(scope=OURS, now=NOW)

        assert await index.get(file.id, scope=OURS, now=NOW) is None
        assert await removable(index) == {file.id}
        assert await index.usage() == Usage(100, 1)

    # orphans -------------------------------------------------------------------------------------

    async def test_blob_has_a_row_from_begin_to_forget(self, index: Index) -> None:
        file = new_file()
        stranger = new_blob_key()
        both = [file.blob, stranger]

        seen = [await index.without_row(both)]
        await begin(index, file)
        seen.append(await index.without_row(both))
        await index.reserve(file.id, 100, quota=ROOMY)
        await index.commit(file)
        seen.append(await index.without_row(both))
        await index.delete(file.id, scope=OURS, now=NOW)
        seen.append(await index.without_row(both))
        await index.forget([file.id])
        seen.append(await index.without_row(both))

        assert seen == [set(both), {stranger}, {stranger}, {stranger}, set(both)]

    async def test_many_blobs_may_be_asked_for_at_once(self, index: Index) -> None:
        files = [await begin(index, new_file()) for _ in range(3)]
        strangers = {new_blob_key() for _ in range(2500)}

        without = await index.without_row([*strangers, *(f.blob for f in files)])

        assert without == strangers

    # cancellation --------------------------------------------------------------------------------

    @pytest.mark.parametrize("turns", [0, 1, 2, 5])
    async def test_cancelled_commit_happened_or_not(self, index: Index, turns: int) -> None:
        for _ in range(5):
            file = await begin(index, new_file(size_bytes=60))
            await index.reserve(file.id, 100, quota=ROOMY)

            await _cancel_after(turns, functools.partial(index.commit, file))

            before = await index.usage()
            got = await index.get(file.id, scope=OURS, now=NOW)
            await asyncio.sleep(0)
            assert await index.usage() == before  # nothing of it is still going on
            assert (got, before) in [(file, Usage(60, 1)), (None, Usage(100, 1))]
            await index.abandon(file.id)
            await index.delete(file.id, scope=OURS, now=NOW)
            await index.forget([file.id])
            assert await index.usage() == Usage(0, 0)

    @pytest.mark.parametrize("turns", [0, 1, 2, 5])
    async def test_cancelled_reservation_happened_or_not(self, index: Index, turns: int) -> None:
        file = await begin(index, new_file())

        await _cancel_after(turns, lambda: index.reserve(file.id, 100, quota=ROOMY))

        used = await index.usage()
        assert used == await index.usage(OURS)
        assert used in (Usage(0, 0), Usage(100, 1))
        await index.abandon(file.id)
        assert await index.usage() == Usage(0, 0)

    @pytest.mark.parametrize("turns", [0, 1, 2, 5])
    async def test_cancelled_lease_happened_or_not(self, index: Index, turns: int) -> None:
        file = await store(index)
        lease_id = new_lease_id()

        await _cancel_after(
            turns,
            lambda: index.lease(
                [file.id], lease_id=lease_id, scope=OURS, now=NOW + 9, until=NOW + 69
            ),
        )

        got = await index.get(file.id, scope=OURS, now=NOW + 9)
        assert got is not None
        victim = await index.evict(scope=OURS, now=NOW + 9)
        assert (got.last_used_at, victim is None) in [(NOW + 9, True), (NOW, False)]

    # whole life ----------------------------------------------------------------------------------

    async def test_usage_is_the_sum_of_the_rows_under_load(self, index: Index) -> None:
        quota = Quota(store_bytes=1000, scope_bytes=600, scope_files=6)

        async def live(n: int) -> None:
            file = new_file(scope=(OURS, THEIRS)[n % 2], size_bytes=10 + n)
            await begin(index, file)
            while not await index.reserve(file.id, 100, quota=quota):
                victim = await index.evict(scope=file.scope, now=NOW)
                if victim is not None:
                    await index.forget([victim.id])
            if n % 5 == 0:
                await index.abandon(file.id)
                return
            await index.commit(file)
            await index.lease(
                [file.id], lease_id=LeaseId(f"{n}"), scope=file.scope, now=NOW, until=NOW + 60
            )
            await index.delete(file.id, scope=file.scope, now=NOW)
            await index.forget([r.id for r in await index.release(LeaseId(f"{n}"), now=NOW)])

        async with asyncio.timeout(30):
            await asyncio.gather(*(live(n) for n in range(40)))
        await index.forget(await removable(index))

        for scope in (OURS, THEIRS):
            page = await index.list(scope=scope, now=NOW, limit=1000)
            sizes = [f.size_bytes for f in page.files]
            assert await index.usage(scope) == Usage(sum(sizes), len(sizes))


async def _cancel_after(turns: int, call: Callable[[], Awaitable[object]]) -> None:
    """Start `call`, cancel it after some turns of the event loop, wait until it is over."""

    async def run() -> None:
        await call()

    task = asyncio.create_task(run())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
