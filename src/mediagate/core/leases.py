"""Timed claims: what may not be removed yet, and who is still receiving.

A lease keeps a file's bytes while a request uses them; a reservation keeps the space of a file that is being
received. Both lapse by themselves, so that a process that dies holds nothing for longer than `LEASE_S`; one that
lives renews them every `RENEW_EVERY_S`.
"""

import secrets
from typing import NewType

LeaseId = NewType("LeaseId", str)

LEASE_S = 60.0
RENEW_EVERY_S = 15.0


def new_lease_id() -> LeaseId:
    """A fresh, unguessable lease id."""
    return LeaseId(secrets.token_hex(16))


def is_live(until: float, now: float) -> bool:
    """Whether a claim still holds."""
    return until > now
