"""The table of keys and scopes: read strictly, and complained about without a key or a scope in the complaint."""

import tomllib
from pathlib import Path

import pytest

from mediagate.core.keys import KeyFileError, is_key, parse_keys

SECRET = "sk-very-secret"  # noqa: S105


def parsed(text: str) -> dict[str, str]:
    return dict(parse_keys(tomllib.loads(text)))


def complaint(text: str) -> str:
    with pytest.raises(KeyFileError) as caught:
        parsed(text)
    said = str(caught.value)
    assert "\n" not in said
    assert SECRET not in said
    assert "team" not in said
    return said


def test_each_key_gets_the_scope_under_which_it_stands() -> None:
    text = """
    [scopes]
    team-a = ["k1", "k2"]
    "bob@example.com" = ["k3"]
    team-c = []
    """

    assert parsed(text) == {"k1": "team-a", "k2": "team-a", "k3": "bob@example.com"}


def test_example_is_a_key_file() -> None:
    text = (Path(__file__).parents[3] / "examples" / "keys.toml").read_text()

    assert sorted(parsed(text).values()) == ["bob@example.com", "bob@example.com", "team-a"]


def test_table_without_a_scope_takes_all_keys_back() -> None:
    assert parsed("[scopes]") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no table [scopes]"),
        (f"'{SECRET}' = 'team-a'", "no table [scopes]"),
        ("scopes = 1", "no table [scopes]"),
        (f"{SECRET} = 1\n[scopes]", "something beside"),
        (f"[scopes]\nteam-a = ['{SECRET}']\n'{SECRET},' = ['x']", "scope number 2 has a name"),
        (f"[scopes]\n' team' = ['{SECRET}']", "scope number 1 has a name"),
        (f"[scopes]\n'{SECRET}' = 'team-a'", "scope number 1 is no list of keys"),
        (f"[scopes]\nteam.a = ['{SECRET}']", "quotation marks"),
        ("[scopes]\nteam-a = [1]", "scope number 1 has a key that is no string"),
        (f"[scopes]\nteam-a = ['{SECRET} ']", "scope number 1 has a key that is no string"),
        ("[scopes]\nteam-a = ['']", "scope number 1 has a key that is no string"),
        (
            f"[scopes]\nteam-a = ['{SECRET}']\nteam-b = ['{SECRET}']",
            "scope number 2 has a key that",
        ),
        (f"[scopes]\nteam-a = ['{SECRET}', '{SECRET}']", "scope number 1 has a key that stands"),
    ],
)
def test_anything_else_is_a_mistake_that_is_told_without_secrets(text: str, reason: str) -> None:
    assert reason in complaint(text)


@pytest.mark.parametrize(
    ("text", "answer"), [("sk-1", True), ("a b", False), ("a,b", False), ("é", False), ("", False)]
)
def test_key_is_visible_ascii_without_commas(text: str, answer: bool) -> None:
    assert is_key(text) is answer
