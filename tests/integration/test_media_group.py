"""`--media-group`: an engine under another uid reads the links of running requests by its group, and nothing else.

The other users are real: each step is a program that runs under their uid, their group and no other. They need no
entry in the system's tables.
"""

import asyncio
import contextlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import servers
import stores
from mediagate.blobs.directory import DirectoryError, StoreDirectory
from mediagate.blobs.layout import INDEX, MARKER
from mediagate.blobs.lease_directory import LeaseDirectory
from mediagate.blobs.lease_findings import MARKER as LEASE_MARKER
from mediagate.blobs.local import LocalBlobDriver
from mediagate.blobs.store import BlobStore
from mediagate.core.files import BlobKey, new_blob_key
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.operations.claims import Hold
from mediagate.operations.lease_links import LeaseLinks
from mediagate.testing.upstream import Received
from stores import PNG, Clock, Store
from upstreams import ThreadedUpstream

pytestmark = pytest.mark.root

SECRET = PNG + b"of another request"
MEDIA_GID = 54_321
ENGINE_UID = 54_322
STRANGER_UID = 54_323


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a shell."""

    uid: int
    groups: tuple[int, ...]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[bytes]:
        """Run a program as this user, who is in no group of ours but those named."""
        return subprocess.run(
            command,
            user=self.uid,
            group=self.uid,
            extra_groups=self.groups,
            cwd="/",
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            check=False,
        )

    def reads(self, path: Path) -> bytes:
        """The bytes of a file."""
        read = self.run("cat", path)
        assert (read.returncode, read.stderr) == (0, b"")
        return read.stdout

    def is_kept_from(self, *command: str | Path) -> bool:
        """Whether a program fails for want of permission, and tells nothing."""
        done = self.run(*command)
        denied = (b"Permission denied", b"Operation not permitted")
        return done.returncode != 0 and done.stdout == b"" and any(d in done.stderr for d in denied)


ENGINE = User(ENGINE_UID, (MEDIA_GID,))
STRANGER = User(STRANGER_UID, ())


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter; pytest's own are private."""
    assert os.geteuid() == 0, "only root can act as another user: run the tests as root"
    place = Path(tempfile.mkdtemp(prefix="mediagate-test-"))
    place.chmod(0o755)
    (place / "public.txt").write_text("for all")
    (place / "public.txt").chmod(0o644)
    # Whoever is kept from anything below is kept from it by the store, and not on the way.
    assert ENGINE.reads(place / "public.txt") == STRANGER.reads(place / "public.txt") == b"for all"
    yield place
    shutil.rmtree(place)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(place: Path, clock: Clock) -> AsyncIterator[Store]:
    directory = StoreDirectory.given(place / "store")
    async with stores.opened(directory.path, clock) as opened:
        yield opened
    directory.close()


@pytest.fixture
async def directory(place: Path, store: Store) -> AsyncIterator[LeaseDirectory]:
    directory = LeaseDirectory(place / "links", blobs=store.blobs, group=MEDIA_GID)
    directory.open()
    yield directory
    await directory.close()


@pytest.fixture
def links(store: Store, directory: LeaseDirectory, clock: Clock) -> LeaseLinks:
    return LeaseLinks(directory=directory, index=store.index, clock=clock)


async def ask_about(
    data: bytes, store: Store, links: LeaseLinks, directory: LeaseDirectory
) -> tuple[Hold, Path]:
    """What a request does: a file, its lease, its link."""
    file = await store.receive(data)
    hold = await store.claims.hold((file.id,), scope=DEFAULT_SCOPE)
    name = await links.add(hold.lease_id, 0, hold.files[file.id])
    return hold, Path(directory.seen_by_upstream(name))


async def test_engine_reads_the_link_by_its_group_for_as_long_as_the_request_runs(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    """P5."""
    hold, link = await ask_about(PNG, store, links, directory)

    during = ENGINE.reads(link)
    listed = ENGINE.run("ls", "-A", directory.path).stdout.split()
    await links.drop((link.name,))
    await hold.release()
    after = ENGINE.run("cat", link)

    assert during == PNG
    assert sorted(listed) == sorted([LEASE_MARKER.encode(), link.name.encode()])
    assert after.returncode != 0
    assert b"No such file" in after.stderr


async def test_engine_reads_nothing_that_no_request_names(
    place: Path, store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    """H21: not by name, not by listing, not even what it may read by its link."""
    secret = store.blobs.local_path((await store.receive(SECRET)).blob)
    hold, link = await ask_about(PNG, store, links, directory)
    linked = store.blobs.local_path(next(iter(hold.files.values())).blob)
    assert secret is not None
    assert linked is not None
    assert (secret.read_bytes(), linked.stat().st_ino) == (SECRET, link.stat().st_ino)

    for opened_by_mistake in (False, True):
        if opened_by_mistake:
            (place / "store").chmod(0o755)  # what is in it keeps to itself all the same
            assert ENGINE.run("ls", "-A", place / "store").returncode == 0
        else:
            assert ENGINE.is_kept_from("ls", place / "store")
        assert ENGINE.is_kept_from("cat", place / "store" / INDEX)
        assert ENGINE.is_kept_from("cat", place / "store" / f"{INDEX}-wal")
        assert ENGINE.is_kept_from("cat", place / "store" / MARKER)
        assert ENGINE.is_kept_from("ls", place / "store" / "blobs")
        assert ENGINE.is_kept_from("ls", secret.parent)
        assert ENGINE.is_kept_from("cat", secret)
        assert ENGINE.is_kept_from("cat", linked)
    assert ENGINE.is_kept_from("cat", directory.path / LEASE_MARKER)
    assert ENGINE.reads(link) == PNG


async def test_engine_changes_nothing(
    place: Path, store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    """P6."""
    _, link = await ask_about(PNG, store, links, directory)
    before = sorted(directory.path.iterdir())

    assert ENGINE.is_kept_from("rm", "-f", link)
    assert ENGINE.is_kept_from("touch", directory.path / "new")
    assert ENGINE.is_kept_from("mv", link, directory.path / "moved")
    assert ENGINE.is_kept_from("truncate", "-s", "0", link)
    assert ENGINE.is_kept_from("chmod", "0666", link)
    assert ENGINE.is_kept_from("chmod", "0777", directory.path)
    assert ENGINE.is_kept_from("ln", "-s", "/etc/passwd", directory.path / ("0" * 36))
    # A name of its own elsewhere would outlive the request.
    (place / "own").mkdir(mode=0o700)
    os.chown(place / "own", ENGINE_UID, ENGINE_UID)
    if Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1":
        assert ENGINE.is_kept_from("ln", link, place / "own" / "kept")

    assert sorted(directory.path.iterdir()) == before
    assert ENGINE.reads(link) == PNG


async def test_who_is_not_in_the_group_sees_nothing(
    store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    """H21."""
    _, link = await ask_about(PNG, store, links, directory)

    assert STRANGER.is_kept_from("ls", directory.path)
    assert STRANGER.is_kept_from("cat", link)


async def test_modes_on_disk_are_those_that_are_promised(
    place: Path, store: Store, directory: LeaseDirectory, links: LeaseLinks
) -> None:
    """H21."""
    await store.receive(SECRET)
    _, link = await ask_about(PNG, store, links, directory)

    def what(path: Path) -> tuple[int, int, int]:
        found = path.stat()
        return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid

    assert what(directory.path) == (0o750, 0, MEDIA_GID)
    assert what(link) == (0o640, 0, MEDIA_GID)
    others = {path for path in (place / "store").rglob("*") if not path.samefile(link)}
    assert {what(path) for path in others if path.is_dir()} == {(0o700, 0, 0)}
    assert {what(path) for path in others if path.is_file()} == {(0o600, 0, 0)}
    assert what(place / "store") == (0o700, 0, 0)


def test_group_that_serve_is_told_reads_the_links_and_nobody_else(place: Path) -> None:
    """P5, H21: of a server as it is started, while a request is open."""
    links: list[Path] = []
    seen: list[tuple[subprocess.CompletedProcess[bytes], bool, bool]] = []

    async def look_as_others(request: Received) -> None:
        await request.read_body()
        part = json.loads(request.body)["messages"][0]["content"][-1]
        link = Path(part["image_url"]["url"].removeprefix("file://"))
        links.append(link)
        seen.append(
            (
                await asyncio.to_thread(ENGINE.run, "cat", link),
                await asyncio.to_thread(STRANGER.is_kept_from, "cat", link),
                await asyncio.to_thread(STRANGER.is_kept_from, "ls", link.parent),
            )
        )
        await request.answer(b"{}", headers=b"content-type: application/json\r\n")

    with ThreadedUpstream() as upstream:
        upstream.server.handlers["/v1/chat/completions"] = look_as_others
        with servers.serving(
            *("--upstream", upstream.server.url, "--engine", "vllm"),
            *("--media-path", str(place / "links"), "--media-group", str(MEDIA_GID)),
            store=place / "store",
        ) as server:
            file_id = servers.upload(server, PNG)["id"]
            part = {"type": "image_url", "image_url": {"url": f"vllm-file://{file_id}"}}
            answer = servers.chat(server, part)
            servers.until(lambda: not any(link.exists() for link in links))

    assert answer.status == 200
    assert [link.parent for link in links] == [place / "links"]
    ((read, *is_kept_from),) = seen
    assert (read.stdout, read.stderr, read.returncode) == (PNG, b"", 0)
    assert is_kept_from == [True, True]


@contextlib.contextmanager
def acting_as(uid: int, *groups: int) -> Iterator[None]:
    """This process under another uid, without root's powers, for as long as the context lasts."""
    before = os.getgroups()
    os.setgroups(groups)
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


async def test_server_without_root_gives_what_its_user_has(place: Path) -> None:
    uid = 54_324
    place = place / "server"
    place.mkdir(mode=0o755)
    os.chown(place, uid, uid)
    with acting_as(uid, MEDIA_GID):
        (place / "store").mkdir(mode=0o700)
        blobs = BlobStore(LocalBlobDriver(place / "store", durable=False))
        await blobs.open()
        directory = LeaseDirectory(place / "links", blobs=blobs, group=MEDIA_GID)
        directory.open()
        await directory.link("0" * 36, await put(blobs, PNG))
        await directory.close()
    engine_reads = ENGINE.reads(place / "links" / ("0" * 36))

    with acting_as(uid):
        not_made_yet = LeaseDirectory(place / "more", blobs=blobs, group=MEDIA_GID)
        with pytest.raises(DirectoryError, match=f"uid {uid} may not give files to group"):
            not_made_yet.open()
        # As an administrator may have prepared it.
        with pytest.raises(DirectoryError, match=f"uid {uid} may not give files to group"):
            directory.open()
        left = {path.name for path in (place / "links").iterdir()}
    with pytest.raises(DirectoryError, match=f"belongs to uid {uid}, and this process is uid 0"):
        directory.open()
    await blobs.close()

    assert engine_reads == PNG
    assert left == {LEASE_MARKER, "0" * 36}


async def put(blobs: BlobStore, data: bytes) -> BlobKey:
    key = new_blob_key()
    sink = await blobs.create(key)
    await sink.write(data)
    await sink.finish()
    return key
