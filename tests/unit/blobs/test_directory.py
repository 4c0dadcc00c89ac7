"""The store's directory: whose it is, who uses it, and when it goes."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mediagate.blobs import directory
from mediagate.blobs.directory import DirectoryError, StoreDirectory
from mediagate.blobs.layout import INDEX_FILES, LAYOUT_VERSION, MARKER


def test_new_directory_is_made_private_and_marked(tmp_path: Path) -> None:
    """H21."""
    opened = StoreDirectory.given(tmp_path / "a" / "store")
    opened.close()

    marker = tmp_path / "a" / "store" / MARKER
    assert stat.S_IMODE((tmp_path / "a" / "store").stat().st_mode) == 0o700
    assert stat.S_IMODE(marker.stat().st_mode) == 0o600
    assert json.loads(marker.read_text()) == {"layout": LAYOUT_VERSION, "temporary": False}
    assert not opened.is_temporary


def test_given_directory_stays_and_can_be_used_again_and_together(tmp_path: Path) -> None:
    """H63."""
    first = StoreDirectory.given(tmp_path)
    second = StoreDirectory.given(tmp_path)
    first.close()
    second.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER]


def test_directory_of_somebody_else_is_refused_untouched(tmp_path: Path) -> None:
    """P12."""
    (tmp_path / "thesis.txt").write_text("mine")

    with pytest.raises(DirectoryError, match="not empty"):
        StoreDirectory.given(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_fresh_file_system_is_as_good_as_empty(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()

    StoreDirectory.given(tmp_path).close()


@pytest.mark.parametrize(
    "content", [json.dumps({"layout": LAYOUT_VERSION + 1}), "", "nonsense", "[]", '{"layout": "1"}']
)
def test_marker_of_a_newer_version_or_of_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MARKER).write_text(content)

    with pytest.raises(DirectoryError):
        StoreDirectory.given(tmp_path)


def test_path_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")

    with pytest.raises(DirectoryError) as caught:
        StoreDirectory.given(path)

    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_temporary_directory_goes_with_its_last_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(directory, "_place_on_disk", lambda _: tmp_path)
    opened = StoreDirectory.temporary()
    shared = StoreDirectory(opened.path, is_temporary=True)

    opened.close()
    assert opened.path.exists()
    shared.close()

    assert list(tmp_path.iterdir()) == []


def test_abandoned_temporary_directory_is_removed_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """H63: after `kill -9` the kernel has dropped the lock."""
    monkeypatch.setattr(directory, "_place_on_disk", lambda _: tmp_path)
    living = StoreDirectory.temporary()
    given = StoreDirectory.given(tmp_path / "mediagate-given")
    given.close()
    unmarked = tmp_path / "mediagate-of-somebody"
    unmarked.mkdir()
    code = (
        "import os, pathlib, sys; from mediagate.blobs.directory import StoreDirectory; "
        "StoreDirectory(pathlib.Path(sys.argv[1]), is_temporary=True); os._exit(9)"
    )
    abandoned = tmp_path / "mediagate-abandoned"
    abandoned.mkdir()
    subprocess.run([sys.executable, "-c", code, abandoned], check=False)
    assert (abandoned / MARKER).exists()

    newcomer = StoreDirectory.temporary()

    assert not abandoned.exists()
    assert living.path.exists()
    assert given.path.exists()
    assert unmarked.exists()
    newcomer.close()
    living.close()


def test_media_never_go_to_a_directory_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_disk = tmp_path / "disk"
    in_memory = tmp_path / "memory"
    on_disk.mkdir()
    in_memory.mkdir()
    monkeypatch.setattr(directory, "_memory_mounts", lambda: {in_memory})
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) in {in_memory, Path("/")})

    assert directory._place_on_disk((in_memory, on_disk)) == on_disk
    with pytest.raises(DirectoryError, match="file-upload-dir"):
        directory._place_on_disk((in_memory, in_memory / "below", tmp_path / "missing"))


def test_first_start_that_was_cut_short_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / f"{MARKER}.4711").write_text("")

    StoreDirectory.given(tmp_path).close()


def test_marker_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(DirectoryError):
        StoreDirectory.given(tmp_path)
    monkeypatch.undo()

    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)  # noqa: PTH208


def fill(store: Path) -> None:
    """What a store leaves behind, and what somebody has put beside it."""
    StoreDirectory.given(store).close()
    for name in INDEX_FILES:
        (store / name).write_text("rows")
    (store / "blobs" / "00").mkdir(parents=True)
    (store / "blobs" / "00" / "0").write_text("bytes")
    (store / "notes.txt").write_text("mine")
    (store / "blobs" / "notes.txt").write_text("mine")
    (store / "lost+found").mkdir()


def test_clearing_removes_what_a_store_keeps_and_nothing_else(tmp_path: Path) -> None:
    """H63."""
    fill(tmp_path)
    marker = (tmp_path / MARKER).stat().st_ino

    StoreDirectory.given(tmp_path, is_cleared=True).close()

    left = [MARKER, "blobs", "blobs/notes.txt", "lost+found", "notes.txt"]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == left
    assert (tmp_path / MARKER).stat().st_ino == marker


def test_directory_that_is_in_use_is_not_cleared(tmp_path: Path) -> None:
    """P12, H63: by another process or, as here, by this one."""
    fill(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    user = StoreDirectory.given(tmp_path)

    with pytest.raises(DirectoryError, match="in use"):
        StoreDirectory.given(tmp_path, is_cleared=True)

    assert sorted(tmp_path.rglob("*")) == before
    user.close()
    StoreDirectory.given(tmp_path, is_cleared=True).close()
    assert not (tmp_path / "blobs" / "00").exists()


def test_directory_of_somebody_else_is_not_cleared(tmp_path: Path) -> None:
    """P12, H63: without a marker, or with one that says nothing we know."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "thesis.txt").write_text("mine")
    with pytest.raises(DirectoryError, match="not empty"):
        StoreDirectory.given(tmp_path, is_cleared=True)

    for content in ("nonsense", json.dumps({"layout": LAYOUT_VERSION + 1})):
        (tmp_path / MARKER).write_text(content)
        with pytest.raises(DirectoryError, match="newer"):
            StoreDirectory.given(tmp_path, is_cleared=True)

    assert (tmp_path / "blobs" / "thesis.txt").read_text() == "mine"


def test_clearing_follows_no_link_to_what_is_none_of_its_own(tmp_path: Path) -> None:
    """P12."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thesis.txt").write_text("mine")
    store = tmp_path / "store"
    StoreDirectory.given(store).close()
    (store / "blobs").mkdir()
    (store / "blobs" / "00").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DirectoryError):
        StoreDirectory.given(store, is_cleared=True)

    assert (tmp_path / "elsewhere" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["new", "empty", "marked"])
def test_there_need_not_be_anything_to_clear(tmp_path: Path, name: str) -> None:
    store = tmp_path / name
    if name != "new":
        store.mkdir()
    if name == "marked":
        StoreDirectory.given(store).close()

    StoreDirectory.given(store, is_cleared=True).close()

    assert [path.name for path in store.iterdir()] == [MARKER]
