from typing import Any

import pytest

from mediagate.core.errors import InvalidReference, InvalidRequest
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


def test_the_key_counts_whatever_the_type_says() -> None:
    part = {"type": "text", "text": "?", "uuid": None, "image_url": {"url": NAMED}}

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


def test_media_in_the_input_of_embeddings_is_taken() -> None:
    """H74: SGLang's `{"text", "image", "video"}`, and messages in place of texts (vLLM)."""
    message = {"role": "user", "content": [{"type": "video_url", "video_url": {"url": NAMED}}]}
    body = {"input": [{"text": "?", "image": ID}, [message], message, "text", [1, 2]]}

    fields = find(body)

    assert [(field.param, field.kind) for field in fields] == [
        ("input[0].image", MediaKind.IMAGE),
        ("input[1][0].content[0].video_url.url", MediaKind.VIDEO),
        ("input[2].content[0].video_url.url", MediaKind.VIDEO),
    ]


def test_the_sides_of_a_comparison_are_taken() -> None:
    part = {"type": "image_url", "image_url": {"url": ID}}
    body = {"query": {"content": [part]}, "documents": [[part], {"content": [part]}, "text"]}

    assert [field.param for field in find(body)] == [
        "query.content[0].image_url.url",
        "documents[0][0].image_url.url",
        "documents[1].content[0].image_url.url",
    ]


@pytest.mark.parametrize("kind", MediaKind)
def test_media_beside_a_prompt_are_taken(kind: MediaKind) -> None:
    """SGLang's and LMDeploy's `/generate`; LMDeploy reads it in chat completions too."""
    key = f"{kind}_data"
    body = {"text": "?", key: [NAMED, [ID, "AAAA"], {"url": ID}, URL, DATA]}

    fields = find(body)

    assert [(field.param, field.kind, field.form) for field in fields] == [
        (f"{key}[0]", kind, Form.URI),
        (f"{key}[1][0]", kind, Form.URI),
        (f"{key}[1][1]", kind, Form.URI),
        (f"{key}[2].url", kind, Form.URI),
        (f"{key}[3]", kind, Form.URI),
        (f"{key}[4]", kind, Form.URI),
    ]
    assert fields[2].reference == Base64Reference("AAAA")


def test_media_of_a_llama_server_prompt_are_base64() -> None:
    body = {"prompt": {"prompt_string": "<__media__>", "multimodal_data": ["AAAA"]}}

    field = only(body)

    assert (field.kind, field.reference) == (None, Base64Reference("AAAA"))


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "source": {"type": "file", "file_id": ID}},
        {"type": "input_file", "file_id": ID},
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
    ],
)
def test_a_file_that_is_named_in_another_way_is_refused(part: dict[str, Any]) -> None:
    error = refusal(chat(part))

    assert isinstance(error, InvalidReference)
    assert error.param is not None
    assert error.param.startswith("messages[0].content[0]")


def test_the_error_names_the_place_in_a_long_history() -> None:
    """H83."""
    good = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    bad = {
        "content": [{"type": "text", "text": ""}, {"type": "file", "file": {"file_id": "file-x"}}]
    }

    error = refusal({"messages": [good, good, bad, good]})

    assert error.param == "messages[2].content[1].file.file_id"
