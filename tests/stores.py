"""A whole store for tests of operations: real parts, a clock that stands still until it is moved.

async with stores.opened(tmp_path, clock) as store:
    file = await store.receive(stores.PNG)
    clock.now += 3600
"""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import corpus
from mediagate.blobs.driver import BlobDriver
from mediagate.blobs.local import LocalBlobDriver
from mediagate.blobs.store import BlobStore
from mediagate.core.events import Event
from mediagate.core.expiry import Lifetime
from mediagate.core.files import FileObject, Purpose
from mediagate.core.quotas import Quota
from mediagate.core.scopes import DEFAULT_SCOPE, Scope
from mediagate.executor import Executor
from mediagate.index.sql import SqlIndex
from mediagate.media.sniff import MEDIA_TYPES, sniff
from mediagate.operations.claims import Claims
from mediagate.operations.files import Files
from mediagate.operations.receive import ReceiveLimits, Receiver
from mediagate.operations.removal import Remover
from mediagate.operations.sweep import Sweeper
from mediagate.operations.uploads import Uploads

PNG = corpus.png_pixel()
TTL_S = 3600.0


@dataclass(slots=True)
class Clock:
    """Unix seconds; moved by hand, in either direction."""

    now: float = 1_800_000_000.25

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Store:
    """The parts, and the events that they emitted."""

    path: Path
    index: SqlIndex
    blobs: BlobStore
    remover: Remover
    claims: Claims
    files: Files
    receiver: Receiver
    uploads: Uploads
    sweeper: Sweeper
    events: list[Event]

    async def receive(
        self, data: bytes = PNG, *, scope: Scope = DEFAULT_SCOPE, lifetime: Lifetime | None = None
    ) -> FileObject:
        """Receive one file, without a declared length."""
        async with self.receiver.receive(scope=scope) as receive:
            await receive.write(data)
            return await receive.finish(filename="a.png", purpose=Purpose.VISION, lifetime=lifetime)

    def on_disk(self) -> list[str]:
        """Names of all files below `blobs/`, unfinished ones included."""
        return sorted(path.name for path in (self.path / "blobs").glob("*/*"))

    async def is_clean(self) -> bool:
        """Whether there is nothing: no byte, no row, no quota taken."""
        usage = await self.index.usage()
        return not self.on_disk() and (usage.used_bytes, usage.files) == (0, 0)


def open_files(directory: Path) -> list[Path]:
    """The files below `directory` that this process has open."""
    targets = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            targets.append(fd.readlink())
    return [target for target in targets if target.is_relative_to(directory)]


@contextlib.asynccontextmanager
async def opened(
    path: Path,
    clock: Clock,
    *,
    store_bytes: int = 1024**3,
    max_file_bytes: int = 1024**3,
    max_concurrent: int = 4,
    lifetime: Lifetime | None = None,
    lease_s: float = 60.0,
    renew_every_s: float = 15.0,
    patience_s: float = 60.0,
    driver: BlobDriver | None = None,
) -> AsyncIterator[Store]:
    """A store in `path`, on the drivers that servers use; opened twice, it is what two processes share."""
    index = SqlIndex.sqlite(path / "index.sqlite3", durable=False)
    blobs = BlobStore(driver or LocalBlobDriver(path, durable=False))
    executor = Executor("test", threads=1)
    await index.open()
    await blobs.open()
    events: list[Event] = []
    remover = Remover(index=index, blobs=blobs, clock=clock)
    claims = Claims(
        index=index, remover=remover, clock=clock, lease_s=lease_s, renew_every_s=renew_every_s
    )
    files = Files(
        index=index,
        blobs=blobs,
        claims=claims,
        remover=remover,
        observer=events.append,
        clock=clock,
    )

    async def judge(head: bytes, is_whole: bool) -> str:
        return sniff(head, is_whole=is_whole)

    receiver = Receiver(
        index=index,
        blobs=blobs,
        claims=claims,
        remover=remover,
        sniff=judge,
        limits=ReceiveLimits(
            max_file_bytes=max_file_bytes,
            max_concurrent=max_concurrent,
            allowed_types=MEDIA_TYPES,
            quota=Quota(store_bytes=store_bytes),
            lifetime=lifetime or Lifetime(TTL_S, is_sliding=True),
        ),
        observer=events.append,
        clock=clock,
    )
    sweeper = Sweeper(
        index=index, blobs=blobs, remover=remover, observer=events.append, clock=clock
    )
    uploads = Uploads(
        receiver=receiver,
        remover=remover,
        executor=executor,
        poll_s=0.01,
        patience_s=patience_s,
    )
    try:
        yield Store(path, index, blobs, remover, claims, files, receiver, uploads, sweeper, events)
    finally:
        executor.close()
        await blobs.close()
        await index.close()
