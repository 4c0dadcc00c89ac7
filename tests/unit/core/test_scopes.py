"""What may be the name of a scope."""

import pytest

from mediagate.core.scopes import parse_scope


@pytest.mark.parametrize(
    "text",
    ["a", "!", "0", "team a", "Team-A", "bob@example.com", "a/b?c=d", "x" * 256, "~" * 3, "a  b"],
)
def test_printable_ascii_is_a_scope_as_it_stands(text: str) -> None:
    assert parse_scope(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " a",
        "a ",
        "\ta",
        "a\tb",
        "a\x00",
        "a\x7f",
        "a\n",
        "é",
        "a\u200b",
        "x" * 257,
        "a,b",
        ",",
    ],
)
def test_anything_else_is_none(text: str) -> None:
    """H69: a comma is how two header lines look when somebody made one of them."""
    assert parse_scope(text) is None
