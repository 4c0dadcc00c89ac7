"""Timed claims."""

from mediagate.core.leases import LEASE_S, RENEW_EVERY_S, is_live, new_lease_id


def test_claim_holds_until_its_moment() -> None:
    assert is_live(100.0, 99.999)
    assert not is_live(100.0, 100.0)


def test_claim_survives_missed_renewals() -> None:
    """A process that is slow for a while does not lose what it holds."""
    assert LEASE_S >= 3 * RENEW_EVERY_S


def test_lease_ids_are_unique() -> None:
    assert len({new_lease_id() for _ in range(1000)}) == 1000
