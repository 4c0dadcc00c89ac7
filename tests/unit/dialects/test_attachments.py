"""Files that came with a request: where their ids are written, and that nothing else changes."""

import json
from typing import Any

import pytest

from mediagate.core.errors import InvalidReference, InvalidValue, MalformedBody, SourceNotAllowed
from mediagate.core.files import FileId, MediaKind
from mediagate.dialects.attachments import CHAT, RESPONSES, Attachment, Conversation, Payload
from mediagate.dialects.openai_chat import find


def attachment(number: int, *names: str, kind: MediaKind = MediaKind.VIDEO) -> Attachment:
    return Attachment(FileId(f"file-{number:032x}"), kind, frozenset(names))


CLIP = attachment(1, "file", "clip.mp4")
PICTURE = attachment(2, "picture", "a b é.png", kind=MediaKind.IMAGE)


def with_ids(
    body: dict[str, Any] | bytes, *attachments: Attachment, conversation: Conversation = CHAT
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Payload(raw, dialect=find, conversation=conversation).with_ids(attachments)


def file_part(of: Attachment) -> dict[str, Any]:
    return {"type": "file", "file": {"file_id": of.file_id}}


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_payload_knows_how_long_it_was() -> None:
    raw = '{"messages": [], "é": 1}'.encode()

    assert Payload(raw, dialect=find, conversation=CHAT).size_bytes == len(raw)


# files that are named -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "clip.mp4"])
@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": "attachment://NAME"}},
        {"type": "video_url", "video_url": "attachment://NAME"},
        {"type": "image_url", "image_url": {"url": "attachment://NAME", "detail": "low"}},
        {"type": "audio_url", "audio_url": {"url": "attachment://NAME"}},
        {"type": "input_audio", "input_audio": {"data": "attachment://NAME"}},
        {"type": "file", "file": {"file_id": "attachment://NAME"}},
        {"type": "input_image", "file_id": "attachment://NAME"},
    ],
)
def test_name_becomes_the_id_wherever_a_reference_is_taken(part: dict[str, Any], name: str) -> None:
    raw = json.dumps({"messages": [user([part])], "n": 1.0}).replace("NAME", name)

    assert (
        with_ids(raw.encode(), CLIP) == raw.replace(f"attachment://{name}", CLIP.file_id).encode()
    )


def test_filename_is_compared_as_it_is() -> None:
    part = {"type": "image_url", "image_url": {"url": "attachment://a b é.png"}}

    body = json.loads(with_ids({"messages": [user([part])]}, PICTURE))

    assert body["messages"][0]["content"][0]["image_url"]["url"] == PICTURE.file_id


def test_file_that_is_named_is_not_added_and_one_that_is_not_is() -> None:
    part = {"type": "video_url", "video_url": {"url": "attachment://clip.mp4"}}

    body = json.loads(with_ids({"messages": [user([part, part])]}, CLIP, PICTURE))

    named = {"type": "video_url", "video_url": {"url": CLIP.file_id}}
    assert body["messages"][0]["content"] == [named, named, file_part(PICTURE)]


@pytest.mark.parametrize("name", ["clip", "Clip.mp4", "clip.mp4 ", "clip%2Emp4", "payload"])
def test_unknown_name_is_refused_with_its_path(name: str) -> None:
    part = {"type": "video_url", "video_url": {"url": f"attachment://{name}"}}

    with pytest.raises(InvalidReference, match="No file") as refusal:
        with_ids({"messages": [user("x"), user([part])]}, CLIP)

    assert refusal.value.param == "messages[1].content[0].video_url.url"


def test_name_of_two_files_is_refused_but_their_other_names_are_good() -> None:
    one, two = attachment(1, "file", "a.png"), attachment(2, "file", "b.png")
    url = {"type": "image_url", "image_url": {"url": "attachment://file"}}
    named = [{"type": "image_url", "image_url": {"url": f"attachment://{x}.png"}} for x in "ba"]

    with pytest.raises(InvalidReference, match="Several") as refusal:
        with_ids({"messages": [user([url])]}, one, two)
    body = json.loads(with_ids({"messages": [user(named)]}, one, two))

    assert refusal.value.param == "messages[0].content[0].image_url.url"
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"]]
    assert urls == [two.file_id, one.file_id]


# files that nothing names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'"What\\u00e9?"', b'[{"type":"text","text":"What\\u00e9?"},PART]'),
        (b'""', b'[{"type":"text","text":""},PART]'),
        (b"[ ]", b"[PART]"),
        (b'[ {"type":"text","text":"a"} ]', b'[ {"type":"text","text":"a"},PART ]'),
    ],
)
def test_file_goes_behind_what_the_user_said(content: bytes, expected: bytes) -> None:
    raw = b'{"messages": [{"role": "user", "content": %b , "x": 1e5}]}'
    part = json.dumps(file_part(CLIP), separators=(",", ":")).encode()

    assert with_ids(raw % content, CLIP) == raw % expected.replace(b"PART", part)


def test_several_files_go_to_the_last_user_message_in_their_order() -> None:
    messages = [user("first"), user("second"), {"role": "assistant", "content": "third"}]

    body = json.loads(with_ids({"messages": messages}, PICTURE, CLIP))

    content = [{"type": "text", "text": "second"}, file_part(PICTURE), file_part(CLIP)]
    assert body["messages"] == [messages[0], user(content), messages[2]]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "x"}],
        [{"role": "User", "content": "x"}],
        [{"content": "x"}],
        [user(None)],
        [user("x"), {"role": "user"}],
        [[user("x")]],
    ],
)
def test_without_a_user_message_to_put_it_in_a_file_is_refused(messages: list[Any]) -> None:
    with pytest.raises(InvalidValue, match="user message") as refusal:
        with_ids({"messages": messages}, CLIP)

    assert refusal.value.param == "messages"


@pytest.mark.parametrize("body", [{}, {"input": "x"}, {"prompt": "x"}])
def test_without_messages_a_file_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match="'messages'"):
        with_ids(body, CLIP)


def test_without_files_nothing_changes() -> None:
    raw = b' {"messages" : [ ] , "x": 1.0}\n'

    assert with_ids(raw) == raw


def test_payload_is_judged_when_it_is_read() -> None:
    path = {"type": "image_url", "image_url": {"url": "/etc/passwd"}}

    with pytest.raises(SourceNotAllowed):
        Payload(json.dumps({"messages": [user([path])]}).encode(), dialect=find, conversation=CHAT)
    with pytest.raises(MalformedBody):
        Payload(b"{", dialect=find, conversation=CHAT)


# Responses ------------------------------------------------------------------------------------------------


def test_text_input_of_responses_becomes_a_user_message() -> None:
    raw = b'{"input": "What\\u00e9?", "model": "m"}'

    assert with_ids(raw, CLIP, conversation=RESPONSES) == (
        b'{"input": [{"role":"user","content":[{"type":"input_text","text":"What\\u00e9?"},'
        b'{"type":"input_file","file_id":"%b"}]}], "model": "m"}' % CLIP.file_id.encode()
    )


def test_file_goes_to_the_last_user_item_of_responses() -> None:
    items = [user("a"), user([{"type": "input_text", "text": "b"}]), {"type": "reasoning"}]

    body = json.loads(with_ids({"input": items}, PICTURE, conversation=RESPONSES))

    added = {"type": "input_image", "file_id": PICTURE.file_id, "detail": "auto"}
    assert body["input"][1]["content"] == [{"type": "input_text", "text": "b"}, added]


def test_text_in_the_place_of_messages_is_no_user_message_of_a_chat() -> None:
    conversation = CHAT

    assert conversation.opening({"messages": "x"}) is None
    assert RESPONSES.opening({"input": 1}) is None
