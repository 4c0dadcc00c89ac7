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
        named: The caller's scope; or what to refuse the request with as soon as it is for anybody's files, where it
            has to name a scope for that and did not.
    """

    named: Scope | Exception = DEFAULT_SCOPE

    @property
    def scope(self) -> Scope:
        """The scope whose files the caller sees, fills and names.

        Raises:
            InvalidScope: The request does not say.
            Unauthenticated: It came without a key, by a path where the engine asks for none.
        """
        if isinstance(self.named, Exception):
            raise self.named
        return self.named

    @property
    def known_scope(self) -> Scope | None:
        """The same; None: the request does not say."""
        return None if isinstance(self.named, Exception) else self.named


def parse_scope(text: str) -> Scope | None:
    """The scope that `text` names, or None.

    Printable ASCII, 1 to 256 characters, no space at either end. No comma: HTTP lets any intermediary write two lines
    of one header as one line with a comma in it (RFC 9110 §5.3), and two tenants are not one.
    """
    is_one = len(text) <= MAX_SCOPE_BYTES and _SCOPE.fullmatch(text) is not None
    return Scope(text) if is_one else None
