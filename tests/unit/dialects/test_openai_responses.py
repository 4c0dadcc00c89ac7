from collections.abc import Callable
from typing import Any

import pytest

from edited import edited
from mediagate.core.errors import InvalidReference
from mediagate.core.files import FileId, MediaKind
from mediagate.core.references import DataReference, FileReference, UrlReference
from mediagate.dialects.fields import Form, MediaField
from mediagate.dialects.openai_responses import find

ID = "file-0123456789abcdef0123456789abcdef"
NAMED = "vllm-file://" + ID
FILE = FileReference(FileId(ID))
URL = "https://host/clip"
DATA = "data:image/png;base64,AAAA"

PLACES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "shorthand message": lambda part: {"role": "user", "content": [part]},
    "message": lambda part: {"type": "message", "role": "user", "content": [part]},
    "tool output": lambda part: {"type": "function_call_output", "call_id": "c", "output": [part]},
    "custom tool output": lambda part: {"type": "custom_tool_call_output", "output": [part]},
    "no message": lambda part: part,
}
"""Where a Responses body takes content parts; the last is read by transformers serve."""

every_place = pytest.mark.parametrize("place", PLACES)


def within(place: str, part: dict[str, Any]) -> dict[str, Any]:
    earlier = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
        {"type": "function_call", "call_id": "c", "name": "see", "arguments": "{}"},
    ]
    return {"model": "m", "input": [*earlier, PLACES[place](part)], "store": False}


def only(body: dict[str, Any]) -> MediaField:
    (field,) = find(body)
    return field


def part_of(place: str, body: dict[str, Any]) -> Any:
    item = body["input"][2]
    if place == "no message":
        return item
    return (item.get("content") or item["output"])[0]


@every_place
@pytest.mark.parametrize("value", [ID, NAMED])
def test_an_image_by_id_gets_its_url(place: str, value: str) -> None:
    """H75, H81."""
    body = within(place, {"type": "input_image", "detail": "high", "file_id": value, "x": 1.0})

    field = only(body)

    assert (field.kind, field.form, field.reference) == (MediaKind.IMAGE, Form.URI, FILE)
    assert field.param.endswith("file_id")
    assert part_of(place, edited(body, [field])) == {
        "type": "input_image",
        "detail": "high",
        "image_url": "<media>",
        "x": 1.0,
    }


@every_place
def test_an_image_of_an_earlier_answer_has_keys_that_say_nothing(place: str) -> None:
    """H75: what `responses.input_items.list` returned is sent again."""
    part = {"type": "input_image", "image_url": None, "file_id": ID, "detail": "auto"}
    body = within(place, part)

    sent = part_of(place, edited(body, find(body)))

    assert sent == {**part, "image_url": "<media>", "file_id": None}


@every_place
def test_a_file_by_id_becomes_an_image(place: str) -> None:
    """H75, H81."""
    part = {"type": "input_file", "filename": "a.png", "file_id": ID, "file_data": None}
    body = within(place, part)

    field = only(body)

    assert (field.kind, field.form, field.reference) == (MediaKind.IMAGE, Form.URI, FILE)
    assert "chat/completions" in field.hint
    assert part_of(place, edited(body, [field])) == {
        "type": "input_image",
        "filename": "a.png",
        "image_url": "<media>",
        "detail": "auto",
        "file_data": None,
    }


@every_place
@pytest.mark.parametrize("own", [{}, {"detail": None}])
@pytest.mark.parametrize("beside", [{}, {"image_url": None}])
def test_an_image_that_was_a_file_has_the_detail_that_engines_ask_for(
    place: str, own: dict[str, Any], beside: dict[str, Any]
) -> None:
    """H75: vLLM, SGLang and LMDeploy check it with OpenAI's own types, where an input_image must have one."""
    body = within(place, {"type": "input_file", "file_id": ID, **beside, **own})

    assert part_of(place, edited(body, find(body)))["detail"] == "auto"


@every_place
def test_an_image_that_was_a_file_keeps_its_detail(place: str) -> None:
    """H81."""
    body = within(place, {"type": "input_file", "file_id": ID, "detail": "high"})

    assert part_of(place, edited(body, find(body)))["detail"] == "high"


def test_a_screenshot_by_id_gets_its_url() -> None:
    """H75."""
    output = {"type": "computer_screenshot", "file_id": ID}
    body = {"input": [{"type": "computer_call_output", "call_id": "c", "output": output}]}

    after = edited(body, find(body))

    assert after["input"][0]["output"] == {"type": "computer_screenshot", "image_url": "<media>"}


@every_place
@pytest.mark.parametrize("value", [ID, NAMED])
def test_a_file_is_named_in_place_of_a_url(place: str, value: str) -> None:
    """H74, H75."""
    body = within(place, {"type": "input_image", "image_url": value, "detail": "low"})

    field = only(body)

    assert (field.kind, field.form, field.reference) == (MediaKind.IMAGE, Form.URI, FILE)
    sent = part_of(place, edited(body, [field]))
    assert sent == {"type": "input_image", "image_url": "<media>", "detail": "low"}


@every_place
@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_parts_of_chat_completions_are_taken_as_there(place: str, kind: str) -> None:
    """SGLang and transformers serve read them here."""
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": NAMED}}
    body = within(place, part)

    field = only(body)

    assert field.kind == kind
    assert part_of(place, edited(body, [field]))[f"{kind}_url"] == {"url": "<media>"}


def test_sound_is_taken_as_in_chat_completions() -> None:
    part = {"type": "input_audio", "input_audio": {"data": ID, "format": "wav"}}
    body = within("message", part)

    sent = part_of("message", edited(body, find(body)))

    assert sent["input_audio"] == {"data": "<media>", "format": "mp3"}


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        ({"type": "input_image", "image_url": URL}, UrlReference(URL)),
        ({"type": "input_image", "image_url": DATA, "file_id": None}, DataReference(DATA)),
        ({"type": "input_file", "file_url": URL}, UrlReference(URL)),
        ({"type": "input_file", "file_data": DATA, "filename": "x"}, DataReference(DATA)),
        (
            {"type": "code_interpreter_call", "outputs": [{"type": "image", "url": URL}]},
            UrlReference(URL),
        ),
    ],
)
@every_place
def test_other_references_are_reported_and_not_edited(
    place: str, part: dict[str, Any], reference: Any
) -> None:
    field = only(within(place, part))

    assert field.reference == reference
    assert field.edits == ()


@pytest.mark.parametrize("text", [NAMED, ID, "file:///etc/passwd", "What is " + NAMED])
def test_the_input_may_be_any_text(text: str) -> None:
    """H82."""
    assert find({"model": "m", "input": text, "instructions": text}) == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "file_id": ID, "image_url": URL},
        {"type": "input_image", "file_id": ID, "Image_URL": None},
        {"type": "input_image", "file_id": ID, "file_data": DATA},
        {"type": "input_image", "file_id": "file-abc"},
        {"type": "input_image", "file_id": 7},
        {"type": "input_image", "file_id": "assistant-1"},
        {"type": "input_image", "FILE_ID": ID},
        {"type": "input_file", "file_id": ID, "file_url": URL},
        {"type": "input_file", "file_id": [ID]},
        {"type": "input_file", "file_data": ID},
        {"type": "input_file", "file_url": NAMED},
        {"type": "input_video", "file_id": ID},
        {"type": "input_text", "text": "?", "file_id": ID},
        {"type": "file", "file": {"file_id": ID}},
    ],
)
def test_a_reference_that_is_not_understood_is_refused(part: dict[str, Any]) -> None:
    """H75, H77."""
    for place in PLACES:
        with pytest.raises(InvalidReference) as caught:
            find(within(place, part))

        assert str(caught.value.param).startswith("input[2]")


def test_the_error_names_the_item_in_a_long_history() -> None:
    """H83."""
    body = within("tool output", {"type": "input_image", "file_id": "file-x"})

    with pytest.raises(InvalidReference) as caught:
        find(body)

    assert caught.value.param == "input[2].output[0].file_id"
