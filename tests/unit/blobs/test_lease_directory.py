"""The lease directory: which directories are taken, what is in them, and what is never touched.

That another user reads the links, and nothing else, is shown in `tests/integration/test_media_group.py`.
"""

import asyncio
import contextlib
import errno
import grp
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

from mediagate.blobs import lease_directory
from mediagate.blobs.directory import DirectoryError
from mediagate.blobs.driver import BlobMissingError, DiskFullError
from mediagate.blobs.lease_directory import LeaseDirectory
from mediagate.blobs.lease_findings import MARKER, Aspect
from mediagate.blobs.local import LocalBlobDriver
from mediagate.blobs.memory import MemoryBlobDriver
from mediagate.blobs.store import BlobStore
from mediagate.core.files import BlobKey, new_blob_key
from mediagate.testing.blob_conformance import put

NAME = "0123456789abcdef" * 2 + "0000"
OTHER_NAME = "0123456789abcdef" * 2 + "0001"
ELSEWHERE = PurePosixPath("/media")
"""With it, the way to the directory does not matter: pytest's own temporary directories let nobody else pass."""


def a_gid() -> int:
    """A group that this process may give files to, and that they do not have from the start, if there is one."""
    if os.geteuid() == 0:
        return 54321
    return next((gid for gid in os.getgroups() if gid != os.getegid()), os.getegid())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[LocalBlobDriver]:
    (tmp_path / "store").mkdir(mode=0o700)
    driver = LocalBlobDriver(tmp_path / "store", durable=False)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
def blobs(driver: LocalBlobDriver) -> BlobStore:
    return BlobStore(driver)


Taking = Callable[..., LeaseDirectory]


@pytest.fixture
async def taking(tmp_path: Path, blobs: BlobStore) -> AsyncIterator[Taking]:
    """Makes lease directories that are closed at the end."""
    made: list[LeaseDirectory] = []

    def take(
        path: Path | None = None,
        *,
        store: BlobStore = blobs,
        group: str | int | None = None,
        upstream_path: PurePosixPath | None = ELSEWHERE,
        is_opened: bool = True,
    ) -> LeaseDirectory:
        directory = LeaseDirectory(
            path or tmp_path / "links", blobs=store, group=group, upstream_path=upstream_path
        )
        made.append(directory)
        if is_opened:
            directory.open()
        return directory

    yield take
    for directory in made:
        await directory.close()


# which directories -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o077])
async def test_missing_directory_is_made_private_under_any_umask(
    tmp_path: Path, taking: Taking, umask: int
) -> None:
    before = os.umask(umask)
    try:
        taking(tmp_path / "a" / "links")
    finally:
        os.umask(before)

    assert mode(tmp_path / "a" / "links") == 0o700
    assert mode(tmp_path / "a" / "links" / MARKER) == 0o600
    assert names_in(tmp_path / "a" / "links") == {MARKER}


async def test_directory_of_a_group_is_0750_and_the_store_stays_0700(
    tmp_path: Path, taking: Taking
) -> None:
    taking(group=a_gid())

    assert mode(tmp_path / "links") == 0o750
    assert (tmp_path / "links").stat().st_gid == a_gid()
    assert mode(tmp_path / "links" / MARKER) == 0o600
    assert {mode(path) for path in (tmp_path / "store").rglob("*")} == {0o700}


async def test_private_directory_is_handed_to_a_group_that_is_named_later(
    tmp_path: Path, taking: Taking
) -> None:
    await taking().close()

    taking(group=a_gid())

    assert (mode(tmp_path / "links"), (tmp_path / "links").stat().st_gid) == (0o750, a_gid())


async def test_directory_may_be_a_symbolic_link_to_one(tmp_path: Path, taking: Taking) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "links").symlink_to(tmp_path / "real")

    taking(group=a_gid())

    assert mode(tmp_path / "real") == 0o750
    assert names_in(tmp_path / "real") == {MARKER}


async def test_group_may_be_named_by_its_name_or_by_its_number(
    tmp_path: Path, taking: Taking
) -> None:
    entry = grp.getgrgid(os.getegid())

    taking(tmp_path / "by-name", group=entry.gr_name)
    taking(tmp_path / "by-number", group=str(entry.gr_gid))

    assert (tmp_path / "by-name").stat().st_gid == entry.gr_gid
    assert (tmp_path / "by-number").stat().st_gid == entry.gr_gid
    assert mode(tmp_path / "by-name") == mode(tmp_path / "by-number") == 0o750


async def test_unknown_group_is_named(taking: Taking) -> None:
    with pytest.raises(DirectoryError, match=r"there is no group 'no-such-group' here: .*--media"):
        taking(group="no-such-group")


@pytest.mark.parametrize("found", [0o755, 0o701, 0o770, 0o750, 0o702, 0o777, 0o500])
async def test_directory_that_is_open_to_others_is_refused_as_it_was(
    tmp_path: Path, taking: Taking, found: int
) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links").chmod(found)

    with pytest.raises(DirectoryError, match=rf"has mode {found:04o}.*: chmod 700 {tmp_path}"):
        taking()

    assert mode(tmp_path / "links") == found
    assert names_in(tmp_path / "links") == set()


@pytest.mark.parametrize("found", [0o755, 0o751, 0o770, 0o777])
async def test_with_a_group_too_a_directory_that_others_enter_or_write_is_refused(
    tmp_path: Path, taking: Taking, found: int
) -> None:
    (tmp_path / "links").mkdir()
    os.chown(tmp_path / "links", -1, a_gid())
    (tmp_path / "links").chmod(found)

    with pytest.raises(DirectoryError, match=rf"has mode {found:04o}.*: chmod 750 {tmp_path}"):
        taking(group=a_gid())

    assert mode(tmp_path / "links") == found


@pytest.mark.parametrize("name", ["thesis.txt", NAME + "0", NAME.upper(), "0" * 32, ".hidden"])
async def test_directory_that_holds_other_things_is_refused_untouched(
    tmp_path: Path, taking: Taking, name: str
) -> None:
    """P12."""
    (tmp_path / "links").mkdir(mode=0o700)
    (tmp_path / "links" / name).write_text("mine")

    with pytest.raises(DirectoryError, match=f"other things than links of mediagate.*{name!r}"):
        taking(group=a_gid())

    assert names_in(tmp_path / "links") == {name}
    assert mode(tmp_path / "links") == 0o700


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/etc/passwd")])
async def test_what_has_a_links_name_and_is_no_file_is_a_stranger(
    tmp_path: Path, taking: Taking, make: Callable[[Path], None]
) -> None:
    """P12."""
    (tmp_path / "links").mkdir(mode=0o700)
    make(tmp_path / "links" / NAME)

    with pytest.raises(DirectoryError, match="other things"):
        taking()


async def test_directory_of_another_user_is_refused(tmp_path: Path, taking: Taking) -> None:
    directory = tmp_path / "links" if os.geteuid() == 0 else Path("/usr")
    if os.geteuid() == 0:
        directory.mkdir(mode=0o700)
        os.chown(directory, 54321, -1)

    with pytest.raises(
        DirectoryError, match=rf"belongs to uid \d+, and this .* uid {os.geteuid()}"
    ):
        taking(directory)

    assert MARKER not in names_in(directory)


async def test_what_is_no_directory_is_refused(tmp_path: Path, taking: Taking) -> None:
    (tmp_path / "links").write_text("mine")

    with pytest.raises(DirectoryError, match="is no directory"):
        taking()

    assert (tmp_path / "links").read_text() == "mine"


async def test_directory_that_cannot_be_made_is_refused_in_one_line(
    tmp_path: Path, taking: Taking
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DirectoryError, match=r"^cannot use .*/file/links: Not a directory$"):
        taking(tmp_path / "file" / "links")


@pytest.mark.parametrize("below", ["store/blobs", "store/blobs/00", "store/blobs/links", "alias"])
async def test_directory_among_the_blobs_is_refused(
    tmp_path: Path, taking: Taking, below: str
) -> None:
    # There, links would be orphans, and swept with their blobs' own names.
    (tmp_path / "alias").symlink_to(tmp_path / "store" / "blobs" / "01")

    with pytest.raises(DirectoryError, match="among the store's own files"):
        taking(tmp_path / below)


async def test_store_itself_is_no_lease_directory(tmp_path: Path, taking: Taking) -> None:
    with pytest.raises(DirectoryError, match=r"other things than links of mediagate.*'blobs'"):
        taking(tmp_path / "store")


async def test_group_that_cannot_get_there_is_told_so_unless_it_has_it_mounted(
    tmp_path: Path, taking: Taking
) -> None:
    inside = tmp_path / "store" / "links"

    with pytest.raises(
        DirectoryError, match=rf"cannot enter {tmp_path}/store \(mode 0700\).*DIR:UPS"
    ):
        taking(inside, group=a_gid(), upstream_path=None)
    taking(inside, group=a_gid(), upstream_path=ELSEWHERE)

    assert mode(inside) == 0o750


@pytest.fixture
def other_mount() -> Iterator[Path]:
    """A directory on another file system than the temporary files'."""
    place = Path(tempfile.mkdtemp(prefix="mediagate-test-", dir="/dev/shm"))
    yield place
    shutil.rmtree(place)


async def test_another_mount_is_refused(tmp_path: Path, other_mount: Path, taking: Taking) -> None:
    assert other_mount.stat().st_dev != tmp_path.stat().st_dev

    with pytest.raises(
        DirectoryError,
        match=rf"no hard link can be made from {tmp_path}/store/blobs into {other_mount}/.*two mounts",
    ):
        taking(other_mount / "links")

    assert names_in(other_mount / "links") == set()
    assert not list((tmp_path / "store" / "blobs").glob("*/*"))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
async def test_file_system_without_hard_links_is_refused(
    tmp_path: Path, taking: Taking, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: Path, target: Path, *, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        raise OSError(number, os.strerror(number), source, None, target)

    monkeypatch.setattr(os, "link", refuse)

    with pytest.raises(DirectoryError, match=r"has none, or forbids them; .* --delivery"):
        taking()

    assert names_in(tmp_path / "links") == set()
    assert not list((tmp_path / "store" / "blobs").glob("*/*"))


async def test_probe_that_another_process_sweeps_is_tried_again(
    tmp_path: Path, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is an orphan, which any process on the store may remove at any time.
    link = os.link
    swept: list[Path] = []

    def sweep_first(source: Path, target: Path, *, follow_symlinks: bool) -> None:
        if not swept:
            swept.append(source)
            source.unlink()
        link(source, target, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", sweep_first)

    taking()

    assert len(swept) == 1
    assert names_in(tmp_path / "links") == {MARKER}


async def test_store_without_files_on_this_machine_has_no_links(taking: Taking) -> None:
    with pytest.raises(DirectoryError, match="needs a store of files on this machine"):
        taking(store=BlobStore(MemoryBlobDriver()))


async def test_findings_name_every_aspect_and_change_nothing(
    tmp_path: Path, taking: Taking
) -> None:
    directory = taking(group=a_gid())
    await directory.link(NAME, await put_into(tmp_path, b"x"))
    before = sorted((tmp_path).rglob("*"))

    findings = directory.findings()

    assert [finding.aspect for finding in findings] == list(Aspect)
    assert all(finding.is_fine for finding in findings)
    said = {finding.aspect: finding.text for finding in findings}
    assert f"uid {os.geteuid()}" in said[Aspect.OWNER]
    assert "0750" in said[Aspect.MODE]
    assert str(a_gid()) in said[Aspect.GROUP]
    assert said[Aspect.CONTENT].endswith(": 1")
    assert str(tmp_path / "store" / "blobs") in said[Aspect.MOUNT]
    assert sorted(tmp_path.rglob("*")) == before


async def test_findings_end_with_the_first_that_is_wrong(tmp_path: Path, taking: Taking) -> None:
    missing = taking(is_opened=False).findings()
    (tmp_path / "links").mkdir()
    (tmp_path / "links").chmod(0o755)
    wide = taking(is_opened=False).findings()
    shutil.rmtree(tmp_path / "store")
    without_store = taking(is_opened=False).findings()

    assert [(finding.aspect, finding.is_fine) for finding in missing] == [(Aspect.KIND, False)]
    assert not (tmp_path / "links" / MARKER).exists()
    assert (wide[-1].aspect, wide[-1].is_fine) == (Aspect.MODE, False)
    assert all(finding.is_fine for finding in wide[:-1])
    assert mode(tmp_path / "links") == 0o755
    assert not without_store[-1].is_fine


# whose -----------------------------------------------------------------------------------------------------


async def put_into(tmp_path: Path, data: bytes) -> BlobKey:
    driver = LocalBlobDriver(tmp_path / "store", durable=False)
    key = await put(driver, data)
    await driver.close()
    return key


@contextlib.asynccontextmanager
async def another_store(path: Path) -> AsyncIterator[BlobStore]:
    path.mkdir(mode=0o700)
    blobs = BlobStore(LocalBlobDriver(path, durable=False))
    await blobs.open()
    yield blobs
    await blobs.close()


async def test_processes_of_one_store_share_it_and_another_store_is_refused(
    tmp_path: Path, taking: Taking
) -> None:
    """P12: neither could tell the other's links from what was left behind."""
    first, second = taking(), taking()
    async with another_store(tmp_path / "another") as another:
        await first.close()

        with pytest.raises(DirectoryError, match="in use by another store"):
            taking(store=another)
        third = taking()
        await second.close()
        await third.close()
        taking(store=another)

        with pytest.raises(DirectoryError, match="in use by another store"):
            taking()


async def test_many_that_start_at_once_agree(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    code = (
        "import sys, asyncio, pathlib\n"
        "from mediagate.blobs.lease_directory import LeaseDirectory\n"
        "from mediagate.blobs.local import LocalBlobDriver\n"
        "from mediagate.blobs.store import BlobStore\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "blobs = BlobStore(LocalBlobDriver(root / 'store', durable=False))\n"
        "asyncio.run(blobs.open())\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for _ in range(30):\n"
        "    directory = LeaseDirectory(root / 'links', blobs=blobs)\n"
        "    directory.open()\n"
        "    asyncio.run(directory.close())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [process.communicate() for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], ends


# links -----------------------------------------------------------------------------------------------------


async def test_link_is_the_blob_itself_and_outlives_it_until_it_is_dropped(
    tmp_path: Path, driver: LocalBlobDriver, taking: Taking
) -> None:
    """P5."""
    directory = taking()
    key = await put(driver, b"the bytes")
    link = tmp_path / "links" / NAME

    await directory.link(NAME, key)
    shared = link.stat().st_ino == driver.local_path(key).stat().st_ino
    await driver.delete(key)
    kept = link.read_bytes()
    await directory.unlink((NAME,))

    assert shared
    assert kept == b"the bytes"
    assert names_in(tmp_path / "links") == {MARKER}


async def test_without_a_group_modes_stay_as_they_are(
    tmp_path: Path, driver: LocalBlobDriver, taking: Taking
) -> None:
    directory = taking()
    key = await put(driver, b"x")

    await directory.link(NAME, key)

    assert mode(tmp_path / "links" / NAME) == 0o600


async def test_group_reads_what_was_linked_and_nothing_is_done_to_the_rest(
    tmp_path: Path, driver: LocalBlobDriver, taking: Taking
) -> None:
    directory = taking(group=a_gid())
    linked, untouched = await put(driver, b"x"), await put(driver, b"y")
    before = driver.local_path(untouched).stat()

    await directory.link(NAME, linked)

    found = (tmp_path / "links" / NAME).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, a_gid())
    assert driver.local_path(untouched).stat() == before
    assert {mode(path) for path in (tmp_path / "store").rglob("*") if path.is_dir()} == {0o700}


async def test_what_the_group_has_already_is_not_changed_again(
    driver: LocalBlobDriver, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = taking(group=a_gid())
    key = await put(driver, b"x")
    await directory.link(NAME, key)

    def refuse(*_: object) -> None:
        pytest.fail("the mode and the group are as they should be")

    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "fchown", refuse)
    await directory.link(OTHER_NAME, key)

    assert sorted(await directory.names()) == [NAME, OTHER_NAME]
    await directory.unlink((NAME, OTHER_NAME))


async def test_link_that_the_group_cannot_be_given_is_not_left(
    tmp_path: Path, driver: LocalBlobDriver, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = taking(group=a_gid())
    key = await put(driver, b"x")

    def refuse(_fd: int, _mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchmod", refuse)
    with pytest.raises(PermissionError):
        await directory.link(NAME, key)

    assert names_in(tmp_path / "links") == {MARKER}
    assert driver.local_path(key).read_bytes() == b"x"


async def test_blob_that_is_not_there_has_no_link(tmp_path: Path, taking: Taking) -> None:
    directory = taking()

    with pytest.raises(BlobMissingError):
        await directory.link(NAME, new_blob_key())

    assert names_in(tmp_path / "links") == {MARKER}


async def test_directory_that_was_removed_is_no_missing_blob(
    tmp_path: Path, driver: LocalBlobDriver, taking: Taking
) -> None:
    directory = taking()
    key = await put(driver, b"x")
    shutil.rmtree(tmp_path / "links")

    with pytest.raises(FileNotFoundError):
        await directory.link(NAME, key)


async def test_full_disk_is_told_as_one(
    driver: LocalBlobDriver, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = taking()
    key = await put(driver, b"x")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(DiskFullError):
        await directory.link(NAME, key)


async def test_cancelled_link_leaves_no_name(
    tmp_path: Path, driver: LocalBlobDriver, taking: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = taking()
    key = await put(driver, b"x")
    loop, linked = asyncio.get_running_loop(), asyncio.Event()
    link = lease_directory._link
    made: list[bool] = []

    def link_and_tell(blob: Path, path: Path, gid: int | None) -> None:
        link(blob, path, gid)
        made.append(path.exists())
        loop.call_soon_threadsafe(linked.set)

    monkeypatch.setattr(lease_directory, "_link", link_and_tell)
    task = asyncio.create_task(directory.link(NAME, key))
    await asyncio.sleep(0)  # the call is on its way
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await linked.wait()

    assert made == [True]
    assert names_in(tmp_path / "links") == {MARKER}
    assert driver.local_path(key).read_bytes() == b"x"


async def test_only_links_are_listed_and_only_links_are_removed(
    tmp_path: Path, driver: LocalBlobDriver, taking: Taking
) -> None:
    """P12."""
    directory = taking()
    await directory.link(NAME, await put(driver, b"x"))
    (tmp_path / "links" / "thesis.txt").write_text("mine")
    (tmp_path / "links" / OTHER_NAME).symlink_to(tmp_path / "links" / "thesis.txt")

    listed = await directory.names()
    for stranger in ("thesis.txt", MARKER, f"../links/{NAME}", NAME + "\n", ""):
        with pytest.raises(ValueError, match="36"):
            await directory.unlink((stranger,))
    await directory.unlink(listed)
    await directory.unlink(listed)  # missing by now

    assert listed == [NAME]
    assert names_in(tmp_path / "links") == {MARKER, "thesis.txt", OTHER_NAME}


async def test_file_that_is_still_open_on_nfs_does_not_stop_the_next_start(
    tmp_path: Path, taking: Taking
) -> None:
    (tmp_path / "links").mkdir(mode=0o700)
    (tmp_path / "links" / ".nfs000000000012ab3400000001").touch()

    directory = taking()

    assert await directory.names() == []


async def test_upstream_sees_the_directory_where_it_has_it(tmp_path: Path, taking: Taking) -> None:
    here = taking(tmp_path / "links", upstream_path=None)
    there = taking(tmp_path / "more", upstream_path=PurePosixPath("/media/in"))

    assert here.seen_by_upstream(NAME) == PurePosixPath(tmp_path / "links" / NAME)
    assert there.seen_by_upstream(NAME) == PurePosixPath("/media/in") / NAME
