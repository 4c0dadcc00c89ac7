"""The audit log: its lines, and the file that they go to."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mediagate.core.errors import FileNotFound, NoSlot, RouteNotFound
from mediagate.core.events import (
    Event,
    FileDeleted,
    FileDownloaded,
    FileEvicted,
    FileExpired,
    FileReceived,
    FileResolved,
    FileRetrieved,
    FilesListed,
    ReceiveBegan,
    RequestFailed,
)
from mediagate.core.files import FileId, new_file_id
from mediagate.core.scopes import Scope
from mediagate.core.store_key import StoreKey
from mediagate.observe.audit import FIELDS, OPERATIONS, AuditLog, LineFile
from mediagate.observe.request import CurrentRequest, answering

ID = new_file_id()
SCOPE = Scope("somebody@example.com")
OF_FILE: dict[str, Any] = {"scope": SCOPE, "file_id": ID, "size_bytes": 5}
NOT_FOUND = FileNotFound("x", file_id=ID)
EVENTS: list[tuple[Event, str]] = [
    (FileReceived(**OF_FILE, mime_type="image/png", elapsed_s=1.0), "file.upload"),
    (FileRetrieved(**OF_FILE), "file.retrieve"),
    (FileDownloaded(**OF_FILE), "file.download"),
    (FilesListed(scope=SCOPE), "file.list"),
    (FileDeleted(**OF_FILE), "file.delete"),
    (FileResolved(**OF_FILE), "file.resolve"),
    (RequestFailed(scope=SCOPE, error=NOT_FOUND), "file.reject"),
    (FileEvicted(**OF_FILE), "file.evict"),
    (FileExpired(**OF_FILE), "file.expire"),
]


class Log:
    """An audit log in memory."""

    def __init__(self, secret: bytes = b"s" * 32) -> None:
        self.written: list[bytes] = []
        self.tell = AuditLog(
            key=StoreKey(secret), write=self.written.append, clock=lambda: 1_800_000_000.123456
        )

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written]


def test_every_operation_is_one_line_of_json() -> None:
    """H97."""
    log = Log()

    for event, _ in EVENTS:
        log.tell(event)

    assert [line["op"] for line in log.lines] == [operation for _, operation in EVENTS]
    assert {operation for _, operation in EVENTS} == set(OPERATIONS.values())
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in log.written)


def test_every_line_has_all_fields_and_a_reason_where_there_is_one() -> None:
    """H97: the pull request's fields, always, so that a query need not ask which there are."""
    log = Log()

    for event, _ in EVENTS:
        log.tell(event)

    has_reason = {"file.reject": "not_found", "file.evict": "quota_eviction"}
    has_reason["file.expire"] = "ttl_expired"
    for line in log.lines:
        assert list(line) == [*FIELDS][: 8 if line["op"] in has_reason else 7]
        assert line.get("reason") == has_reason.get(line["op"])
        assert line["ts"] == 1_800_000_000.123
        assert line["bytes"] == (None if line["op"] in {"file.list", "file.reject"} else 5)


def test_ids_and_scopes_are_tags_that_only_the_key_makes() -> None:
    """H97, D7, P13: the raw id opens the file."""
    log, other = Log(), Log(b"t" * 32)

    for event, _ in EVENTS:
        log.tell(event)
        other.tell(event)

    text = b"".join(log.written).decode()
    assert ID not in text
    assert ID.removeprefix("file-") not in text
    assert SCOPE not in text
    ids = {line["file_id"] for line in log.lines} - {None}
    scopes = {line["scope"] for line in log.lines}
    assert len(ids) == len(scopes) == 1
    assert not ids & {line["file_id"] for line in other.lines}
    assert not scopes & {line["scope"] for line in other.lines}


def test_an_id_and_a_scope_of_the_same_name_have_different_tags() -> None:
    log = Log()

    log.tell(FileRetrieved(scope=Scope("same"), file_id=FileId("same"), size_bytes=1))

    (line,) = log.lines
    assert line["file_id"].partition("-")[2] != line["scope"].partition("-")[2]


def test_request_is_named_and_what_is_done_on_nobodys_behalf_names_none() -> None:
    """H97: the request id is carried."""
    log = Log()

    with answering(CurrentRequest('a"b\\', client_host="192.0.2.1")):
        log.tell(FilesListed(scope=SCOPE))
        log.tell(FileExpired(**OF_FILE))
    log.tell(FileEvicted(**OF_FILE))

    asked, expired, background = log.lines
    assert (asked["request_id"], asked["client_host"]) == ('a"b\\', "192.0.2.1")
    assert (expired["request_id"], expired["client_host"]) == (None, None)
    assert (background["request_id"], background["client_host"]) == (None, None)


def test_refusal_of_somebody_unknown_has_no_scope() -> None:
    log = Log()

    log.tell(RequestFailed(scope=None, error=NoSlot("x")))

    (line,) = log.lines
    assert (line["scope"], line["file_id"], line["reason"]) == (None, None, "too_many_uploads")


def test_what_is_no_operation_on_files_is_not_written() -> None:
    log = Log()

    log.tell(ReceiveBegan())
    log.tell(RequestFailed(scope=SCOPE, error=RouteNotFound("x")))

    assert log.written == []


def test_log_that_cannot_be_written_fails_nobody_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """H97: a full disk of the log is no reason to refuse a file."""
    is_full = True
    written: list[bytes] = []

    def write(line: bytes) -> None:
        if is_full:
            raise OSError(28, "No space left on device")
        written.append(line)

    tell = AuditLog(key=StoreKey(b"s" * 32), write=write)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tell(FilesListed(scope=SCOPE))
        is_full = False
        for _ in range(2):
            tell(FilesListed(scope=SCOPE))

    assert len(written) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the audit log cannot be written, its lines are lost: [Errno 28] No space left on device",
        "the audit log is being written again; lines that were lost: 3",
    ]


# the file --------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def file(path: Path) -> Iterator[LineFile]:
    file = LineFile(path)
    yield file
    file.close()


def test_lines_are_appended_to_what_is_there(path: Path) -> None:
    path.write_text("before\n")
    file = LineFile(path)

    file.write(b"after\n")
    file.close()

    assert path.read_text() == "before\nafter\n"


def test_file_is_nothing_for_everybody(file: LineFile, path: Path) -> None:
    assert path.stat().st_mode & 0o007 == 0


def test_renamed_file_is_left_and_a_new_one_begun(file: LineFile, path: Path) -> None:
    file.write(b"1\n")
    path.rename(path.with_suffix(".1"))

    file.write(b"2\n")
    file.write(b"3\n")

    assert path.with_suffix(".1").read_text() == "1\n"
    assert path.read_text() == "2\n3\n"


def test_file_that_took_the_name_is_written_on(file: LineFile, path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.write_text("new\n")

    file.write(b"1\n")

    assert path.read_text() == "new\n1\n"
    assert path.with_suffix(".1").read_text() == ""


def test_truncated_file_is_written_from_its_start(file: LineFile, path: Path) -> None:
    file.write(b"1\n")
    os.truncate(path, 0)

    file.write(b"2\n")

    assert path.read_bytes() == b"2\n"


def test_full_disk_is_an_error_every_time(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    file = LineFile(full)

    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            file.write(b"1\n")
    file.close()


def test_pipe_that_nobody_reads_is_an_error_and_no_wait(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        LineFile(path)

    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file = LineFile(path)
    with pytest.raises(BlockingIOError):
        for _ in range(2**20):
            file.write(b"x" * 1024)
    file.close()
    os.close(reader)


def test_what_follows_half_a_line_begins_a_new_one(
    file: LineFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    with pytest.raises(OSError, match="No space left"):
        file.write(b"12345\n")
    monkeypatch.undo()

    file.write(b"6\n")
    file.write(b"7\n")

    assert path.read_bytes() == b"123\n6\n7\n"


def test_lines_of_many_processes_do_not_run_into_one_another(path: Path) -> None:
    """H97: workers share the file."""
    LineFile(path).close()

    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path]) for _ in range(4)]

    assert [writer.wait() for writer in writers] == [0] * 4
    assert path.read_text().splitlines() == ["x" * 300] * 4 * 500


WRITER = """
import sys
from pathlib import Path
from mediagate.observe.audit import LineFile

file = LineFile(Path(sys.argv[1]))
for _ in range(500):
    file.write(b"x" * 300 + b"\\n")
file.close()
"""
