"""SQLite beneath the SQL index: its threads, its connections, its locks and its errors.

    1 writer thread   two connections: synchronous=FULL for what follows or precedes durable bytes, NORMAL for the rest
                      (SQLite cannot change it inside a transaction; one thread, so the two never wait for each other)
    2 reader threads  a connection each; in WAL mode they neither wait for the writer nor make it wait

Other processes may do the same on the same file: SQLite lets one of all the writers in at a time.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa

from mediagate.executor import Executor
from mediagate.index.driver import IndexBusyError, IndexFullError
from mediagate.index.schema import upgrade

_P = ParamSpec("_P")
_R = TypeVar("_R")

READERS = 2

# The sqlite3 driver begins a transaction of its own accord, too late and without the write lock: two tasks that read,
# then write, lose updates without an error. So it is told to begin none, and the engine's event says how to begin.
_READ = "BEGIN"
_WRITE = "BEGIN IMMEDIATE"

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_RETRY_S = 0.01

_ROOM_BYTES = 4 * 1024**2  # as much as the log grows before SQLite empties it


class Sqlite:
    """Runs transactions on one SQLite file.

    Args:
        path: The database; created, readable by its owner alone, if it is not there.
        durable: False: nothing waits for the disk, for a store that is gone after a power cut anyway.
        busy_timeout_s: How long a call may wait, for its turn in this process and for the lock in the database.
    """

    def __init__(self, path: Path, *, durable: bool, busy_timeout_s: float) -> None:
        self._path = path
        self._durable = durable
        self._busy_timeout_s = busy_timeout_s
        self._writer = Executor("mediagate-index-write", threads=1)
        self._reader = Executor("mediagate-index-read", threads=READERS)
        self._durably: list[sa.Connection] = []
        self._soon: list[sa.Connection] = []
        self._readers: list[sa.Connection] = []
        self._engine = sa.create_engine(
            "sqlite://",
            creator=self._connect_raw,
            poolclass=sa.NullPool,
            hide_parameters=True,  # they hold ids; an error that is logged must not
        )
        sa.event.listen(self._engine, "begin", _begin)

    async def open(self) -> None:
        """Create the file and its tables where they are missing; connect."""
        try:
            await self._writer.run(self._open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what runs, disconnect, end the threads."""
        await self._writer.run(self._close)
        self._writer.close()

    async def read(
        self,
        transaction: Callable[Concatenate[sa.Connection, _P], _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        """Run `transaction` on a snapshot."""
        return await self._run(self._reader, self._readers, transaction, *args, **kwargs)

    async def write(
        self,
        transaction: Callable[Concatenate[sa.Connection, _P], _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        """Run `transaction` alone; what it did survives the process, and perhaps not a power cut."""
        return await self._run(self._writer, self._soon, transaction, *args, **kwargs)

    async def write_durably(
        self,
        transaction: Callable[Concatenate[sa.Connection, _P], _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        """Run `transaction` alone; what it did, and all before it, survives a power cut."""
        return await self._run(self._writer, self._durably, transaction, *args, **kwargs)

    async def _run(
        self,
        executor: Executor,
        connections: list[sa.Connection],
        transaction: Callable[Concatenate[sa.Connection, _P], _R],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _R:
        give_up_at = time.monotonic() + self._busy_timeout_s

        def call() -> _R:
            # Behind a lock that nobody gives back, a queue of calls must not wait one after the other.
            if time.monotonic() > give_up_at:
                raise IndexBusyError
            connection = connections.pop()
            try:
                with _translated(), connection.begin():
                    return transaction(connection, *args, **kwargs)
            finally:
                connections.append(connection)

        return await executor.run(call)

    def _open(self) -> None:
        self._create_file()
        full, normal = ("FULL", "NORMAL") if self._durable else ("OFF", "OFF")
        with _translated():
            self._durably.append(self._connect(_WRITE, synchronous=full))
            self._soon.append(self._connect(_WRITE, synchronous=normal))
            self._readers.extend(self._connect(_READ, synchronous=normal) for _ in range(READERS))
            with self._durably[0].begin():
                upgrade(self._durably[0])
            self._make_room()

    def _make_room(self) -> None:
        """Grow the file and its log once: leases, deletions and sweeps write even when the disk is full.

        Downloads need leases, and only deletions make room again.
        """
        cursor = self._soon[0].connection.cursor()
        with contextlib.suppress(
            sqlite3.OperationalError
        ):  # full already, or another process does it now
            cursor.execute("CREATE TABLE IF NOT EXISTS room (bytes BLOB)")
            cursor.execute("INSERT INTO room VALUES (zeroblob(?))", (_ROOM_BYTES,))
        with contextlib.suppress(sqlite3.OperationalError):
            cursor.execute("DROP TABLE IF EXISTS room")

    def _create_file(self) -> None:
        try:
            # Only ever a new file: to close one that SQLite has open would drop the locks it holds on it.
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return
        os.close(file)
        if self._durable:
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _connect(self, begin: str, *, synchronous: str) -> sa.Connection:
        connection = self._engine.connect().execution_options(begin=begin)
        connection.connection.cursor().execute(f"PRAGMA synchronous={synchronous}")
        return connection

    def _connect_raw(self) -> sqlite3.Connection:
        raw = sqlite3.connect(
            self._path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        give_up_at = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                raw.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                # SQLite does not wait here: several processes that open a new file at once meet.
                if not _is_busy(error) or time.monotonic() > give_up_at:
                    raw.close()
                    raise
                time.sleep(_RETRY_S)
            else:
                return raw

    def _close(self) -> None:
        self._reader.close()
        for connections in (self._readers, self._soon, self._durably):
            while connections:
                connections.pop().close()
        self._engine.dispose()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options()["begin"])


def _is_busy(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF in _BUSY


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Name errors as the protocol does; those it has no name for pass."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        if _is_busy(error.orig):
            raise IndexBusyError from error
        code = error.orig.sqlite_errorcode if isinstance(error.orig, sqlite3.Error) else None
        if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}:
            raise IndexFullError from error
        raise
