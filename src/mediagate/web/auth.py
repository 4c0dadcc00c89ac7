"""Credentials → principal."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from mediagate.core.errors import Unauthenticated
from mediagate.core.scopes import Principal
from mediagate.web.asgi import HeaderList, header_values


class Authenticator:
    """Bearer keys: kept as keyed digests, compared in constant time.

    Args:
        keys: The keys that open the server; none: it is open to all.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._salt = secrets.token_bytes(32)
        self._digests = [self._digest(key.encode()) for key in keys]

    def principal_of(self, headers: HeaderList) -> Principal:
        """Who calls.

        Raises:
            Unauthenticated: A key is needed and this is none of them.
        """
        if not self._digests:
            return Principal()
        values = header_values(headers, b"authorization")
        scheme, _, key = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        digest = self._digest(key.strip())
        # All are compared, so that the time tells nothing about which one came close.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or not any(matches):
            message = "Send one of this server's API keys as 'Authorization: Bearer …'."
            raise Unauthenticated(message)
        return Principal()

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._salt).digest()
