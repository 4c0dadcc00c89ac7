"""Files that arrive in several goes: what only files and locks can do wrong."""

import asyncio
import errno
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import stores
from mediagate.blobs import layout
from mediagate.blobs.driver import BlobBusyError, BlobMissingError, DiskFullError
from mediagate.blobs.local import LocalBlobDriver
from mediagate.core.files import new_blob_key
from mediagate.testing.blob_conformance import (
    append,
    content,
    copying,
    finish,
    keys,
    put,
    resume,
)

_HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_WRONLY)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LocalBlobDriver]:
    driver = LocalBlobDriver(tmp_path)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and renamed, in order."""
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def record_fsync(fd: int) -> None:
        calls.append("fsync directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "fsync file")
        fsync(fd)

    def record_rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "rename", record_rename)
    return calls


async def test_what_is_kept_survives_a_power_cut_and_so_does_its_name(
    driver: LocalBlobDriver, calls: list[str]
) -> None:
    # Each time: whoever made the name may have died before it was synced.
    key = new_blob_key()

    await append(driver, key, b"one", at=0)
    await append(driver, key, b"two", at=3)

    assert calls == ["fsync file", "fsync directory"] * 2


async def test_a_finished_trunk_is_synced_before_the_rename_and_its_directory_after(
    driver: LocalBlobDriver, calls: list[str]
) -> None:
    key = new_blob_key()
    await append(driver, key, b"one", at=0)
    calls.clear()

    await finish(driver, key, size_bytes=3)

    assert calls == ["fsync file", "rename", "fsync directory"]


async def test_an_ephemeral_trunk_does_not_wait_for_the_disk(
    tmp_path: Path, calls: list[str]
) -> None:
    driver = LocalBlobDriver(tmp_path, durable=False)
    await driver.open()
    key = new_blob_key()

    await append(driver, key, b"one", at=0)
    await finish(driver, key, size_bytes=3)

    assert calls == ["rename"]
    await driver.close()


async def test_another_process_that_goes_on_with_a_trunk_keeps_us_away_until_it_dies(
    driver: LocalBlobDriver, tmp_path: Path
) -> None:
    key = new_blob_key()
    await append(driver, key, b"one", at=0)
    path = layout.partial_path(tmp_path, key)
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        with pytest.raises(BlobBusyError):
            await driver.resume(key)
        holder.kill()

    await append(driver, key, b"two", at=3)
    await finish(driver, key, size_bytes=6)
    assert await content(driver, key) == b"onetwo"


async def test_a_trunk_that_changed_its_name_before_it_was_locked_is_left_alone(
    driver: LocalBlobDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Opened as unfinished; by the time it is locked it is a file, and perhaps a visible one.
    key = new_blob_key()
    await append(driver, key, b"whole", at=0)
    partial, final = layout.partial_path(tmp_path, key), layout.blob_path(tmp_path, key)
    lstat = os.lstat

    def too_late(path: Path) -> os.stat_result:
        if partial.exists():
            partial.rename(final)
        return lstat(path)

    monkeypatch.setattr(os, "lstat", too_late)

    with pytest.raises(BlobBusyError):
        await driver.resume(key)

    assert await content(driver, key) == b"whole"
    assert stores.open_files(tmp_path) == []


async def test_a_trunk_that_was_replaced_before_it_was_locked_is_left_alone(
    driver: LocalBlobDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_blob_key()
    await append(driver, key, b"old", at=0)
    partial = layout.partial_path(tmp_path, key)
    lstat = os.lstat

    def too_late(path: Path) -> os.stat_result:
        partial.rename(tmp_path / "elsewhere")
        partial.write_bytes(b"new")
        return lstat(path)

    monkeypatch.setattr(os, "lstat", too_late)

    with pytest.raises(BlobBusyError):
        await driver.resume(key)

    assert (tmp_path / "elsewhere").read_bytes() == b"old"
    assert stores.open_files(tmp_path) == []


async def test_a_trunk_is_private_and_no_symbolic_link(
    driver: LocalBlobDriver, tmp_path: Path
) -> None:
    key, other = new_blob_key(), new_blob_key()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    layout.partial_path(tmp_path, other).symlink_to(secret)

    await append(driver, key, b"x", at=0)

    mode = layout.partial_path(tmp_path, key).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    with pytest.raises(OSError, match=r"symbolic|Too many levels"):
        await driver.resume(other)


@pytest.mark.parametrize("call", ["fsync", "writev"])
async def test_a_full_disk_is_told_and_what_was_kept_stays(
    driver: LocalBlobDriver, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    key = new_blob_key()
    await append(driver, key, b"kept", at=0)
    trunk = await resume(driver, key, at=4)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(DiskFullError):
            await trunk.write([b"more"])
            await trunk.keep()
    await trunk.cut(4)
    await trunk.finish(size_bytes=4)
    await trunk.close()

    assert await content(driver, key) == b"kept"


async def test_a_full_disk_is_told_when_a_trunk_cannot_be_begun(
    driver: LocalBlobDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", fail)

    with pytest.raises(DiskFullError):
        await driver.resume(new_blob_key())


async def test_cancelled_resume_leaves_no_lock(driver: LocalBlobDriver, tmp_path: Path) -> None:
    key = new_blob_key()
    resuming = asyncio.create_task(driver.resume(key))
    await asyncio.sleep(0)  # it has begun
    resuming.cancel()

    await asyncio.wait((resuming,))

    assert resuming.cancelled()
    assert stores.open_files(tmp_path) == []
    await (await driver.resume(key)).close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP])
async def test_systems_that_cannot_copy_within_the_kernel_copy_all_the_same(
    driver: LocalBlobDriver, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source, key = await put(driver, bytes(range(256)) * 4000), new_blob_key()

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", fail)
    writer = await copying(driver, key)
    await writer.copy(source, 1, 1_000_001)
    await writer.commit(size_bytes=1_000_000)

    assert await content(driver, key) == (bytes(range(256)) * 4000)[1:1_000_001]


async def test_a_disk_that_fills_up_while_copying_is_full(
    driver: LocalBlobDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await put(driver, b"1234")
    writer = await copying(driver, new_blob_key())

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", fail)

    with pytest.raises(DiskFullError):
        await writer.copy(source, 0, 4)

    await writer.abort()


async def test_deleting_wins_over_a_trunk_that_is_being_finished(
    driver: LocalBlobDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rename falls between the two names that are unlinked: none of them may remain.
    key = new_blob_key()
    await append(driver, key, b"1234", at=0)
    unlink, partial, final = (
        Path.unlink,
        layout.partial_path(tmp_path, key),
        layout.blob_path(tmp_path, key),
    )
    seen: list[Path] = []

    def unlink_late(self: Path, missing_ok: bool = False) -> None:
        if seen and partial.exists():
            partial.rename(final)
        seen.append(self)
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_late)

    await driver.delete(key)

    assert await keys(driver) == []
    with pytest.raises(BlobMissingError):
        await driver.read(key)
