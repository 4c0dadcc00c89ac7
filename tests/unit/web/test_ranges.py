"""Byte ranges."""

import pytest

from mediagate.core.errors import RangeNotSatisfiable
from mediagate.web.ranges import parse_range

SIZE = 5 * 1024**3


@pytest.mark.parametrize(
    ("value", "span"),
    [
        (b"bytes=0-3", (0, 4)),
        (b"bytes=4294967296-4294967303", (2**32, 2**32 + 8)),
        (b"bytes=5-", (5, SIZE)),
        (b"bytes=-1", (SIZE - 1, SIZE)),
        (b"bytes=-9999999999999", (0, SIZE)),
        (b"bytes=0-9999999999999999999", (0, SIZE)),
        (b"Bytes=1-1", (1, 2)),
        (b"bytes=3-2", None),
        (b"bytes=-", None),
        (b"bytes=0-1,5-6", None),
        (b"items=0-1", None),
        (b"bytes=a-b", None),
        (b"bytes=0x1-2", None),
        (b"bytes=" + b"1" * 5000 + b"-", None),
    ],
)
def test_one_well_formed_range_counts_and_nothing_else(
    value: bytes, span: tuple[int, int] | None
) -> None:
    assert parse_range([(b"range", value)], size_bytes=SIZE, etag=b'"x"') == span


def test_several_range_headers_are_none() -> None:
    headers = [(b"range", b"bytes=0-1"), (b"range", b"bytes=2-3")]

    assert parse_range(headers, size_bytes=10, etag=b'"x"') is None


@pytest.mark.parametrize("value", [b"bytes=10-", b"bytes=10-20", b"bytes=-0"])
def test_a_range_behind_the_end_cannot_be_satisfied(value: bytes) -> None:
    with pytest.raises(RangeNotSatisfiable) as raised:
        parse_range([(b"range", value)], size_bytes=10, etag=b'"x"')

    assert raised.value.size_bytes == 10


@pytest.mark.parametrize(
    ("condition", "span"), [(b'"x"', (0, 2)), (b'"y"', None), (b'W/"x"', None), (b"", None)]
)
def test_if_range_must_name_these_bytes(condition: bytes, span: tuple[int, int] | None) -> None:
    headers = [(b"range", b"bytes=0-1"), (b"if-range", condition)]

    assert parse_range(headers, size_bytes=10, etag=b'"x"') == span
