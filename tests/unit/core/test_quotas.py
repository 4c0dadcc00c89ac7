"""Ceilings over time, and the steps in which space is claimed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.quotas import RESERVE_STEP_BYTES, Quota, Usage, fits, next_step


@pytest.mark.parametrize(
    ("quota", "most"),
    [
        (Quota(store_bytes=100), 100),
        (Quota(store_bytes=100, scope_bytes=40), 40),
        (Quota(store_bytes=100, scope_bytes=400), 100),
        (Quota(store_bytes=100, scope_bytes=0), 0),
    ],
)
def test_largest_file_that_can_ever_fit(quota: Quota, most: int) -> None:
    """H60."""
    assert quota.can_ever_hold(most)
    assert not quota.can_ever_hold(most + 1)


@pytest.mark.parametrize(
    ("extra_bytes", "max_bytes", "max_files", "answer"),
    [
        (40, 100, None, True),
        (41, 100, None, False),
        (41, None, None, True),
        (1, 100, 3, True),
        (1, 100, 2, False),
        (0, None, 2, False),
    ],
)
def test_both_ceilings_count(
    extra_bytes: int, max_bytes: int | None, max_files: int | None, answer: bool
) -> None:
    """H61, H62."""
    usage = Usage(used_bytes=60, files=3)

    assert fits(usage, extra_bytes, max_bytes=max_bytes, max_files=max_files) is answer


@pytest.mark.parametrize(("size_bytes", "answer"), [(40, True), (70, True), (71, False)])
def test_what_others_hold_is_not_removed_for_a_file(size_bytes: int, answer: bool) -> None:
    """H62: of 100, others hold 30."""
    own, store = Usage(used_bytes=50, files=3), Usage(used_bytes=80, files=5)

    assert Quota(store_bytes=100).leaves_room(size_bytes, own=own, store=store) is answer


@given(needed=st.integers(1, 10**9), expected=st.none() | st.integers(0, 10**9))
def test_step_covers_what_is_in_hand_and_no_more_than_a_step_beyond(
    needed: int, expected: int | None
) -> None:
    """H61: what was announced is never claimed at once."""
    step = next_step(needed=needed, expected=expected)

    assert needed <= step <= max(needed, RESERVE_STEP_BYTES)
    if expected is not None:
        assert step <= max(needed, expected)
