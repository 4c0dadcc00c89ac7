"""Eight gateways on one directory take uploads at once: the database itself records what is taken, at every change.

The control is the same server with a reservation that looks first and takes afterwards.
"""

import contextlib
import sqlite3
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import corpus
import naive_server
import servers
from servers import Server

PROCESSES = 8
KIB = 1024
QUOTA_BYTES = 4 * KIB * KIB
FILE_BYTES = 700 * KIB
"""Five fit, and a sixth does not."""

TRIGGER = """
CREATE TABLE history (used_bytes INT);
CREATE TRIGGER usage_changes AFTER UPDATE ON usage WHEN new.owner = 'store' BEGIN
  INSERT INTO history VALUES (new.used_bytes);
END;
"""


def most_used(directory: Path, *, command: Sequence[str] | None = None) -> tuple[int, set[int]]:
    """The most that was ever taken, and the statuses that 64 uploads to eight processes were answered with."""
    flags = ("--file-upload-max-total-gb", str(QUOTA_BYTES / KIB**3))
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(2 * PROCESSES) as threads:

        def start(_: int) -> Server:
            return stack.enter_context(servers.serving(*flags, store=directory, command=command))

        first = start(0)
        with contextlib.closing(sqlite3.connect(directory / "index.sqlite3")) as database:
            database.executescript(TRIGGER)
        gateways = [first, *threads.map(start, range(1, PROCESSES))]
        data = corpus.png_pixel().ljust(FILE_BYTES, b"\0")

        def upload(server: Server) -> int:
            return servers.put_file(server, data).status

        statuses = set(threads.map(upload, gateways * 8))
        ((most,),) = first.rows("SELECT max(used_bytes) FROM history")
    return most, statuses


@pytest.mark.slow
@pytest.mark.media
def test_eight_processes_never_take_more_than_the_quota(tmp_path: Path) -> None:
    """H61, P4: used and reserved, at every commit."""
    most, statuses = most_used(tmp_path / "store")

    assert QUOTA_BYTES - FILE_BYTES < most <= QUOTA_BYTES
    assert 200 in statuses
    assert statuses <= {200, 507}


@pytest.mark.slow
@pytest.mark.media
def test_the_same_run_sees_a_naive_reservation_overshoot(tmp_path: Path) -> None:
    most, _ = most_used(
        tmp_path / "store", command=(sys.executable, naive_server.__file__, "serve")
    )

    assert most > QUOTA_BYTES
