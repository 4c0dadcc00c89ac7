"""Files by id in a real vLLM: what is asked about them, refused, and left to vLLM, on one API server.

The same vLLM without uploads ran before, with the same flags: to requests without files, the same must be said.
"""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest

import corpus
import servers
import vllm_questions as questions
import vllm_servers
from corpus import Media
from servers import Answer, RawClient
from vllm_questions import (
    CHAT,
    ELSEWHERE,
    IN_CHAT,
    MESSAGES,
    OF_IMAGES,
    RESPONSES,
    Asker,
    Form,
    Medium,
    Said,
    by_id,
    chat,
    inline,
)
from vllm_servers import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.media]

KEY = "a-key-of-tests"
ORIGIN = "https://shop.example"
FLAGS = (
    *("--api-key", KEY, "--root-path", "/api", "--allowed-origins", json.dumps([ORIGIN])),
    *("--enable-request-id-headers", "--enable-prompt-tokens-details"),
    *("--uvicorn-log-level", "debug", "--enable-log-requests", "--enable-log-outputs"),
)
IMAGE, OTHER_IMAGE = questions.image(questions.RED), questions.image(questions.BLUE)
CLIP = questions.clip(questions.RED, questions.BLUE)
OTHER_CLIP = questions.clip(questions.GREEN, questions.RED)
UNKNOWN = "file-" + "0" * 32
WITH_IMAGES: Mapping[str, Form] = {**IN_CHAT, **OF_IMAGES, **ELSEWHERE}
UNDECODABLE = (
    "The file cannot be decoded: it may be damaged, of a codec that this server lacks, "
    "or larger or longer than this server decodes."
)


def asker_of(server: VllmServer) -> Asker:
    return Asker(server, {"authorization": f"Bearer {KEY}"})


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `--allowed-local-media-path` says."""
    directory = tmp_path_factory.mktemp("allowed")
    (directory / "a.png").write_bytes(IMAGE.data)
    return directory


@pytest.fixture(scope="module")
def without_uploads(allowed: Path) -> Mapping[str, Answer]:
    """What vLLM says by itself."""
    with vllm_servers.serving(*FLAGS, "--allowed-local-media-path", str(allowed)) as server:
        return {name: ask_plainly(server, name, allowed) for name in PLAIN}


@pytest.fixture(scope="module")
def server(
    without_uploads: Mapping[str, Answer], allowed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServer]:
    store = tmp_path_factory.mktemp("store")
    flags = (*FLAGS, "--allowed-local-media-path", str(allowed))
    with vllm_servers.serving(*flags, store=store) as started:
        yield started
        asker = asker_of(started)
        for file in asker.request("GET", "/v1/files").json()["data"]:
            assert asker.delete(file["id"]).status == 200
        # What a test had expire goes with the next sweep.
        servers.until(lambda: started.is_clean() and started.leases() == 0, timeout_s=30)
        started.stop()
        assert find_ids(started.log()) == []


@pytest.fixture
def asker(server: VllmServer) -> Asker:
    return asker_of(server)


# the same answer as by value -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_an_image_by_id_is_the_image(asker: Asker, name: str) -> None:
    """H73, H74, H75, H76: the same words and as many prompt tokens as by value, and another image gives others."""
    check_same(asker, WITH_IMAGES[name], IMAGE, OTHER_IMAGE)


@pytest.mark.parametrize("name", IN_CHAT)
def test_a_clip_by_id_is_the_clip(asker: Asker, name: str) -> None:
    """H73, H74: by whatever name."""
    check_same(asker, IN_CHAT[name], CLIP, OTHER_CLIP)


def check_same(asker: Asker, form: Form, media: Media, other: Media) -> None:
    file_id, other_id = asker.upload(media), asker.upload(other)
    said = asker.ask(form, inline(media))

    assert asker.ask(form, by_id(file_id, media)) == said
    assert asker.ask(form, by_id(file_id, media)) == said
    assert asker.ask(form, by_id(other_id, other)) == asker.ask(form, inline(other))
    if form in ELSEWHERE.values() and not is_model_asked(form):
        return
    assert asker.ask(form, by_id(other_id, other)) != said
    if form.path in {CHAT, RESPONSES, MESSAGES}:
        by_value = asker.ask_streaming(form, inline(media))
        assert asker.ask_streaming(form, by_id(file_id, media)) == by_value
        assert by_value.prompt_tokens == said.prompt_tokens


def is_model_asked(form: Form) -> bool:
    return "token" not in form.path


def test_several_files_in_one_question(asker: Asker) -> None:
    first, second = asker.upload(IMAGE), asker.upload(OTHER_IMAGE)

    def both(one: Medium, two: Medium) -> Said:
        answer = asker.post(CHAT, chat(one.part, two.part))
        assert answer.status == 200, answer
        return questions.read_chat(answer.json())

    said = both(inline(IMAGE), inline(OTHER_IMAGE))

    assert both(by_id(first, IMAGE), by_id(second, OTHER_IMAGE)) == said
    assert both(by_id(first, IMAGE), inline(OTHER_IMAGE)) == said
    assert both(by_id(second, OTHER_IMAGE), by_id(first, IMAGE)) != said


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("payload_first", [False, True])
def test_a_form_with_a_clip(asker: Asker, stream: bool, payload_first: bool) -> None:
    """Question and file in one request; next time the file goes by its id."""
    payload = {**chat(), "stream": stream}
    payload |= {"stream_options": {"include_usage": True}} if stream else {}
    said = asker.ask(IN_CHAT["file"], inline(CLIP))

    answer = post_form(asker, CHAT, payload, ("clip", CLIP), payload_first=payload_first)

    heard = questions.read_events(answer) if stream else questions.read_chat(answer.json())
    assert heard == said
    file_id = str(answer.header("x-mediagate-file-ids"))
    assert asker.ask(IN_CHAT["file"], by_id(file_id, CLIP)) == said


def test_a_form_whose_question_names_its_files(asker: Asker) -> None:
    """In the order of the question, not of the form."""
    parts = ({"type": "image_url", "image_url": {"url": f"attachment://{name}"}} for name in "ab")
    by_value = asker.post(CHAT, chat(inline(IMAGE).part, inline(OTHER_IMAGE).part)).json()

    answer = post_form(asker, CHAT, chat(*parts), ("b", OTHER_IMAGE), ("a", IMAGE))

    assert questions.read_chat(answer.json()) == questions.read_chat(by_value)
    assert len(str(answer.header("x-mediagate-file-ids")).split(",")) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("url", [None, "attachment://picture"])
def test_a_form_to_responses(asker: Asker, url: str | None, stream: bool) -> None:
    form = OF_IMAGES["responses, file_id"]
    question = form.body(inline(IMAGE))
    (_, place) = question["input"][0]["content"]
    if url is None:
        question["input"][0]["content"].remove(place)
    else:
        place["image_url"] = url

    answer = post_form(asker, RESPONSES, {**question, "stream": stream}, ("picture", IMAGE))

    heard = questions.read_events(answer) if stream else questions.read_response(answer.json())
    ask = asker.ask_streaming if stream else asker.ask
    assert heard == ask(form, inline(IMAGE))


def test_a_form_with_a_bad_payload_leaves_no_file(server: VllmServer, asker: Asker) -> None:
    before = server.usage(), server.on_disk()

    answer = post_form(asker, CHAT, [1], ("clip", CLIP), payload_first=False)

    assert answer.code == (400, "malformed_body")
    assert (server.usage(), server.on_disk()) == before


def post_form(
    asker: Asker, path: str, payload: Any, *files: tuple[str, Media], payload_first: bool = True
) -> Answer:
    parts = [servers.part(name, media.data, media.filename) for name, media in files]
    text = servers.part("payload", json.dumps(payload).encode())
    body = servers.form(*([text, *parts] if payload_first else [*parts, text]))
    return asker.request("POST", path, body, content_type=servers.FORM_TYPE)


def test_the_official_client(server: VllmServer, asker: Asker) -> None:
    """H73, H75: upload, ask in both APIs, streamed too, delete, be told."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        file = client.files.create(file=("a.png", IMAGE.data), purpose="vision")
        content: Any = chat({"type": "file", "file": {"file_id": file.id}})["messages"]
        question: Any = {"model": "tiny", "messages": content, "max_tokens": 10, "temperature": 0}
        said = asker.ask(IN_CHAT["file"], inline(IMAGE))

        completion = client.chat.completions.create(**question)
        chunks = list(client.chat.completions.create(**question, stream=True))
        form = OF_IMAGES["responses, file_id"]
        response = client.responses.create(**form.body(by_id(file.id, IMAGE)))
        client.files.delete(file.id)
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(**question)

    assert completion.usage is not None
    heard = Said(str(completion.choices[0].message.content), completion.usage.prompt_tokens)
    assert heard == said
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert streamed == asker.ask_streaming(IN_CHAT["file"], inline(IMAGE)).text
    assert response.output_text == asker.ask(form, inline(IMAGE)).text
    assert refused.value.code == "file_not_found"


TAKE_NO_FILES: Mapping[str, Mapping[str, Any]] = {
    "/v1/completions": {"prompt": "what", "max_tokens": 1},
    "/v1/systemone": {"state": "x", "questions": {}},
    "/generative_scoring": {"query": "what", "items": ["a"]},
    "/detokenize": {"tokens": [1]},
    "/v1/responses/{response_id}/cancel": {},
    "/ping": {},
    "/scale_elastic_ep": {},
    "/is_scaling_elastic_ep": {},
}
"""The other endpoints that take a body, and what they need."""


def test_there_are_no_other_endpoints(asker: Asker) -> None:
    """A new version's are to be looked at."""
    paths = asker.request("GET", "/openapi.json").json()["paths"]

    posted = {path for path, methods in paths.items() if "post" in methods}
    known = {CHAT, RESPONSES, MESSAGES, *ELSEWHERE, *TAKE_NO_FILES}
    assert posted == known


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/systemone", "/generative_scoring"])
@pytest.mark.parametrize(
    "place",
    [{"multi_modal_data": {"image": "{}"}}, {"images": ["{}"]}, {"image_url": {"href": "{}"}}],
)
def test_a_file_named_where_none_is_taken(
    asker: Asker, path: str, place: Mapping[str, Any]
) -> None:
    """400, and not an answer without it."""
    named = json.loads(json.dumps(place).replace("{}", f"vllm-file://{asker.upload(IMAGE)}"))

    answer = asker.post(path, {"model": "tiny", **TAKE_NO_FILES[path], **named})

    assert answer.code == (400, "invalid_reference")


def by_user(*parts: Mapping[str, Any], role: str = "user", **beside: Any) -> dict[str, Any]:
    return {"role": role, "content": [*parts]} | beside


TEXT_PART = {"type": "text", "text": "what"}
URL_PART = {"type": "image_url", "image_url": {"url": "vllm-file://@"}}
FILE_BLOCK = {"type": "image", "source": {"type": "file", "file_id": "@"}}
TOOL_RESULT = {"type": "tool_result", "tool_use_id": "t", "content": [FILE_BLOCK]}
INPUT_IMAGE = {"type": "input_image", "file_id": "@", "detail": "auto"}
SAID = {"type": "output_text", "text": "what"}

WHERE_VLLM_DOES_NOT_LOOK: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{path}, {key}": (path, {**TAKE_NO_FILES[path], key: value})
        for path in ("/v1/completions", "/v1/systemone")
        for key, value in {
            "image_url": {"url": "vllm-file://@"},
            "image": "@",
            "image_data": ["@"],
        }.items()
    },
    "chat, beside": (CHAT, {"messages": [by_user(TEXT_PART)], "image_url": {"url": "@"}}),
    "chat, of a message": (CHAT, {"messages": [by_user(TEXT_PART, image_url={"url": "@"})]}),
    "chat, of a text": (CHAT, {"messages": [by_user(TEXT_PART | URL_PART | {"type": "text"})]}),
    "chat, two in one": (
        CHAT,
        {"messages": [by_user(URL_PART | {"type": "video_url", "video_url": {"url": "x"}})]},
    ),
    "Messages, system": (MESSAGES, {"system": [FILE_BLOCK], "messages": [by_user(TEXT_PART)]}),
    "Messages, role system": (MESSAGES, {"messages": [by_user(FILE_BLOCK, role="system")]}),
    "Messages, result": (MESSAGES, {"messages": [by_user(TOOL_RESULT, role="assistant")]}),
    "Responses, beside": (RESPONSES, {"input": "what", "image_url": "@"}),
    "Responses, said": (RESPONSES, {"input": [by_user(SAID, INPUT_IMAGE, role="assistant")]}),
}


@pytest.mark.parametrize("name", WHERE_VLLM_DOES_NOT_LOOK)
def test_a_file_where_vllm_does_not_look_is_refused(asker: Asker, name: str) -> None:
    """400, and not an answer about nothing."""
    path, body = WHERE_VLLM_DOES_NOT_LOOK[name]
    body = {"model": "tiny", "max_tokens": 1, **body}

    answer = asker.post(path, json.loads(json.dumps(body).replace("@", asker.upload(IMAGE))))

    assert answer.status == 400
    assert answer.error["code"] in {"not_taken_by_engine", "invalid_reference"}


# refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_what_cannot_be_meant_is_refused_before_anything_is_decoded(
    server: VllmServer, asker: Asker, name: str
) -> None:
    """H57, H77, H78, H83, P7: unknown, deleted, expired: one 404; malformed, of the wrong kind: 400; all say where."""
    form = WITH_IMAGES[name]
    deleted, expired, kept = (asker.upload(IMAGE) for _ in range(3))
    assert asker.delete(deleted).status == 200
    expire(server, expired)
    is_for_images = name not in {"file", "image_url or video_url, with a scheme"}
    of_other_kind = asker.upload(CLIP)
    asker.ask(form, by_id(kept, IMAGE))
    before = decodings(asker)

    refused = {
        file_id: asker.post(form.path, form.body(by_id(file_id, IMAGE)))
        for file_id in (UNKNOWN, deleted, expired, "file-xyz", of_other_kind)
    }

    gone = [refused[file_id] for file_id in (UNKNOWN, deleted, expired)]
    assert {answer.code for answer in gone} == {(404, "file_not_found")}
    assert len({answer.body for answer in gone}) == 1
    param = gone[0].error["param"]
    assert re.search(r"messages|input\[", param), param
    assert refused["file-xyz"].code == (400, "invalid_reference")
    assert refused["file-xyz"].error["param"] == param
    if is_for_images or name.startswith("image_url"):
        assert refused[of_other_kind].code == (400, "media_kind_mismatch")
        assert refused[of_other_kind].error["param"] == param
        assert decodings(asker) == before


def expire(server: VllmServer, file_id: str) -> None:
    """Let the time of a file run out."""
    with closing(sqlite3.connect(server.store / "index.sqlite3", timeout=10)) as index:
        changed = index.execute("UPDATE files SET expires_at = 1 WHERE id = ?", (file_id,))
        assert changed.rowcount == 1
        index.commit()


def decodings(asker: Asker) -> float:
    """How often media were decoded or taken from memory, so far."""
    text = asker.request("GET", "/metrics").body.decode()
    counts = re.findall(r"^mediagate_(?:decodings|decoded_reuses)_total (\S+)$", text, re.MULTILINE)
    assert len(counts) == 2
    return sum(map(float, counts))


def cut(media: Media, part: float) -> bytes:
    return media.data[: int(len(media.data) * part)]


def noisy(media: Media) -> bytes:
    """With nothing in the frames that decodes."""
    start = media.data.index(b"mdat") + 4
    stop = max(media.data.find(b"moov"), start)
    return media.data[:start] + b"\xa7" * (stop - start - 4) + media.data[stop - 4 :]


DAMAGED: Mapping[str, tuple[str, bytes]] = {
    "png, cut": ("image", cut(IMAGE, 0.7)),
    "gif, cut": ("image", cut(corpus.encode_image(container="gif", width=112, height=112), 0.5)),
    "bmp, cut": ("image", cut(corpus.encode_image(container="bmp"), 0.5)),
    "mp4, cut": ("video", cut(corpus.encode_clip(width=112, height=112, seconds=2), 0.3)),
    "mp4, noise": ("video", noisy(CLIP)),
    "avi, cut": ("video", cut(corpus.encode_clip(container="avi"), 0.3)),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("stream", [False, True])
def test_damaged_media(server: VllmServer, asker: Asker, name: str, stream: bool) -> None:
    """400 and what to make of it: neither a library's words, nor a path; and the next question is answered."""
    kind, data = DAMAGED[name]
    medium = by_id(asker.upload(data), IMAGE if kind == "image" else CLIP)

    answer = asker.post(CHAT, {**chat(medium.part), "stream": stream})

    assert answer.status == 400
    assert answer.json()["error"]["message"] == UNDECODABLE
    assert str(server.store).encode() not in answer.body
    asker.ask(IN_CHAT["file"], by_id(asker.upload(IMAGE), IMAGE))


@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_what_becomes_of_a_file_does_not_concern_a_question_that_runs(
    server: VllmServer, asker: Asker, how: str
) -> None:
    """P5. The answer is longer than what holds unread, so that it cannot end before it is read."""
    file_id = asker.upload(IMAGE)
    more = {"n": 16, "temperature": 1, "logprobs": True, "top_logprobs": 20}
    question = chat(by_id(file_id, IMAGE).part, max_tokens=300, ignore_eos=True, stream=True)
    body = json.dumps(question | more).encode()
    with RawClient(server, receive_buffer=4096) as client:
        client.send_head(
            *("POST", CHAT, f"Authorization: Bearer {KEY}", "Content-Type: application/json"),
            *(f"Content-Length: {len(body)}", "Connection: close"),
        )
        client.send(body)
        assert client.read_head().status == 200
        first = client.receive_exactly(1)
        if how == "deleted":
            assert asker.delete(file_id).status == 200
        else:
            expire(server, file_id)
        assert asker.request("GET", f"/v1/files/{file_id}").code == (404, "file_not_found")
        assert server.leases() == 1
        rest = first + client.read_rest()

    assert b'"finish_reason":"length"' in rest
    assert b"data: [DONE]" in rest
    servers.until(lambda: server.leases() == 0, timeout_s=10)


# what is no business of ours -----------------------------------------------------------------------------

PLAIN: Mapping[str, tuple[str, str, bytes | None, Mapping[str, str]]] = {}
"""Requests that name no file: method, target, body, headers."""


def plain(name: str, method: str, target: str, body: Any = None, **headers: str) -> None:
    """Note one more."""
    more = {key.replace("_", "-"): value for key, value in headers.items()}
    if body is not None and not isinstance(body, bytes):
        body, more = json.dumps(body).encode(), {"content-type": "application/json"} | more
    assert isinstance(PLAIN, dict)
    PLAIN[name] = method, target, body, {"authorization": f"Bearer {KEY}"} | more


def url_part(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


AS_JSON = {"content_type": "application/json"}
plain("chat", "POST", CHAT, chat())
plain("chat below the root", "POST", f"/api{CHAT}", chat())
plain("chat, stream", "POST", CHAT, chat(stream=True, stream_options={"include_usage": True}))
plain("chat, another slash", "POST", f"{CHAT}/", chat())
plain("chat, request id", "POST", CHAT, chat(), x_request_id="my-own")
plain("chat, odd request id", "POST", CHAT, chat(), x_request_id="my own, " + "x" * 300)
plain("chat, origin", "POST", CHAT, chat(), origin=ORIGIN)
plain("chat, salt", "POST", CHAT, chat(cache_salt="mine"))
plain("chat, empty salt", "POST", CHAT, chat(cache_salt=""))
plain("chat, unknown fields", "POST", CHAT, chat(nonsense={"image": "x"}))
plain("chat, bad field", "POST", CHAT, chat(temperature="x"))
plain("chat, another model", "POST", CHAT, chat(model="other"))
plain("chat, too long", "POST", CHAT, chat(max_tokens=10**6))
plain("chat, an id in words", "POST", CHAT, chat({"type": "text", "text": UNKNOWN}))
plain("chat, no JSON", "POST", CHAT, b"{", **AS_JSON)
plain("chat, no object", "POST", CHAT, b"[]", **AS_JSON)
plain("chat, no body", "POST", CHAT, b"", **AS_JSON)
plain("chat, no type", "POST", CHAT, json.dumps(chat()).encode())
plain(
    "chat, key twice",
    "POST",
    CHAT,
    b'{"max_tokens":9,' + json.dumps(chat()).encode()[1:],
    **AS_JSON,
)
plain("chat, NaN", "POST", CHAT, json.dumps(chat(top_p=float("nan"))).encode(), **AS_JSON)
plain("chat, latin-1", "POST", CHAT, '{"model":"é"}'.encode("latin-1"), **AS_JSON)
plain("chat, gzip", "POST", CHAT, chat(), content_encoding="gzip")
plain("chat, GET", "GET", CHAT)
plain("chat, preflight", "OPTIONS", CHAT, origin=ORIGIN, access_control_request_method="POST")
plain("chat, no key", "POST", CHAT, chat(), authorization="")
plain("image", "POST", CHAT, chat(inline(IMAGE).part))
plain("image under a name", "POST", CHAT, chat({**inline(IMAGE).part, "uuid": "a"}))
plain("image by name", "POST", CHAT, chat({"type": "image_url", "image_url": None, "uuid": "a"}))
plain("image, cut", "POST", CHAT, chat(url_part(inline(IMAGE).uri[:-90])))
plain("image, no base64", "POST", CHAT, chat(url_part("data:image/png;base64,!")))
plain("image, no URL", "POST", CHAT, chat(url_part("somewhere")))
plain("image, no string", "POST", CHAT, chat(url_part(7)))
plain("image, file", "POST", CHAT, chat(url_part("file://ALLOWED/a.png")))
plain("image, missing file", "POST", CHAT, chat(url_part("file://ALLOWED/b.png")))
plain("image, forbidden file", "POST", CHAT, chat(url_part("file:///etc/passwd")))
plain("image, http", "POST", CHAT, chat(url_part("http://127.0.0.1:1/a.png")))
plain("image, ftp", "POST", CHAT, chat(url_part("ftp://127.0.0.1:1/a.png")))
plain("image, unknown part", "POST", CHAT, chat({"type": "picture", "url": "x"}))
plain("image, embeds", "POST", CHAT, chat({"type": "image_embeds", "image_embeds": "AAAA"}))
plain("file, inline", "POST", CHAT, chat({"type": "file", "file": {"file_data": "AAAA"}}))
plain(
    "sound",
    "POST",
    CHAT,
    chat({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
)
plain("responses", "POST", RESPONSES, questions.response({"role": "user", "content": "what"}))
plain(
    "responses, stream",
    "POST",
    RESPONSES,
    {**questions.response({"role": "user", "content": "what"}), "stream": True},
)
plain("responses, bad item", "POST", RESPONSES, questions.response({"type": "nonsense"}))
plain("responses, get", "GET", f"{RESPONSES}/resp_x")
plain("responses, cancel", "POST", f"{RESPONSES}/resp_x/cancel")
plain("messages", "POST", MESSAGES, questions.message({"role": "user", "content": "what"}))
plain(
    "messages, stream",
    "POST",
    MESSAGES,
    {**questions.message({"role": "user", "content": "what"}), "stream": True},
)
plain(
    "messages, bad source",
    "POST",
    MESSAGES,
    questions.message(
        {
            "role": "user",
            "content": [
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
                }
            ],
        }
    ),
)
plain(
    "completions",
    "POST",
    "/v1/completions",
    {"model": "tiny", "prompt": f"what is {UNKNOWN}", "max_tokens": 3, "temperature": 0},
)
plain("tokenize", "POST", "/tokenize", {"model": "tiny", "prompt": f"vllm-file://{UNKNOWN}"})
plain("detokenize", "POST", "/detokenize", {"model": "tiny", "tokens": [5, 6]})
plain("invocations", "POST", "/invocations", chat())
plain(
    "invocations, form",
    "POST",
    "/invocations",
    servers.form(servers.part("a", b"b")),
    content_type=servers.FORM_TYPE,
)
plain(
    "transcriptions",
    "POST",
    "/v1/audio/transcriptions",
    servers.form(servers.part("file", b"b", "a.wav")),
    content_type=servers.FORM_TYPE,
)
plain("models", "GET", "/v1/models")
plain("health", "GET", "/health")
plain("version", "GET", "/version")
plain("unknown path", "POST", "/v1/nonsense", {})
plain("chat above the root", "POST", f"//{CHAT}", chat())
plain(
    "websocket",
    "GET",
    "/v1/realtime",
    upgrade="websocket",
    connection="Upgrade",
    sec_websocket_version="13",
    sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAA==",
)


def ask_plainly(server: VllmServer, name: str, allowed: Path) -> Answer:
    method, target, body, headers = PLAIN[name]
    if body is not None:
        body = body.replace(b"ALLOWED", str(allowed).encode())
    return servers.request(server, method, target, body, headers=headers)


@pytest.mark.parametrize("name", PLAIN)
def test_what_names_no_file_is_answered_as_without_us(
    server: VllmServer, without_uploads: Mapping[str, Answer], allowed: Path, name: str
) -> None:
    """H79, H82: status, headers and body, but for what differs from one answer to the next."""
    assert settled(ask_plainly(server, name, allowed)) == settled(without_uploads[name])


_VOLATILE = re.compile(
    r"(?<=\"created\":)\d+|(?<=\"created_at\":)[\d.]+|(?<=\"completed_at\":)[\d.]+"
    r"|(?:chatcmpl|cmpl|resp|msg|modelperm)[-_][0-9a-f]{12,}|(?<=_at\":)\d+"
)


_VOLATILE_HEADERS = {
    "date": re.compile(".*"),
    "x-request-id": re.compile("[0-9a-f]{32}"),
    "location": re.compile(r":\d+"),  # the port
}


def settled(answer: Answer) -> tuple[int, list[tuple[str, str]], str]:
    """The answer without times, and with all random names alike."""
    headers = [
        (name, _VOLATILE_HEADERS[name].sub("", value) if name in _VOLATILE_HEADERS else value)
        for name, value in answer.headers
    ]
    body = answer.body.decode()
    if str(answer.header("content-type")).startswith("text/event-stream"):
        # How many words an event has depends on who is faster.
        names = sorted(set(re.findall(r'"(?:type|object)":"([a-z._]+)"', body)))
        body = f"{names} {questions.read_events(answer)}"
    return answer.status, headers, _VOLATILE.sub("", body)


def test_metrics_are_vllms_with_ours_among_them(server: VllmServer, asker: Asker) -> None:
    asker.upload(IMAGE)
    text = asker.request("GET", "/metrics").body.decode()

    assert re.search(r"^vllm:num_requests_running\{.*\} 0.0$", text, re.MULTILINE)
    assert re.search(r'^mediagate_operations_total\{op="file.upload"\} [1-9]', text, re.MULTILINE)


# request ids, origins, root path, keys -------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "my-own"])
@pytest.mark.parametrize(
    "target", ["/v1/files", f"/v1/files/{UNKNOWN}", "/v1/uploads/x", "/v1/models"]
)
def test_an_answer_has_one_request_id(asker: Asker, target: str, given: str | None) -> None:
    """Also where vLLM has been told to give one to every answer."""
    if given is not None:
        asker.headers["x-request-id"] = given
    request_id = asker.request("GET", target).header("x-request-id")

    assert request_id
    assert given in {None, request_id}


def test_browsers_of_the_allowed_origin_may_upload(asker: Asker) -> None:
    preflight = Asker(asker.server).request(
        "OPTIONS",
        "/v1/files",
        origin=ORIGIN,
        access_control_request_method="POST",
        access_control_request_headers="authorization",
    )
    answer = asker.request("GET", "/v1/files", origin=ORIGIN)
    from_elsewhere = asker.request("GET", "/v1/files", origin="https://other.example")

    assert preflight.status == 200
    assert preflight.header("access-control-allow-origin") == ORIGIN
    assert answer.header("access-control-allow-origin") == ORIGIN
    assert from_elsewhere.header("access-control-allow-origin") is None


def test_below_the_root_path_all_is_the_same(asker: Asker) -> None:
    """As vLLM's own endpoints: with the root path and without."""
    file_id = asker.upload(IMAGE)
    form = IN_CHAT["file"]

    below = asker.post(f"/api{form.path}", form.body(by_id(file_id, IMAGE)))
    content = asker.request("GET", f"/api/v1/files/{file_id}/content")

    assert questions.read_chat(below.json()) == asker.ask(form, inline(IMAGE))
    assert content.body == IMAGE.data


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "QUERY", "TRACE")
PATHS = ("/v1/files", "/v1/files/{}", "/v1/files/{}/content", "/v1/uploads", "/v1/uploads/{}/parts")
DISGUISES = (
    *("{}", "/api{}", "http://tests{}", "http://tests/api{}", "{}/", "{}?x", "{}#x", "{}%3Fx"),
    *("/{}", "/.{}", "/x/..{}", "/api/{}", "/api/api{}", "/x{}", "/;{}", "/%2e{}", "/%2F{}"),
    *("/api%2f{}", "/%61pi{}", "/%2561pi{}", "//tests{}"),
)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_ours_is_reached_without_a_key(
    server: VllmServer, asker: Asker, method: str
) -> None:
    """By any spelling of any path: the answer is vLLM's 401, or there is nothing there."""
    file_id = asker.upload(IMAGE)
    targets = [
        target
        for path in PATHS
        for disguise in DISGUISES
        for plain_target in [disguise.format(path.format(file_id))]
        for target in (
            plain_target,
            plain_target.replace("/v1", "/%761"),
            plain_target.replace("/files", "/fi%6Ces"),
        )
    ]

    statuses = {target: status_without_key(server, method, target) for target in targets}

    assert set(statuses.values()) == {401, 404}
    assert all(statuses[path.format(file_id)] == 401 for path in PATHS)
    assert asker.request("GET", f"/v1/files/{file_id}").status == 200


def status_without_key(server: VllmServer, method: str, target: str) -> int:
    with RawClient(server) as client:
        client.send_head(
            *(method, target, "Authorization: Bearer other", "Connection: close"),
            *("X-Forwarded-Prefix: /v1", "X-Original-URL: /health", "Content-Length: 0"),
        )
        return client.read_head().status


def test_options_need_the_key_too(server: VllmServer, asker: Asker) -> None:
    """P3: there vLLM asks for none."""
    file_id = asker.upload(IMAGE)
    answers = [
        servers.request(server, "OPTIONS", f"/v1/files/{each}") for each in (file_id, UNKNOWN)
    ]

    assert [answer.status for answer in answers] == [401, 401]
    assert answers[0].body == answers[1].body
    assert asker.request("OPTIONS", f"/v1/files/{file_id}").status == 204


# what is written down ------------------------------------------------------------------------------------


def find_ids(log: str) -> list[str]:
    """Lines that hold what opens a file, or one of its parts."""
    secret = re.compile(r"(?:file-|upload_|part_|mediagate-media:)[0-9a-f]{32}")
    return [line for line in log.splitlines() if secret.search(line.replace(UNKNOWN, ""))]


def test_the_log_holds_no_id(server: VllmServer, asker: Asker) -> None:
    """P13: at level debug, with requests and answers logged; the whole log is looked at once more at the end."""
    first, second = asker.upload(IMAGE), asker.upload(CLIP)
    damaged = asker.upload(noisy(CLIP))
    asker.request("GET", f"/v1/files?limit=1&after={first}")
    asker.request("GET", f"/v1/files/{second}/content")
    asker.request("GET", f"//v1/files/{second}")
    asker.request("GET", f"/v1/nonsense/{second}?file={second}")
    asker.ask(IN_CHAT["image_url or video_url, bare"], by_id(second, CLIP))
    asker.post(CHAT, chat(by_id(damaged, CLIP).part))
    asker.post(CHAT, chat({"type": "image_url", "image_url": first}))
    asker.post(CHAT, chat({"type": "text", "text": f"what is {first}"}))
    asker.post("/tokenize", {"model": "tiny", "prompt": first})
    wanted = {"filename": "a.png", "purpose": "vision", "bytes": 4, "mime_type": "image/png"}
    upload_id = asker.post("/v1/uploads", wanted).json()["id"]
    part = asker.request(
        "POST",
        f"/v1/uploads/{upload_id}/parts",
        servers.form(servers.part("data", b"abcd", "a")),
        content_type=servers.FORM_TYPE,
    ).json()["id"]
    asker.post(f"/v1/uploads/{upload_id}/complete", {"part_ids": [part]})
    asker.post(f"/v1/uploads/{upload_id}/cancel", {})
    asker.delete(first)

    log = server.log()

    assert find_ids(log) == []
    for secret in (first, second, damaged, upload_id, part):
        assert re.split("[-_]", secret)[1] not in log
    assert "GET /v1/files/" in log
    assert "Received request chatcmpl-" in log
