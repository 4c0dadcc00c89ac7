"""Every error has a reason for the operator, or is no refusal."""

from collections.abc import Iterator

import pytest

from mediagate.core.errors import (
    FileNotFound,
    InsufficientStorage,
    InvalidValue,
    MediagateError,
    MethodNotAllowed,
    RangeNotSatisfiable,
    Unauthenticated,
    UnsupportedMedia,
)
from mediagate.observe.reasons import NO_REFUSALS, reason_of, reasons


def samples(kind: type[MediagateError] = MediagateError) -> Iterator[MediagateError]:
    """One error of each leaf of the tree."""
    if issubclass(kind, MethodNotAllowed):
        yield kind("", allow=())
    elif issubclass(kind, RangeNotSatisfiable):
        yield kind("", size_bytes=0)
    elif "code" in vars(kind):
        yield kind("")
    for child in kind.__subclasses__():
        yield from samples(child)


def test_every_error_has_a_reason_or_is_deliberately_none() -> None:
    """H97, D9: nothing that is refused goes untold because somebody forgot it."""
    told = {type(error): reason_of(error) for error in samples()}

    assert {kind for kind, reason in told.items() if reason is None} == NO_REFUSALS
    assert {reason for reason in told.values() if reason is not None} <= set(reasons())


def test_reasons_of_the_pull_request_are_all_there() -> None:
    """H97: `contract.md` A.2 item 14."""
    assert {
        "size_exceeded",
        "mime_mismatch",
        "quota_full",
        "scope_mismatch",
        "scope_missing",
        "invalid_purpose",
    } <= set(reasons())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InvalidValue("x", param="purpose"), "invalid_purpose"),
        (InvalidValue("x", param="limit"), "invalid_value"),
        (InsufficientStorage("x"), "quota_full"),
        (InsufficientStorage("x", is_disk_full=True), "disk_full"),
        (FileNotFound("x"), "not_found"),
        (FileNotFound("x", is_foreign=True), "scope_mismatch"),
        (UnsupportedMedia("x"), "mime_mismatch"),
        (Unauthenticated("x"), "invalid_api_key"),
    ],
)
def test_reason_says_what_the_operator_wants_to_know(error: MediagateError, reason: str) -> None:
    """H97."""
    assert reason_of(error) == reason
    assert reason in reasons()
