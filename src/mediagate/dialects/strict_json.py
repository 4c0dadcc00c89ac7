r"""JSON read in exactly one way, and where in the bytes a value stands.

What this reader accepts, every other reader understands alike: UTF-8 without a byte order mark, one object, no key
twice, no NaN. So nothing can be hidden from it that an engine behind would find. Bodies are changed by replacing
spans of bytes; all else stays as the client wrote it (`1.0` stays `1.0`, `\u00e9` stays `\u00e9`).
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Never

from mediagate.core.errors import MalformedBody

Path = tuple[str | int, ...]
"""Keys and array positions from the root to a value."""

MAX_DEPTH = 128
"""Arrays and objects within each other; deeper than any request or JSON schema in use, far from Python's stack."""

MAX_MEMBERS = 200_000
"""Upper bound of values, counted as `,`, `[` and `{`: a megabyte of `[[],[],…` would become a hundred in memory, and
all that time no other thread runs. Those within strings and long arrays of numbers (the tokens of a large batch of
embeddings) do not count: the ones become nothing, the others are left out."""

MAX_NUMBER_CHARS = 400
"""No double needs more; the time to read a number grows with the square of its digits."""

_MAX_KEY_CHARS = 64
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

_BLANK = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_BLANKS = re.compile(_BLANK)
_ELEMENT = re.compile(_BLANK + b",?" + _BLANK)
_MEMBER = re.compile(
    _BLANK + b",?" + _BLANK + b"(" + _STRING + b")" + _BLANK + b":" + _BLANK, re.DOTALL
)
_WORD = re.compile(rb"[^\s,\]}]++")
_ESCAPED_STRING = re.compile(_STRING, re.DOTALL)
_NO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|(?>"[^"\\]{0,512}+"))*+')
"""Up to the next bracket, or to a string that is long or has escapes: those are quicker without the expression.
A string within is atomic, since a possessive group of Python before 3.11.5 eats the beginning of what does not fit."""

_NUMBERS = re.compile(rb"\[[ \t\n\r0-9.,eE+-]{64,}+\]")
_TOKEN = re.compile(_STRING + b"|" + _NUMBERS.pattern + rb'|["\[]|[^"\[]++', re.DOTALL)
_TOKENS_PER_MEMBER = 4
"""At most: a key, a value, and what stands before each."""

_OPEN, _CLOSE, _QUOTE, _BACKSLASH = b"[{", b"]}", ord('"'), ord("\\")


@dataclass(frozen=True, slots=True)
class Span:
    """Where a value stands: `raw[start:stop]`; its key, quotes included, at `raw[key_start:key_stop]`.

    An array element's key is empty and stands where the element begins.
    """

    start: int
    stop: int
    key_start: int
    key_stop: int


def parse_object(raw: bytes) -> dict[str, Any]:
    """The one JSON object that `raw` is.

    Of a body with very many values, long arrays of numbers are empty here.

    Raises:
        MalformedBody: It is not UTF-8, starts with a byte order mark, is no JSON object, has a key twice in one
            object, a number that is none or has hundreds of digits, or is too deep or too finely divided.
    """
    if _members(raw) > MAX_MEMBERS:
        raw = _without_numbers(raw)
    try:
        body = json.loads(
            raw.decode(),
            object_pairs_hook=_object,
            parse_int=_whole,
            parse_float=_fraction,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise MalformedBody("The JSON body is not UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise MalformedBody("The body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise MalformedBody("The JSON body is not an object.")
    _check_depth(body)
    return body


def spans(raw: bytes, paths: Collection[Path]) -> dict[Path, Span]:
    """Where the values at `paths` stand in `raw`.

    Args:
        raw: What `parse_object` accepted.
        paths: Those that do not exist are left out of the result.
    """
    root = _Wanted()
    for path in paths:
        node = root
        for step in path:
            node = node.below.setdefault(step, _Wanted())
        node.path = path
    return dict(islice(_locate(raw, root), len(set(paths))))


def json_path(path: Path) -> str:
    """`path` as OpenAI writes it in `param`: `messages[0].content[1].image_url.url`."""
    steps = "".join(map(_step, path))
    return steps.removeprefix(".")


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if _PLAIN_KEY.fullmatch(step):
        return f".{step}"
    return f"[{json.dumps(step[:_MAX_KEY_CHARS])}]"


def _members(raw: bytes) -> int:
    return sum(map(raw.count, (b",", b"[", b"{")))


def _without_numbers(raw: bytes) -> bytes:
    """`raw` with long arrays of numbers emptied; strings stay as they are.

    Raises:
        MalformedBody: There are too many values beside them.
    """
    pieces: list[bytes] = []
    members = 0
    for tokens, match in enumerate(_TOKEN.finditer(raw)):
        token = match[0]
        if not token.startswith(b'"'):
            if token.startswith(b"[") and len(token) > 1:
                token = b"[]"
            members += _members(token)
        if members > MAX_MEMBERS or tokens > _TOKENS_PER_MEMBER * MAX_MEMBERS:
            raise MalformedBody("The JSON body has too many values.")
        pieces.append(token)
    return b"".join(pieces)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedBody("The JSON body has the same key twice in one object.")
    return members


def _whole(text: str) -> int:
    _check_number(text)
    return int(text)


def _fraction(text: str) -> float:
    _check_number(text)
    return float(text)


def _check_number(text: str) -> None:
    if len(text) > MAX_NUMBER_CHARS:
        raise MalformedBody(
            f"A number in the JSON body has more than {MAX_NUMBER_CHARS} characters."
        )


def _refuse_constant(_: str) -> Never:
    raise MalformedBody("NaN and Infinity are no JSON numbers.")


def _check_depth(body: dict[str, Any]) -> None:
    level: list[Any] = [body]
    for _ in range(MAX_DEPTH):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, dict | list)
        ]
        if not level:
            return
    raise MalformedBody("The JSON body is nested too deeply.")


@dataclass(slots=True)
class _Wanted:
    """A place on the way to wanted values, or one of them."""

    path: Path | None = None
    below: dict[str | int, "_Wanted"] = field(default_factory=dict)


@dataclass(slots=True)
class _Frame:
    """An array or object that is being read: a wanted value may be in it, or it is one."""

    node: _Wanted
    is_array: bool
    start: int
    key: tuple[int, int]
    position: int = -1


def _locate(raw: bytes, root: _Wanted) -> Iterator[tuple[Path, Span]]:
    at = _end(_BLANKS, raw, 0)
    stack = [_Frame(root, False, at, (at, at))]
    at += 1
    while stack:
        frame = stack[-1]
        at = _end(_BLANKS, raw, at)
        if raw[at] in _CLOSE:
            at += 1
            if frame.node.path is not None:
                yield frame.node.path, Span(frame.start, at, *frame.key)
            stack.pop()
            continue
        step, key, at = _member(raw, frame, at)
        node = frame.node.below.get(step)
        if node is not None and node.below and raw[at] in _OPEN:
            stack.append(_Frame(node, raw[at] == ord("["), at, key))
            at += 1
            continue
        stop = _value_end(raw, at)
        if node is not None and node.path is not None:
            yield node.path, Span(at, stop, *key)
        at = stop


def _member(raw: bytes, frame: _Frame, at: int) -> tuple[str | int, tuple[int, int], int]:
    """The key or position of the member at `at`, where its key stands, and where its value begins."""
    if frame.is_array:
        frame.position += 1
        at = _end(_ELEMENT, raw, at)
        return frame.position, (at, at), at
    member = _match(_MEMBER, raw, at)
    key = member[1]
    name: str = json.loads(key) if b"\\" in key else key[1:-1].decode()
    return name, member.span(1), member.end()


def _value_end(raw: bytes, at: int) -> int:
    if raw[at] == _QUOTE:
        return _string_end(raw, at)
    if raw[at] not in _OPEN:
        return _end(_WORD, raw, at)
    depth = 1
    at += 1
    while depth:
        at = _end(_NO_BRACKET, raw, at)
        if raw[at] == _QUOTE:
            at = _string_end(raw, at)
            continue
        depth += 1 if raw[at] in _OPEN else -1
        at += 1
    return at


def _string_end(raw: bytes, at: int) -> int:
    stop = raw.index(b'"', at + 1)
    if raw[stop - 1] == _BACKSLASH:
        return _end(_ESCAPED_STRING, raw, at)
    return stop + 1


def _end(pattern: re.Pattern[bytes], raw: bytes, at: int) -> int:
    return _match(pattern, raw, at).end()


def _match(pattern: re.Pattern[bytes], raw: bytes, at: int) -> re.Match[bytes]:
    found = pattern.match(raw, at)
    assert found is not None, "spans are asked for only in what parse_object accepted"  # noqa: S101
    return found
