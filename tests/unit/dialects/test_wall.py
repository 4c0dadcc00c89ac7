"""What holds in every dialect alike."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edited import WORDS, edited
from mediagate.core.errors import InvalidReference, InvalidRequest, SourceNotAllowed
from mediagate.core.files import FileId, MediaKind
from mediagate.core.references import (
    HANDLE_SCHEME,
    AttachmentReference,
    Base64Reference,
    FileReference,
    KeptReference,
)
from mediagate.dialects import anthropic_messages, openai_chat, openai_responses
from mediagate.dialects.fields import Dialect, Judge, MediaField, Slot
from mediagate.dialects.strict_json import parse_object

ID = "file-0123456789abcdef0123456789abcdef"
NAMED = "vllm-file://" + ID
URL = "https://host/clip"
DATA = "data:image/png;base64,AAAA"
PATH = "/etc/passwd"

DIALECTS = [openai_chat.find, openai_responses.find, anthropic_messages.find]
TAKING_URLS = DIALECTS[:2]

MEDIA_KEYS = (
    *("image", "image_url", "input_image", "video", "video_url", "audio", "audio_url"),
    *("image_data", "video_data", "audio_data"),
)
OTHER_MEDIA_KEYS = (
    *(
        "input_audio",
        "input_video",
        "images",
        "videos",
        "audios",
        "multimodal_data",
        "multi_modal_data",
    ),
    *("image_urls", "image_path", "video_file", "audio_base64", "imageUrl", "inputAudio", "media"),
    *("time_series", "time_series_url"),  # LMDeploy
    *("image_pil", "mm_items"),  # vLLM, SGLang
)

every_dialect = pytest.mark.parametrize("find", DIALECTS)


def refusal(find: Dialect, body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        find(body)
    return caught.value


# What is left alone -------------------------------------------------------------------------------

PROSE = [NAMED, ID, "see " + NAMED, "file:///etc/passwd", "vllm-file://../x", "file-", PATH]


def _conversation(text: str) -> dict[str, Any]:
    return {
        "model": text,
        "user": text,
        "metadata": {"file_id": text, "image_url": text},
        "tools": [{"type": "function", "function": {"name": text, "parameters": {"image": text}}}],
        "response_format": {"schema": {"properties": {"image_url": {"url": {"const": text}}}}},
        "stop": [text],
        "system": text,
        "instructions": text,
        "messages": [
            {"role": "system", "content": text, "name": text},
            {
                "role": "assistant",
                "content": None,
                "audio": {"id": text},
                "reasoning_content": text,
                "tool_calls": [{"id": text, "function": {"name": text, "arguments": text}}],
            },
            {"role": "tool", "tool_call_id": text, "content": [{"type": "text", "text": text}]},
            {
                "role": "user",
                "content": [
                    text,
                    {"type": "text", "text": text},
                    {"type": "input_text", "text": text},
                    {"type": "thinking", "thinking": text, "signature": text},
                    {"type": "refusal", "refusal": text},
                    {"type": "tool_use", "name": text, "input": {"path": text, "image": text}},
                    {"type": "tool_result", "tool_use_id": text, "content": text},
                    {"type": "tool_result", "content": [{"type": "text", "text": text}, text]},
                    {"type": "document", "source": {"type": "text", "data": text}, "title": text},
                ],
            },
        ],
    }


ITEMS = {
    "shorthand": {"role": "user", "content": "TEXT"},
    "message": {
        "type": "message",
        "role": "assistant",
        "content": [
            {
                "type": "output_text",
                "text": "TEXT",
                "annotations": [{"type": "file_citation", "file_id": "TEXT", "filename": "TEXT"}],
            }
        ],
    },
    "call": {"type": "function_call", "call_id": "TEXT", "arguments": "TEXT", "name": "TEXT"},
    "custom": {"type": "custom_tool_call", "input": {"image_url": "TEXT", "path": "TEXT"}},
    "returned": {"type": "function_call_output", "call_id": "TEXT", "output": "TEXT"},
    "parts": {"type": "function_call_output", "output": [{"type": "input_text", "text": "TEXT"}]},
    "reasoning": {"type": "reasoning", "summary": [{"type": "summary_text", "text": "TEXT"}]},
    "search": {"type": "file_search_call", "queries": ["TEXT"], "results": [{"file_id": "TEXT"}]},
    "shell": {"type": "shell_call_output", "output": [{"stdout": "TEXT", "stderr": "TEXT"}]},
    "patch": {"type": "apply_patch_call", "operation": {"path": "TEXT", "diff": "TEXT"}},
    "command": {"type": "local_shell_call", "action": {"command": ["cat", "TEXT"], "env": {}}},
    "page": {"type": "web_search_call", "action": {"type": "open_page", "url": "TEXT"}},
    "drag": {"type": "computer_call", "actions": [{"type": "drag", "path": [{"x": 1, "y": 2}]}]},
    "ran": {"type": "code_interpreter_call", "outputs": [{"type": "logs", "logs": "TEXT"}]},
    "mcp": {"type": "mcp_call", "arguments": "TEXT", "error": "TEXT", "output": "TEXT"},
    "tokens": {"content": [{"type": "output_text", "text": "", "logprobs": [{"token": "TEXT"}]}]},
    "cited": {"content": [{"type": "text", "text": "", "citations": [{"file_id": "TEXT"}]}]},
    "found": {"content": [{"type": "search_result", "source": "TEXT", "title": "TEXT"}]},
    "drawn": {"type": "image_generation_call", "result": "AAAA", "revised_prompt": "TEXT"},
}


def _with(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {key: _with(member, text) for key, member in value.items()}
    if isinstance(value, list):
        return [_with(item, text) for item in value]
    return text if value == "TEXT" else value


@every_dialect
@pytest.mark.parametrize("text", PROSE)
def test_text_may_be_anything(find: Dialect, text: str) -> None:
    """H82."""
    assert find(_conversation(text)) == []
    assert find({"input": [_with(item, text) for item in ITEMS.values()]}) == []


@every_dialect
@pytest.mark.parametrize(
    "key",
    [
        *("prompt", "input", "text", "content", "texts", "query", "queries", "documents"),
        *("items", "text_1", "text_2", "data_1", "data_2", "suffix", "prompt_string"),
        *("inputs", "input_prefix", "input_suffix"),
    ],
)
def test_requests_of_text_alone_pass(find: Dialect, key: str) -> None:
    for text in PROSE:
        for value in (text, [text, text], [[text], [text]], {"x": {key: [text]}}):
            assert find({"model": "m", key: value}) == []


SCHEMA = {
    "$id": "file:///schema.json",
    "type": "object",
    "properties": {"image": {"type": "string"}, "url": {"const": "file:"}},
    "definitions": {"image": True, "video_url": {"enum": ["file:", PATH]}},
    "dependentRequired": {"image": ["url"], "file_id": ["image_url"]},
}


@every_dialect
@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"text": {"format": {"type": "json_schema", "name": "image", "schema": SCHEMA}}},
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {"structured_outputs": {"json": SCHEMA, "choice": ["file:", ID], "regex": "file:.*"}},
        {"guided_json": SCHEMA, "guided_choice": ["file:"], "guided_regex": "file:"},
        {"format": SCHEMA, "json_schema": SCHEMA, "grammar": "file: x", "regex": "file:"},
        {"tools": [{"type": "function", "function": {"parameters": SCHEMA}}]},
        {"tools": [{"type": "mcp", "server_url": "file:///x"}, {"input_schema": SCHEMA}]},
        {"logit_bias": {"image": -5, "50256": -100}},
    ],
)
def test_what_an_answer_has_to_look_like_may_be_anything(
    find: Dialect, body: dict[str, Any]
) -> None:
    """H82."""
    assert find(body) == []


@every_dialect
@pytest.mark.parametrize("tokens", [[1, 2], [[1], [2, 3]], [[[0.5]]]])
def test_tokens_pass(find: Dialect, tokens: list[Any]) -> None:
    assert find({"prompt": tokens, "input": tokens, "input_ids": tokens, "data_1": tokens}) == []


@every_dialect
@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {"url": None}, "uuid": None},
        {
            "type": "text",
            "text": "x",
            "cache_control": {"type": "ephemeral"},
            "extra": [1, {"a": 0}],
        },
        {"type": "x", "filename": NAMED, "note": ID, "at": "https://host", "file_id": None},
        {"type": "prompt_embeds", "data": "AAAA"},
        {"type": "redacted_thinking", "data": "EuYBCoQBGAIiQL7asx=="},
        {"type": "image_embeds", "image_embeds": {"a": "AAAA"}},
        {"type": "search_result", "source": "wiki", "content": [{"type": "text", "text": "x"}]},
        {"type": 5, "url": None},
    ],
)
def test_keys_that_mean_nothing_to_us_are_left_alone(find: Dialect, part: dict[str, Any]) -> None:
    assert find({"messages": [{"role": "user", "content": [part]}]}) == []


@every_dialect
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"audio": {"voice": "alloy", "format": "wav"}, "modalities": ["audio"]},
        {"media_io_kwargs": {"video": {"num_frames": 4}, "image": {"background": [0, 0, 0]}}},
        {"features": {"mm_hashes": {"image": ["abc"]}, "kwargs_data": {"image": ["AAA"]}}},
        {
            "documents": [
                {"title": "x", "url": "page.html", "data": {"text": "x"}, "source": "wiki"}
            ]
        },
        {"lora_path": "adapter", "data": {"input": "text"}},
    ],
)
def test_other_fields_of_known_requests_name_nothing(find: Dialect, body: dict[str, Any]) -> None:
    assert find(body) == []


# What an engine keeps under a name of the client's ------------------------------------------------


@every_dialect
@pytest.mark.parametrize("judge", Judge)
@pytest.mark.parametrize(
    ("uuid", "name"),
    [
        ("u-1", '"u-1"'),
        ("", '""'),
        (NAMED, f'"{NAMED}"'),
        ("\ud800", r'"\ud800"'),
        (7, "7"),
        (False, "false"),
        (["u"], '["u"]'),
        ({"uuid": "u"}, '{"uuid": "u"}'),
    ],
)
def test_what_vllm_keeps_is_found_by_its_name(
    find: Dialect, judge: Judge, uuid: object, name: str
) -> None:
    """Any value that is not null: vLLM turns it into a string, and takes that for a name."""
    for part in (
        {"type": "image_url", "image_url": None, "uuid": uuid},
        {"image_embeds": None, "uuid": uuid},
        {"type": "text", "image_url": {"url": None}, "uuid": uuid},
    ):
        bodies = [*_bodies(part), {"content_parts": [part]}, {"data_1": [part]}]
        for body in bodies:
            (field,) = find(body, judge=judge)

            assert field.path[-1] == "uuid"
            assert field.reference == KeptReference(name)
            assert field.edits == ()


# What passes --------------------------------------------------------------------------------------


@every_dialect
@pytest.mark.parametrize("value", [URL, DATA])
def test_urls_and_inline_data_pass_under_every_media_key(find: Dialect, value: str) -> None:
    for key in (*MEDIA_KEYS, *OTHER_MEDIA_KEYS):
        body = {
            key: value,
            "input": [{"type": key, key: [value]}],
            "messages": [{key: {"url": value}}],
        }

        fields = find(body)

        assert [field.param for field in fields] == [
            key,
            f"input[0].{key}[0]",
            f"messages[0].{key}.url",
        ]
        assert not any(field.edits for field in fields)
        assert not any(isinstance(field.reference, FileReference) for field in fields)


@every_dialect
@pytest.mark.parametrize(
    "key", ["image_data", "images", "input_audio", "audio_base64", "multimodal_data"]
)
def test_base64_passes_under_keys_that_hold_it(find: Dialect, key: str) -> None:
    (field,) = find({key: "AAAA"})

    assert field.reference == Base64Reference("AAAA")


@pytest.mark.parametrize("find", TAKING_URLS)
@pytest.mark.parametrize("key", MEDIA_KEYS)
def test_a_file_is_taken_under_a_media_key_of_a_message_or_part(find: Dialect, key: str) -> None:
    result = {"type": "tool_result", "content": [{key: {"url": ID}}]}
    body = {"messages": [{key: NAMED}, {"content": [result]}], key: ID}

    fields = find(body)

    assert {field.reference for field in fields} == {FileReference(FileId(ID))}
    after = edited(body, fields)
    assert after["messages"][0][key] == "<media>"
    assert after["messages"][1]["content"][0]["content"][0][key]["url"] == "<media>"
    assert after[key] == "<media>"


@every_dialect
def test_a_pdf_and_other_base64_of_a_source_are_judged_later(find: Dialect) -> None:
    blocks = [
        {"type": "document", "source": {"type": "base64", "data": "JVBERi0="}},
        {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
    ]

    fields = find({"messages": [{"content": blocks}]})

    assert [field.kind for field in fields] == [None, MediaKind.IMAGE]
    assert fields[0].reference == Base64Reference("JVBERi0=")


# The wall -----------------------------------------------------------------------------------------


def _hidden(value: str) -> Iterator[dict[str, Any]]:
    """`value` in every object that some engine might read."""
    for key in (*MEDIA_KEYS, *OTHER_MEDIA_KEYS):
        for extra in ({"type": key}, {"type": "text", "text": "?", "uuid": "u"}, {}):
            yield {key: value} | extra
        for inner in ("url", "uri", "path", "data", "base64", "image_url", "file_url", "file_path"):
            yield {"type": key, key: {inner: value}}
        yield {key: [value]}
        yield {key: [[{"url": value}]]}
        yield {key.upper(): value}
    yield {"type": "image_url", "IMAGE_URL": {"URL": value}}
    yield {"type": "image_url", "image_url": {"Url": value}}
    yield {"type": "image_url", "image_url": {"url": URL}, "video_url": {"url": value}}
    yield {"type": "image_url", "image_url": {"url": {"url": value}}}
    yield {"type": "image_url", "image_url": {"url": [URL, value]}}
    yield {"type": "video", "url": value}
    yield {"type": "video", "data": [value]}
    yield {"type": "x", "x": {"y": [{"image_url": {"path": value}}]}}
    yield {"type": "tool_result", "content": [{"type": "image_url", "image_url": {"path": value}}]}
    yield {"type": "tool_result", "content": [{"type": "image", "path": value}]}
    yield {"type": "image", "source": {"type": "url", "url": value}}
    yield {"type": "image", "source": {"type": "text", "url": value}}
    yield {"type": "image", "source": {"type": "base64", "data": value}}
    yield {"type": "image", "source": {"type": "x", "path": value}}
    yield {"type": "image", "source": {"type": "text", "data": value}}
    yield {"type": "image", "source": value}
    yield {"type": "tool_use", "input": {}, "image_url": {"url": value}}
    yield {"file": {"file_data": value}}
    yield {"assets": {"a": {"type": "image", "format": "png", "data_base64": value}}}
    yield {"assets": {"a": {"x": [{"some_b64": [value]}]}}}


def _as_part(value: str) -> Iterator[dict[str, Any]]:
    """`value` under keys that count where parts stand."""
    for kind in ("image", "video", "audio", "text", "x"):
        for inner in ("url", "uri", "path", "file", "file_url", "data", "base64", "file_data"):
            yield {"type": kind, inner: value}
    yield {"data": {"data": value, "data_format": "path"}}


def _bodies(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`part` wherever parts stand."""
    yield part
    yield {"messages": [{"role": "user", "content": [part]}]}
    yield {"messages": [[{"role": "user", "content": [part]}]]}
    yield {"messages": {"0": {"content": part}}}
    yield {"messages": [{"content": "x", "Content": [part]}]}
    yield {"me\u017f\u017fages": [{"content": [[part]]}]}
    yield {"messages": [{"content": [{"type": "tool_result", "content": [part]}]}]}
    yield {"requests": [{"params": {"messages": [{"content": [part]}]}}]}
    yield {"system": [part]}
    yield {"input": part}
    yield {"input": [part]}
    yield {"input": [{"role": "user", "content": [part]}]}
    yield {"input": [{"type": "function_call_output", "output": [part]}]}
    yield {"input": [{"type": "computer_call_output", "output": part}]}
    yield {"prompt": {"prompt_string": "x", "prompt": [part]}}
    yield {"documents": [{"content": [part]}]}


@every_dialect
@pytest.mark.parametrize(
    "value",
    [
        *("file:///etc/passwd", " FILE:///etc/passwd", "../x.png", "ftp://h/x"),
        # Some servers decode what they open.
        *("file%3A///etc/passwd", "%66ile:///x", "%2Fetc%2Fpasswd", "..%2f..%2fetc"),
    ],
)
def test_no_path_or_foreign_scheme_passes_at_any_place(find: Dialect, value: str) -> None:
    """DESIGN §4."""
    for part in _hidden(value):
        for body in (*_bodies(part), {"messages": [part]}, {"x": [part]}, {"documents": [[part]]}):
            error = refusal(find, body)

            assert isinstance(error, SourceNotAllowed), body
            assert error.param
            assert value not in error.message
    for part in _as_part(value):
        for body in _bodies(part):
            assert isinstance(refusal(find, body), SourceNotAllowed), body


def _escaped(value: Any) -> str:
    """As JSON, with every character of every key and string as an escape."""
    if isinstance(value, dict):
        pairs = (f"{_escaped(key)}:{_escaped(member)}" for key, member in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_escaped, value)) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(each):04x}" for each in value) + '"'
    return json.dumps(value)


@every_dialect
@pytest.mark.parametrize("value", ["file:///etc/passwd", PATH, "../x.png", "http://h\uff0fevil/"])
def test_no_escape_of_json_hides_anything(find: Dialect, value: str) -> None:
    """DESIGN §4: as a request comes, in bytes."""
    for part in (*_hidden(value), *_as_part(value)):
        body = {"messages": [{"role": "user", "content": [part]}], "input": [part]}
        raw = _escaped(body).encode()

        assert not any(word in raw for word in (b"image", b"content", b"file", b"etc", b"/"))
        assert parse_object(raw) == body
        assert isinstance(refusal(find, parse_object(raw)), SourceNotAllowed), body


@every_dialect
@pytest.mark.parametrize(
    "raw",
    [
        rb'{"messages":[{"content":[{"type":"image_url","im\u0061ge_url":{"url":"/etc/passwd"}}]}]}',
        rb'{"messages":[{"content":[{"image_url":{"url":"\u0066ile:///etc/passwd"}}]}]}',
        rb'{"messages":[{"content":[{"image_url":{"\u0075rl":"\/etc\/passwd"}}]}]}',
        rb'{"\u006dessages":[{"conten\u0074":[{"image_url":"file\u003A\u002f//etc/passwd"}]}]}',
        rb'{"messages":[{"content":[{"image_url":{"url":"http://ho\u0073\u0074\uFF0Fevil/"}}]}]}',
        rb'{"messages":[{"content":[{"type":"im\u0061ge","source":{"url":"..\u002fx"}}]}]}',
        rb'{"input":[{"type":"input_image","image\u005furl":"\u0009file:///etc/passwd"}]}',
        rb'{"image_dat\u0061":["\u002e./\u002e./etc/passwd"]}',
        rb'{"messages":[{"content":[{"type":"x","x":"\u0046ILE:///x"}]}]}',
    ],
)
def test_one_escape_hides_nothing(find: Dialect, raw: bytes) -> None:
    assert b"\\u00" in raw
    assert isinstance(refusal(find, parse_object(raw)), SourceNotAllowed)


@every_dialect
@pytest.mark.parametrize("value", ["vllm-file://../x", NAMED.upper(), "file-xyz", NAMED + "/"])
def test_no_malformed_reference_passes_at_any_place(find: Dialect, value: str) -> None:
    """H77."""
    for part in (*_hidden(value), *_as_part(value)):
        for body in _bodies(part):
            assert isinstance(refusal(find, body), InvalidReference), body


@every_dialect
@pytest.mark.parametrize("value", ["file:///x", "File:x", "\tfile:///x"])
def test_a_file_url_under_an_unknown_key_is_refused(find: Dialect, value: str) -> None:
    for part in ({"type": "x", "x": value}, {"type": "x", "x": [{"y": value}]}, {"any": [value]}):
        for body in _bodies(part):
            assert isinstance(refusal(find, body), SourceNotAllowed)


@every_dialect
@pytest.mark.parametrize(
    "part",
    [
        {"type": "x", "x": NAMED},
        {"type": "x", "x": {"y": [NAMED]}},
        {"type": "x", "x": {"video_url": NAMED}},
        {"type": "x", "deep": [{"image_url": {"url": ID}}]},
        {"type": "x", "deep": [{"type": "file", "file": {"file_id": ID}}]},
        {"type": "x", "deep": [{"type": "input_image", "file_id": ID}]},
        {"type": "x", "deep": [{"type": "video", "url": ID}, {"type": "video", "data": ID}]},
        {"type": "x", "deep": {"type": "image", "source": {"type": "file", "file_id": ID}}},
        {"type": "text", "text": "?", "note": "vllm-file://"},
        {"type": "image", "path": NAMED},
        {"type": "image", "uri": NAMED},
        {"type": "x", "url": NAMED},
        {"type": "x", "data": NAMED},
        {"url": ID},
        {"type": "image", "URL": ID},
        {"type": "image_url", "Image_URL": {"url": NAMED}},
        {"type": "image_url", "image_url": {"URL": NAMED}},
        {"type": "image_url", "image_url": {"path": NAMED}},
        {"type": "image_url", "image_url": {"image_url": NAMED}},
        {"type": "image_url", "image_url": {"file_id": ID}},
        {"type": "image_url", "image_url": [NAMED]},
        {"type": "image_url", "image_url": {"url": [NAMED]}},
        {"type": "image_url", "file_id": ID},
        {"type": "input_audio", "input_audio": ID},
        {"type": "video", "video": [NAMED]},
        {"type": "video", "images": [{"url": NAMED}]},
        {"type": "x", "x": {"file_id": "anything"}},
        {"type": "x", "x": [{"FILE_ID": 1}]},
        {"type": "x", "file_ids": [ID]},
        {"type": "image", "source": ID},
        {"type": "image", "source": {"type": "url", "url": ID}},
        {"type": "image", "source": {"type": "base64", "data": ID}},
        {"type": "image", "source": {"file_id": ID}},
        {"type": "document", "source": {"type": "file", "file_id": ID}},
        {"type": "container_upload", "file_id": ID},
        {"type": "input_video", "file_id": ID},
        {"type": "image_url", "image_url": 5},
        {"type": "image_url", "image_url": True},
        {"type": "image_url", "image_url": {"url": 5}},
        {"type": "image", "url": 0},
    ],
)
def test_a_reference_that_is_not_understood_is_refused(find: Dialect, part: dict[str, Any]) -> None:
    """H77."""
    for body in _bodies(part):
        error = refusal(find, body)

        assert isinstance(error, InvalidReference), body
        assert error.param


@every_dialect
@pytest.mark.parametrize("type_", ["tool_use", "prompt_embeds", "redacted_thinking", "x"])
def test_a_type_of_the_body_itself_hides_nothing(find: Dialect, type_: str) -> None:
    for body in (
        {"input": [{"content": [{"image_url": PATH}]}]},
        {"input": PATH, "image": PATH},
        {"data": {"data": PATH}},
        {"data": PATH},
    ):
        assert isinstance(refusal(find, {"type": type_} | body), SourceNotAllowed)


@every_dialect
def test_each_of_several_sources_is_judged(find: Dialect) -> None:
    part = {"type": "image_url", "image_url": {"url": [URL, DATA]}}
    hidden = {"type": "image_url", "image_url": {"url": [URL, PATH]}}

    fields = find({"messages": [{"role": "user", "content": [part]}]})
    error = refusal(find, {"messages": [{"role": "user", "content": [hidden]}]})

    assert len(fields) == 2
    assert isinstance(error, SourceNotAllowed)
    assert error.param == "messages[0].content[0].image_url.url[1]"


@every_dialect
@pytest.mark.parametrize("value", [5, 0.5, True])
def test_media_that_is_named_by_no_string_is_refused(find: Dialect, value: object) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": value}]}]}

    error = refusal(find, body)

    assert isinstance(error, InvalidReference)
    assert error.param == "messages[0].content[0].image_url"


@every_dialect
def test_a_refusal_says_where_a_file_is_taken(find: Dialect) -> None:
    error = refusal(find, {"messages": [{"content": [{"type": "x", "file_id": ID}]}]})

    assert error.param == "messages[0].content[0].file_id"
    assert error.message.startswith("No file is taken here. Name ")


ALLOWED = {URL, DATA, "AAAA", WORDS[Slot.MEDIA].decode(), None}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([*PROSE, URL, DATA, "AAAA"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(*MEDIA_KEYS, "input_audio", "images", "IMAGE_URL", "format", "detail"),
                    *("type", "text", "url", "URL", "data", "path", "file", "file_id", "file_data"),
                    *("source", "content", "input", "output", "messages", "media_type", "x"),
                ]
            ),
            inner
            | st.sampled_from(
                ["image_url", "input_image", "input_file", "image", "file", "text", "tool_use"]
            ),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(
    st.sampled_from(DIALECTS),
    st.sampled_from(["messages", "input", "prompt", "x"]),
    st.lists(JSON, max_size=4),
)
def test_nothing_that_passes_makes_an_engine_open_a_path(
    find: Dialect, key: str, parts: list[Any]
) -> None:
    """H76: what is sent on, with files in place, is read as a greedy engine would."""
    body = {key: [{"role": "user", "content": parts}, *parts]}
    try:
        fields = find(body)
    except InvalidRequest:
        return
    bare = {f.reference.text for f in fields if isinstance(f.reference, Base64Reference)}
    if bare - {"AAAA"}:
        return  # `text` is base64 too: the resolver looks at what it decodes to

    sent = edited(body, fields)
    assert set(_opened(sent)) <= ALLOWED
    assert not list(_left_over(sent))


def _opened(value: Any) -> Iterator[str]:
    """Each string that this or that engine takes for media."""
    if isinstance(value, list):
        for item in value:
            yield from _opened(item)
    if not isinstance(value, dict):
        return
    for key, member in value.items():
        if key.lower() in {*MEDIA_KEYS, "input_audio", "images"}:
            yield from _strings(member, {"url", "data", "path", "file", "file_data"})
        elif key == "source" and isinstance(member, dict):
            keys = {"url", "path"} if member.get("type") == "text" else {"url", "path", "data"}
            yield from _strings(member, keys)
        elif key == "file" and isinstance(member, dict):
            yield from _strings(member, {"url", "path", "file_data"})
        elif key in {"url", "path", "data"} and value.get("type") in MEDIA_KEYS:
            yield from _strings(member, set())
        if not (key == "input" and value.get("type") == "tool_use"):
            yield from _opened(member)


def _strings(value: Any, keys: set[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, keys)
    elif isinstance(value, dict):
        for key, member in value.items():
            if key.lower() in keys and isinstance(member, str):
                yield member


def _left_over(value: Any) -> Iterator[Any]:
    """File ids that were not replaced."""
    if isinstance(value, list):
        for item in value:
            yield from _left_over(item)
    elif isinstance(value, dict):
        for key, member in value.items():
            if key == "file_id" and member:
                yield member
            if not (key == "input" and value.get("type") == "tool_use"):
                yield from _left_over(member)


# Inside an engine that guards itself --------------------------------------------------------------

OWN_BUSINESS = [
    *(
        "file:///etc/passwd",
        "FILE:///x",
        PATH,
        "../x",
        "ftp://h/x",
        "s3://b/x",
        URL,
        "http:x",
        DATA,
    ),
    *(
        "data:image/png,x",
        "data:;base64,../x",
        "AAAA",
        "AA",
        "not base64",
        "",
        " ",
        "\x00",
        "clip.mp4",
    ),
    *("mediagate-media", "x" * 100),
]

OURS = (FileReference, AttachmentReference)


def _ours(fields: Sequence[MediaField]) -> list[MediaField]:
    """What is found, but for what an engine keeps."""
    return [field for field in fields if not isinstance(field.reference, KeptReference)]


ODD: list[Any] = [5, 0.5, True, False, None, [], {}, [[]], [5], {"url": 5}, [{"x": 1}]]


def _asking(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`part` in requests to vLLM."""
    yield {"messages": [{"role": "user", "content": [part]}]}
    yield {"input": [part]}


@every_dialect
@pytest.mark.parametrize("value", [*OWN_BUSINESS, *ODD])
def test_engine_that_judges_gets_all_that_names_no_file_of_ours(find: Dialect, value: Any) -> None:
    for part in (*_hidden(value), *_as_part(value)):
        for body in _asking(part):
            assert _ours(find(body, judge=Judge.ENGINE)) == []


@every_dialect
@pytest.mark.parametrize(
    "part",
    [
        {"type": "file"},
        {"type": "file", "file": None},
        {"type": "file", "file": "x"},
        {"type": "file", "file": {}},
        {"type": "file", "file": {"file_data": "x", "filename": "x"}},
        {"type": "input_file", "file_data": "x"},
        {"type": "input_file", "file_url": "x"},
        {"type": "input_image"},
        {"type": "input_image", "file_id": None, "image_url": 5},
        {"type": "image", "source": {"type": "file"}},
        {"type": "image", "source": {"type": "base64", "data": "../x", "media_type": 5}},
        {"type": "image", "source": "x"},
    ],
)
def test_engine_that_judges_gets_its_own_parts_however_odd(
    find: Dialect, part: dict[str, Any]
) -> None:
    for body in _bodies(part):
        assert _ours(find(body, judge=Judge.ENGINE)) == []


@every_dialect
@pytest.mark.parametrize("value", ["vllm-file://../x", NAMED.upper(), "file-xyz", NAMED + "/"])
def test_malformed_reference_never_reaches_an_engine_that_judges(find: Dialect, value: str) -> None:
    """H77."""
    for part in (*_hidden(value), *_as_part(value)):
        for body in _asking(part):
            with pytest.raises(InvalidReference):
                find(body, judge=Judge.ENGINE)


@every_dialect
@pytest.mark.parametrize(
    "part",
    [
        {"type": "x", "x": NAMED},
        {"type": "x", "x": ["attachment://a"]},
        {"type": "x", "x": {"file_id": "anything"}},
        {"type": "x", "file_ids": [ID]},
        {"type": "file", "file": "x", "file_id": ID},
        {"type": "file", "file": {"file_id": ID, "file_data": "x"}},
        {"type": "file", "file": {"file_id": "x"}},
        {"type": "file", "file": {"file_id": 5}},
        {"type": "image", "source": {"type": "file", "file_id": "x"}},
        {"type": "document", "source": {"type": "file", "file_id": ID}},
        {"type": "input_image", "file_id": ID, "image_url": URL},
        {"type": "image_url", "image_url": {"file_id": ID}},
        {"type": "image_url", "image_url": [NAMED]},
    ],
)
def test_reference_that_is_not_understood_never_reaches_an_engine_that_judges(
    find: Dialect, part: dict[str, Any]
) -> None:
    """H77: it would be dropped, and answered 200."""
    for body in _bodies(part):
        with pytest.raises(InvalidReference):
            find(body, judge=Judge.ENGINE)


TOKEN = HANDLE_SCHEME + "0123456789abcdef" * 2


@every_dialect
@pytest.mark.parametrize("judge", Judge)
@pytest.mark.parametrize(
    "value",
    [
        TOKEN,
        TOKEN.upper(),
        " \t" + TOKEN,
        "data:image/png;base64," + TOKEN,
        "DATA:," + TOKEN,
        "data:image/png;base64,AAAA," + TOKEN,
        "wav;base64," + TOKEN,
        "wav," + TOKEN,
        "A" * 100_000 + TOKEN,
    ],
)
def test_no_client_names_what_we_tell_an_engine(find: Dialect, judge: Judge, value: str) -> None:
    for part in (
        *_hidden(value),
        {"type": "input_audio", "input_audio": {"data": value}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": value}},
        {"type": "image", "source": {"type": "base64", "data": "AAAA", "media_type": value}},
        {"type": "image_embeds", "image_embeds": {"a": value}},
    ):
        for body in _asking(part):
            with pytest.raises(SourceNotAllowed) as caught:
                find(body, judge=judge)

            assert caught.value.param
            assert TOKEN not in caught.value.message


@every_dialect
@pytest.mark.parametrize("judge", Judge)
def test_prose_may_speak_of_handles(find: Dialect, judge: Judge) -> None:
    assert find(_conversation(TOKEN), judge=judge) == []


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from([*OWN_BUSINESS, NAMED, ID, "attachment://a", "file-", "vllm-file:", TOKEN]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(*MEDIA_KEYS, "input_audio", "images", "IMAGE_URL", "format", "detail"),
                    *("type", "text", "url", "URL", "data", "path", "file", "file_id", "file_data"),
                    *("source", "content", "input", "output", "messages", "media_type", "x"),
                    *("image_embeds", "uuid", "tools", "media_io_kwargs"),
                ]
            ),
            inner
            | st.sampled_from(
                ["image_url", "input_image", "input_file", "image", "file", "text", "tool_use"]
            ),
            max_size=5,
        )
    ),
    max_leaves=12,
)


def _names_ours(value: Any) -> bool:
    """Whether anything in `value` could be a reference of ours, by its looks alone."""
    if isinstance(value, dict):
        return any(
            ("file_id" in key.lower() and member) or _names_ours(member)
            for key, member in value.items()
        )
    if isinstance(value, list):
        return any(map(_names_ours, value))
    text = "".join(str(value).split()).lower()
    return any(word in text for word in ("vllm-file:", "file-", "attachment:", HANDLE_SCHEME))


@settings(max_examples=300)
@given(
    st.sampled_from(DIALECTS),
    st.sampled_from(["messages", "input", "prompt", "x"]),
    st.lists(ANY_JSON, max_size=4),
)
def test_engine_that_judges_loses_nothing_and_gets_what_the_wall_resolves(
    find: Dialect, key: str, parts: list[Any]
) -> None:
    """What names nothing of ours passes untouched; what the wall lets pass is resolved in the same way."""
    body = {key: [{"role": "user", "content": parts}, *parts]}
    if not _names_ours(body):
        assert _ours(find(body, judge=Judge.ENGINE)) == []
    try:
        fields = find(body)
    except InvalidRequest:
        return
    resolved = [field for field in fields if isinstance(field.reference, OURS)]
    assert _ours(find(body, judge=Judge.ENGINE)) == resolved
