"""A real server that stops at one step of a receive and says so; for tests that kill it there.

    servers.start(store=…, command=stalling_server.command(step="durable", after=20, signal=fifo))

It is `mediagate serve` with the product's own wiring; only the blob driver and the index are wrapped, so that the N-th
receive to reach a step, and every one after it, waits there for ever. The first one writes a byte to the FIFO.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from mediagate import wiring
from mediagate.blobs.driver import BlobWriter, Buffer
from mediagate.blobs.local import LocalBlobDriver
from mediagate.cli.main import main
from mediagate.core.files import BlobKey, FileId, FileObject
from mediagate.core.quotas import Quota
from mediagate.core.scopes import Scope
from mediagate.index.sql import SqlIndex

RECEIVING = ("begun", "reserved", "created", "written")
"""The row is there; it holds space; the temporary file is there; bytes are in it."""

DURABLE = "durable"
"""The bytes are durable, the row is not committed."""

COMMITTED = "committed"
"""The row is committed, the client has no answer."""

STEPS = (*RECEIVING, DURABLE, COMMITTED)


class Gate:
    """Where receives stop."""

    def __init__(self, *, step: str, after: int, signal: Path) -> None:
        self._step = step
        self._to_pass = after - 1
        self._signal = signal

    async def reach(self, step: str) -> None:
        """Pass, or wait for the end of the process."""
        if step != self._step:
            return
        self._to_pass -= 1
        if self._to_pass >= 0:
            return
        if self._to_pass == -1:
            self._signal.write_bytes(b".")
        await asyncio.Event().wait()


class WatchedWriter:
    """A `BlobWriter` that stops at the gate."""

    def __init__(self, writer: BlobWriter, gate: Gate) -> None:
        self._writer = writer
        self._gate = gate

    async def write(self, chunks: Sequence[Buffer]) -> None:
        await self._writer.write(chunks)
        await self._gate.reach("written")

    async def commit(self, *, size_bytes: int) -> None:
        await self._writer.commit(size_bytes=size_bytes)
        await self._gate.reach(DURABLE)

    async def abort(self) -> None:
        await self._writer.abort()


class LateWriter:
    """A `BlobWriter` whose commit only promises: the mistake that the test has to be able to see."""

    def __init__(self, writer: BlobWriter, key: BlobKey, promised: "Promises") -> None:
        self._writer = writer
        self._key = key
        self._promised = promised

    async def write(self, chunks: Sequence[Buffer]) -> None:
        await self._writer.write(chunks)

    async def commit(self, *, size_bytes: int) -> None:
        self._promised[self._key] = (self._writer, size_bytes)

    async def abort(self) -> None:
        await self._writer.abort()


Promises = dict[BlobKey, tuple[BlobWriter, int]]


def watched_driver(gate: Gate, promised: Promises | None) -> type[LocalBlobDriver]:
    """The local driver, stopping at the gate; with `promised`, it commits nothing by itself."""

    class WatchedDriver(LocalBlobDriver):
        async def create(self, key: BlobKey) -> BlobWriter:  # type: ignore[override]  # the store asks for no more
            writer = WatchedWriter(await super().create(key), gate)
            await gate.reach("created")
            return writer if promised is None else LateWriter(writer, key, promised)

    return WatchedDriver


def watched_index(gate: Gate, promised: Promises | None) -> type[SqlIndex]:
    """The SQL index, stopping at the gate; with `promised`, it has the bytes committed after the row."""

    class WatchedIndex(SqlIndex):
        async def begin(
            self, file_id: FileId, *, scope: Scope, blob: BlobKey, until: float
        ) -> None:
            await super().begin(file_id, scope=scope, blob=blob, until=until)
            await gate.reach("begun")

        async def reserve(self, file_id: FileId, extra_bytes: int, *, quota: Quota) -> bool:
            fits = await super().reserve(file_id, extra_bytes, quota=quota)
            await gate.reach("reserved")
            return fits

        async def commit(self, file: FileObject) -> None:
            await super().commit(file)
            await gate.reach(COMMITTED)
            if promised is not None:
                writer, size_bytes = promised.pop(file.blob)
                await writer.commit(size_bytes=size_bytes)

    return WatchedIndex


def command(*, step: str, after: int, signal: Path, is_row_first: bool = False) -> Sequence[str]:
    """What to run instead of `mediagate serve`.

    Args:
        step: One of `STEPS`.
        after: How many times it is reached until receives stop there.
        signal: A FIFO that is read.
        is_row_first: Make rows visible before their bytes are committed.
    """
    script = (
        sys.executable,
        __file__,
        "--step",
        step,
        "--after",
        str(after),
        "--signal",
        str(signal),
    )
    return (*script, *(["--row-first"] if is_row_first else []), "serve")


def serve(arguments: Sequence[str]) -> int:
    """Take what `command` made, then what `mediagate` takes."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--step", choices=STEPS, required=True)
    parser.add_argument("--after", type=int, required=True)
    parser.add_argument("--signal", type=Path, required=True)
    parser.add_argument("--row-first", action="store_true")
    options, rest = parser.parse_known_args(arguments)
    gate = Gate(step=options.step, after=options.after, signal=options.signal)
    promised: Promises | None = {} if options.row_first else None
    driver, index = watched_driver(gate, promised), watched_index(gate, promised)
    with mock.patch.multiple(wiring, LocalBlobDriver=driver, SqlIndex=index):
        return main(rest)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
