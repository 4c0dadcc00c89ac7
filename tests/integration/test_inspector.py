"""The inspector as an ASGI application, on real media and on hostile requests."""

import asyncio
import base64
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import corpus
from mediagate.core.errors import FileNotFound, MediagateError
from mediagate.executor import Executor
from mediagate.gateway.inspector import Inspector, OpenedMedia
from mediagate.gateway.inspector_request import MAX_MEDIA, MODEL
from mediagate.media.probe import Prober
from mediagate.operations.deliver import HANDLE_SCHEME
from mediagate.web.asgi import ClientGone, Message
from mediagate.web.errors import render

pytestmark = pytest.mark.media

SEED = random.SystemRandom().randrange(2**32)


class Shelf:
    """Media by token; counts what is open."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, OpenedMedia] = {}
        self.open_count = 0

    def put(self, media: corpus.Media) -> str:
        token = f"t{len(self._files)}"
        path = self._directory / token
        path.write_bytes(media.data)
        digest = f"blake3:{hash(media.data):064x}"
        self._files[token] = OpenedMedia(
            path, media.filename, media.mime_type, len(media.data), digest
        )
        return HANDLE_SCHEME + token

    @asynccontextmanager
    async def open(self, token: str) -> AsyncIterator[OpenedMedia]:
        if token not in self._files:
            raise FileNotFound("There is no such file.")
        self.open_count += 1
        try:
            yield self._files[token]
        finally:
            self.open_count -= 1


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        content = self.json["choices"][0]["message"]["content"]
        assert isinstance(content, str)
        return content

    @property
    def events(self) -> list[Any]:
        *lines, last, end = self.body.decode().split("\n\n")
        assert (last, end) == ("data: [DONE]", "")
        return [json.loads(line.removeprefix("data: ")) for line in lines]


class Client:
    """Calls an inspector as a server would, errors answered as the gateway answers them."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    async def __call__(self, method: str, path: str, body: bytes = b"") -> Answer:
        sent: list[Message] = []
        waiting = [{"type": "http.request", "body": body[:7], "more_body": True}]
        waiting.append({"type": "http.request", "body": body[7:], "more_body": False})

        async def receive() -> Message:
            if waiting:
                return waiting.pop(0)
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "headers": []}
        try:
            await self._inspector(scope, receive, send)
        except MediagateError as error:
            assert not sent, "the answer had begun"
            status, headers, reply = render(error)
            return Answer(status, dict(headers), reply)
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], dict(sent[0]["headers"]), content)

    async def chat(self, body: object) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self("POST", "/v1/chat/completions", raw)

    async def ask(self, *parts: object, **fields: object) -> Answer:
        return await self.chat({"messages": [{"role": "user", "content": list(parts)}], **fields})


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def build(shelf: Shelf, tmp_path: Path) -> Iterator[Callable[[Prober], Inspector]]:
    executor = Executor("inspector", threads=1)
    spool = tmp_path / "spool"
    spool.mkdir()

    yield lambda prober: Inspector(
        prober=prober, open_media=shelf.open, executor=executor, spool_dir=spool,
        clock=lambda: 1_700_000_000.5, token_hex=lambda size: "ab" * size, max_body_bytes=2**20,
    )  # fmt: skip

    executor.close()
    assert list(spool.iterdir()) == []


@pytest.fixture
def client(build: Callable[[Prober], Inspector]) -> Client:
    return Client(build(Prober()))


def part(name: str, value: object) -> dict[str, object]:
    return {"type": name, name: {"data" if name == "input_audio" else "url": value}}


def data_uri(media: corpus.Media) -> str:
    return f"data:{media.mime_type};base64,{base64.b64encode(media.data).decode()}"


# --- answers ----------------------------------------------------------------------------------------------------------


async def test_answer_tells_what_was_encoded(client: Client, shelf: Shelf) -> None:
    media = corpus.encode_clip(
        width=96, height=64, fps=25, seconds=2, colours=[(210, 20, 20), (20, 20, 220)], stem="trip"
    )

    answer = await client.ask(
        {"type": "text", "text": "How long?"}, part("video_url", shelf.put(media)), model=MODEL
    )

    assert answer.status == 200
    assert answer.text.startswith("I am the mediagate inspector. I am no language model")
    for fact in (
        "File 1 of 1: trip.mp4", f"Type: video/mp4, {len(media.data):,} bytes", "Container: MP4", "Duration: 2 seconds",
        "Video: h264, 96 x 64 pixels, 25 frames per second, 50 frames, pixel format yuv420p",
        "Audio: aac, 44100 Hz, 1 channel, 2 seconds", "mostly red", "mostly blue", "Digest: blake3:",
    ):  # fmt: skip
        assert fact in answer.text
    assert "How long" not in answer.text
    assert shelf.open_count == 0


async def test_whole_answer_has_the_shape_of_a_chat_completion(client: Client) -> None:
    answer = await client.chat({"messages": [{"role": "user", "content": "Hello"}]})

    words = len(answer.text.split())
    assert answer.headers[b"content-type"] == b"application/json"
    assert answer.json == {
        "id": "chatcmpl-" + "ab" * 16, "object": "chat.completion", "created": 1_700_000_000, "model": MODEL,
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None, "finish_reason": "stop",
        }],
        "usage": {"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words},
    }  # fmt: skip


async def test_streamed_answer_is_the_whole_answer_line_by_line(
    client: Client, shelf: Shelf
) -> None:
    image = part("image_url", shelf.put(corpus.encode_image()))

    whole = await client.ask(image)
    streamed = await client.ask(image, stream=True)

    choices = [event["choices"][0] for event in streamed.events]
    assert streamed.headers[b"content-type"].startswith(b"text/event-stream")
    assert "".join(choice["delta"].get("content", "") for choice in choices) == whole.text
    assert choices[0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert len(choices) > 5
    assert all(event["object"] == "chat.completion.chunk" for event in streamed.events)
    assert all("usage" not in event for event in streamed.events)


async def test_usage_of_a_stream_comes_last_and_only_when_wanted(client: Client) -> None:
    messages = [{"role": "user", "content": "Hello"}]

    answer = await client.chat(
        {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    )

    *chunks, last = answer.events
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["completion_tokens"] > 0


async def test_several_files_are_told_in_their_order(client: Client, shelf: Shelf) -> None:
    image, sound = corpus.encode_image(), corpus.encode_sound(container="flac")
    messages = [
        {"role": "user", "content": [part("image_url", shelf.put(image))]},
        {"role": "assistant", "content": "An image."},
        {
            "role": "user",
            "content": [part("audio_url", shelf.put(sound)), part("image_url", data_uri(image))],
        },
    ]

    answer = await client.chat({"messages": messages})

    titles = [line for line in answer.text.splitlines() if line.startswith("File ")]
    assert titles == [
        "File 1 of 3: image.png",
        "File 2 of 3: sound.flac",
        "File 3 of 3: inline data",
    ]


async def test_same_bytes_are_measured_once(client: Client, shelf: Shelf) -> None:
    handle = shelf.put(corpus.encode_image())

    answer = await client.ask(part("image_url", handle), part("image_url", handle))

    assert answer.text.endswith("File 2 of 2: image.png\n- The same bytes as file 1.\n")


async def test_request_without_media_is_told_how_to_name_a_file(client: Client) -> None:
    answer = await client.chat({"messages": [{"role": "user", "content": "What is in clip.mp4?"}]})

    assert "names no file" in answer.text
    assert "POST /v1/files" in answer.text
    assert "clip.mp4" not in answer.text


async def test_damaged_tail_is_told(client: Client, shelf: Shelf) -> None:
    whole = corpus.encode_clip(
        width=320, height=240, fps=25, seconds=4, colours=[(i * 5, 90, 200 - i) for i in range(40)],
        audio=None, muxer_options={"moov_size": "20000"},
    )  # fmt: skip
    cut = corpus.Media(
        data=whole.data[: (20_000 + len(whole.data)) // 2],
        filename="cut.mp4",
        mime_type="video/mp4",
        container="mp4",
    )

    answer = await client.ask(part("video_url", shelf.put(cut)))

    assert "of 5 sampled frames did not decode" in answer.text


# --- inline data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda data: base64.b64encode(data).decode(), id="standard"),
        pytest.param(lambda data: base64.urlsafe_b64encode(data).decode(), id="url-safe"),
        pytest.param(lambda data: base64.encodebytes(data).decode(), id="lines"),
    ],
)
async def test_inline_data_is_measured(write: Callable[[bytes], str], client: Client) -> None:
    from blake3 import blake3

    media = corpus.encode_image(width=211, height=97)

    answer = await client.ask(part("image_url", "data:image/png;base64," + write(media.data)))

    assert "Image: PNG, 211 x 97 pixels" in answer.text
    assert f"Digest: blake3:{blake3(media.data).hexdigest()}" in answer.text


async def test_bare_base64_of_a_sound_is_measured(client: Client) -> None:
    media = corpus.encode_sound(container="wav", seconds=3)
    holder = {"data": base64.b64encode(media.data).decode(), "format": "wav"}

    answer = await client.ask({"type": "input_audio", "input_audio": holder})

    assert "Duration: 3 seconds" in answer.text


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("image_url", "http://127.0.0.1/a.png", "media_source_not_allowed"),
        ("image_url", "https://example.com/a.png", "media_source_not_allowed"),
        ("video_url", "file:///etc/passwd", "media_source_not_allowed"),
        ("video_url", "/etc/passwd", "media_source_not_allowed"),
        ("image_url", "MEDIAGATE-MEDIA:t0", "media_source_not_allowed"),
        ("input_audio", "https://example.com/a.wav", "media_source_not_allowed"),
        ("input_audio", "/etc/passwd", "invalid_value"),
        ("image_url", "file-" + "0" * 32, "invalid_reference"),
        ("image_url", "vllm-file://file-" + "0" * 32, "invalid_reference"),
        ("image_url", HANDLE_SCHEME + "../../etc/passwd", "file_not_found"),
        ("image_url", "data:image/png,%89PNG", "invalid_value"),
        ("image_url", "data:", "invalid_value"),
        ("image_url", "data:image/png;base64,", "empty_file"),
        ("image_url", "data:image/png;base64,AAA", "invalid_value"),
        ("image_url", "data:image/png;base64,AA==AAAA", "invalid_value"),
        ("image_url", "data:image/png;base64," + "A" * (2**18 - 2) + "==" + "A" * 4, "invalid_value"),
        ("image_url", "data:image/png;base64,\N{GREEK SMALL LETTER ALPHA}AAA", "invalid_value"),
        ("image_url", "data:image/png;base64,\ud800AAA", "invalid_value"),
        ("image_url", "data:image/png;base64,PHN2ZyBvbmxvYWQ9YSgpPjwvc3ZnPg==", "unsupported_media_type"),
        ("image_url", data_uri(corpus.encode_sound()), "media_kind_mismatch"),
        ("video_url", data_uri(corpus.encode_image()), "media_kind_mismatch"),
        ("image_url", data_uri(corpus.encode_image())[:-40], "unreadable_media"),
    ],
    ids=lambda value: value[:40].encode("ascii", "replace").decode() if isinstance(value, str) else None,
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
async def test_what_cannot_be_measured_is_a_4xx_at_its_path(
    name: str, value: str, code: str, stream: bool, client: Client
) -> None:
    answer = await client.ask({"type": "text", "text": "?"}, part(name, value), stream=stream)

    error = answer.json["error"]
    assert answer.status == (404 if code == "file_not_found" else 400)
    assert error["code"] == code
    assert (
        error["param"]
        == f"messages[0].content[1].{name}.{'data' if name == 'input_audio' else 'url'}"
    )


async def test_broken_second_file_is_named_before_a_stream_begins(
    client: Client, shelf: Shelf
) -> None:
    good = corpus.encode_image()
    broken = corpus.Media(
        data=good.data[:50], filename="b.png", mime_type="image/png", container="png"
    )

    answer = await client.ask(
        part("image_url", shelf.put(good)), part("image_url", shelf.put(broken)), stream=True
    )

    assert answer.status == 400
    assert answer.json["error"]["code"] == "unreadable_media"
    assert answer.json["error"]["param"] == "messages[0].content[1].image_url.url"
    assert shelf.open_count == 0


# --- hostile requests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "malformed_body"), (b"[]", "malformed_body"), (b"null", "malformed_body"), (b"{", "malformed_body"),
        (b"\xff\xfe{\0}\0", "malformed_body"), (b'{"messages": NaN}', "malformed_body"),
        (b"[" * 100_000, "malformed_body"), (b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}", "malformed_body"),
        (b'{"model": 1, "model": 2}', "malformed_body"), (b'{"n": ' + b"9" * 5000 + b"}", "malformed_body"),
        (b" " * (2**20 + 1), "body_too_large"),
    ],
    ids=range(11),
)  # fmt: skip
async def test_body_that_is_no_request_is_refused(raw: bytes, code: str, client: Client) -> None:
    answer = await client.chat(raw)

    assert answer.status in {400, 413}
    assert answer.json["error"]["code"] == code


TEXT = [{"role": "user", "content": "Hello"}]


def message(content: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"), ({"messages": None}, "messages"), ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"), ({"messages": [None]}, "messages[0]"), ({"messages": [[]]}, "messages[0]"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "Hello"}]}, "messages[0].role"),
        (message(1), "messages[0].content"), (message({"type": "text"}), "messages[0].content"),
        (message([1]), "messages[0].content[0]"), (message([["a"]]), "messages[0].content[0]"),
        (message([{}]), "messages[0].content[0].type"), (message([{"type": ["text"]}]), "messages[0].content[0].type"),
        (message([{"type": {}}]), "messages[0].content[0].type"),
        (message([{"type": "file", "file": {"file_id": "x"}}]), "messages[0].content[0].type"),
        (message([{"type": "text", "text": 1}]), "messages[0].content[0].text"),
        (message([{"type": "image_url"}]), "messages[0].content[0].image_url"),
        (message([{"type": "image_url", "image_url": "data:,"}]), "messages[0].content[0].image_url"),
        (message([part("video_url", None)]), "messages[0].content[0].video_url.url"),
        (message([part("audio_url", {"url": "x"})]), "messages[0].content[0].audio_url.url"),
        (message([part("input_audio", "")]), "messages[0].content[0].input_audio.data"),
        (message([part("image_url", "x")] * (MAX_MEDIA + 1)), "messages"),
        ({"messages": TEXT, "stream": "yes"}, "stream"), ({"messages": TEXT, "stream": 1}, "stream"),
        ({"messages": TEXT, "stream_options": True}, "stream_options"),
        ({"messages": TEXT, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": TEXT, "n": 2}, "n"), ({"messages": TEXT, "n": True}, "n"), ({"messages": TEXT, "n": [1]}, "n"),
        ({"messages": TEXT, "model": 7}, "model"), ({"messages": TEXT, "model": [MODEL]}, "model"),
    ],
    ids=range(33),
)  # fmt: skip
async def test_field_of_a_wrong_shape_is_named(body: object, param: str, client: Client) -> None:
    answer = await client.chat(body)

    assert answer.status == 400
    assert answer.json["error"]["code"] == "invalid_value"
    assert answer.json["error"]["param"] == param


async def test_no_json_of_any_shape_is_a_fault_of_ours(client: Client) -> None:
    rng = random.Random(SEED)
    for _ in range(500):
        body = {
            key: _any_json(rng, 4)
            for key in ("model", "messages", "stream", "stream_options", "n")
            if rng.random() < 0.7
        }

        answer = await client.chat(body)

        assert answer.status in {200, 400, 404}, (SEED, body)


def _any_json(rng: random.Random, depth: int) -> object:
    kind = rng.randrange(9 if depth else 6)
    if kind > 6:
        keys = (
            "role",
            "content",
            "type",
            "text",
            "image_url",
            "url",
            "input_audio",
            "data",
            "include_usage",
        )
        return {rng.choice(keys): _any_json(rng, depth - 1) for _ in range(rng.randrange(5))}
    if kind == 6:
        return [_any_json(rng, depth - 1) for _ in range(rng.randrange(4))]
    words = (
        "user",
        "text",
        "image_url",
        "input_audio",
        "data:,",
        "data:a;base64,AAAA",
        "\ud800",
        "",
        MODEL,
        "file-",
    )
    return (
        None,
        rng.random() < 0.5,
        rng.choice((0, 1, -1, 2**70)),
        1.5,
        rng.choice(words),
        rng.choice(words),
    )[kind]


# --- models and routes ------------------------------------------------------------------------------------------------


async def test_one_model_is_listed_and_found(client: Client) -> None:
    model = {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "mediagate"}

    listed = await client("GET", "/v1/models")
    found = await client("GET", f"/v1/models/{MODEL}")

    assert listed.json == {"object": "list", "data": [model]}
    assert found.json == model


async def test_other_model_is_not_found_and_ours_is_named(client: Client) -> None:
    for answer in (
        await client("GET", "/v1/models/gpt-\ud800"),
        await client.chat({"messages": TEXT, "model": "gpt-\ud800"}),
        await client.chat({"messages": TEXT, "model": ""}),
    ):
        assert answer.status == 404
        assert answer.json["error"]["code"] == "model_not_found"
        assert MODEL in answer.json["error"]["message"]
        assert "gpt" not in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/completions", "/v1/chat/completions/", "/v1/embeddings", "//v1/models"],
)
async def test_unknown_route_is_not_found(path: str, client: Client) -> None:
    answer = await client("POST", path)

    assert (answer.status, answer.json["error"]["code"]) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", b"POST"), ("POST", "/v1/models", b"GET, HEAD"),
        ("DELETE", f"/v1/models/{MODEL}", b"GET, HEAD"),
    ],
)  # fmt: skip
async def test_wrong_method_names_the_right_one(
    method: str, path: str, allow: bytes, client: Client
) -> None:
    answer = await client(method, path)

    assert (answer.status, answer.headers[b"allow"]) == (405, allow)


# --- a client that leaves ---------------------------------------------------------------------------------------------


async def test_client_that_leaves_ends_the_child(
    build: Callable[[Prober], Inspector], shelf: Shelf, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    write = f"pathlib.Path({str(started)!r}).write_text(f'{{os.getpid()}} ')"
    source = f"import os, pathlib, time\n{write}\ntime.sleep(600)"
    inspector = build(Prober(command=(sys.executable, "-c", source)))
    body = message([part("image_url", shelf.put(corpus.encode_image()))])
    waiting = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Message:
        if waiting:
            return waiting.pop()
        while not (started.exists() and started.read_text().endswith(" ")):
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    with pytest.raises(ClientGone):
        await inspector(scope, receive, send)

    assert not Path(f"/proc/{started.read_text().strip()}").exists()
    assert shelf.open_count == 0
