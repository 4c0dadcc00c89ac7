"""Which file goes first when space is needed: the one that was not used for longest, ties by id."""

from collections.abc import Iterable
from operator import attrgetter

from mediagate.core.files import FileObject


def eviction_order(candidates: Iterable[FileObject]) -> list[FileObject]:
    """Candidates, first victim first. Leased files are no candidates."""
    return sorted(candidates, key=attrgetter("last_used_at", "id"))
