"""The tree on disk. No name in it comes from a client.

DIR/                        0700  given by --file-upload-dir, or private and temporary
├── .mediagate-store        0600  the marker: what this directory is, and its layout version
├── index.sqlite3 -wal -shm 0600  the rows
└── blobs/                  0700
    ├── 00/ … ff/           0700  by the first two digits of the key
    │   ├── <key>           0600  the bytes of one file, complete and durable; never changed
    │   └── <key>.partial   0600  bytes that are still arriving, by a receive or in the parts of an Upload
"""

from collections.abc import Iterator
from pathlib import Path

from mediagate.core.files import BlobKey

MARKER = ".mediagate-store"
LAYOUT_VERSION = 1
INDEX = "index.sqlite3"
INDEX_FILES = (INDEX, f"{INDEX}-wal", f"{INDEX}-shm")
"""In the order in which they may go: a log without its database is dropped by SQLite, not replayed."""
PARTIAL = ".partial"


def blobs(root: Path) -> Path:
    """The directory of all blobs."""
    return root / "blobs"


def fan_out(root: Path) -> Iterator[Path]:
    """The directories that hold blobs."""
    return (blobs(root) / f"{n:02x}" for n in range(256))


def blob_path(root: Path, key: BlobKey) -> Path:
    """Where the complete bytes of `key` are."""
    return blobs(root) / key[:2] / key


def partial_path(root: Path, key: BlobKey) -> Path:
    """Where the bytes of `key` arrive."""
    path = blob_path(root, key)
    return path.with_name(path.name + PARTIAL)


def key_of(name: str) -> BlobKey:
    """The key of a file in a fan-out directory, complete or partial."""
    return BlobKey(name.removesuffix(PARTIAL))
