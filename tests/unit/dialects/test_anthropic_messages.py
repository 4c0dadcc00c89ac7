from typing import Any

import pytest

from edited import edited
from mediagate.core.errors import InvalidReference, SourceNotAllowed
from mediagate.core.files import FileId, MediaKind
from mediagate.core.references import Base64Reference, DataReference, FileReference, UrlReference
from mediagate.dialects.anthropic_messages import find
from mediagate.dialects.fields import Form, MediaField

ID = "file-0123456789abcdef0123456789abcdef"
NAMED = "vllm-file://" + ID
FILE = FileReference(FileId(ID))
URL = "https://host/clip"
DATA = "data:image/png;base64,AAAA"

PLACES = ["message", "tool result", "system", "batch"]
every_place = pytest.mark.parametrize("place", PLACES)


def within(place: str, block: dict[str, Any]) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [block, {"type": "text"}]}
    content = [{"type": "text", "text": "?"}, result if place == "tool result" else block]
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    match place:
        case "system":
            return {"system": content, "messages": []}
        case "batch":
            return {"requests": [{"custom_id": "a", "params": body}]}
    return body


def block_of(place: str, body: dict[str, Any]) -> Any:
    if place == "system":
        return body["system"][1]
    if place == "batch":
        body = body["requests"][0]["params"]
    block = body["messages"][0]["content"][1]
    return block["content"][0] if place == "tool result" else block


def only(body: dict[str, Any]) -> MediaField:
    (field,) = find(body)
    return field


@every_place
@pytest.mark.parametrize("value", [ID, NAMED])
def test_an_image_by_id_becomes_base64(place: str, value: str) -> None:
    """H76, H81."""
    source = {"type": "file", "file_id": value}
    block = {"type": "image", "source": source, "cache_control": {"type": "ephemeral"}}
    body = within(place, block)

    field = only(body)

    assert (field.kind, field.form, field.reference) == (MediaKind.IMAGE, Form.BASE64, FILE)
    assert field.param.endswith(".source.file_id")
    assert "chat/completions" in field.hint
    assert block_of(place, edited(body, [field])) == {
        "type": "image",
        "source": {"type": "base64", "data": "<media>", "media_type": "image/png"},
        "cache_control": {"type": "ephemeral"},
    }


@every_place
@pytest.mark.parametrize(
    ("source", "reference"),
    [
        (
            {"type": "base64", "media_type": "image/png", "data": "AAAA"},
            Base64Reference("AAAA"),
        ),
        ({"type": "url", "url": URL}, UrlReference(URL)),
        ({"type": "url", "url": DATA}, DataReference(DATA)),
        ({"url": URL}, UrlReference(URL)),
    ],
)
def test_other_sources_are_reported_and_not_edited(
    place: str, source: dict[str, Any], reference: Any
) -> None:
    field = only(within(place, {"type": "image", "source": source}))

    assert (field.kind, field.reference, field.edits) == (MediaKind.IMAGE, reference, ())


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": NAMED},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": ID}},
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": NAMED}, NAMED]},
        },
        {"type": "search_result", "source": "wiki", "title": ID, "content": []},
        {"type": "tool_use", "id": "t", "name": "see", "input": {"image_url": "a.png"}},
        {"type": "thinking", "thinking": NAMED, "signature": "x"},
        {"type": "image"},
        {"type": "image", "source": None},
    ],
)
def test_text_is_left_alone(block: dict[str, Any]) -> None:
    """H82."""
    for place in PLACES:
        assert find(within(place, block)) == []


@pytest.mark.parametrize(
    "block",
    [
        # no server takes these: dropped from the results of tools, and answered as if nothing had been there
        {"type": "video", "source": {"type": "file", "file_id": ID}},
        {"type": "audio", "source": {"type": "file", "file_id": ID}},
        {"type": "document", "source": {"type": "file", "file_id": ID}},
        {"type": "container_upload", "file_id": ID},
        {"type": "x", "source": {"type": "file", "file_id": ID}},
        # other ways to name a file
        {"type": "image", "source": {"type": "url", "url": NAMED}},
        {"type": "image", "source": {"type": "base64", "data": ID}},
        {"type": "image", "source": {"file_id": ID}},
        {"type": "image", "source": {"type": "File", "file_id": ID}},
        {"type": "image", "source": {"Type": "file", "file_id": ID}},
        {"type": "image", "Source": {"type": "file", "file_id": ID}},
        {"type": "image", "source": [{"type": "file", "file_id": ID}]},
        {"type": "image", "source": NAMED},
        {"type": "image", "file_id": ID},
        {"type": "image_url", "image_url": {"url": NAMED}},
        {"type": "image_url", "image_url": NAMED},
        {"type": "file", "file": {"file_id": ID}},
        {"type": "input_image", "file_id": ID},
        # not one, or more than one
        {"type": "image", "source": {"type": "file"}},
        {"type": "image", "source": {"type": "file", "file_id": None}},
        {"type": "image", "source": {"type": "file", "file_id": 7}},
        {"type": "image", "source": {"type": "file", "file_id": "file-x"}},
        {"type": "image", "source": {"type": "file", "file_id": "../x"}},
        {"type": "image", "source": {"type": "file", "file_id": ID, "data": None}},
        {"type": "image", "source": {"type": "file", "file_id": ID, "Media_Type": "image/png"}},
        {"type": "image", "source": {"type": "file", "file_id": ID, "url": URL}},
        {"type": "image", "source": {"type": "file", "file_id": ID, "FILE_ID": ID}},
    ],
)
def test_a_reference_that_cannot_be_translated_is_refused(block: dict[str, Any]) -> None:
    """H76, H77."""
    for place in PLACES:
        with pytest.raises(InvalidReference) as caught:
            find(within(place, block))

        assert caught.value.param


@pytest.mark.parametrize(
    "source",
    [
        {"type": "url", "url": "file:///etc/passwd"},
        {"type": "url", "url": "/etc/passwd"},
        {"type": "base64", "data": "/etc/passwd"},
        {"type": "base64", "data": "AAAA", "url": "/etc/passwd"},
        {"type": "text", "url": "/etc/passwd", "data": "x"},
        {"type": "text", "data": "x", "Data": "/etc/passwd"},
        {"type": "file", "file_id": ID, "path": "/etc/passwd"},
    ],
)
def test_no_path_passes_as_a_source(source: dict[str, Any]) -> None:
    """H76."""
    for place in PLACES:
        with pytest.raises(SourceNotAllowed):
            find(within(place, {"type": "image", "source": source}))


def test_the_error_names_the_block() -> None:
    """H83."""
    body = within("tool result", {"type": "image", "source": {"type": "file", "file_id": "file-x"}})

    with pytest.raises(InvalidReference) as caught:
        find(body)

    assert caught.value.param == "messages[0].content[1].content[0].source.file_id"
