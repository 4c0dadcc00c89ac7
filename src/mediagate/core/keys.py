"""API keys, and the file that says which scope each of them opens.

    [scopes]
    team-a = ["sk-…", "sk-…"]
    "bob@example.com" = ["sk-…"]

A scope has several keys while they are being exchanged. A key has one scope.
"""

import re
from collections.abc import Mapping

from mediagate.core.scopes import Scope, parse_scope

_KEY = re.compile(r"[!-+\--~]+")
_TABLE = "scopes"


class KeyFileError(Exception):
    """The key file is wrong. The text is one line for the operator; it holds no key, and no scope."""


def is_key(text: str) -> bool:
    """Whether `text` may be a key: visible ASCII without commas, which separate keys in the environment."""
    return _KEY.fullmatch(text) is not None


def parse_keys(content: Mapping[str, object]) -> dict[str, Scope]:
    """The scope of each key.

    Args:
        content: The file, parsed.

    Raises:
        KeyFileError: It is not as drawn above.
    """
    table = content.get(_TABLE)
    # A file that is empty for the moment in which it is written anew must not pass for one that takes all keys back.
    if not isinstance(table, Mapping):
        raise KeyFileError("has no table [scopes]")
    if len(content) > 1:
        raise KeyFileError("holds something beside the table [scopes]")
    scopes: dict[str, Scope] = {}
    # Named by their number: who has it the wrong way round has written keys where scopes stand.
    for number, (name, keys) in enumerate(table.items(), start=1):
        scope = parse_scope(name)
        if scope is None:
            reason = "has a name that is not 1 to 256 printable ASCII characters without commas"
            raise KeyFileError(f"scope number {number} {reason}")
        if not isinstance(keys, list):
            # A dot in a bare TOML key makes a table, which nobody means who writes an address.
            reason = "is no list of keys; a name with a dot or an @ in it needs quotation marks"
            raise KeyFileError(f"scope number {number} {reason}")
        for key in keys:
            if not isinstance(key, str) or not is_key(key):
                reason = "has a key that is no string of visible ASCII without commas"
                raise KeyFileError(f"scope number {number} {reason}")
            if key in scopes:
                raise KeyFileError(f"scope number {number} has a key that stands there before")
            scopes[key] = scope
    return scopes
