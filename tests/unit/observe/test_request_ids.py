"""What a request is called, and who knows."""

import asyncio

import pytest

from mediagate.observe.request import (
    CurrentRequest,
    answering,
    current_request,
    new_request_id,
    request_id_of,
)

FILE_ID = "file-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("given", ["a", "0f1e-2d3c", '!"#{}~', "x" * 128])
def test_clients_word_is_kept(given: str) -> None:
    """H97: the request id is carried."""
    assert request_id_of([given.encode()]) == given


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [b"x" * 129],
        [b"two words"],
        [b"tab\there"],
        [b"line\nbreak"],
        [b"\x7f"],
        ["für".encode()],
        [b"a", b"b"],
        [b"a", b"a"],
        [FILE_ID.encode()],
        [f"trace/{FILE_ID.upper()}".encode()],
        [b"upload_0123456789abcdef0123456789abcdef"],
        [b"0123456789" * 10],
    ],
)
def test_what_is_no_word_or_not_fit_for_a_log_is_replaced(values: list[bytes]) -> None:
    """P13: a capability id has no place in a log, whoever puts it there."""
    fresh = request_id_of(values)

    assert fresh.startswith("req_")
    assert fresh.encode() not in values


def test_fresh_ones_differ_and_are_kept_by_the_next_server() -> None:
    one, another = new_request_id(), new_request_id()

    assert one != another
    assert request_id_of([one.encode()]) == one


async def test_tasks_of_a_request_know_it_and_nobody_else_does() -> None:
    """H97: an operation may go on in a task of its own."""
    request = CurrentRequest("a", client_host=None)

    async def look() -> CurrentRequest | None:
        return current_request()

    before = current_request()
    with answering(request):
        inside = await asyncio.create_task(look())
    after = await asyncio.create_task(look())

    assert (before, inside, after) == (None, request, None)
