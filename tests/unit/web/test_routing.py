"""Paths and methods → handlers; and what a query may hold."""

import pytest

from mediagate.core.errors import InvalidValue, MethodNotAllowed
from mediagate.web.replies import JsonReply, Reply
from mediagate.web.routing import MAX_QUERY_FIELDS, Request, Route, query_of


async def get(_request: Request) -> Reply:
    return JsonReply(None)


async def delete(_request: Request) -> Reply:
    return JsonReply(None)


ROUTE = Route("/v1/files/{}/content", {"GET": get, "DELETE": delete})


@pytest.mark.parametrize(
    ("path", "values"),
    [
        (b"/v1/files/a/content", ("a",)),
        (b"/v1/files//content", ("",)),
        (b"/v1/files/a%2Fb/content", ("a/b",)),
        (b"/v1/files/..%2F..%2Fx/content", ("../../x",)),
        (b"/v1/files/%ff/content", ("\ufffd",)),
        (b"/v1/files/a%252F/content", ("a%2F",)),
        (b"/v1/files/a/b/content", None),
        (b"/v1/files/a/content/", None),
        (b"/v1/files/a", None),
        (b"/v1%2Ffiles/a/content", None),
        (b"/V1/files/a/content", None),
        (b"", None),
    ],
)
def test_segment_is_split_before_it_is_decoded(path: bytes, values: tuple[str, ...] | None) -> None:
    """H95: an encoded slash stays part of the id."""
    assert ROUTE.match(path) == values


def test_method_finds_its_handler_and_head_that_of_get() -> None:
    """H46."""
    assert ROUTE.handler("GET") is ROUTE.handler("HEAD") is get
    assert ROUTE.handler("DELETE") is delete


@pytest.mark.parametrize("method", ["POST", "get", "", "TRACE"])
def test_other_methods_learn_which_there_are(method: str) -> None:
    """H46."""
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTE.handler(method)

    assert set(caught.value.allow) == {"GET", "DELETE", "HEAD", "OPTIONS"}


def test_head_is_offered_only_where_there_is_a_get() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        Route("/x", {"PUT": get}).handler("HEAD")

    assert set(caught.value.allow) == {"PUT", "OPTIONS"}


@pytest.mark.parametrize(
    ("raw", "query"),
    [
        (b"", {}),
        (b"limit=2&order=asc", {"limit": "2", "order": "asc"}),
        (b"a=1&a=2", {"a": "2"}),
        (b"a=&b", {"a": "", "b": ""}),
        (b"name=%C3%BC+x%2By", {"name": "ü x+y"}),
        (b"a=%ff", {"a": "\ufffd"}),
        (b"a=1;b=2", {"a": "1;b=2"}),
        (b"&&&", {}),
    ],
)
def test_query_is_decoded(raw: bytes, query: dict[str, str]) -> None:
    assert query_of({"query_string": raw}) == query


def test_query_of_very_many_fields_is_refused() -> None:
    assert len(query_of({"query_string": b"&".join([b"a=1"] * MAX_QUERY_FIELDS)})) == 1

    with pytest.raises(InvalidValue):
        query_of({"query_string": b"&".join([b"a=1"] * (MAX_QUERY_FIELDS + 1))})
