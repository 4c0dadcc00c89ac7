"""Whether a directory may hold the links that an engine reads: one line for each thing that has to be so.

Nothing here repairs anything. Where links work is found out by making one: the device number does not tell, since
links do not cross two mounts of one file system either.
"""

import contextlib
import errno
import grp
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mediagate.blobs.posix import OPEN_FLAGS
from mediagate.core.files import new_blob_key
from mediagate.core.leases import new_lease_id

MARKER = ".mediagate-leases"
"""The one name in the directory that is no link."""

LINK = re.compile(r"[0-9a-f]{36}")

_NFS_LEFT = ".nfs"  # what NFS calls a file that was removed and is still open somewhere
_ATTEMPTS = 5

_FORBIDDEN = (
    "the file system has none, or forbids them; put both on one that has, or use another --delivery"
)
_NO_LINK = {
    errno.EXDEV: "they are on two mounts, if only of one file system; put both on one",
    errno.EPERM: _FORBIDDEN,
    errno.EOPNOTSUPP: _FORBIDDEN,
    errno.ENOSYS: _FORBIDDEN,
}
"""What is said to `link`, and what it means."""


class Aspect(StrEnum):
    """What is looked at, in this order."""

    KIND = "kind"
    PLACE = "place"
    OWNER = "owner"
    CONTENT = "content"
    GROUP = "group"
    MODE = "mode"
    REACH = "reach"
    MOUNT = "mount"


@dataclass(frozen=True, slots=True)
class Finding:
    """One aspect, in one line for the operator.

    Attributes:
        aspect: What was looked at.
        is_fine: Whether it is as it has to be.
        text: What was found; where it is not fine, what to do about it.
    """

    aspect: Aspect
    is_fine: bool
    text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A directory that links are to be made in.

    Attributes:
        path: The directory.
        blobs: A directory that blobs are in; there is one.
        group: Who is to read the links beside this process's user, by name or number; None: nobody.
        is_mounted_elsewhere: The upstream has it under another path, so that the way to it here does not matter.
    """

    path: Path
    blobs: Path
    group: str | int | None
    is_mounted_elsewhere: bool

    @property
    def gid(self) -> int | None:
        """The group's number; None: there is no group, or none of that name."""
        if self.group is None or isinstance(self.group, int):
            return self.group
        if self.group.isdecimal():
            return int(self.group)
        try:
            return grp.getgrnam(self.group).gr_gid
        except KeyError:
            return None

    @property
    def mode(self) -> int:
        """What the directory's permissions have to be."""
        return 0o700 if self.group is None else 0o750


def look(candidate: Candidate) -> Iterator[Finding]:
    """The findings, one by one, up to the first that is not fine. Blocks.

    Raises:
        OSError: The directory, or the blobs, cannot be looked at.
    """
    for check in (_kind, _place, _owner, _content, _group, _mode, _reach, _mount):
        finding = check(candidate)
        yield finding
        if not finding.is_fine:
            return


def is_link(entry: os.DirEntry[str]) -> bool:
    """Whether a directory entry is a link of ours."""
    return LINK.fullmatch(entry.name) is not None and entry.is_file(follow_symlinks=False)


def give(path: Path, gid: int, mode: int) -> None:
    """Hand a file or directory to a group; what is as it should be is not written again.

    Raises:
        PermissionError: This process may not.
    """
    fd = os.open(path, os.O_RDONLY | OPEN_FLAGS)
    try:
        found = os.fstat(fd)
        # In this order: no other group is ever let in.
        if found.st_gid != gid:
            os.fchown(fd, -1, gid)
        if _permissions(found) != mode:
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _permissions(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode) & 0o777


def _kind(candidate: Candidate) -> Finding:
    path = candidate.path
    if not path.exists():
        return Finding(Aspect.KIND, is_fine=False, text=f"{path} does not exist")
    if not path.is_dir():
        text = f"{path} is no directory: name another with --media-path"
        return Finding(Aspect.KIND, is_fine=False, text=text)
    return Finding(Aspect.KIND, is_fine=True, text=f"{path} is a directory")


def _place(candidate: Candidate) -> Finding:
    blobs = candidate.blobs.parent.resolve()
    if candidate.path.resolve().is_relative_to(blobs):
        text = f"{candidate.path} is among the store's own files: give links a directory elsewhere"
        return Finding(Aspect.PLACE, is_fine=False, text=text)
    return Finding(Aspect.PLACE, is_fine=True, text=f"it is not below {blobs}")


def _owner(candidate: Candidate) -> Finding:
    uid, own = candidate.path.stat().st_uid, os.geteuid()
    if uid != own:
        text = f"{candidate.path} belongs to uid {uid}, and this process is uid {own}: chown it, or name another"
        return Finding(Aspect.OWNER, is_fine=False, text=text)
    return Finding(Aspect.OWNER, is_fine=True, text=f"it belongs to uid {uid}, which is ours")


def _content(candidate: Candidate) -> Finding:
    links, strangers = 0, []
    with os.scandir(candidate.path) as entries:
        for entry in entries:
            if is_link(entry):
                links += 1
            elif entry.name != MARKER and not entry.name.startswith(_NFS_LEFT):
                strangers.append(entry.name)
    if strangers:
        text = (
            f"{candidate.path} holds other things than links of mediagate, such as {min(strangers)!r}: "
            "give links a directory of their own"
        )
        return Finding(Aspect.CONTENT, is_fine=False, text=text)
    return Finding(Aspect.CONTENT, is_fine=True, text=f"it holds nothing but links: {links}")


def _group(candidate: Candidate) -> Finding:
    if candidate.group is None:
        text = "no group is to read the links"
        return Finding(Aspect.GROUP, is_fine=True, text=text)
    if candidate.gid is None:
        text = f"there is no group {candidate.group!r} here: name another with --media-group, or its number"
        return Finding(Aspect.GROUP, is_fine=False, text=text)
    if candidate.path.stat().st_gid != candidate.gid:
        return _no_member(candidate)
    return Finding(Aspect.GROUP, is_fine=True, text=f"it belongs to group {candidate.group}")


def _no_member(candidate: Candidate) -> Finding:
    text = (
        f"uid {os.geteuid()} may not give files to group {candidate.group}: "
        "make its user a member of that group, or name one it is in with --media-group"
    )
    return Finding(Aspect.GROUP, is_fine=False, text=text)


def _mode(candidate: Candidate) -> Finding:
    path, mode = candidate.path, _permissions(candidate.path.stat())
    if mode == candidate.mode:
        return Finding(Aspect.MODE, is_fine=True, text=f"its mode is {mode:04o}")
    text = f"{path} has mode {mode:04o}, and links need {candidate.mode:04o}: chmod {candidate.mode:o} {path}"
    if candidate.group is None and not mode & 0o027:
        text += ", or name the group that may read them with --media-group"
    return Finding(Aspect.MODE, is_fine=False, text=text)


def _reach(candidate: Candidate) -> Finding:
    if candidate.group is None or candidate.is_mounted_elsewhere:
        return Finding(Aspect.REACH, is_fine=True, text="nobody else has to reach it by this path")
    for parent in candidate.path.resolve().parents:
        found = parent.stat()
        # One of another user may be the engine's own; and where there is an ACL, the group's bits are its mask.
        if found.st_uid == os.geteuid() and not found.st_mode & 0o011:
            text = (
                f"group {candidate.group} cannot enter {parent} (mode {_permissions(found):04o}), where "
                f"{candidate.path} is: put it elsewhere, or write DIR:UPSTREAM_DIR if the upstream has it mounted"
            )
            return Finding(Aspect.REACH, is_fine=False, text=text)
    text = f"our directories above it let group {candidate.group} pass"
    return Finding(Aspect.REACH, is_fine=True, text=text)


def _mount(candidate: Candidate) -> Finding:
    path, blobs = candidate.path, candidate.blobs.parent
    try:
        _try_link(candidate)
    except OSError as exc:
        if exc.filename is None:  # it went wrong after the link was made and open
            return _no_member(candidate)
        if exc.filename2 is None or exc.errno not in _NO_LINK:
            raise
        text = f"no hard link can be made from {blobs} into {path}: {_NO_LINK[exc.errno]}"
        return Finding(Aspect.MOUNT, is_fine=False, text=text)
    return Finding(Aspect.MOUNT, is_fine=True, text=f"hard links from {blobs} into it work")


def _try_link(candidate: Candidate) -> None:
    """Make a link as it is made for a request; neither it nor the file remains.

    What a crash leaves is an orphan and a link without a lease: both are swept.
    """
    link = candidate.path / f"{new_lease_id()}ffff"
    for attempt in range(_ATTEMPTS):
        file = candidate.blobs / new_blob_key()
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS, 0o600))
        try:
            os.link(file, link, follow_symlinks=False)
            if candidate.gid is not None:
                give(link, candidate.gid, 0o640)
        except FileNotFoundError:
            # Another process may have swept it: nobody but us knows what it is.
            if attempt == _ATTEMPTS - 1:
                raise
        else:
            return
        finally:
            for name in (link, file):
                with contextlib.suppress(FileNotFoundError):
                    name.unlink()
