"""Upload, then chat by reference: what the upstream gets, byte for byte, and what never reaches it."""

import asyncio
import base64
import contextlib
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
from mediagate.testing.upstream import SSE_HEAD, Received
from servers import Answer, RawClient, Server
from upstreams import ThreadedUpstream

pytestmark = pytest.mark.media

CHAT = "/v1/chat/completions"
MIB = 1024**2
PNG = corpus.png_pixel()
UNKNOWN = "file-" + "0" * 32


class Upstream(ThreadedUpstream):
    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.server.handlers[CHAT] = self._answer

    async def _answer(self, request: Received) -> None:
        """Echo the model; with `?hold`, read little of the body until `go_on` is set."""
        if "hold" in request.target:
            await request.read_body(up_to=1000)
            while not self.go_on.is_set():
                await asyncio.sleep(0.01)
        await request.read_body()
        if b'"stream":true' in request.body:
            await request.write(SSE_HEAD)
            for n in range(3):
                await request.write_event(f'{{"n":{n}}}')
            await request.write(b"0\r\n\r\n")
        else:
            await request.answer(b'{"ok":true}', headers=b"content-type: application/json\r\n")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture(scope="module")
def shared(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--upstream", upstream.server.url, "--engine", "openai")
    hosts = ("--allowed-media-domains", "example.com")
    with servers.serving(*flags, *hosts, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server, upstream: Upstream) -> Iterator[Server]:
    upstream.server.received.clear()
    upstream.go_on.clear()
    yield shared
    servers.empty(shared)
    assert "Traceback" not in shared.log()


@pytest.fixture(scope="module")
def inspector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.serving(store=tmp_path_factory.mktemp("store")) as server:
        yield server
        servers.empty(server)


@pytest.fixture(scope="module")
def media() -> dict[str, corpus.Media]:
    return {
        "image": corpus.encode_image(container="jpg"),
        "video": corpus.encode_clip(container="mp4", seconds=0.3),
        "audio": corpus.encode_sound(container="wav", seconds=0.3),
    }


def ask(server: Server, *parts: dict[str, Any], **fields: Any) -> tuple[bytes, Answer]:
    """The body as it was sent, and the answer."""
    body = {"model": "m", "messages": [{"role": "user", "content": list(parts)}], **fields}
    raw = json.dumps(body, separators=(",", ":")).encode()
    return raw, servers.post_json(server, CHAT, raw)


def data_uri(mime_type: str, data: bytes) -> bytes:
    return f"data:{mime_type};base64,".encode() + base64.b64encode(data)


# what the upstream gets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize("scheme", ["vllm-file://", ""])
def test_url_becomes_a_data_uri_and_nothing_else_changes(
    gateway: Server, upstream: Upstream, media: dict[str, corpus.Media], kind: str, scheme: str
) -> None:
    """H74: both spellings in all three parts; the body's length is exact."""
    medium = media[kind]
    file_id = servers.upload(gateway, medium.data)["id"]
    part = {"type": f"{kind}_url", f"{kind}_url": {"url": scheme + file_id}}

    sent, answer = ask(gateway, {"type": "text", "text": "What?"}, part, temperature=0.5)

    assert (answer.status, answer.body) == (200, b'{"ok":true}')
    (received,) = upstream.server.received
    assert received.body == sent.replace(
        (scheme + file_id).encode(), data_uri(medium.mime_type, medium.data)
    )
    assert received.values("content-length") == [str(len(received.body))]
    assert received.values("transfer-encoding") == []


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize("scheme", ["vllm-file://", ""])
def test_file_part_becomes_the_part_that_its_type_calls_for(
    gateway: Server, upstream: Upstream, media: dict[str, corpus.Media], kind: str, scheme: str
) -> None:
    """H73."""
    medium = media[kind]
    file_id = servers.upload(gateway, medium.data)["id"]

    _, answer = ask(gateway, {"type": "file", "file": {"file_id": scheme + file_id}})

    assert answer.status == 200
    (received,) = upstream.server.received
    uri = data_uri(medium.mime_type, medium.data).decode()
    (part,) = json.loads(received.body)["messages"][0]["content"]
    assert part == {"type": f"{kind}_url", f"{kind}_url": {"url": uri}}


@pytest.mark.parametrize("container", ["wav", "mp3", "flac"])
@pytest.mark.parametrize("given", ["wav", "mp3", None])
def test_input_audio_becomes_base64_with_its_true_format(
    gateway: Server, upstream: Upstream, container: str, given: str | None
) -> None:
    """H74."""
    sound = corpus.encode_sound(container=container, seconds=0.3)
    file_id = servers.upload(gateway, sound.data)["id"]
    audio = {"data": file_id} | ({} if given is None else {"format": given})

    _, answer = ask(gateway, {"type": "input_audio", "input_audio": audio})

    assert answer.status == 200
    (received,) = upstream.server.received
    (part,) = json.loads(received.body)["messages"][0]["content"]
    assert part["input_audio"] == {
        "data": base64.b64encode(sound.data).decode(),
        "format": container,
    }


@pytest.mark.parametrize("size_bytes", [67, 68, 69, 262_143, 262_144, 262_145, 3 * MIB + 1])
def test_base64_has_no_seams(gateway: Server, upstream: Upstream, size_bytes: int) -> None:
    """Sizes around what is read and encoded at once."""
    data = PNG + random.Random(size_bytes).randbytes(size_bytes - len(PNG))
    file_id = servers.put_file(gateway, data).json()["id"]

    _, answer = ask(gateway, {"type": "image_url", "image_url": {"url": file_id}})

    assert answer.status == 200
    (received,) = upstream.server.received
    (part,) = json.loads(received.body)["messages"][0]["content"]
    assert part["image_url"]["url"] == data_uri("image/png", data).decode()


def test_same_file_twice_is_one_lease_and_arrives_twice(
    gateway: Server, upstream: Upstream
) -> None:
    """H80."""
    file_id = servers.upload(gateway, PNG)["id"]
    part = {"type": "image_url", "image_url": {"url": file_id}}

    sent, answer = ask(gateway, part, part)

    assert answer.status == 200
    (received,) = upstream.server.received
    assert received.body == sent.replace(file_id.encode(), data_uri("image/png", PNG))


def test_what_stands_beside_a_reference_is_kept(gateway: Server, upstream: Upstream) -> None:
    """H81."""
    file_id = servers.upload(gateway, PNG)["id"]
    part = {
        "type": "image_url",
        "uuid": "u-1",
        "image_url": {"detail": "high", "url": file_id, "more": [1.0, 1e5, None, "é"]},
        "cache_control": {"type": "ephemeral"},
    }

    sent, _ = ask(gateway, part)
    _, named = ask(
        gateway, {"type": "file", "file": {"filename": "a.png", "file_id": file_id}, "uuid": "u-2"}
    )

    assert named.status == 200
    first, second = upstream.server.received
    assert first.body == sent.replace(file_id.encode(), data_uri("image/png", PNG))
    (turned,) = json.loads(second.body)["messages"][0]["content"]
    assert turned["uuid"] == "u-2"
    assert turned["image_url"]["filename"] == "a.png"


def test_prose_is_left_alone(gateway: Server, upstream: Upstream) -> None:
    """H82: text that merely contains an id, and a string content that is one."""
    file_id = servers.upload(gateway, PNG)["id"]
    texts = [
        f"see vllm-file://{file_id}",
        file_id,
        "vllm-file://nonsense",
        "file-",
        "file:///etc/passwd",
        UNKNOWN,
    ]
    body = {
        "messages": [
            {"role": "system", "content": f"vllm-file://{file_id}"},
            {"role": "user", "content": [{"type": "text", "text": text} for text in texts]},
        ]
    }
    raw = json.dumps(body).encode()

    answer = servers.post_json(gateway, CHAT, raw)

    assert answer.status == 200
    assert upstream.server.received[0].body == raw


@pytest.mark.parametrize(
    "raw",
    [
        b' {\n  "model" : "m", "messages":[ ] ,"stream":true}\r\n',
        b'{"messages":[{"role":"user","content":"\\u00e9 \\/ \xc3\xa9 \xf0\x9f\x8e\xac"}],"seed":12345678901234567890,'
        b'"temperature":1.0E+0,"stream":true}',
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":'
        b'{"url":"https://example.com/a.png?x=file-1"}}]}],"stream":true}',
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":'
        b'{"url":"data:image/png;base64,AAAA"}}]}],"stream":true}',
    ],
)
def test_request_without_references_is_forwarded_byte_for_byte(
    gateway: Server, upstream: Upstream, raw: bytes
) -> None:
    """H79: and the stream comes through."""
    answer = servers.post_json(gateway, CHAT, raw)

    assert upstream.server.received[0].body == raw
    assert answer.header("content-type") == "text/event-stream"
    assert answer.body == b"".join(b'data: {"n":%d}\n\n' % n for n in range(3))


def test_request_with_a_reference_streams(gateway: Server, upstream: Upstream) -> None:
    file_id = servers.upload(gateway, PNG)["id"]

    _, answer = ask(gateway, {"type": "image_url", "image_url": {"url": file_id}}, stream=True)

    assert answer.body == b"".join(b'data: {"n":%d}\n\n' % n for n in range(3))


# what never reaches it -----------------------------------------------------------------------------------


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_unknown_file_is_a_404_that_names_its_place(gateway: Server, upstream: Upstream) -> None:
    """H77, H83: in any turn of the history; unknown, deleted, and beside good ones."""
    good = servers.upload(gateway, PNG)["id"]
    deleted = servers.upload(gateway, PNG)["id"]
    servers.delete(gateway, f"/v1/files/{deleted}")
    for dead in (UNKNOWN, deleted, "vllm-file://" + UNKNOWN):
        for turn in range(3):
            messages: list[dict[str, Any]] = [
                {"role": "user", "content": [{"type": "text", "text": "x"}, image(good)]}
                for _ in range(3)
            ]
            messages[turn]["content"].append(image(dead))

            answer = servers.post_json(gateway, CHAT, {"messages": messages})

            assert answer.code == (404, "file_not_found")
            assert answer.error["param"] == f"messages[{turn}].content[2].image_url.url"
            assert answer.error["type"] == "invalid_request_error"
    _, answer = ask(gateway, {"type": "file", "file": {"file_id": UNKNOWN}})
    assert answer.code == (404, "file_not_found")
    assert answer.error["param"] == "messages[0].content[0].file.file_id"
    assert upstream.server.received == []
    assert gateway.leases() == 0


def test_file_of_another_kind_is_a_400(
    gateway: Server, upstream: Upstream, media: dict[str, corpus.Media]
) -> None:
    """H78."""
    ids = {kind: servers.upload(gateway, medium.data)["id"] for kind, medium in media.items()}
    for kind, file_id in ids.items():
        for other in set(ids) - {kind}:
            part = {"type": f"{other}_url", f"{other}_url": {"url": file_id}}

            _, answer = ask(gateway, part)

            assert answer.code == (400, "media_kind_mismatch")
            assert answer.error["param"] == f"messages[0].content[0].{other}_url.url"
    assert upstream.server.received == []
    assert gateway.leases() == 0


# while it is delivered -----------------------------------------------------------------------------------


def begin_held_chat(gateway: Server, file_id: str) -> RawClient:
    """A chat whose upstream reads only the beginning of the body until it is told to go on."""
    body = json.dumps({"messages": [{"role": "user", "content": [image(file_id)]}]}).encode()
    client = RawClient(gateway)
    client.send_head("POST", CHAT + "?hold", f"Content-Length: {len(body)}")
    client.send(body)
    return client


def test_file_deleted_while_it_is_delivered_arrives_whole(
    gateway: Server, upstream: Upstream
) -> None:
    """H51, H53, P5."""
    data = PNG + random.Random(1).randbytes(24 * MIB)
    file_id = servers.put_file(gateway, data).json()["id"]
    with begin_held_chat(gateway, file_id) as client:
        upstream.run(upstream.server.next_received())

        assert servers.delete(gateway, f"/v1/files/{file_id}").status == 200
        _, second = ask(gateway, image(file_id))
        assert second.code == (404, "file_not_found")
        assert len(gateway.on_disk()) == 1
        upstream.go_on.set()

        assert client.read_answer().status == 200
    uri = json.loads(upstream.server.received[0].body)["messages"][0]["content"][0]["image_url"]
    assert uri["url"] == data_uri("image/png", data).decode()
    servers.until(gateway.is_clean, timeout_s=10)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_client_that_leaves_while_its_file_is_delivered_frees_it(
    gateway: Server, upstream: Upstream, how: str
) -> None:
    file_id = servers.put_file(gateway, PNG + bytes(24 * MIB)).json()["id"]
    client = begin_held_chat(gateway, file_id)
    received = upstream.run(upstream.server.next_received())
    servers.until(lambda: gateway.leases() == 1)

    client.close() if how == "close" else client.reset()

    servers.until(lambda: gateway.leases() == 0, timeout_s=10)
    upstream.go_on.set()
    with contextlib.suppress(ConnectionError):
        upstream.run(_wait(received.gone))


async def _wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


def test_delivery_needs_little_memory(gateway: Server, upstream: Upstream) -> None:
    """P9: 48 MiB of file, 64 MiB of base64."""
    file_id = servers.put_file(gateway, PNG + bytes(48 * MIB)).json()["id"]
    before = peak_bytes(gateway)

    _, answer = ask(gateway, image(file_id))

    assert answer.status == 200
    assert len(upstream.server.received[0].body) > 64 * MIB
    assert peak_bytes(gateway) - before < 12 * MIB
    upstream.server.received.clear()


def peak_bytes(server: Server) -> int:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


# the inspector -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_inspector_says_what_it_measured(inspector: Server, stream: bool) -> None:
    """The main job: upload, ask by id, get an answer; by all three ways to name the file."""
    clip = corpus.encode_clip(container="mp4", width=80, height=60, seconds=1.0)
    file_id = servers.upload(inspector, clip.data, filename="walk.mp4")["id"]
    for part in (
        {"type": "video_url", "video_url": {"url": f"vllm-file://{file_id}"}},
        {"type": "video_url", "video_url": {"url": file_id}},
        {"type": "file", "file": {"file_id": file_id}},
    ):
        answer = servers.chat(inspector, part, stream=stream)

        assert answer.status == 200
        if stream:
            assert answer.header(
                "content-type",
            ).startswith("text/event-stream")  # type: ignore[union-attr]
            events = [line[6:] for line in answer.body.decode().split("\n\n") if line]
            assert events[-1] == "[DONE]"
            deltas = [json.loads(event)["choices"] for event in events[:-1]]
            text = "".join(c[0]["delta"].get("content") or "" for c in deltas if c)
        else:
            text = answer.json()["choices"][0]["message"]["content"]
        assert "walk.mp4" in text
        assert "80 x 60" in text
        assert "h264" in text
        assert "aac" in text


def test_broken_media_is_a_clear_400(inspector: Server) -> None:
    """Part 9: the right first words, and nothing behind them."""
    clip = corpus.encode_clip(container="mp4", seconds=1.0).data
    assert len(clip) > 6000
    file_id = servers.upload(inspector, clip[:6000])["id"]

    answer = servers.chat(inspector, {"type": "video_url", "video_url": {"url": file_id}})

    assert answer.code == (400, "unreadable_media")


def test_a_model_that_is_not_there_is_a_404(inspector: Server) -> None:
    answer = servers.post_json(
        inspector, CHAT, {"model": "gpt", "messages": [{"role": "user", "content": "x"}]}
    )

    assert answer.code == (404, "model_not_found")
