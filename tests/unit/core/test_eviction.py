"""Who goes first when space is needed."""

import random

from mediagate.core.eviction import eviction_order
from mediagate.core.files import BlobKey, Digest, FileId, FileObject, Purpose
from mediagate.core.scopes import DEFAULT_SCOPE


def file(number: int, *, last_used_at: float, created_at: int = 0) -> FileObject:
    return FileObject(
        id=FileId(f"file-{number:032x}"),
        scope=DEFAULT_SCOPE,
        blob=BlobKey(f"{number:032x}"),
        filename="a",
        purpose=Purpose.VISION,
        mime_type="image/png",
        size_bytes=1,
        digest=Digest("blake3:" + "0" * 64),
        created_at=created_at,
        last_used_at=last_used_at,
        expires_at=None,
        ttl_s=None,
    )


def test_least_recently_used_goes_first_and_ties_go_by_id() -> None:
    """H59: the age does not count."""
    expected = [
        file(3, last_used_at=1.0, created_at=9),
        file(1, last_used_at=2.0, created_at=1),
        file(2, last_used_at=2.0, created_at=0),
        file(0, last_used_at=3.0, created_at=0),
    ]

    for seed in range(10):
        shuffled = random.Random(seed).sample(expected, len(expected))
        assert eviction_order(shuffled) == expected, f"seed {seed}"
