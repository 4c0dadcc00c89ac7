"""What may be the name of a scope, and whose a request is that names none."""

import pytest

from mediagate.core.errors import InvalidScope
from mediagate.core.scopes import DEFAULT_SCOPE, Principal, Scope, parse_scope


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


@pytest.mark.parametrize("scope", [DEFAULT_SCOPE, Scope("a")])
def test_caller_is_known_by_his_scope(scope: Scope) -> None:
    assert Principal(scope).known_scope == Principal(scope).scope == scope


def test_caller_who_has_to_say_and_does_not_is_refused_where_it_matters() -> None:
    """H65."""
    nobody = Principal(InvalidScope("Say for whom.", param="X-Tenant"))

    assert nobody.known_scope is None
    with pytest.raises(InvalidScope, match="Say for whom"):
        nobody.scope  # noqa: B018
