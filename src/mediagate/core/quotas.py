"""Ceilings kept over time, and how space is claimed while bytes arrive.

Space is reserved in steps, as bytes come, after the media type is known: what was only announced neither evicts
anything nor blocks anybody. What can never fit is refused at once.

Whoever needs space loses files of its own for it, and nobody else's living ones. So a scope is sure of its ceiling
where the ceilings of all scopes together fit the store; where they do not, who comes late finds no room.
"""

from dataclasses import dataclass

RESERVE_STEP_BYTES = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Quota:
    """Ceilings.

    Attributes:
        store_bytes: For the whole store.
        scope_bytes: For one scope; None: no ceiling of its own.
        scope_files: Number of files for one scope; None: no ceiling.
    """

    store_bytes: int
    scope_bytes: int | None = None
    scope_files: int | None = None

    def can_ever_hold(self, size_bytes: int) -> bool:
        """Whether a file of this size fits an empty store."""
        fits_scope = self.scope_bytes is None or size_bytes <= self.scope_bytes
        return fits_scope and size_bytes <= self.store_bytes

    def leaves_room(self, size_bytes: int, *, own: "Usage", store: "Usage") -> bool:
        """Whether a file of this size fits beside what the other scopes hold, if its own scope held nothing else."""
        return store.used_bytes - own.used_bytes + size_bytes <= self.store_bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """What is taken, reservations included, in bytes and in files."""

    used_bytes: int = 0
    files: int = 0


def fits(usage: Usage, extra_bytes: int, *, max_bytes: int | None, max_files: int | None) -> bool:
    """Whether `extra_bytes` more stay within the ceilings."""
    bytes_fit = max_bytes is None or usage.used_bytes + extra_bytes <= max_bytes
    files_fit = max_files is None or usage.files <= max_files
    return bytes_fit and files_fit


def next_step(*, needed: int, expected: int | None) -> int:
    """How many bytes to reserve next.

    Args:
        needed: Bytes in hand that have no reservation yet.
        expected: Bytes that may still come, the ones in hand included, where the request declared a length.
    """
    step = RESERVE_STEP_BYTES if expected is None else min(RESERVE_STEP_BYTES, expected)
    return max(step, needed)
