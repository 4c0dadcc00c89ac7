import asyncio
import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.errors import (
    FileNotFound,
    InvalidReference,
    InvalidScope,
    InvalidValue,
    MalformedBody,
    MediagateError,
    MediaKindMismatch,
    SourceNotAllowed,
)
from mediagate.core.files import FileId, FileObject
from mediagate.core.scopes import Principal
from mediagate.dialects import anthropic_messages, openai_responses
from mediagate.dialects.fields import Dialect, Judge, MediaField
from mediagate.dialects.openai_chat import find
from mediagate.dialects.parts import Source
from mediagate.executor import Executor
from mediagate.operations.deliver import (
    Delivery,
    HandleDelivery,
    Handles,
    Leased,
)
from mediagate.operations.files import file_not_found
from mediagate.operations.resolve import PARSED_IN_PLACE_BYTES, Resolver
from mediagate.operations.rewrite import MAX_REFERENCES, CacheNames
from resolving import (
    FOREIGN,
    GIF,
    IMAGE,
    M4A,
    MISSING,
    MP3,
    OURS,
    TYPES,
    VIDEO,
    WAV,
    Bench,
    Store,
    a_file,
    bare,
    chat,
    data_uri,
    parts_of,
    png,
    wav,
)


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    executor = Executor("parse", threads=1)
    yield executor
    executor.close()


@pytest.fixture
def bench(executor: Executor) -> Bench:
    return Bench(executor)


def sound(data: bytes) -> dict[str, Any]:
    text = base64.b64encode(data).decode()
    return {"type": "input_audio", "input_audio": {"data": text, "format": "wav"}}


# Rewriting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "vllm-file://"])
@pytest.mark.parametrize(
    ("key", "name"), [("image_url", IMAGE), ("video_url", VIDEO), ("audio_url", MP3)]
)
async def test_a_reference_becomes_the_file_itself(
    bench: Bench, prefix: str, key: str, name: FileId
) -> None:
    part = {"type": key, key: {"url": prefix + name, "detail": "low"}, "uuid": "u-1"}

    body = await bench.body(chat(part))

    assert parts_of(body) == [{**part, key: {"url": data_uri(name), "detail": "low"}}]


async def test_a_plain_string_stays_a_plain_string(bench: Bench) -> None:
    body = await bench.body(chat({"type": "image_url", "image_url": IMAGE}))

    assert parts_of(body) == [{"type": "image_url", "image_url": data_uri(IMAGE)}]


@pytest.mark.parametrize(
    ("name", "key"), [(IMAGE, "image_url"), (VIDEO, "video_url"), (WAV, "audio_url")]
)
async def test_a_file_part_becomes_the_upstreams_part_and_keeps_the_rest(
    bench: Bench, name: FileId, key: str
) -> None:
    part = {
        "cache_control": {"type": "ephemeral"},
        "file": {"filename": "my file.mp4", "file_id": name, "detail": "high"},
        "type": "file",
        "uuid": "u-1",
    }

    body = await bench.body(chat(part))

    assert parts_of(body) == [
        {
            "cache_control": {"type": "ephemeral"},
            key: {"filename": "my file.mp4", "url": data_uri(name), "detail": "high"},
            "type": key,
            "uuid": "u-1",
        }
    ]


async def test_a_flat_input_image_becomes_an_image_part(bench: Bench) -> None:
    body = await bench.body(chat({"type": "input_image", "file_id": IMAGE, "detail": "low"}))

    assert parts_of(body) == [
        {"type": "image_url", "image_url": {"url": data_uri(IMAGE)}, "detail": "low"}
    ]


@pytest.mark.parametrize("given_format", [{}, {"format": "wav"}, {"format": None}, {"format": [1]}])
@pytest.mark.parametrize(("name", "name_of_it"), [(WAV, "wav"), (MP3, "mp3"), (M4A, "m4a")])
async def test_sound_by_id_says_what_it_is(
    bench: Bench, given_format: dict[str, Any], name: FileId, name_of_it: str
) -> None:
    body = await bench.body(
        chat({"type": "input_audio", "input_audio": {"data": name, **given_format}, "x": 1})
    )

    assert parts_of(body) == [
        {"type": "input_audio", "input_audio": {"data": bare(name), "format": name_of_it}, "x": 1}
    ]


async def test_everything_else_stays_byte_for_byte(bench: Bench) -> None:
    raw = (
        '{ "temperature":1.0,"seed" : 12345678901234567890, "top_p":1e-1,\n'
        '\t"stop":"\\u00e9\\/é🎬\\ud83c\\udfac", "messages":[ {"content":[{"text":"VIDEO",'
        '"type":"text"}, {"video_url":{ "url" : "vllm-file:\\/\\/VIDEO" , "detail":"low"},"type":"video_url"} ],\r\n'
        '"role":"user"}],"stream":true }\n'
    ).replace("VIDEO", VIDEO)

    body = await bench.body(raw.encode())

    expected = raw.replace("vllm-file:\\/\\/" + VIDEO, data_uri(VIDEO))
    assert body == expected.encode()


TEXTS = st.text() | st.text('\\"{}[]:,file- ') | st.sampled_from([VIDEO, "vllm-file://" + VIDEO])
PARTS = st.one_of(
    st.builds(lambda text: ({"type": "text", "text": text}, None), TEXTS),
    st.builds(
        lambda key, prefix, extra: (
            {"type": key[0], key[0]: {"url": prefix + key[1], **extra}},
            {"type": key[0], key[0]: {"url": data_uri(key[1]), **extra}},
        ),
        st.sampled_from([("image_url", IMAGE), ("video_url", VIDEO), ("audio_url", WAV)]),
        st.sampled_from(["", "vllm-file://"]),
        st.dictionaries(st.sampled_from(["detail", "é", 'a"b']), st.floats(0, 1)),
    ),
    st.builds(
        lambda name, filename, first: (
            {
                "type": "file",
                "file": {"filename": filename, "file_id": name}
                if first
                else {"file_id": name, "filename": filename},
            },
            {
                "type": TYPES[name].partition("/")[0] + "_url",
                TYPES[name].partition("/")[0] + "_url": {
                    "filename": filename,
                    "url": data_uri(name),
                },
            },
        ),
        st.sampled_from([VIDEO, IMAGE, MP3]),
        TEXTS,
        st.booleans(),
    ),
    st.builds(
        lambda name, before: (
            {"type": "input_audio", "input_audio": {**before, "data": name}},
            {
                "type": "input_audio",
                "input_audio": {"data": bare(name), "format": {WAV: "wav", MP3: "mp3"}[name]},
            },
        ),
        st.sampled_from([WAV, MP3]),
        st.sampled_from([{}, {"format": "ogg"}]),
    ),
)


@given(
    st.lists(st.lists(PARTS, max_size=4), max_size=3),
    st.booleans(),
    st.sampled_from([None, 1]),
    st.floats(allow_nan=False, allow_infinity=False),
)
async def test_a_rewritten_body_means_what_it_should(
    turns: list[list[tuple[Any, Any]]], ascii_only: bool, indent: Any, number: float
) -> None:
    executor = Executor("parse", threads=1)
    bench = Bench(executor)

    def body(rewritten: bool) -> dict[str, Any]:
        messages = [
            {"role": "user", "content": [after if rewritten and after else b4 for b4, after in t]}
            for t in turns
        ]
        return {"é": number, "messages": messages, "after": [number]}

    text = json.dumps(body(rewritten=False), ensure_ascii=ascii_only, indent=indent)
    if not ascii_only:
        text = text.encode("utf-8", "replace").decode()
    raw = text.encode()

    result = await bench.body(raw)

    executor.close()
    assert json.loads(result) == body(rewritten=True)
    if not any(after for turn in turns for _, after in turn):
        assert result == raw


# Without references -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages":[{"role":"user","content":"' + VIDEO.encode() + b'"}], "x":1.0}\n',
        b"{}",
        chat({"type": "image_url", "image_url": {"url": "https://host/x.png"}}),
        chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
        chat({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}),
    ],
)
async def test_a_body_that_names_no_file_is_passed_on_as_it_is(bench: Bench, raw: bytes) -> None:
    resolved = await bench.resolve(raw)

    assert resolved.pieces == (raw,)
    assert resolved.files == ()
    assert bench.store.asked == []
    await resolved.close()


# Leases -------------------------------------------------------------------------------------------


async def test_all_files_are_leased_in_one_step_each_once_and_until_the_end(bench: Bench) -> None:
    raw = chat(
        {"type": "video_url", "video_url": {"url": VIDEO}},
        {"type": "image_url", "image_url": {"url": "vllm-file://" + IMAGE}},
        {"type": "file", "file": {"file_id": VIDEO}},
    )

    resolved = await bench.resolve(raw)

    assert bench.store.asked == [(VIDEO, IMAGE)]
    assert [file.id for file in resolved.files] == [VIDEO, IMAGE]
    assert len(bench.store.held) == 1

    await resolved.close()
    await resolved.close()

    assert not bench.store.held


@pytest.mark.parametrize("name", [MISSING, FOREIGN])
async def test_a_missing_and_a_foreign_file_are_one_and_the_same(
    bench: Bench, name: FileId
) -> None:
    raw = chat(
        {"type": "video_url", "video_url": {"url": VIDEO}},
        {"type": "video_url", "video_url": {"url": name}},
    )

    error = await bench.refusal(raw)

    assert isinstance(error, FileNotFound)
    assert error.message == file_not_found().message
    assert error.param == "messages[0].content[1].video_url.url"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": VIDEO}}, "image_url.url"),
        ({"type": "image_url", "image_url": {"url": WAV}}, "image_url.url"),
        ({"type": "video_url", "video_url": {"url": IMAGE}}, "video_url.url"),
        ({"type": "video_url", "video_url": {"url": GIF}}, "video_url.url"),
        ({"type": "audio_url", "audio_url": {"url": VIDEO}}, "audio_url.url"),
        ({"type": "input_audio", "input_audio": {"data": IMAGE}}, "input_audio.data"),
        ({"type": "input_image", "file_id": WAV}, "file_id"),
    ],
)
async def test_a_file_of_another_kind_is_refused(
    bench: Bench, part: dict[str, Any], param: str
) -> None:
    error = await bench.refusal(chat({"type": "text", "text": "?"}, part))

    assert isinstance(error, MediaKindMismatch)
    assert error.param == "messages[0].content[1]." + param


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", MalformedBody),
        (b"[]", MalformedBody),
        (b'{"messages":[],"messages":[]}', MalformedBody),
        (chat({"type": "image_url", "image_url": {"url": "file:///x"}}), SourceNotAllowed),
        (chat({"type": "image_url", "image_url": {"url": "attachment://x"}}), InvalidReference),
        (
            chat(
                {"type": "image_url", "image_url": {"url": IMAGE}},
                {"type": "image_url", "image_url": {"url": "file-x"}},
            ),
            InvalidReference,
        ),
    ],
)
async def test_what_is_wrong_in_itself_leases_nothing(
    bench: Bench, raw: bytes, expected: type[MediagateError]
) -> None:
    error = await bench.refusal(raw)

    assert isinstance(error, expected)
    assert bench.store.asked == []


async def test_more_references_than_allowed_are_refused(bench: Bench) -> None:
    part = {"type": "image_url", "image_url": {"url": IMAGE}}

    resolved = await bench.resolve(chat(*[part] * MAX_REFERENCES))
    await resolved.close()
    error = await bench.refusal(chat(*[part] * (MAX_REFERENCES + 1)))

    assert isinstance(error, InvalidValue)
    assert error.param == f"messages[0].content[{MAX_REFERENCES}].image_url.url"


class Broken:
    sources = (Source.HANDLE,)

    def __init__(self, *_: object) -> None: ...

    async def pieces(self, file: FileObject, source: Source) -> list[bytes]:
        raise asyncio.CancelledError

    async def close(self) -> None:
        pass


async def test_a_cancelled_request_leaves_no_lease(executor: Executor) -> None:
    store = Store()
    resolver = Resolver(holder=store, deliver=Broken, executor=executor)
    raw = chat({"type": "image_url", "image_url": {"url": IMAGE}})

    with pytest.raises(asyncio.CancelledError):
        await resolver.resolve(raw, dialect=find, principal=Principal(OURS))

    assert not store.held


async def test_handles_end_with_the_request(executor: Executor) -> None:
    handles = Handles()

    def deliver(_leased: Leased, _came_in_at: str | None) -> Delivery:
        return HandleDelivery(handles=handles)

    resolver = Resolver(holder=Store(), deliver=deliver, executor=executor)
    raw = chat({"type": "image_url", "image_url": {"url": IMAGE}})
    resolved = await resolver.resolve(raw, dialect=find, principal=Principal(OURS))
    (piece,) = resolved.pieces
    assert isinstance(piece, bytes)
    url: str = parts_of(piece)[0]["image_url"]["url"]
    token = url.removeprefix("mediagate-media:")

    assert handles.find(token) == a_file(IMAGE)
    await resolved.close()
    assert handles.find(token) is None


# Large bodies -------------------------------------------------------------------------------------


async def test_a_large_body_is_resolved_like_a_small_one(bench: Bench) -> None:
    filler = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    raw = chat(filler, {"type": "video_url", "video_url": {"url": VIDEO}}, filler)
    assert len(raw) > PARSED_IN_PLACE_BYTES

    body = await bench.body(raw)

    assert body == raw.replace(VIDEO.encode(), data_uri(VIDEO).encode())


async def test_a_large_body_that_is_wrong_is_refused_in_the_same_words(bench: Bench) -> None:
    filler = "A" * PARSED_IN_PLACE_BYTES
    part = {"type": "image_url", "image_url": {"url": "file:///x"}}

    small = await bench.refusal(chat({"type": "text", "text": ""}, part))
    large = await bench.refusal(chat({"type": "text", "text": filler}, part))

    assert (type(small), small.message, small.param) == (type(large), large.message, large.param)


# Bare base64 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.1, 2])
async def test_bare_base64_of_sound_passes_as_it_is(bench: Bench, seconds: float) -> None:
    raw = chat(sound(wav(seconds)))

    assert await bench.body(raw) == raw


@pytest.mark.parametrize("data", ["/etc/passwd0", "etc/hostname", "AAAA", "UklGRg=="])
async def test_a_path_in_base64s_alphabet_does_not_pass(bench: Bench, data: str) -> None:
    error = await bench.refusal(chat({"type": "input_audio", "input_audio": {"data": data}}))

    assert isinstance(error, SourceNotAllowed)
    assert error.param == "messages[0].content[0].input_audio.data"


async def test_base64_of_what_is_no_media_does_not_pass(bench: Bench) -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'

    error = await bench.refusal(chat({"type": "image", "data": base64.b64encode(svg).decode()}))

    assert isinstance(error, SourceNotAllowed)


async def test_base64_of_a_picture_is_no_sound(bench: Bench) -> None:
    error = await bench.refusal(chat(sound(png())))

    assert isinstance(error, MediaKindMismatch)


async def test_base64_of_a_picture_passes_where_any_media_does(bench: Bench) -> None:
    part = {"type": "x", "source": {"data": base64.b64encode(png()).decode()}}

    assert await bench.body(chat(part)) == chat(part)


async def test_base64_of_a_document_passes_where_no_media_is_asked_for(bench: Bench) -> None:
    data = base64.b64encode(b"%PDF-1.7\n" + bytes(100)).decode()
    document = {"type": "document", "source": {"type": "base64", "data": data}}
    image = {"type": "image", "source": {"type": "base64", "data": data}}

    assert await bench.body(chat(document)) == chat(document)
    assert isinstance(await bench.refusal(chat(image)), SourceNotAllowed)


# Other dialects -----------------------------------------------------------------------------------


async def test_an_image_source_gets_the_type_and_the_bytes_of_its_file(executor: Executor) -> None:
    """H76, H81."""
    bench = Bench(executor, anthropic_messages.find)
    source = f'{{"type" : "file", "file_id": "{IMAGE}" }}'
    raw = f'{{"system":"é", "messages":[{{"content":[{{"source":{source},"type":"image"}}]}}]}}'

    body = await bench.body(raw.encode())

    translated = f'{{"type" : "base64", "data": "{bare(IMAGE)}","media_type":"{TYPES[IMAGE]}" }}'
    assert body.decode() == raw.replace(source, translated)


async def test_an_image_of_responses_gets_its_url(executor: Executor) -> None:
    """H75, H81."""
    bench = Bench(executor, openai_responses.find)
    part = {"type": "input_file", "file_id": IMAGE, "filename": "a.png"}
    output = {"type": "function_call_output", "output": [part]}

    body = await bench.body(json.dumps({"input": [output]}).encode())

    assert json.loads(body)["input"][0]["output"] == [
        {
            "type": "input_image",
            "image_url": data_uri(IMAGE),
            "detail": "auto",
            "filename": "a.png",
        }
    ]


@pytest.mark.parametrize(
    ("dialect", "part"),
    [
        (anthropic_messages.find, {"type": "image", "source": {"type": "file", "file_id": VIDEO}}),
        (openai_responses.find, {"type": "input_file", "file_id": VIDEO}),
        (openai_responses.find, {"type": "input_image", "file_id": VIDEO}),
    ],
)
async def test_who_names_a_video_where_only_images_go_is_told_where_it_goes(
    executor: Executor, dialect: Dialect, part: dict[str, Any]
) -> None:
    """H75, H76, H78."""
    error = await Bench(executor, dialect).refusal(chat(part))

    assert isinstance(error, MediaKindMismatch)
    assert "video_url" in error.message
    assert "/v1/chat/completions" in error.message


# Cache salts --------------------------------------------------------------------------------------


def nothing(_body: dict[str, Any], /, *, judge: Judge = Judge.WALL) -> Sequence[MediaField]:
    """A dialect in which nothing is named."""
    return ()


NAMES = CacheNames(media=lambda name: f"m({name})")
SALTED = CacheNames(media=lambda name: f"m({name})", salt=lambda own: f"<{own}>")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"model":"m"}', b'{"cache_salt":"<>","model":"m"}'),
        (b' {\n "model" : "m" } ', b' {"cache_salt":"<>",\n "model" : "m" } '),
        (b"{}", b'{"cache_salt":"<>"}'),
        (b'{"a":1.0,"cache_salt":"own","b":[]}', b'{"a":1.0,"cache_salt":"<own>","b":[]}'),
        (b'{"cache_salt" : null}', b'{"cache_salt" : "<>"}'),
        (b'{"cache\\u005fsalt":"own"}', b'{"cache\\u005fsalt":"<own>"}'),
        (
            b'{"metadata":{"cache_salt":"x"},"Cache_Salt":"y"}',
            b'{"cache_salt":"<>","metadata":{"cache_salt":"x"},"Cache_Salt":"y"}',
        ),
    ],
)
async def test_our_salt_stands_in_the_body_and_all_else_stays(
    bench: Bench, raw: bytes, expected: bytes
) -> None:
    assert await bench.body(raw, names=SALTED) == expected


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.text() | st.lists(st.integers())))
async def test_salted_body_says_the_same_otherwise(
    executor: Executor, body: dict[str, object]
) -> None:
    body.pop("cache_salt", None)
    raw = json.dumps(body).encode()

    sent = await Bench(executor, nothing).body(raw, names=SALTED)

    assert json.loads(sent) == json.loads(raw) | {"cache_salt": "<>"}
    assert sent.replace(b'"cache_salt":"<>"', b"", 1).replace(b"{,", b"{", 1) == raw


async def test_a_body_that_names_files_is_salted_too(bench: Bench) -> None:
    raw = chat({"type": "image_url", "image_url": {"url": IMAGE}})

    body = await bench.body(raw, names=SALTED)

    resolved = await bench.body(raw)
    assert body == resolved.replace(b"{", b'{"cache_salt":"<>",', 1)


@pytest.mark.parametrize("own", ['""', "1", "true", "[]", '{"a":"b"}', '"\\ud800"'])
async def test_a_salt_that_is_none_is_refused(bench: Bench, own: str) -> None:
    error = await bench.refusal(b'{"cache_salt":' + own.encode() + b"}", names=SALTED)

    assert isinstance(error, InvalidValue)
    assert error.param == "cache_salt"


@pytest.mark.parametrize("own", ['"own"', '""', "1", "null"])
async def test_without_tenants_a_salt_is_the_clients_own_business(bench: Bench, own: str) -> None:
    raw = b'{"cache_salt":' + own.encode() + b"}"

    assert await bench.body(raw) == raw


# Names of what an engine keeps --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uuid", "told"),
    [
        ('"u"', 'm(\\"u\\")'),
        ('""', 'm(\\"\\")'),
        ('"\\ud800"', 'm(\\"\\\\ud800\\")'),
        ("7", "m(7)"),
        ('{"a" : [1]}', 'm({\\"a\\": [1]})'),
    ],
)
async def test_names_of_kept_media_are_ours_and_all_else_stays(
    bench: Bench, uuid: str, told: str
) -> None:
    raw = '{"messages" : [{"content":[{"image_url":null, "uuid" : %s , "x":1.0}]}]}'

    body = await bench.body((raw % uuid).encode(), names=NAMES)

    assert body.decode() == raw % f'"{told}"'


async def test_a_file_may_have_a_name_for_the_engine_beside_it(bench: Bench) -> None:
    raw = chat({"type": "file", "file": {"file_id": IMAGE}, "uuid": "u"})

    body = await bench.body(raw, names=SALTED)

    (part,) = parts_of(body)
    assert part == {"type": "image_url", "image_url": {"url": data_uri(IMAGE)}, "uuid": 'm("u")'}
    assert json.loads(body)["cache_salt"] == "<>"


@pytest.mark.parametrize("judge", Judge)
async def test_without_tenants_a_name_is_the_clients_own_business(
    bench: Bench, judge: Judge
) -> None:
    raw = b'{"messages":[{"content":[{"image_url":null,"uuid":"u"}]}]}'

    assert await bench.body(raw, judge=judge) == raw


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["uuid", "content", "type", "format", "input_audio", "x"]), inner
        )
    ),
    max_leaves=10,
)


@given(JSON)
async def test_names_are_changed_everywhere_and_nothing_else(
    executor: Executor, value: object
) -> None:
    raw = json.dumps({"messages": value}).encode()

    sent = await Bench(executor).body(raw, names=NAMES, judge=Judge.ENGINE)

    assert json.loads(sent) == _told(json.loads(raw))


def _told(value: Any, key: str = "") -> Any:
    if key == "uuid" and value is not None:
        return f"m({json.dumps(value)})"
    if key == "format":  # what an answer has to look like: it is not read
        return value
    if isinstance(value, dict):
        return {key: _told(member, key) for key, member in value.items()}
    if isinstance(value, list):
        return [_told(item) for item in value]
    return value


# An engine that guards itself ---------------------------------------------------------------------

ENGINE = {"judge": Judge.ENGINE}

ODD_BODIES = [
    b'{"a":1,"a":2}',
    b'{"uuid":"u","uuid":"v"}',
    b'\xef\xbb\xbf{"a":1}',
    '{"a":"é"}'.encode("latin-1"),
    '{"a":"é"}'.encode("utf-16"),
    b'{"a":NaN}',
    b'{"a":1e999, "b":-Infinity}',
    b'{"a":' + b"1" * 1000 + b"}",
    b'{"a":' + b"1" * 10_000 + b"}",
    b'{"a":' + b"[" * 200 + b"]" * 200 + b"}",
    b"[" * 100_000,
    b'{"a":[' + b"[]," * 300_000 + b"[]]}",
    b"[]",
    b'[{"messages":[]}]',
    b'"text"',
    b"5",
    b"null",
    b"not JSON",
    b"a=b&c=d",
    b"\x1f\x8b\x08\x00",
    b"\x00",
    b" ",
]


@pytest.mark.parametrize("raw", ODD_BODIES, ids=range(len(ODD_BODIES)))
async def test_engine_that_judges_gets_odd_bodies_as_they_are(bench: Bench, raw: bytes) -> None:
    assert isinstance(await bench.refusal(raw), MalformedBody)

    assert await bench.body(raw, **ENGINE) == raw


def _odd(value: str) -> Iterator[bytes]:
    """A body that names `value` to Python's reader, and that we do not rewrite."""
    part = json.dumps({"type": "image_url", "image_url": {"url": value}})
    body = f'{{"messages":[{{"role":"user","content":[{part}]}}]'
    yield (body + ',"a":1,"a":2}').encode()
    yield ('{"messages":[],' + body[1:] + "}").encode()
    yield (body + "}").encode("utf-16")
    yield (body + "}").encode("utf-8-sig")
    yield (body + ',"a":NaN}').encode()
    yield (
        (body + ',"a":"\udcff"}').encode(errors="surrogateescape").replace(b"\xff", b"\xed\xb2\x80")
    )
    yield ("[" + body + "}]").encode()
    yield ('{"messages":[{"content":' + "[" * 300 + part + "]" * 300 + "}]}").encode()


@pytest.mark.parametrize("value", [IMAGE, f"vllm-file://{IMAGE}", "file-x", "attachment://a"])
async def test_no_odd_body_brings_a_reference_to_an_engine_that_judges(
    bench: Bench, value: str
) -> None:
    """H77."""
    for raw in _odd(value):
        assert isinstance(await bench.refusal(raw, **ENGINE), MalformedBody), raw
    for raw in _odd("file:///etc/passwd"):
        assert await bench.body(raw, **ENGINE) == raw


async def test_body_as_deep_as_pythons_stack_is_refused_if_it_may_name_something(
    bench: Bench,
) -> None:
    """Python's reader goes deeper into objects than our walk does."""
    raw = b'{"x":' * 600 + b"1" + b"}" * 600

    error = await bench.refusal(raw, **ENGINE)

    assert isinstance(error, MalformedBody)


async def test_engine_that_judges_gets_what_it_judges_and_our_files(bench: Bench) -> None:
    path = {"type": "image_url", "image_url": {"url": "file:///clip"}}
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    raw = chat(path, {"type": "image_url", "image_url": {"url": IMAGE}}, audio)

    body = await bench.body(raw, **ENGINE)

    assert isinstance(await bench.refusal(raw), SourceNotAllowed)
    assert body == raw.replace(IMAGE.encode(), data_uri(IMAGE).encode())


@pytest.mark.parametrize("raw", [b'{"a":1,"a":2}', b'\xef\xbb\xbf{"uuid":"u"}'])
async def test_odd_body_of_a_tenant_is_refused_where_it_had_to_be_changed(
    bench: Bench, raw: bytes
) -> None:
    for names in (NAMES, SALTED):
        assert isinstance(await bench.refusal(raw, names=names, **ENGINE), MalformedBody)


@pytest.mark.parametrize("raw", [b"not JSON", b"[]", b'"text"'])
async def test_body_of_a_tenant_that_no_engine_takes_is_the_engines_to_refuse(
    bench: Bench, raw: bytes
) -> None:
    assert await bench.body(raw, names=SALTED, **ENGINE) == raw


async def test_who_does_not_say_for_whom_names_no_file(bench: Bench) -> None:
    """H65."""
    nobody = Principal(InvalidScope("Say for whom.", param="X-Tenant"))
    raw = chat({"type": "image_url", "image_url": {"url": IMAGE}})

    error = await bench.refusal(raw, principal=nobody, **ENGINE)

    assert error is nobody.named
    assert bench.store.asked == []
    text = chat({"type": "text", "text": "?"})
    assert await bench.body(text, principal=nobody, **ENGINE) == text
