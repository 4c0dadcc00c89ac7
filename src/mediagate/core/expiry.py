"""When a file stops to exist.

Two rules: a **sliding** lifetime ends `ttl_s` after the last use, a **fixed** one (`expires_after`) at the
moment it was promised. An expiry never moves to an earlier time, whatever the clock does.
"""

from dataclasses import dataclass

MIN_EXPIRES_AFTER_S = 3600
MAX_EXPIRES_AFTER_S = 2_592_000
"""OpenAI `FileExpirationAfter` schema: 1 hour to 30 days."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a new file lives.

    Attributes:
        seconds: From creation, or from the last use; None: for ever.
        is_sliding: Whether a use prolongs it.
    """

    seconds: float | None
    is_sliding: bool

    def expires_at(self, created_at: float) -> float | None:
        """The first expiry, in Unix seconds; None: never."""
        return None if self.seconds is None else created_at + self.seconds

    @property
    def ttl_s(self) -> float | None:
        """What a use adds; None: nothing."""
        return self.seconds if self.is_sliding else None


def is_expired(expires_at: float | None, now: float) -> bool:
    """Whether the time is up."""
    return expires_at is not None and expires_at <= now


def after_use(expires_at: float | None, ttl_s: float | None, now: float) -> float | None:
    """The expiry after a use at `now`; never earlier than it was."""
    if expires_at is None or ttl_s is None:
        return expires_at
    return max(expires_at, now + ttl_s)
