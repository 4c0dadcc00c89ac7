import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediagate.core.errors import MalformedBody
from mediagate.dialects.strict_json import (
    MAX_DEPTH,
    MAX_MEMBERS,
    Path,
    Span,
    json_path,
    parse_object,
    spans,
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.text('\\"{}[]:, /u\n', max_size=8),
)
KEYS = st.text(max_size=5) | st.text('\\"{}[],:', max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


def paths_of(value: object, path: Path = ()) -> list[Path]:
    below: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        below = list(value.items())
    elif isinstance(value, list):
        below = list(enumerate(value))
    return [path, *(inner for step, item in below for inner in paths_of(item, (*path, step)))]


def value_at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b"{",
        b"{}x",
        b"{}{}",
        b"{'a':1}",
        b"{a:1}",
        b'{"a":1,}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":"\n"}',
        b'{"a":"\x00"}',
        b'{"a":1}\x00',
        b'{"a":1}//',
        b'/**/{"a":1}',
        b'{"a":NaN}',
        b'{"a":[Infinity]}',
        b'{"a":{"b":-Infinity}}',
        b'{"a":nan}',
        b'{"a":"\\x41"}',
        b'{"a":"\\u00g0"}',
    ],
)
def test_what_is_not_one_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_object(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-16-le"),
        '{"a":1}'.encode("utf-16-be"),
        '{"a":1}'.encode("utf-32"),
        '{"a":"é"}'.encode("latin-1"),
        b'{"a":"\xc0\xaf"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xf4\x90\x80\x80"}',
        b'\xa0{"a":1}',
    ],
)
def test_what_is_not_plain_utf8_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_object(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"x":{"a":1,"b":2,"a":3}}',
        b'{"x":[[{"":1,"":2}]]}',
        b'{"a\\/b":1,"a/b":2}',
    ],
)
def test_a_key_that_stands_twice_is_refused_at_any_depth(raw: bytes) -> None:
    with pytest.raises(MalformedBody, match="same key twice"):
        parse_object(raw)


@pytest.mark.parametrize("bracket", [b"[]", b"{}"])
@pytest.mark.parametrize("depth", [MAX_DEPTH, 1000, 100_000])
def test_absurd_depth_is_refused_and_overflows_nothing(bracket: bytes, depth: int) -> None:
    opening = bracket[:1] if bracket == b"[]" else b'{"a":'
    raw = b'{"a":' + opening * depth + b"1" + bracket[1:] * depth + b"}"

    with pytest.raises(MalformedBody):
        parse_object(raw)


def test_the_greatest_depth_is_accepted() -> None:
    raw = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"

    assert "a" in parse_object(raw)


def test_a_huge_integer_is_refused() -> None:
    with pytest.raises(MalformedBody):
        parse_object(b'{"a":' + b"9" * 5000 + b"}")


def test_a_body_of_countless_values_is_refused_before_it_is_read() -> None:
    raw = b'{"a":[' + b"[]," * MAX_MEMBERS + b"[]]}"
    began = time.process_time()

    with pytest.raises(MalformedBody, match="too many"):
        parse_object(raw)

    assert time.process_time() - began < 5


@pytest.mark.parametrize("between", [b"", b","])
def test_so_is_one_of_countless_strings(between: bytes) -> None:
    raw = b'{"a":[' + between.join([b'","'] * 5 * MAX_MEMBERS) + b"]}"

    with pytest.raises(MalformedBody, match="too many"):
        parse_object(raw)


def test_the_tokens_of_a_large_batch_do_not_count() -> None:
    tokens = b"[" + b"151643, " * MAX_MEMBERS + b"1.5e-3\n]"
    raw = b'{"input":[' + tokens + b", " + tokens + b'], "a":[1,2], "b":"c"}'

    body = parse_object(raw)

    assert body == {"input": [[], []], "a": [1, 2], "b": "c"}
    assert spans(raw, [("b",)])[("b",)].stop == len(raw) - 1


def test_what_stands_in_long_texts_does_not_count_and_is_not_changed() -> None:
    text = "[1, 2, {" * MAX_MEMBERS + '\\" [' + "1, " * 50 + "]"
    raw = json.dumps({"input": [text, "\u00e9,"], "a": text}).encode()

    assert parse_object(raw) == json.loads(raw)


@pytest.mark.parametrize("end", [b' "', b'"', b" [", b"]", b"x"])
def test_a_body_with_many_numbers_is_still_one_json_object(end: bytes) -> None:
    with pytest.raises(MalformedBody, match="not valid JSON"):
        parse_object(b'{"a":[' + b"1," * MAX_MEMBERS + b"1]}" + end)


@settings(max_examples=50)
@given(OBJECTS)
def test_an_ordinary_object_is_read_as_everybody_reads_it(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()

    assert parse_object(raw) == json.loads(raw)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1, "\t"]), st.data())
def test_every_span_holds_exactly_its_value_and_its_key(
    body: dict[str, Any], ascii_only: bool, indent: Any, data: st.DataObject
) -> None:
    text = json.dumps(body, ensure_ascii=ascii_only, indent=indent)
    raw = b" \r\n" + text.encode("utf-8", "surrogatepass") + b"\n"
    wanted = data.draw(st.lists(st.sampled_from(paths_of(body)), unique=True))

    found = spans(raw, wanted)

    assert found.keys() == set(wanted)
    for path, span in found.items():
        value = raw[span.start : span.stop].decode("utf-8", "surrogatepass")
        key = raw[span.key_start : span.key_stop].decode("utf-8", "surrogatepass")
        assert json.loads(value) == value_at(body, path)
        if path and isinstance(path[-1], str):
            assert json.loads(key) == path[-1]
        else:
            assert key == ""


def test_keys_are_compared_as_they_are_meant() -> None:
    raw = b'{"\\u0061" : {"b\\"]" :\t[1 , 2.50e+1 ]}}'

    found = spans(raw, [("a", 'b"]', 1)])

    assert found == {("a", 'b"]', 1): Span(27, 34, 27, 27)}


def test_a_path_that_leads_nowhere_has_no_span() -> None:
    assert spans(b'{"a":[{}],"b":1}', [("a", 1), ("b", "c"), ("a", 0, "x")]) == {}


def test_a_span_and_one_within_it_are_both_found() -> None:
    raw = b'{"a":{"b":[0,"x"]}}'

    found = spans(raw, [("a",), ("a", "b", 1), ("a", "b")])

    assert {path: raw[span.start : span.stop] for path, span in found.items()} == {
        ("a",): b'{"b":[0,"x"]}',
        ("a", "b"): b'[0,"x"]',
        ("a", "b", 1): b'"x"',
    }


@pytest.mark.parametrize(
    "filler",
    [b"A" * 8_000_000, b"\\/" * 2_000_000, b'\\"' * 2_000_000, b"\\\\" * 2_000_000],
    ids=["base64", "slashes", "quotes", "backslashes"],
)
def test_long_strings_are_passed_over_quickly(filler: bytes) -> None:
    raw = b'{"a":"' + filler + b'","b":["' + filler + b'",[]],"z":1}'
    began = time.process_time()

    found = spans(raw, [("z",)])

    assert raw[found["z",].start :] == b"1}"
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ((), ""),
        (("messages", 0, "content", 1, "image_url", "url"), "messages[0].content[1].image_url.url"),
        (("a-b", 12), "a-b[12]"),
        (("a", "b.c"), 'a["b.c"]'),
        (("a", ""), 'a[""]'),
        (("a", 'x"\n\ud800'), 'a["x\\"\\n\\ud800"]'),
        (("a", "k" * 100), 'a["' + "k" * 64 + '"]'),
    ],
)
def test_a_path_is_written_as_openai_writes_it(path: Path, written: str) -> None:
    assert json_path(path) == written


@pytest.mark.parametrize("number", ["1" * 401, "-" + "1" * 400, "0." + "1" * 400, "1e" + "0" * 400])
def test_number_that_takes_long_to_read_is_refused(number: str) -> None:
    with pytest.raises(MalformedBody, match="number"):
        parse_object(b'{"a":%b}' % number.encode())
