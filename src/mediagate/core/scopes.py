"""Who owns a file, and who asks for it."""

from dataclasses import dataclass
from typing import NewType

Scope = NewType("Scope", str)
"""The owner boundary for listing, quota and lookup. Opaque, compared exactly, never logged in clear."""

DEFAULT_SCOPE = Scope("")
"""The scope of every caller of a server that knows no tenants."""


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller.

    Attributes:
        scope: The scope whose files the caller sees, fills and names.
    """

    scope: Scope = DEFAULT_SCOPE
