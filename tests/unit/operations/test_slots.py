"""Slots: for all together, and how many of them one scope may hold."""

import pytest

from mediagate.core.errors import NoSlot
from mediagate.core.scopes import Scope
from mediagate.operations.slots import Slots

A, B, C = Scope("a"), Scope("b"), Scope("c")


def test_one_scope_leaves_slots_for_the_others() -> None:
    """H23, H62."""
    slots = Slots(total=4, per_scope=2)
    for scope in (A, A, B):
        slots.take(scope)

    with pytest.raises(NoSlot, match="one tenant"):
        slots.take(A)
    slots.take(C)
    with pytest.raises(NoSlot, match="as many files as it may"):
        slots.take(B)


def test_slot_that_is_given_back_can_be_taken_by_anybody() -> None:
    slots = Slots(total=2, per_scope=2)
    slots.take(A)
    slots.take(A)

    slots.give_back(A)
    slots.take(B)
    slots.give_back(A)

    slots.take(B)
    with pytest.raises(NoSlot):
        slots.take(A)


def test_scope_that_is_alone_may_have_them_all() -> None:
    slots = Slots(total=2)
    slots.take(A)
    slots.take(A)

    with pytest.raises(NoSlot) as caught:
        slots.take(A)

    assert 1 <= caught.value.retry_after_s <= 120
