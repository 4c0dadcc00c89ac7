"""How many files are received at once, in this process."""

from collections import Counter

from mediagate.core.errors import NoSlot
from mediagate.core.scopes import Scope

_RETRY_AFTER_S = 2


class Slots:
    """Slots for all, of which one scope holds only so many that others find one.

    Args:
        total: Of all scopes.
        per_scope: Of one; None: all.
    """

    def __init__(self, *, total: int, per_scope: int | None = None) -> None:
        self._total = total
        self._per_scope = total if per_scope is None else per_scope
        self._held: Counter[Scope] = Counter()

    def take(self, scope: Scope) -> None:
        """Take one, which must be given back.

        Raises:
            NoSlot: There is none, or none for this scope.
        """
        if self._held.total() >= self._total:
            message = (
                "The server is receiving as many files as it may at once. Try again in a moment."
            )
            raise NoSlot(message, retry_after_s=_RETRY_AFTER_S)
        if self._held[scope] >= self._per_scope:
            message = (
                "You are sending as many files as one tenant may at once. Try again in a moment."
            )
            raise NoSlot(message, retry_after_s=_RETRY_AFTER_S)
        self._held[scope] += 1

    def give_back(self, scope: Scope) -> None:
        """Give one back."""
        self._held[scope] -= 1
        if not self._held[scope]:
            del self._held[scope]
