"""The map from errors to HTTP is complete."""

import json
from collections.abc import Iterator

import pytest

from mediagate.core import errors
from mediagate.core.errors import MediagateError
from mediagate.web.errors import STATUS, render, status_of, translate


def subclasses(cls: type[MediagateError]) -> Iterator[type[MediagateError]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


LEAVES = sorted(
    (cls for cls in subclasses(MediagateError) if not cls.__subclasses__()),
    key=lambda cls: cls.__name__,
)


def example(cls: type[MediagateError]) -> MediagateError:
    more: dict[type[MediagateError], dict[str, object]] = {
        errors.MethodNotAllowed: {"allow": ("GET",)},
        errors.RangeNotSatisfiable: {"size_bytes": 5},
    }
    return cls("what was wrong", **more.get(cls, {}))  # type: ignore[arg-type] # by class, above


@pytest.mark.parametrize("cls", LEAVES)
def test_every_leaf_has_a_status_and_openais_body(cls: type[MediagateError]) -> None:
    status, headers, body = render(example(cls))

    error = json.loads(body)["error"]
    assert 400 <= status < 600
    assert list(error) == ["message", "type", "param", "code"]
    assert error["code"] == cls.code
    assert dict(headers)[b"content-length"] == str(len(body)).encode()


def test_codes_are_unique_and_in_the_drawn_tree() -> None:
    codes = [cls.code for cls in LEAVES]

    assert len(set(codes)) == len(codes)
    for cls in LEAVES:
        assert f" {cls.__name__} " in (errors.__doc__ or "")
        assert f" {cls.code}" in (errors.__doc__ or "")


def test_every_listed_status_is_used() -> None:
    assert {status_of(example(cls)) for cls in LEAVES} == set(STATUS.values())


def test_headers_too_large_is_not_merely_too_large() -> None:
    assert status_of(errors.HeadersTooLarge("x")) == 431


@pytest.mark.parametrize("cls", LEAVES)
def test_what_the_official_clients_would_send_again_says_whether_that_helps(
    cls: type[MediagateError],
) -> None:
    """H93, H94: they retry 408, 409, 429 and every 5xx; a 503 tells when to come again."""
    status, headers, _ = render(example(cls))

    told = dict(headers)
    if status in {408, 501, 507}:
        assert told[b"x-should-retry"] == b"false"
    else:
        assert b"x-should-retry" not in told
    assert (b"retry-after" in told) == (status in {429, 503})
    if b"retry-after" in told:
        assert 1 <= int(told[b"retry-after"]) <= 120


def test_a_librarys_text_never_reaches_a_client() -> None:
    error = translate(ValueError("secret at /home/x"))

    assert isinstance(error, errors.InternalError)
    assert "secret" not in error.message


def test_text_that_is_no_unicode_still_makes_an_answer() -> None:
    _, _, body = render(errors.InvalidValue("bad \ud800", param="\udfff"))

    assert json.loads(body)["error"]["code"] == "invalid_value"
