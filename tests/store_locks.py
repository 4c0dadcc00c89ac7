"""Who holds a store's directory, seen from outside."""

import contextlib
import fcntl
from pathlib import Path

from mediagate.blobs.layout import MARKER


def held_by(pid: int) -> set[Path]:
    """Stores that a process has open, by their markers."""
    stores = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                target = link.readlink()
                if target.name.startswith(
                    MARKER
                ):  # who made it has it open under the name of a draft
                    stores.add(target.parent)
    return stores


def is_held(store: Path) -> bool:
    """Whether any process holds the lock of a store."""
    with (store / MARKER).open() as marker, contextlib.suppress(BlockingIOError):
        fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True
