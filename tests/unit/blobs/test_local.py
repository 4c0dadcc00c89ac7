"""The local driver: the conformance suite, and what only files have."""

import asyncio
import errno
import os
import resource
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import stores
from mediagate.blobs.driver import DiskFullError
from mediagate.blobs.local import LocalBlobDriver
from mediagate.core.files import new_blob_key
from mediagate.testing.blob_conformance import BlobConformance, TrunkConformance, content, put


class TestLocalBlobDriver(BlobConformance, TrunkConformance):
    @pytest.fixture
    async def driver(self, tmp_path: Path) -> AsyncIterator[LocalBlobDriver]:
        driver = LocalBlobDriver(tmp_path)
        await driver.open()
        yield driver
        await driver.close()


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LocalBlobDriver]:
    driver = LocalBlobDriver(tmp_path)
    await driver.open()
    yield driver
    await driver.close()


async def test_files_are_0600_and_directories_0700_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        driver = LocalBlobDriver(tmp_path)
        await driver.open()
        key = await put(driver, b"x")
        await driver.close()
    finally:
        os.umask(before)

    path = driver.local_path(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "blobs").stat().st_mode) == 0o700


async def test_commit_syncs_the_file_before_the_rename_and_the_directory_after(
    driver: LocalBlobDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # restic's order; what the disk keeps through a power cut depends on nothing else.
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

    await put(driver, b"x")

    assert calls == ["fsync file", "rename", "fsync directory"]


async def test_an_ephemeral_store_does_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int) -> None:
        pytest.fail("fsync of a store that is gone after a power cut anyway")

    monkeypatch.setattr(os, "fsync", refuse)
    driver = LocalBlobDriver(tmp_path, durable=False)
    await driver.open()

    key = await put(driver, b"x")

    assert await content(driver, key) == b"x"
    await driver.close()


async def test_a_full_disk_is_told_and_leaves_nothing(
    driver: LocalBlobDriver, tmp_path: Path
) -> None:
    # RLIMIT_FSIZE makes the kernel itself refuse the write (EFBIG), as a full disk does (ENOSPC).
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = await driver.create(new_blob_key())
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DiskFullError):
            await writer.write([bytes(200_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    await writer.abort()

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_no_space_and_no_quota_are_a_full_disk(
    driver: LocalBlobDriver, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    writer = await driver.create(new_blob_key())
    await writer.write([b"x"])
    monkeypatch.setattr(os, "fsync", fail)

    with pytest.raises(DiskFullError):
        await writer.commit(size_bytes=1)

    await writer.abort()


async def test_short_writes_are_continued(
    driver: LocalBlobDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev = os.writev

    def write_a_little(fd: int, buffers: list[memoryview]) -> int:
        return writev(fd, [buffers[0][:7]])

    monkeypatch.setattr(os, "writev", write_a_little)

    key = await put(driver, b"0123456789" * 5)

    assert await content(driver, key) == b"0123456789" * 5


async def test_a_name_that_is_a_symbolic_link_is_not_followed(
    driver: LocalBlobDriver, tmp_path: Path
) -> None:
    key = new_blob_key()
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    driver.local_path(key).symlink_to(secret)

    with pytest.raises(OSError, match=r"symbolic|Too many levels"):
        await driver.read(key)


async def test_cancelled_open_leaves_no_descriptor(driver: LocalBlobDriver, tmp_path: Path) -> None:
    key = await put(driver, b"x")
    reading = asyncio.create_task(driver.read(key))
    creating = asyncio.create_task(driver.create(new_blob_key()))
    await asyncio.sleep(0)  # both have begun
    reading.cancel()
    creating.cancel()

    await asyncio.wait((reading, creating))

    assert reading.cancelled()
    assert creating.cancelled()
    assert stores.open_files(tmp_path) == []
