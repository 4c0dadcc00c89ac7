"""Every index gives the same answers to the same questions, whatever their order."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from operator import methodcaller
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mediagate.core.files import BlobKey, Digest, FileId, FileObject, Purpose
from mediagate.core.leases import LeaseId
from mediagate.core.quotas import Quota
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.core.uploads import Part, PartId, Upload, UploadId
from mediagate.index.driver import (
    Index,
    Order,
    Removal,
    ReservationLostError,
    UnknownCursorError,
)
from mediagate.index.memory import MemoryIndex
from mediagate.index.sql import SqlIndex
from mediagate.testing.index_conformance import new_file

START = 1_800_000_000.0
SCOPES = (DEFAULT_SCOPE, Scope("*"), Scope("ours"))
QUOTA = Quota(store_bytes=1000, scope_bytes=600, scope_files=4)

ids = st.integers(0, 9).map(lambda n: FileId(f"file-{n:032x}"))
id_sets = st.sets(ids, max_size=4)
lease_ids = st.integers(0, 3).map(lambda n: LeaseId(f"lease-{n}"))
scopes = st.sampled_from(SCOPES)
sizes = st.integers(0, 400)
limits = st.integers(1, 4)
spans = st.sampled_from([1.0, 10.0, 60.0, 4000.0])


def by_id(found: Sequence[FileObject | Removal]) -> list[FileObject | Removal]:
    return sorted(found, key=lambda f: f.id)


class Agreement(RuleBasedStateMachine):
    """Asks a memory index and a SQL index on SQLite the same, and compares.

    Ids are few, so that rules meet. An id is not used twice, as ids are not; the clock jumps, mostly forward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        path = Path(self.directory.name) / "index.db"
        self.indexes: list[Index] = [MemoryIndex(), SqlIndex.sqlite(path, durable=False)]
        self.now = START
        self.born: dict[FileId, Scope] = {}

    def ask(self, question: Callable[[Index], Awaitable[object]]) -> object:
        """The one answer of all indexes, errors of the protocol included."""

        async def answer(index: Index) -> object:
            try:
                return await question(index)
            except (ReservationLostError, UnknownCursorError) as error:
                return type(error)

        first, *others = [self.runner.run(answer(index)) for index in self.indexes]
        for other in others:
            assert other == first
        return first

    @initialize()
    def open(self) -> None:
        self.ask(lambda i: i.open())

    def teardown(self) -> None:
        self.ask(lambda i: i.close())
        self.runner.close()
        self.directory.cleanup()

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0, 3700.0, -3600.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(file_id=ids, scope=scopes, span=spans)
    def begin(self, file_id: FileId, scope: Scope, span: float) -> None:
        if file_id not in self.born:
            self.born[file_id] = scope
            blob = BlobKey(file_id[5:])
            self.ask(lambda i: i.begin(file_id, scope=scope, blob=blob, until=self.now + span))

    @rule(file_id=ids, extra_bytes=sizes)
    def reserve(self, file_id: FileId, extra_bytes: int) -> None:
        self.ask(lambda i: i.reserve(file_id, extra_bytes, quota=QUOTA))

    @rule(
        file_id=ids, size=sizes, span=spans, sliding=st.booleans(), purpose=st.sampled_from(Purpose)
    )
    def commit(
        self, file_id: FileId, size: int, span: float, sliding: bool, purpose: Purpose
    ) -> None:
        file = FileObject(
            id=file_id,
            scope=self.born.get(file_id, DEFAULT_SCOPE),
            blob=BlobKey(file_id[5:]),
            filename="clip.mp4",
            purpose=purpose,
            mime_type="video/mp4",
            size_bytes=size,
            digest=Digest("blake3:0"),
            created_at=int(self.now),
            last_used_at=self.now,
            expires_at=self.now + span,
            ttl_s=span if sliding else None,
        )
        self.ask(lambda i: i.commit(file))

    @rule(file_id=ids, extra_bytes=sizes, scope=scopes)
    def receive(self, file_id: FileId, extra_bytes: int, scope: Scope) -> None:
        """The three steps in one, so that READY files are common."""
        self.begin(file_id, scope, 60.0)
        self.reserve(file_id, extra_bytes)
        self.commit(file_id, extra_bytes, 4000.0, True, Purpose.USER_DATA)

    @rule(file_id=ids)
    def abandon(self, file_id: FileId) -> None:
        self.ask(lambda i: i.abandon(file_id))

    @rule(file_id=ids, scope=scopes)
    def get(self, file_id: FileId, scope: Scope) -> None:
        self.ask(lambda i: i.get(file_id, scope=scope, now=self.now))

    @rule(
        scope=scopes,
        limit=limits,
        order=st.sampled_from(Order),
        after=st.none() | ids,
        purpose=st.none() | st.sampled_from(Purpose),
    )
    def list(
        self,
        scope: Scope,
        limit: int,
        order: Order,
        after: FileId | None,
        purpose: Purpose | None,
    ) -> None:
        self.ask(
            lambda i: i.list(
                scope=scope, now=self.now, limit=limit, order=order, after=after, purpose=purpose
            )
        )

    @rule(file_ids=id_sets, lease_id=lease_ids, scope=scopes, span=spans)
    def lease(self, file_ids: set[FileId], lease_id: LeaseId, scope: Scope, span: float) -> None:
        now = self.now
        self.ask(
            lambda i: i.lease(file_ids, lease_id=lease_id, scope=scope, now=now, until=now + span)
        )

    @rule(lease_id=lease_ids, position=st.integers(0, 3))
    def leased(self, lease_id: LeaseId, position: int) -> None:
        self.ask(lambda i: i.leased(lease_id, position, now=self.now))

    @rule(leases=st.sets(lease_ids), reservations=id_sets, span=spans)
    def renew(self, leases: set[LeaseId], reservations: set[FileId], span: float) -> None:
        until = self.now + span
        self.ask(lambda i: i.renew(leases=leases, reservations=reservations, until=until))

    @rule(lease_id=lease_ids)
    def release(self, lease_id: LeaseId) -> None:
        async def question(index: Index) -> object:
            return by_id(await index.release(lease_id, now=self.now))

        self.ask(question)

    @rule(file_id=ids, scope=scopes)
    def delete(self, file_id: FileId, scope: Scope) -> None:
        self.ask(lambda i: i.delete(file_id, scope=scope, now=self.now))

    @rule()
    def expire(self) -> None:
        async def question(index: Index) -> object:
            return by_id(await index.expire(now=self.now, limit=100))

        self.ask(question)

    @rule(scope=scopes)
    def evict(self, scope: Scope) -> None:
        self.ask(lambda i: i.evict(scope=scope, now=self.now))

    @rule()
    def lapse(self) -> None:
        self.ask(lambda i: i.lapse(now=self.now, limit=100))

    @rule(file_ids=id_sets)
    def forget(self, file_ids: set[FileId]) -> None:
        self.ask(lambda i: i.forget(file_ids))

    @invariant()
    def what_is_seen_is_the_same(self) -> None:
        async def question(index: Index) -> object:
            usages = [await index.usage(scope) for scope in (None, *SCOPES)]
            assert usages[0].used_bytes == sum(u.used_bytes for u in usages[1:])
            assert usages[0].files == sum(u.files for u in usages[1:])
            assert usages[0].used_bytes <= QUOTA.store_bytes
            visible = [
                await index.get(file_id, scope=scope, now=self.now)
                for file_id, scope in self.born.items()
            ]
            blobs = [BlobKey(file_id[5:]) for file_id in self.born]
            removals = by_id(await index.removable(now=self.now, limit=100))
            return usages, visible, removals, await index.without_row(blobs)

        self.ask(question)


numbers = st.integers(0, 2)


class UploadAgreement(Agreement):
    """The same for Uploads, of which there are three, with nine parts each at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[int, Upload] = {}
        self.arrived: dict[PartId, Part] = {}

    @rule(n=numbers, scope=scopes, size=st.sampled_from([100, 200]))
    def begin_upload(self, n: int, scope: Scope, size: int) -> None:
        if n in self.uploads:
            return
        self.uploads[n] = upload = Upload(
            id=UploadId(FileId(f"upload_{n:032x}")),
            scope=scope,
            file_id=FileId(f"file-f{n:031x}"),
            blob=BlobKey(f"f{n:031x}"),
            size_bytes=size,
            filename="clip.mp4",
            purpose=Purpose.USER_DATA,
            fixed_s=None,
            created_at=int(self.now),
            expires_at=int(self.now) + 3600,
        )
        self.ask(lambda i: i.begin_upload(upload, quota=QUOTA))

    @rule(n=numbers, m=st.integers(0, 8), is_appended=st.booleans())
    def begin_part(self, n: int, m: int, is_appended: bool) -> None:
        """A part, half of the time at what may be the end of the trunk."""
        part_id = PartId(FileId(f"part_{n:016x}{m:016x}"))
        if n not in self.uploads or part_id in self.arrived:
            return
        upload, blob = self.uploads[n], BlobKey(f"e{n:015x}{m:016x}")
        self.arrived[part_id] = Part(
            id=part_id,
            upload_id=upload.id,
            blob=upload.blob if is_appended else blob,
            start=self._trunk_bytes(upload) if is_appended else 0,
            size_bytes=100,
            created_at=int(self.now),
        )
        until = self.now + 60
        self.ask(lambda i: i.begin_part(part_id, scope=upload.scope, blob=blob, until=until))
        self.ask(lambda i: i.reserve(part_id, 120, quota=QUOTA))

    def _trunk_bytes(self, upload: Upload) -> int:
        found = self.ask(lambda i: i.get_upload(upload.id, scope=upload.scope))
        return found.trunk_bytes if isinstance(found, Upload) else 0

    @rule(data=st.data())
    def add_part(self, data: st.DataObject) -> None:
        if waiting := self._waiting():
            part = data.draw(st.sampled_from(waiting))
            self.ask(lambda i: i.add_part(part, now=self.now))

    @rule(data=st.data())
    def abandon_part(self, data: st.DataObject) -> None:
        if waiting := self._waiting():
            part = data.draw(st.sampled_from(waiting))
            self.ask(lambda i: i.abandon(part.id))

    def _waiting(self) -> list[Part]:
        """Parts that were not added: nobody adds one again, or abandons it then."""
        added: set[PartId] = set()
        for upload in self.uploads.values():
            found = self.ask(methodcaller("parts", upload.id))
            assert isinstance(found, list | tuple)
            added |= {part.id for part in found}
        return [part for part in self.arrived.values() if part.id not in added]

    @rule(n=numbers, is_copied=st.booleans())
    def claim_upload(self, n: int, is_copied: bool) -> None:
        if upload := self.uploads.get(n):
            blob, until = BlobKey(f"d{n:031x}"), self.now + 60
            self.ask(lambda i: i.claim_upload(upload.id, blob=blob, now=self.now, until=until))
            if is_copied:
                self.ask(lambda i: i.reserve(upload.file_id, upload.size_bytes, quota=QUOTA))

    @rule(n=numbers)
    def give_up(self, n: int) -> None:
        if upload := self.uploads.get(n):
            self.ask(lambda i: i.abandon(upload.file_id))

    @rule(n=numbers, is_copied=st.booleans())
    def complete_upload(self, n: int, is_copied: bool) -> None:
        if upload := self.uploads.get(n):
            file = replace(
                new_file(scope=upload.scope, size_bytes=upload.size_bytes, created_at=self.now),
                id=upload.file_id,
                blob=BlobKey(f"d{n:031x}") if is_copied else upload.blob,
            )
            self.ask(lambda i: i.complete_upload(upload.id, file, part_order="order"))

    @rule(n=numbers)
    def cancel_upload(self, n: int) -> None:
        if upload := self.uploads.get(n):
            self.ask(lambda i: i.cancel_upload(upload.id, now=self.now))

    @rule(n=numbers, m=st.integers(0, 8), scope=scopes, is_copied=st.booleans())
    def upload(self, n: int, m: int, scope: Scope, is_copied: bool) -> None:
        """All of it in one, so that completed Uploads are common."""
        self.begin_upload(n, scope, 100)
        self.begin_part(n, m, is_appended=not is_copied)
        part = self.arrived.get(PartId(FileId(f"part_{n:016x}{m:016x}")))
        if part in self._waiting():
            self.ask(lambda i: i.add_part(part, now=self.now))
        self.claim_upload(n, is_copied)
        self.complete_upload(n, is_copied)

    @rule()
    def sweep(self) -> None:
        """Most of the time all that may go goes."""
        self.lapse()

        async def question(index: Index) -> object:
            removals = by_id(await index.removable(now=self.now, limit=100))
            await index.forget([removal.id for removal in removals])
            return removals

        self.ask(question)

    @invariant()
    def what_is_seen_of_uploads_is_the_same(self) -> None:
        async def question(index: Index) -> object:
            return [
                (
                    await index.get_upload(upload.id, scope=upload.scope),
                    list(await index.parts(upload.id)),
                    await index.get(upload.file_id, scope=upload.scope, now=self.now),
                    await index.without_row([upload.blob, BlobKey(f"d{n:031x}")]),
                )
                for n, upload in self.uploads.items()
            ]

        self.ask(question)
        self.ask(lambda i: i.reserved())


Agreement.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=40,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
TestAgreement = Agreement.TestCase
UploadAgreement.TestCase.settings = Agreement.TestCase.settings
TestUploadAgreement = UploadAgreement.TestCase
