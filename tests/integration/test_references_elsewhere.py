"""Files by id on endpoints other than chat completions, and the wall there: what the inference server is sent."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import corpus
import servers
from mediagate.testing.upstream import Received
from servers import Server
from upstreams import ThreadedUpstream

pytestmark = pytest.mark.media

RESPONSES = "/v1/responses"
MESSAGES = ("/v1/messages", "/v1/messages/count_tokens")
OF_CHAT = (
    *("/v1/chat/completions/batch", "/v1/chat/completions/render", "/v1/embeddings", "/pooling"),
    *("/classify", "/v1/score", "/v1/rerank", "/tokenize", "/invocations", "/api/chat"),
    *("/vertex", "/predict", "/chat_tokenize", "/v2/models/m/infer", "/"),
)
OF_PROMPTS = ("/generate", "/completion", "/infill", "/encode", "/v1/completions")
ALL = (RESPONSES, *MESSAGES, *OF_CHAT, *OF_PROMPTS)
PATH = "/etc/passwd"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ThreadedUpstream]:
    async def answer(request: Received) -> None:
        await request.read_body()
        await request.answer(b'{"id":"a"}', headers=b"content-type: application/json\r\n")

    with ThreadedUpstream() as started:
        for path in (*ALL, "/v1/responses/r/cancel", "/v1/audio/transcriptions"):
            started.server.handlers[path] = answer
        yield started


@pytest.fixture(scope="module")
def shared(
    upstream: ThreadedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    flags = ("--upstream", upstream.server.url, "--engine", "openai")
    hosts = ("--allowed-media-domains", "h")
    with servers.serving(*flags, *hosts, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server, upstream: ThreadedUpstream) -> Iterator[Server]:
    upstream.server.received.clear()
    yield shared
    servers.until(lambda: shared.leases() == 0 or None)
    servers.empty(shared)
    assert "Traceback" not in shared.log()


@pytest.fixture(scope="module")
def media() -> dict[str, corpus.Media]:
    return {
        "image": corpus.encode_image(container="jpg"),
        "video": corpus.encode_clip(container="mp4", seconds=0.3),
        "audio": corpus.encode_sound(container="wav", seconds=0.3),
    }


def sent(upstream: ThreadedUpstream) -> bytes:
    """The one body that reached the upstream."""
    (received,) = upstream.server.received
    assert received.values("content-length") == [str(len(received.body))]
    return received.body


def bare(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(medium: corpus.Media) -> str:
    return f"data:{medium.mime_type};base64,{bare(medium.data)}"


# Responses -----------------------------------------------------------------------------------------------


def test_images_of_responses_arrive_wherever_they_are_named(
    gateway: Server, upstream: ThreadedUpstream, media: dict[str, corpus.Media]
) -> None:
    """H75, H81: shorthand and typed messages, history, tool outputs; all else stays byte for byte."""
    file_id = servers.upload(gateway, media["image"].data)["id"]
    raw = json.dumps(
        {
            "model": "m",
            "temperature": 1.0,
            "input": [
                {"role": "user", "content": [{"type": "input_image", "file_id": "ID"}]},
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "é"},
                        {"type": "input_image", "detail": "high", "image_url": "vllm-file://ID"},
                        {"type": "input_file", "filename": "a.jpg", "file_id": "ID"},
                    ],
                },
                {"type": "function_call", "call_id": "c", "name": "see", "arguments": '{"x":1}'},
                {
                    "type": "function_call_output",
                    "call_id": "c",
                    "output": [{"type": "input_image", "file_id": "ID", "image_url": None}],
                },
                {
                    "type": "computer_call_output",
                    "output": {"type": "computer_screenshot", "file_id": "ID"},
                },
            ],
        }
    ).replace("ID", file_id)

    answer = servers.post_json(gateway, RESPONSES, raw.encode())

    assert answer.status == 200
    named, by_id = f'"{uri(media["image"])}"', f'"file_id": "{file_id}"'
    expected = raw.replace(f'{by_id}, "image_url": null', f'"file_id": null, "image_url": {named}')
    file_by_id = f'"filename": "a.jpg", {by_id}'
    expected = expected.replace(file_by_id, f'{file_by_id},"detail":"auto"')
    expected = expected.replace(by_id, f'"image_url": {named}').replace("input_file", "input_image")
    expected = expected.replace(f'"vllm-file://{file_id}"', named)
    assert sent(upstream).decode() == expected


def test_the_official_client_names_an_image_by_its_id(
    gateway: Server, upstream: ThreadedUpstream, media: dict[str, corpus.Media]
) -> None:
    """H75."""
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0) as client:
        file = client.files.create(file=("a.jpg", media["image"].data), purpose="vision")
        client.responses.create(
            model="m",
            input=[
                {
                    "role": "user",
                    "content": [{"type": "input_image", "file_id": file.id, "detail": "auto"}],
                }
            ],
        )

    (message,) = json.loads(upstream.server.received[-1].body)["input"]
    assert message["content"] == [
        {"type": "input_image", "image_url": uri(media["image"]), "detail": "auto"}
    ]


@pytest.mark.parametrize("kind", ["video", "audio"])
@pytest.mark.parametrize("type_", ["input_file", "input_image"])
def test_who_gives_responses_a_video_is_told_where_it_goes(
    gateway: Server,
    upstream: ThreadedUpstream,
    media: dict[str, corpus.Media],
    kind: str,
    type_: str,
) -> None:
    """H75, H78."""
    file_id = servers.upload(gateway, media[kind].data)["id"]
    output = {"type": "function_call_output", "output": [{"type": type_, "file_id": file_id}]}

    answer = servers.post_json(gateway, RESPONSES, {"input": [output]})

    assert answer.code == (400, "media_kind_mismatch")
    assert answer.error["param"] == "input[0].output[0].file_id"
    assert "/v1/chat/completions" in answer.error["message"]
    assert upstream.server.received == []


# Messages ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MESSAGES)
def test_images_of_messages_arrive_in_tool_results_too(
    gateway: Server, upstream: ThreadedUpstream, media: dict[str, corpus.Media], path: str
) -> None:
    """H76, H81."""
    image = media["image"]
    file_id = servers.upload(gateway, image.data)["id"]
    block = '{"type":"image", "source" : {"type":"file","file_id":"ID"}, "cache_control":{"type":"ephemeral"}}'
    result = '{"type":"tool_result","tool_use_id":"t","content":[BLOCK,{"type":"text","text":"é"}]}'
    raw = (
        '{"max_tokens":5, "system":[{"type":"text","text":"file-"}], "messages":[{"role":"user","content":[BLOCK]},'
        '{"role":"user","content":[' + result + "]}]}"
    ).replace("BLOCK", block)

    answer = servers.post_json(gateway, path, raw.replace("ID", file_id).encode())

    assert answer.status == 200
    source = f'"type":"base64","data":"{bare(image.data)}","media_type":"{image.mime_type}"'
    expected = raw.replace('"type":"file","file_id":"ID"', source)
    assert sent(upstream).decode() == expected


@pytest.mark.parametrize("path", MESSAGES)
@pytest.mark.parametrize("kind", ["video", "document", "image"])
@pytest.mark.parametrize("in_result", [False, True])
def test_a_video_of_messages_is_refused_and_never_forwarded(
    gateway: Server,
    upstream: ThreadedUpstream,
    media: dict[str, corpus.Media],
    path: str,
    kind: str,
    in_result: bool,
) -> None:
    """H76: no server takes one here, and from the results of tools they drop it and answer 200."""
    file_id = servers.upload(gateway, media["video"].data)["id"]
    block: dict[str, Any] = {"type": kind, "source": {"type": "file", "file_id": file_id}}
    if in_result:
        block = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    body = {"max_tokens": 5, "messages": [{"role": "user", "content": [block]}]}

    answer = servers.post_json(gateway, path, body)

    assert answer.status == 400
    assert str(answer.error["param"]).endswith("source.file_id")
    assert "/v1/chat/completions" in answer.error["message"]
    assert upstream.server.received == []


# Everything else -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OF_CHAT)
def test_parts_of_messages_are_resolved_wherever_they_are_taken(
    gateway: Server, upstream: ThreadedUpstream, media: dict[str, corpus.Media], path: str
) -> None:
    """H73, H74."""
    file_id = servers.upload(gateway, media["video"].data)["id"]
    parts = [
        {"type": "video_url", "video_url": {"url": f"vllm-file://{file_id}"}},
        {"type": "file", "file": {"file_id": file_id}},
    ]
    message = {"role": "user", "content": parts}

    answer = servers.post_json(
        gateway, path, {"messages": [message], "input": [message], "query": {"content": parts}}
    )

    assert answer.status == 200
    body = json.loads(sent(upstream))
    part = {"type": "video_url", "video_url": {"url": uri(media["video"])}}
    for given in (body["messages"][0], body["input"][0], body["query"]):
        assert given["content"] == [part, part]


@pytest.mark.parametrize("path", ["/generate", "/encode"])
def test_media_beside_a_prompt_is_resolved(
    gateway: Server, upstream: ThreadedUpstream, media: dict[str, corpus.Media], path: str
) -> None:
    """H74: SGLang's and LMDeploy's way."""
    ids = {kind: servers.upload(gateway, medium.data)["id"] for kind, medium in media.items()}
    body = {"text": "?", "image_data": ids["image"], "video_data": [ids["video"]]}

    answer = servers.post_json(gateway, path, body | {"audio_data": [[ids["audio"]]]})

    assert answer.status == 200
    assert json.loads(sent(upstream)) == {
        "text": "?",
        "image_data": uri(media["image"]),
        "video_data": [uri(media["video"])],
        "audio_data": [[uri(media["audio"])]],
    }


@pytest.mark.parametrize("path", ALL)
def test_an_unknown_file_is_a_404_that_names_its_place(
    gateway: Server, upstream: ThreadedUpstream, path: str
) -> None:
    """H77, H83."""
    unknown = "file-" + "0" * 32
    if path in MESSAGES:
        part: dict[str, Any] = {"type": "image", "source": {"type": "file", "file_id": unknown}}
        where = "source.file_id"
    else:
        part, where = {"type": "input_image", "file_id": unknown}, "file_id"
    fine = {"role": "user", "content": "file-"}

    answer = servers.post_json(
        gateway, path, {"messages": [fine, {"role": "user", "content": [part]}]}
    )

    assert answer.code == (404, "file_not_found")
    assert answer.error["param"] == f"messages[1].content[0].{where}"
    assert upstream.server.received == []


OPENED = [
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PATH}}]}
        ]
    },
    {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": PATH}]}]},
    {"input": [{"type": "function_call_output", "output": [{"type": "x", "image_url": PATH}]}]},
    {"input": [{"text": "?", "image": PATH}]},
    {"messages": [{"content": [{"type": "image", "source": {"type": "url", "url": PATH}}]}]},
    {"text": "?", "image_data": PATH},
    {"messages": [], "input_ids": [1], "image_data": [{"url": "file://" + PATH}]},
    {"text": ["?"], "video_data": [[PATH]]},
    {"prompt": {"prompt_string": "?", "multimodal_data": [PATH]}},
    {"prompt": "?", "images": [PATH]},
    {"query": "?", "documents": [[{"type": "video_url", "video_url": {"url": PATH}}]]},
    {"data_1": {"content": [{"image_url": {"url": PATH}}]}, "data_2": "?"},
    {"task": "plugin", "data": {"data": PATH, "data_format": "path"}},
    {"instances": [{"text": "?"}], "parameters": {"audio_data": PATH}},
    {"state": "?", "videos": ["file://" + PATH]},
    {"inputs": [{"content": [{"type": "image_url", "image_url": {"url": "etc/passwd"}}]}]},
    {"messages": [{"content": [{"type": "video_url", "video_url": {"url": "file%3A//x"}}]}]},
    {"image_data": "..%2f..%2fetc%2fpasswd"},
]


@pytest.mark.parametrize("path", ALL)
def test_no_path_reaches_any_endpoint_that_reads_media(
    gateway: Server, upstream: ThreadedUpstream, path: str
) -> None:
    """DESIGN §4: however the body names it, and however the endpoint is spelt."""
    disguised = path.replace("/", "//", 1).replace("e", "%65") + "/"
    for body in OPENED:
        for target in (path, disguised, path + "?x=1"):
            answer = servers.post_json(gateway, target, body)

            assert answer.code == (400, "media_source_not_allowed"), body
            assert PATH not in answer.error["message"]
    assert upstream.server.received == []


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES[0], OF_CHAT[0], OF_PROMPTS[0]])
@pytest.mark.parametrize(
    "raw",
    [
        rb'{"messages":[{"content":[{"type":"image_url","im\u0061ge_url":{"url":"/etc/passwd"}}]}]}',
        rb'{"messages":[{"content":[{"image_url":{"url":"\u0066ile:\/\/\/etc\/passwd"}}]}]}',
        rb'{"messages":[{"content":[{"image_url":{"url":"http://ho\u0073\u0074\uff0fevil/"}}]}]}',
        rb'{"\u006dessages":[{"conten\u0074":[{"type":"image","s\u006furce":{"\u0075rl":"\u002fx"}}]}]}',
        rb'{"\u0069nput":[{"type":"input_image","image\u005furl":"\u002e\u002e/etc/passwd"}]}',
        rb'{"image\u005fdata":["file\u003a///etc/passwd"]}',
    ],
)
def test_no_escape_of_json_brings_a_path_to_the_upstream(
    gateway: Server, upstream: ThreadedUpstream, path: str, raw: bytes
) -> None:
    """DESIGN §4: whatever reads the bytes behind us undoes escapes too."""
    assert b"\\u00" in raw

    answer = servers.post_json(gateway, path, raw)

    assert answer.code == (400, "media_source_not_allowed")
    assert upstream.server.received == []


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(
    "raw",
    [
        b' {"model":"m" , "input" : ["file:///x", "vllm-file://", "\\u00e9"] }\r\n',
        b'{"prompt":"file:///x","text":"/etc/passwd","content":"file-1"}',
        b'{"input":[[1,2],[3]],"temperature":1.0E+0,"seed":12345678901234567890}',
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://h/a.png"}}]}]}',
    ],
)
def test_requests_without_files_are_forwarded_byte_for_byte(
    gateway: Server, upstream: ThreadedUpstream, path: str, raw: bytes
) -> None:
    """H79, H82."""
    answer = servers.post_json(gateway, path, raw)

    assert answer.status == 200
    assert sent(upstream) == raw


def test_a_large_batch_of_tokens_is_forwarded(gateway: Server, upstream: ThreadedUpstream) -> None:
    """H79: 2048 inputs of 512 tokens each are a million numbers."""
    raw = json.dumps({"model": "m", "input": [[100_000] * 512] * 2048}).encode()

    answer = servers.post_json(gateway, "/v1/embeddings", raw)

    assert answer.status == 200
    assert sent(upstream) == raw


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_request_without_a_body_is_forwarded(
    gateway: Server, upstream: ThreadedUpstream, method: str
) -> None:
    answer = servers.request(gateway, method, "/v1/responses/r/cancel")

    assert answer.status == 200
    assert sent(upstream) == b""


def test_a_form_with_a_sound_for_transcription_passes_unread(
    gateway: Server, upstream: ThreadedUpstream
) -> None:
    """It brings the bytes themselves; no server takes a name there."""
    body = servers.form(servers.part("file", b"\0" * 1000, "a.wav"), servers.part("model", b"m"))

    answer = servers.request(
        gateway,
        "POST",
        "/v1/audio/transcriptions",
        body,
        headers={"content-type": f"multipart/form-data; boundary={servers.BOUNDARY}"},
    )

    assert answer.status == 200
    assert sent(upstream) == body
