"""Who owns a file, and who asks for it."""

import re
from dataclasses import dataclass
from typing import NewType

Scope = NewType("Scope", str)
"""The owner boundary for listing, quota and lookup. Opaque, compared exactly, never logged in clear."""

DEFAULT_SCOPE = Scope("")
"""The scope of every caller of a server that knows no tenants; no tenant's scope is empty."""

MAX_SCOPE_BYTES = 256

_SCOPE = re.compile(r"[!-+\--~](?:[ -+\--~]*[!-+\--~])?")


@dataclass(frozen=True, slots=True)
class Principal:
    """The authenticated caller.

    Attributes:
        scope: The scope whose files the caller sees, fills and names.
    """

    scope: Scope = DEFAULT_SCOPE


def parse_scope(text: str) -> Scope | None:
    """The scope that `text` names, or None.

    Printable ASCII, 1 to 256 characters, no space at either end. No comma: HTTP lets any intermediary write two lines
    of one header as one line with a comma in it (RFC 9110 §5.3), and two tenants are not one.
    """
    is_one = len(text) <= MAX_SCOPE_BYTES and _SCOPE.fullmatch(text) is not None
    return Scope(text) if is_one else None
