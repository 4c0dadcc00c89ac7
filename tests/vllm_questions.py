"""Questions about media to a real vLLM, in every form that may name them, and what comes of it.

    asker = Asker(server, {"authorization": "Bearer k"})
    red = asker.upload(RED_CLIP)                               -> its id
    asker.ask(IN_CHAT["file"], by_id(red, RED_CLIP))           -> Said(text, prompt_tokens)
    asker.ask(IN_CHAT["file"], inline(RED_CLIP))               -> the same, if the server found the same media

A form is a request that names one medium; all that this may be called (an id, a URL, base64) stands in a `Medium`.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import corpus
import servers
from corpus import Media
from servers import Answer, Server

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
JSON = {"content-type": "application/json"}

RED, BLUE, GREEN = (220, 20, 30), (10, 40, 230), (20, 200, 60)
SIDE = 112


def clip(*colours: corpus.Colour) -> Media:
    """Two seconds."""
    return corpus.encode_clip(width=SIDE, height=SIDE, seconds=2, colours=colours, audio=None)


def image(colour: corpus.Colour) -> Media:
    """A square."""
    return corpus.encode_image(width=SIDE, height=SIDE, colours=(colour,))


def sound(seconds: float) -> Media:
    """A tone."""
    return corpus.encode_sound(seconds=seconds, sample_rate=16_000)


@dataclass(frozen=True, slots=True)
class Medium:
    """One medium, as forms may name it.

    Attributes:
        uri: An id with its scheme, or a `data:` URI.
        data: A bare id, or base64.
        source: What Messages calls a source.
        kind: `image`, `video` or `audio`.
        file_id: None: it goes without.
    """

    uri: str
    data: str
    source: Mapping[str, str]
    kind: str
    file_id: str | None = None

    @property
    def part(self) -> dict[str, Any]:
        """A part of a message, in chat completions."""
        return {"type": f"{self.kind}_url", f"{self.kind}_url": {"url": self.uri}}


def by_id(file_id: str, media: Media) -> Medium:
    """The medium by the id that it got when it was uploaded."""
    source = {"type": "file", "file_id": file_id}
    return Medium(f"vllm-file://{file_id}", file_id, source, _kind(media), file_id)


def inline(media: Media) -> Medium:
    """The medium itself."""
    data = base64.b64encode(media.data).decode()
    source = {"type": "base64", "media_type": media.mime_type, "data": data}
    return Medium(f"data:{media.mime_type};base64,{data}", data, source, _kind(media))


def _kind(media: Media) -> str:
    return media.mime_type.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Said:
    """What a model made of a question.

    Attributes:
        text: Its words; where it is not asked for any, what else was said.
        prompt_tokens: How long the question was to it.
    """

    text: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Form:
    """A request with a place for one medium.

    Attributes:
        path: Where it goes.
        body: The JSON.
        read: What the answer says.
    """

    path: str
    body: Callable[[Medium], dict[str, Any]]
    read: Callable[[dict[str, Any]], Said]


@dataclass(slots=True)
class Asker:
    """A client.

    Attributes:
        server: Whom it asks.
        headers: Sent with each request.
    """

    server: Server
    headers: dict[str, str] = field(default_factory=dict)

    def request(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> Answer:
        """One request on a connection of its own; `content_type="x"` sends that header."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return servers.request(self.server, method, target, body, headers=self.headers | more)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """POST JSON."""
        return self.request("POST", path, json.dumps(body).encode(), **JSON)

    def upload(self, media: Media | bytes) -> str:
        """Upload, which must succeed; the id."""
        data = media if isinstance(media, bytes) else media.data
        answer = self.request("PUT", "/v1/files?filename=a", data)
        assert answer.status == 200, answer
        return str(answer.json()["id"])

    def delete(self, file_id: str) -> Answer:
        """DELETE."""
        return self.request("DELETE", f"/v1/files/{file_id}")

    def ask(self, form: Form, medium: Medium) -> Said:
        """Ask, which must succeed."""
        answer = self.post(form.path, form.body(medium))
        assert answer.status == 200, answer
        return form.read(answer.json())

    def ask_streaming(self, form: Form, medium: Medium) -> Said:
        """The same, with the answer in events."""
        options = {"stream_options": {"include_usage": True}} if form.path == CHAT else {}
        answer = self.post(form.path, {**form.body(medium), "stream": True, **options})
        return read_events(answer)


def read_events(answer: Answer) -> Said:
    """What a stream of any of the three APIs says."""
    assert answer.status == 200, answer
    assert str(answer.header("content-type")).startswith("text/event-stream")
    text, prompt_tokens = "", 0
    for line in answer.body.decode().splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        assert "error" not in event, event
        text += _delta(event)
        prompt_tokens = prompt_tokens or _prompt_tokens(event)
    return Said(text, prompt_tokens)


def _delta(event: dict[str, Any]) -> str:
    match event:
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"type": "response.output_text.delta", "delta": str(text)}:
            return text
        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
            return text
    return ""


def _prompt_tokens(event: dict[str, Any]) -> int:
    holder = event.get("response") or event.get("message") or event
    usage = holder.get("usage") or {}
    return int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0)


def chat(*parts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A chat completion about content parts."""
    content = [{"type": "text", "text": "what is in this"}, *parts]
    return {
        "model": "tiny",
        "max_tokens": 10,
        "ignore_eos": True,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
        **more,
    }


def response(*items: Mapping[str, Any] | str) -> dict[str, Any]:
    """A request to Responses."""
    return {"model": "tiny", "max_output_tokens": 10, "temperature": 0, "input": list(items)}


def message(*messages: Mapping[str, Any]) -> dict[str, Any]:
    """A request to Messages."""
    return {"model": "tiny", "max_tokens": 10, "temperature": 0, "messages": list(messages)}


def _user(*content: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*content], **more}


def _input_image(medium: Medium) -> dict[str, Any]:
    if medium.file_id is None:
        return {"type": "input_image", "image_url": medium.uri, "detail": "auto"}
    return {"type": "input_image", "file_id": medium.file_id, "detail": "auto"}


def _image_url(medium: Medium) -> dict[str, Any]:
    return {"type": "input_image", "image_url": medium.uri, "detail": "auto"}


def _of_tool(medium: Medium) -> dict[str, Any]:
    result = {"type": "image", "source": medium.source}
    return message(
        {"role": "user", "content": "look"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {}}],
        },
        _user({"type": "tool_result", "tool_use_id": "t1", "content": [result]}),
    )


def _history(medium: Medium) -> dict[str, Any]:
    said = {"type": "output_text", "text": "a square", "annotations": []}
    return response(
        _user({"type": "input_text", "text": "what"}, _input_image(medium), type="message"),
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [said],
        },
        _user({"type": "input_text", "text": "which colour"}, type="message"),
    )


def read_chat(answer: dict[str, Any]) -> Said:
    """A chat completion; all choices of a batch."""
    text = "\n".join(choice["message"]["content"] for choice in answer["choices"])
    return Said(text, answer["usage"]["prompt_tokens"])


def read_response(answer: dict[str, Any]) -> Said:
    """A response."""
    return Said(answer["output"][0]["content"][0]["text"], answer["usage"]["input_tokens"])


def _read_message(answer: dict[str, Any]) -> Said:
    return Said(answer["content"][0]["text"], answer["usage"]["input_tokens"])


def _read_count(answer: dict[str, Any]) -> Said:
    return Said("", answer["input_tokens"])


def _read_tokens(answer: dict[str, Any]) -> Said:
    return Said(str(answer["tokens"]), answer["count"])


def _file(medium: Medium) -> dict[str, Any]:
    if medium.file_id is None:
        return medium.part
    return {"type": "file", "file": {"file_id": medium.file_id}}


def _bare(medium: Medium) -> dict[str, Any]:
    if medium.file_id is None:
        return medium.part
    return {"type": f"{medium.kind}_url", f"{medium.kind}_url": {"url": medium.file_id}}


def _in_chat(medium: Medium) -> dict[str, Any]:
    if medium.file_id is None:
        return medium.part
    return {"type": "input_image", "file_id": medium.file_id}


def _input_audio(medium: Medium) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": medium.data, "format": "wav"}}


IN_CHAT: Mapping[str, Form] = {
    "image_url or video_url, with a scheme": Form(CHAT, lambda m: chat(m.part), read_chat),
    "image_url or video_url, bare": Form(CHAT, lambda m: chat(_bare(m)), read_chat),
    "file": Form(CHAT, lambda m: chat(_file(m)), read_chat),
}
"""Which take an image, a clip or a sound."""

OF_IMAGES: Mapping[str, Form] = {
    "input_image of chat": Form(CHAT, lambda m: chat(_in_chat(m)), read_chat),
    "responses, file_id": Form(
        RESPONSES,
        lambda m: response(_user({"type": "input_text", "text": "what"}, _input_image(m))),
        read_response,
    ),
    "responses, image_url": Form(
        RESPONSES,
        lambda m: response(_user({"type": "input_text", "text": "what"}, _image_url(m))),
        read_response,
    ),
    "responses, message": Form(
        RESPONSES,
        lambda m: response(
            _user({"type": "input_text", "text": "what"}, _input_image(m), type="message")
        ),
        read_response,
    ),
    "responses, history": Form(RESPONSES, _history, read_response),
    "messages": Form(
        MESSAGES,
        lambda m: message(
            _user({"type": "text", "text": "what"}, {"type": "image", "source": m.source})
        ),
        _read_message,
    ),
    "messages, tool_result": Form(MESSAGES, _of_tool, _read_message),
}
"""Which take images."""

OF_SOUNDS: Mapping[str, Form] = {
    "input_audio": Form(CHAT, lambda m: chat(_input_audio(m)), read_chat),
}
"""Which take sounds."""

ELSEWHERE: Mapping[str, Form] = {
    "/v1/chat/completions/batch": Form(
        "/v1/chat/completions/batch",
        lambda m: {**chat(), "messages": [chat(m.part)["messages"], chat()["messages"]]},
        read_chat,
    ),
    "/invocations": Form("/invocations", lambda m: chat(m.part), read_chat),
    "/tokenize": Form(
        "/tokenize",
        lambda m: {"model": "tiny", "messages": chat(m.part)["messages"]},
        _read_tokens,
    ),
    "/v1/messages/count_tokens": Form(
        "/v1/messages/count_tokens",
        lambda m: message(_user({"type": "image", "source": m.source})),
        _read_count,
    ),
}
"""By the path of the endpoint: all that read images beside those above."""
