"""Which request is being answered: known to all that runs in its task, and in the tasks that are started there."""

import contextlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from mediagate.observe.logs import CAPABILITY

REQUEST_ID = b"x-request-id"
"""The header."""

_SANE = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    """What observers may write down about a request.

    Attributes:
        id: The client's own name for it, or ours.
        client_host: The address that it came from; None: the server does not know.
    """

    id: str
    client_host: str | None


_CURRENT: ContextVar[CurrentRequest | None] = ContextVar("mediagate.request", default=None)


def current_request() -> CurrentRequest | None:
    """The request that is being answered; None: this is done on nobody's behalf."""
    return _CURRENT.get()


@contextlib.contextmanager
def answering(request: CurrentRequest) -> Iterator[None]:
    """What happens inside, happens for `request`."""
    token = _CURRENT.set(request)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def new_request_id() -> str:
    """A fresh one."""
    return f"req_{secrets.token_hex(16)}"


def request_id_of(values: Sequence[bytes]) -> str:
    """What a request is called whose header came with `values`.

    The client's word, if it is one, of visible ASCII, and fit for a log: a capability id is not. Otherwise a fresh one.
    """
    given = values[0].decode("latin-1") if len(values) == 1 else ""
    is_fit = _SANE.fullmatch(given) and not CAPABILITY.search(given)
    return given if is_fit else new_request_id()
