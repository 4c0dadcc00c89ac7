"""When a file stops to exist: by use, by promise, never; and no clock moves it to an earlier time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.expiry import Lifetime, after_use, is_expired

times = st.floats(0, 4e9)


def test_sliding_lifetime_begins_at_the_creation_and_is_added_by_a_use() -> None:
    lifetime = Lifetime(60, is_sliding=True)

    assert lifetime.expires_at(1000) == 1060
    assert lifetime.ttl_s == 60


def test_fixed_lifetime_is_not_moved_by_a_use() -> None:
    """H25, H35."""
    lifetime = Lifetime(60, is_sliding=False)

    assert lifetime.expires_at(1000) == 1060
    assert lifetime.ttl_s is None
    assert after_use(1060, lifetime.ttl_s, 1050) == 1060


@pytest.mark.parametrize("is_sliding", [True, False])
def test_unlimited_lifetime_has_no_end(is_sliding: bool) -> None:
    """H33."""
    lifetime = Lifetime(None, is_sliding=is_sliding)

    assert lifetime.expires_at(1000) is None
    assert lifetime.ttl_s is None
    assert after_use(None, None, 5000) is None
    assert after_use(None, 60, 5000) is None
    assert not is_expired(None, 1e12)


@given(expires_at=times, ttl_s=times, now=times)
def test_use_never_moves_an_expiry_to_an_earlier_time(
    expires_at: float, ttl_s: float, now: float
) -> None:
    """H35: whatever the clock says."""
    moved = after_use(expires_at, ttl_s, now)

    assert moved is not None
    assert moved >= expires_at
    assert moved in {expires_at, now + ttl_s}


def test_time_is_up_at_the_very_moment() -> None:
    assert not is_expired(100, 99.999)
    assert is_expired(100, 100)
