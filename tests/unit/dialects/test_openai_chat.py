import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediagate.core.errors import InvalidReference, InvalidRequest, InvalidValue, SourceNotAllowed
from mediagate.core.files import FileId, MediaKind
from mediagate.core.references import (
    Base64Reference,
    DataReference,
    FileReference,
    MediaReference,
    UrlReference,
)
from mediagate.dialects.fields import Edit, Form, MediaField, Place, Slot
from mediagate.dialects.openai_chat import find

ID = "file-0123456789abcdef0123456789abcdef"
NAMED = "vllm-file://" + ID
FILE = FileReference(FileId(ID))
URL = "https://host/clip"
DATA = "data:image/png;base64,AAAA"
PATH = "/etc/passwd"

MEDIA_KEYS = {
    "image_url": MediaKind.IMAGE,
    "image": MediaKind.IMAGE,
    "video_url": MediaKind.VIDEO,
    "video": MediaKind.VIDEO,
    "audio_url": MediaKind.AUDIO,
    "audio": MediaKind.AUDIO,
    "input_image": MediaKind.IMAGE,
}


def chat(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": list(parts)}]}


def only(body: dict[str, Any]) -> MediaField:
    (field,) = find(body)
    return field


def refusal(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        find(body)
    return caught.value


# What is taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant", "tool", "critic"])
@pytest.mark.parametrize("key", ["image_url", "video_url", "audio_url"])
@pytest.mark.parametrize("value", [ID, NAMED])
def test_a_url_object_names_a_file_in_every_role(role: str, key: str, value: str) -> None:
    body = chat({"type": "text", "text": "?"}, {"type": key, key: {"url": value}}, role=role)

    field = only(body)

    path = ("messages", 0, "content", 1, key, "url")
    assert field == MediaField(
        path, MEDIA_KEYS[key], Form.URI, FILE, (Edit(path, Place.VALUE, (b'"', Slot.MEDIA, b'"')),)
    )
    assert field.param == f"messages[0].content[1].{key}.url"


@pytest.mark.parametrize("key", MEDIA_KEYS)
@pytest.mark.parametrize("typed", [True, False])
def test_a_plain_string_names_a_file(key: str, typed: bool) -> None:
    part = {key: NAMED, **({"type": key} if typed else {})}

    field = only(chat(part))

    assert (field.path[-1], field.kind, field.form) == (key, MEDIA_KEYS[key], Form.URI)
    assert field.reference == FILE


@pytest.mark.parametrize("value", [NAMED, URL, DATA])
def test_a_media_part_may_hold_its_url_itself(value: str) -> None:
    field = only(chat({"type": "video", "url": value}))

    assert (field.path[-1], field.kind, field.form) == ("url", MediaKind.VIDEO, Form.URI)


def test_a_media_part_may_hold_its_data_itself() -> None:
    field = only(chat({"type": "video", "data": ID}))

    assert (field.kind, field.form, field.reference) == (MediaKind.VIDEO, Form.BASE64, FILE)


@pytest.mark.parametrize("uuid", [None, "u-1"])
def test_the_key_counts_whatever_the_type_says(uuid: str | None) -> None:
    part = {"type": "text", "text": "?", "uuid": uuid, "image_url": {"url": NAMED}}

    assert only(chat(part)).reference == FILE


def test_sound_by_id_gets_the_format_that_its_bytes_have() -> None:
    field = only(chat({"type": "input_audio", "input_audio": {"data": ID, "format": "wav"}}))

    data = ("messages", 0, "content", 0, "input_audio", "data")
    assert (field.kind, field.form) == (MediaKind.AUDIO, Form.BASE64)
    assert field.edits == (
        Edit(data, Place.VALUE, (b'"', Slot.MEDIA, b'"')),
        Edit((*data[:-1], "format"), Place.VALUE, (b'"', Slot.FORMAT, b'"')),
    )


def test_sound_by_id_without_a_format_gets_one() -> None:
    field = only(chat({"type": "input_audio", "input_audio": {"data": ID}}))

    assert field.edits[1] == Edit(field.path, Place.AFTER, (b',"format":', b'"', Slot.FORMAT, b'"'))


@pytest.mark.parametrize(("key", "form"), [("data", Form.BASE64), ("url", Form.URI)])
def test_llama_servers_video_names_a_file(key: str, form: Form) -> None:
    field = only(chat({"type": "input_video", "input_video": {key: NAMED}}))

    assert (field.kind, field.form, field.reference) == (MediaKind.VIDEO, form, FILE)
    assert len(field.edits) == 1


@pytest.mark.parametrize("value", [ID, NAMED])
def test_a_file_part_becomes_the_part_of_the_files_kind(value: str) -> None:
    field = only(chat({"type": "file", "file": {"file_id": value, "filename": "x.mp4"}}))

    part = ("messages", 0, "content", 0)
    kind_url = (b'"', Slot.KIND, b'_url"')
    assert (field.kind, field.form, field.reference) == (None, Form.URI, FILE)
    assert field.param == "messages[0].content[0].file.file_id"
    assert field.edits == (
        Edit((*part, "type"), Place.VALUE, kind_url),
        Edit((*part, "file"), Place.KEY, kind_url),
        Edit((*part, "file", "file_id"), Place.KEY, (b'"url"',)),
        Edit((*part, "file", "file_id"), Place.VALUE, (b'"', Slot.MEDIA, b'"')),
    )


def test_a_flat_input_image_becomes_an_image_part() -> None:
    field = only(chat({"type": "input_image", "file_id": ID, "detail": "low"}))

    assert (field.kind, field.param) == (MediaKind.IMAGE, "messages[0].content[0].file_id")
    assert [edit.place for edit in field.edits] == [Place.VALUE, Place.KEY, Place.VALUE]


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        ({"type": "image_url", "image_url": {"url": URL}}, UrlReference(URL)),
        ({"type": "image_url", "image_url": URL}, UrlReference(URL)),
        ({"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}, DataReference(DATA)),
        ({"type": "input_image", "image_url": DATA}, DataReference(DATA)),
        ({"type": "file", "file": {"file_data": DATA, "filename": "x"}}, DataReference(DATA)),
        (
            {"type": "file", "file": {"file_id": None, "file_data": DATA}},
            DataReference(DATA),
        ),
        ({"type": "image", "path": URL}, UrlReference(URL)),
        ({"type": "image", "base64": "AAAA"}, Base64Reference("AAAA")),
        ({"type": "x", "x": {"image_url": URL}}, UrlReference(URL)),
        ({"type": "image", "source": {"type": "base64", "data": "AAAA"}}, Base64Reference("AAAA")),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            Base64Reference("AAAA"),
        ),
        ({"type": "input_audio", "input_audio": {"data": DATA}}, DataReference(DATA)),
        ({"type": "input_audio", "input_audio": "AAAA"}, Base64Reference("AAAA")),
    ],
)
def test_other_references_are_reported_and_not_edited(
    part: dict[str, Any], reference: MediaReference | Base64Reference
) -> None:
    field = only(chat(part))

    assert field.reference == reference
    assert field.edits == ()


def test_frames_of_a_video_are_judged_one_by_one() -> None:
    fields = find(chat({"type": "video", "video": [URL, {"url": DATA}]}))

    assert [field.reference for field in fields] == [UrlReference(URL), DataReference(DATA)]


def test_a_batch_of_conversations_is_read() -> None:
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": ID}}]}
    body = {"messages": [[message], [{"role": "user", "content": "hi"}, message]]}

    fields = find(body)

    assert [field.param for field in fields] == [
        "messages[0][0].content[0].image_url.url",
        "messages[1][1].content[0].image_url.url",
    ]


def test_ollamas_images_beside_the_content_are_read() -> None:
    body = {"messages": [{"role": "user", "content": "?", "images": ["AAAA"]}]}

    field = only(body)

    assert (field.kind, field.reference) == (MediaKind.IMAGE, Base64Reference("AAAA"))


# What is left alone -------------------------------------------------------------------------------

PROSE = [NAMED, ID, "see " + NAMED, "file:///etc/passwd", "vllm-file://../x", "file-", PATH]


@pytest.mark.parametrize("text", PROSE)
def test_text_may_be_anything(text: str) -> None:
    body = {
        "model": text,
        "user": text,
        "metadata": {"file_id": text},
        "tools": [{"type": "function", "function": {"name": text, "description": text}}],
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
                    {"type": "tool_result", "content": text},
                    {"type": "tool_result", "content": [{"type": "text", "text": text}, text]},
                ],
            },
        ],
    }

    assert find(body) == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": None, "uuid": ID},
        {"type": "image_url", "image_url": {"url": None}, "uuid": NAMED},
        {
            "type": "text",
            "text": "x",
            "cache_control": {"type": "ephemeral"},
            "extra": [1, {"a": 0}],
        },
        {"type": "x", "filename": NAMED, "note": ID, "at": "https://host", "file_id": None},
        {"type": "prompt_embeds", "data": "AAAA"},
        {"type": "image_embeds", "image_embeds": {"a": "AAAA"}},
        {"type": 5, "url": None},
    ],
)
def test_keys_that_mean_nothing_to_us_are_left_alone(part: dict[str, Any]) -> None:
    assert find(chat(part)) == []


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": [{"role": "user"}]}])
def test_a_body_without_contents_names_nothing(body: dict[str, Any]) -> None:
    assert find(body) == []


# The wall -----------------------------------------------------------------------------------------


def _hidden(value: str) -> list[dict[str, Any]]:
    """`value` in every place that some engine might read."""
    media = [
        {key: value} | extra
        for key in (*MEDIA_KEYS, "input_audio", "input_video", "images", "videos", "audios")
        for extra in ({"type": key}, {"type": "text", "text": "?", "uuid": "u"}, {})
    ]
    objects = [
        {"type": key, key: {inner: value}}
        for key in (*MEDIA_KEYS, "input_audio", "input_video")
        for inner in ("url", "uri", "path", "data", "base64", "image_url", "file_url", "file_path")
    ]
    flat = [
        {"type": kind, inner: value}
        for kind in ("image", "video", "audio", "text", "x")
        for inner in ("url", "uri", "path", "file", "file_url", "data", "base64", "file_data")
    ]
    return [
        *media,
        *objects,
        *flat,
        {"type": "image_url", "IMAGE_URL": {"URL": value}},
        {"type": "image_url", "image_url": {"Url": value}},
        {"type": "image_url", "im\u0061ge_url": {"url": value}},
        {"type": "image_url", "image_url": {"url": URL}, "video_url": {"url": value}},
        {"type": "image_url", "image_url": [{"url": value}]},
        {"type": "video", "video": [URL, value]},
        {"type": "video", "video": [[value]]},
        {"type": "x", "x": {"y": [{"image_url": {"url": value}}]}},
        {"type": "tool_result", "content": [{"type": "image_url", "image_url": {"url": value}}]},
        {"type": "tool_result", "content": [{"type": "image", "url": value}]},
        {"type": "image", "source": {"type": "url", "url": value}},
        {"type": "file", "file": {"file_data": value}},
        {"type": "file", "file": {"file_data": DATA, "url": value}},
        {"type": "file", "file": {"file_id": ID, "path": value}},
        {"file": {"file_data": value}},
    ]


@pytest.mark.parametrize(
    "value", ["file:///etc/passwd", " FILE:///etc/passwd", "../x.png", "ftp://h/x"]
)
def test_no_path_or_foreign_scheme_passes_at_any_place(value: str) -> None:
    for part in _hidden(value):
        error = refusal(chat(part))

        assert isinstance(error, SourceNotAllowed), part
        assert error.param is not None
        assert error.param.startswith("messages[0].content[0].")
        assert value not in error.message


@pytest.mark.parametrize("value", ["vllm-file://../x", NAMED.upper(), "file-xyz", NAMED + "/"])
def test_no_malformed_reference_passes_at_any_place(value: str) -> None:
    for part in _hidden(value):
        assert isinstance(refusal(chat(part)), InvalidReference), part


@pytest.mark.parametrize("value", ["file:///x", "File:x", "\tfile:///x"])
def test_a_file_url_under_an_unknown_key_is_refused(value: str) -> None:
    for part in ({"type": "x", "x": value}, {"type": "x", "x": [{"y": value}]}, {"any": [value]}):
        assert isinstance(refusal(chat(part)), SourceNotAllowed)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "x", "x": NAMED},
        {"type": "x", "x": {"y": [NAMED]}},
        {"type": "text", "text": "?", "note": "vllm-file://"},
        {"type": "image", "path": NAMED},
        {"type": "image", "uri": NAMED},
        {"type": "x", "url": NAMED},
        {"type": "x", "data": NAMED},
        {"url": ID},
        {"type": "image_url", "Image_URL": {"url": NAMED}},
        {"type": "image_url", "image_url": {"URL": NAMED}},
        {"type": "image_url", "image_url": {"path": NAMED}},
        {"type": "image_url", "image_url": {"image_url": NAMED}},
        {"type": "image_url", "image_url": {"file_id": ID}},
        {"type": "image_url", "image_url": [NAMED]},
        {"type": "image_url", "file_id": ID},
        {"type": "input_audio", "input_audio": ID},
        {"type": "video", "video": [NAMED]},
        {"type": "x", "x": {"video_url": NAMED}},
        {"type": "x", "x": {"file_id": "anything"}},
        {"type": "x", "x": [{"FILE_ID": 1}]},
        {"type": "tool_result", "content": [{"type": "image_url", "image_url": {"url": NAMED}}]},
        {"type": "tool_result", "content": [{"type": "file", "file": {"file_id": ID}}]},
        {"type": "image", "source": {"type": "file", "file_id": ID}},
        {"file": {"file_id": ID}},
        {"type": "File", "file": {"file_id": ID}},
        {"type": "text", "text": "?", "file": {"file_id": ID}},
        {"type": "file", "file_id": ID},
        {"type": "file", "File": {"file_id": ID}},
        {"type": "file", "file": ID},
        {"type": "file", "file": [ID]},
        {"type": "file", "file": NAMED},
        {"type": "file"},
        {"type": "file", "file": {}},
        {"type": "file", "file": {"filename": "x"}},
        {"type": "file", "file": {"file_id": ID, "file_data": DATA}},
        {"type": "file", "file": {"file_id": ID, "url": DATA}},
        {"type": "file", "file": {"file_id": ID, "URL": None}},
        {"type": "file", "file": {"file_id": ID}, "video_url": {"url": URL}},
        {"type": "file", "file": {"file_id": ID}, "Image_Url": None},
        {"type": "file", "file": {"file_id": 5}},
        {"type": "file", "file": {"file_id": {"id": ID}}},
        {"type": "file", "file": {"file_id": "file-abc"}},
        {"type": "file", "file": {"file_id": "assistant-1"}},
        {"type": "file", "file": {"file_id": ID}, "file_id": ID},
        {"type": "file", "file": {"file_data": NAMED}},
        {"type": "input_image", "file_id": ID, "image_url": None},
        {"type": "input_image", "file_id": 7},
        {"type": "input_file", "file_id": ID},
        {"type": "image_url", "image_url": {"url": {"url": URL}}},
        {"type": "image_url", "image_url": {"url": [URL]}},
        {"type": "image_url", "image_url": 5},
        {"type": "image_url", "image_url": True},
        {"type": "image", "url": 0},
    ],
)
def test_a_reference_that_is_not_understood_is_refused(part: dict[str, Any]) -> None:
    error = refusal(chat(part))

    assert isinstance(error, InvalidReference)
    assert error.param is not None
    assert error.param.startswith("messages[0].content[0]")


@pytest.mark.parametrize(
    "key", ["image", "image_url", "images", "video_url", "audio_url", "input_audio", "Video"]
)
def test_media_beside_the_content_passes_the_wall_too(key: str) -> None:
    message = {"role": "user", "content": "?", key: {"url": "file:///x"}}

    assert isinstance(refusal({"messages": [message]}), SourceNotAllowed)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": None},
        {"messages": "hi"},
        {"messages": {"0": {"role": "user", "content": []}}},
        {"messages": ["hi"]},
        {"messages": [None]},
        {"messages": [[["hi"]]]},
        {"messages": [[[{"role": "user", "content": []}]]]},
        {"messages": [], "Messages": []},
        {"me\u017f\u017fages": []},
        {"messages": [{"content": {"type": "image_url"}}]},
        {"messages": [{"content": 5}]},
        {"messages": [{"content": "x", "Content": []}]},
        {"messages": [{"content": [[{"type": "image_url"}]]}]},
        {"messages": [{"content": [None]}]},
        {"messages": [{"content": [5]}]},
        {"messages": [{"content": [{"type": "tool_result", "content": [[]]}]}]},
    ],
)
def test_messages_in_another_shape_are_refused(body: dict[str, Any]) -> None:
    error = refusal(body)

    assert isinstance(error, InvalidValue)
    assert error.param


def test_the_error_names_the_place_in_a_long_history() -> None:
    good = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    bad = {"role": "user", "content": [good["content"], {"type": "text", "text": ""}]}
    bad["content"] = [{"type": "text", "text": ""}, {"type": "file", "file": {"file_id": "file-x"}}]

    error = refusal({"messages": [good, good, bad, good]})

    assert error.param == "messages[2].content[1].file.file_id"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([*PROSE, URL, DATA, "AAAA"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *MEDIA_KEYS,
                    *(
                        "type",
                        "text",
                        "url",
                        "data",
                        "path",
                        "file",
                        "file_id",
                        "file_data",
                        "source",
                    ),
                    *("content", "input", "x", "URL", "input_audio", "format", "detail"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.lists(JSON, max_size=4))
def test_no_scheme_path_or_unresolved_reference_survives_any_shape(content: list[Any]) -> None:
    body = {"messages": [{"role": "user", "content": content}]}
    try:
        fields = find(body)
    except InvalidRequest:
        return

    for field in fields:
        value: Any = body
        for step in field.path:
            value = value[step]
        match field.reference:
            case FileReference():
                assert value in {ID, NAMED}
                assert field.edits
            case _:
                assert value in {URL, DATA, "AAAA"}
                assert not field.edits
    handled = {field.path for field in fields}
    for path, value in _media_strings(body):
        assert path in handled, (path, value, json.dumps(body))


def _media_strings(body: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """Strings directly under media keys, or under `url` of their objects, in a content part itself."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    for i, part in enumerate(body["messages"][0]["content"]):
        for key in MEDIA_KEYS if isinstance(part, dict) else ():
            value = part.get(key)
            path = ("messages", 0, "content", i, key)
            if isinstance(value, str):
                found.append((path, value))
            elif isinstance(value, dict) and isinstance(value.get("url"), str):
                found.append(((*path, "url"), value["url"]))
    return found
