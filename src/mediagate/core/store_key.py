"""One secret for each store, and what is made of it: names that tell nothing, signatures that only we can make."""

import hashlib
import hmac
from enum import StrEnum

KEY_BYTES = 32


class Use(StrEnum):
    """What a tag is for. A tag made for one use says nothing about, and is of no use for, another."""

    LOG = "log"
    """Stands for an id or a scope in logs."""
    CACHE_SALT = "cache-salt"
    """Keeps scopes apart in an engine's prefix cache."""
    CACHED_MEDIA = "cached-media"
    """Keeps scopes apart in an engine's cache of media."""
    DECODED = "decoded"
    """Stands for a file's encoded bytes in an engine's caches of processed media, and keeps scopes apart there."""
    URL = "url"
    """Signs what a URL names."""


class StoreKey:
    """The secret that everybody who shares an index shares; never used but through `tag`.

    Args:
        secret: 32 random bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def tag(self, use: Use, *parts: str) -> str:
        """A keyed digest of `parts` (HMAC-SHA-256, RFC 2104): 64 hex digits, the same wherever the key is the same."""
        framed = b"".join(b"%d:%s" % (len(part), part) for part in (p.encode() for p in parts))
        message = use.encode() + b"\x00" + framed
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
