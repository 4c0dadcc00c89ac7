"""API keys: what each of them opens, and the file that may change that while the server runs."""

import hashlib
import logging
import os
import re
import secrets
import stat
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from mediagate.core.errors import Unauthenticated
from mediagate.core.keys import KeyFileError, parse_keys
from mediagate.core.scopes import Scope
from mediagate.web.asgi import HeaderList, header_values

LOOK_EVERY_S = 1.0
"""How long a key that was taken out of the file may still open the server."""

_PLACE = re.compile(r" \(at [^()]*\)$")

logger = logging.getLogger(__name__)


class Keys:
    """Bearer keys, none of which is kept in clear.

    A key is looked up by its digest, which is keyed with a secret of this process: how long that takes tells nothing
    about any key. Whether the file has changed is told by its content: it is short, and two writes may have one date.

    Args:
        keys: Those that open every scope.
        file: Gives more keys a scope each; see `core.keys`.
        clock: Seconds, monotonic.

    Raises:
        KeyFileError: The file is wrong. When it turns wrong later, the keys stay what they are.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        *,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._salt = secrets.token_bytes(32)
        self._file = file
        self._clock = clock
        self._seen = b""
        self._complaint = ""
        self._of_all = frozenset(self._digest(key.encode()) for key in keys)
        self._of_one: dict[bytes, Scope] = {}
        self._look_at = clock() + LOOK_EVERY_S
        if file is not None:
            self._read(file)

    def scope_of(self, headers: HeaderList) -> Scope | None:
        """The one scope that the caller's key opens; None: every one.

        Raises:
            Unauthenticated: A key is asked for, and there is none, or a wrong one.
        """
        if self._file is None and not self._of_all:
            return None
        self._look_again()
        values = header_values(headers, b"authorization")
        scheme, _, key = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
        digest = self._digest(key.strip())
        if scheme.lower() == b"bearer" and digest in self._of_one:
            return self._of_one[digest]
        if scheme.lower() == b"bearer" and digest in self._of_all:
            return None
        raise Unauthenticated("Send one of this server's API keys as 'Authorization: Bearer …'.")

    def _look_again(self) -> None:
        now = self._clock()
        if self._file is None or now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        complaint = ""
        try:
            self._read(self._file)
        except KeyFileError as error:
            complaint = str(error)
        if complaint and complaint != self._complaint:
            logger.error("The key file %s. The keys from before stay in force.", complaint)
        self._complaint = complaint

    def _read(self, file: Path) -> None:
        raw = _content(file)
        seen = self._digest(raw)
        if seen == self._seen:
            return
        of_one = {self._digest(key.encode()): scope for key, scope in _parsed(raw).items()}
        if not self._of_all.isdisjoint(of_one):
            raise KeyFileError("gives one scope to a key that --api-key gives every scope")
        self._seen, self._of_one = seen, of_one
        scopes = len(set(of_one.values()))
        logger.info("The key file was read; keys: %d, scopes: %d.", len(of_one), scopes)

    def _digest(self, text: bytes) -> bytes:
        return hashlib.blake2b(text, key=self._salt).digest()


def _content(file: Path) -> bytes:
    try:
        # A pipe would have nothing to say the second time, and would keep everybody waiting for it.
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise KeyFileError("is no file that can be read again")
            with open(fd, "rb", closefd=False) as opened:
                return opened.read()
        finally:
            os.close(fd)
    except OSError as error:
        raise KeyFileError(f"cannot be read: {error.strerror}") from None


def _parsed(raw: bytes) -> dict[str, Scope]:
    try:
        content = tomllib.loads(raw.decode())
    except ValueError as error:
        # Only the place: what stands there may be a key.
        place = _PLACE.search(str(error))
        raise KeyFileError(f"is no TOML{place[0] if place else ''}") from None
    except RecursionError:
        raise KeyFileError("is nested too deeply") from None
    return parse_keys(content)
