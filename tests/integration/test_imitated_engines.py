"""Ollama and TGI, imitated: the gateway finds out what each is, and gives it what it takes, or says no before it.

What an imitation says no to itself is shown first: else a gateway that lets everything pass would look well.
"""

import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import corpus
import servers
from engines.imitations import CHAT, OllamaUpstream, TgiUpstream
from mediagate.gateway.detection import SIGNALS
from servers import Answer, Server
from vllm_questions import BLUE, RED, clip, image, sound

pytestmark = pytest.mark.media

PICTURE, OTHER = image(RED).data, image(BLUE).data
SOUND, CLIP = sound(1).data, clip(RED).data
GIF = corpus.gif_pixel()


def noise() -> bytes:
    """A picture of 2.7 MB."""
    pixels = random.Random(1).randbytes(3 * 900 * 1000)
    target = io.BytesIO()
    Image.frombytes("RGB", (900, 1000), pixels).save(target, "PNG", compress_level=0)
    return target.getvalue()


def data_uri(data: bytes, mime_type: str = "image/png") -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def picture(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def body(*parts: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "text", "text": "what is this"}, *parts]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}]}


def by_id(gateway: Server, data: bytes) -> str:
    return str(servers.upload(gateway, data)["id"])


# Ollama -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_ollama() -> Iterator[OllamaUpstream]:
    with OllamaUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared_before_ollama(
    shared_ollama: OllamaUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    hosts = ("--allowed-media-domains", "example.com")
    with servers.serving("--upstream", shared_ollama.server.url, *hosts, store=store) as server:
        yield server


@pytest.fixture
def ollama(shared_ollama: OllamaUpstream) -> OllamaUpstream:
    shared_ollama.forget()
    return shared_ollama


@pytest.fixture
def before_ollama(shared_before_ollama: Server, ollama: OllamaUpstream) -> Iterator[Server]:
    yield shared_before_ollama
    servers.empty(shared_before_ollama)
    assert "Traceback" not in shared_before_ollama.log()


def directly(upstream: OllamaUpstream | TgiUpstream, *parts: dict[str, Any]) -> Answer:
    return directly_as({}, upstream, *parts)


def directly_as(
    headers: dict[str, str], upstream: OllamaUpstream | TgiUpstream, *parts: dict[str, Any]
) -> Answer:
    host, port = upstream.server.url.removeprefix("http://").split(":")
    raw, headers = json.dumps(body(*parts)), {"Content-Type": "application/json", **headers}
    return servers.request_at(host, int(port), "POST", CHAT, raw, headers=headers)


OLLAMA_REFUSES = [
    ({"type": "video_url", "video_url": {"url": data_uri(CLIP)}}, "invalid message format"),
    ({"type": "audio_url", "audio_url": {"url": data_uri(SOUND)}}, "invalid message format"),
    ({"type": "file", "file": {"file_id": "file-1"}}, "invalid message format"),
    (picture("https://example.com/a.png"), "image URLs are not currently supported, please use"),
    (picture("HTTPS://example.com/a.png"), "invalid image input"),
    (picture("/etc/passwd"), "invalid image input"),
    (picture(base64.b64encode(PICTURE).decode()), "invalid image input"),
    (picture(data_uri(GIF, "image/gif")), "invalid image input"),
    (picture(data_uri(PICTURE, "image/png;charset=x")), "invalid image input"),
    (picture(data_uri(PICTURE).replace("data:", "DATA:")), "invalid image input"),
    (picture(data_uri(PICTURE).rstrip("=") + "A"), "invalid image input"),
    ({"type": "input_audio", "input_audio": {"data": "%"}}, "invalid input_audio base64 data"),
    ({"type": "input_audio", "input_audio": {}}, "invalid input_audio format: missing data"),
]


@pytest.mark.parametrize(("part", "message"), OLLAMA_REFUSES)
def test_ollama_refuses(ollama: OllamaUpstream, part: dict[str, Any], message: str) -> None:
    answer = directly(ollama, part)

    assert answer.status == 400
    assert answer.error["message"].startswith(message)
    assert ollama.seen == []


@pytest.mark.parametrize("form", ["url", "string", "file", "input_image"])
def test_ollama_sees_an_image_by_id(
    ollama: OllamaUpstream, before_ollama: Server, form: str
) -> None:
    file_id = by_id(before_ollama, PICTURE)
    part = {
        "url": picture(f"vllm-file://{file_id}"),
        "string": {"type": "image_url", "image_url": file_id},
        "file": {"type": "file", "file": {"file_id": file_id}},
        "input_image": {"type": "input_image", "file_id": file_id},
    }[form]

    answer = servers.post_json(before_ollama, CHAT, body(part, picture(data_uri(OTHER))))

    assert answer.status == 200
    assert answer.json()["choices"][0]["message"]["content"] == "I was given 2."
    assert ollama.seen == [PICTURE, OTHER]


@pytest.mark.parametrize(
    ("form", "is_by_id"),
    [
        *(("audio_url", True), ("input_audio", True), ("file", True)),
        *(("audio_url", False), ("input_audio", False)),
    ],
)
def test_ollama_hears_a_sound(
    ollama: OllamaUpstream, before_ollama: Server, form: str, is_by_id: bool
) -> None:
    name = by_id(before_ollama, SOUND) if is_by_id else data_uri(SOUND, "audio/wav")
    part = {
        "audio_url": {"type": "audio_url", "audio_url": {"url": name}},
        "input_audio": {"type": "input_audio", "input_audio": {"data": name, "format": "mp3"}},
        "file": {"type": "file", "file": {"file_id": name}},
    }[form]

    answer = servers.post_json(before_ollama, CHAT, body(part))

    assert (answer.status, ollama.seen) == (200, [SOUND])


def test_ollama_gets_a_large_image_whole(ollama: OllamaUpstream, before_ollama: Server) -> None:
    large = noise()

    answer = servers.post_json(before_ollama, CHAT, body(picture(by_id(before_ollama, large))))

    assert (answer.status, ollama.seen) == (200, [large])


def test_what_ollama_cannot_take_it_never_hears_of(
    ollama: OllamaUpstream, before_ollama: Server
) -> None:
    video, gif = by_id(before_ollama, CLIP), by_id(before_ollama, GIF)
    for part, param, why in (
        ({"type": "video_url", "video_url": {"url": video}}, "video_url.url", "no videos"),
        ({"type": "file", "file": {"file_id": video}}, "file.file_id", "no videos"),
        (
            {"type": "video_url", "video_url": {"url": data_uri(CLIP, "video/mp4")}},
            "video_url.url",
            "no videos",
        ),
        (picture(gif), "image_url.url", "image/jpeg, image/png, image/webp"),
        (picture("https://example.com/a.png"), "image_url.url", "name it by its id"),
    ):
        answer = servers.post_json(before_ollama, CHAT, body(part))

        assert answer.code == (400, "not_taken_by_engine")
        assert answer.error["param"] == f"messages[0].content[1].{param}"
        assert "Ollama" in answer.error["message"]
        assert why in answer.error["message"]
    assert ollama.chats == []


def test_ollama_is_called_by_its_own_name(ollama: OllamaUpstream, before_ollama: Server) -> None:
    """It answers nobody who asks for another host: an empty 403."""
    part = picture(by_id(before_ollama, PICTURE))
    headers = {"Host": "gateway.example.com", "Content-Type": "application/json"}

    raw = json.dumps(body(part))
    answer = servers.request(before_ollama, "POST", CHAT, raw, headers=headers)
    alone = directly_as(headers, ollama, picture(data_uri(PICTURE)))

    assert (answer.status, alone.status, alone.body) == (200, 403, b"")


def test_what_ollama_says_itself_comes_through(
    ollama: OllamaUpstream, before_ollama: Server
) -> None:
    part = picture(data_uri(GIF, "image/gif"))

    answer = servers.post_json(before_ollama, CHAT, body(part))

    assert (answer.status, answer.body) == (400, directly(ollama, part).body)


# TGI ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_tgi() -> Iterator[TgiUpstream]:
    with TgiUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def shared_before_tgi(
    shared_tgi: TgiUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    with servers.serving("--upstream", shared_tgi.server.url, store=store) as server:
        yield server


@pytest.fixture
def tgi(shared_tgi: TgiUpstream) -> TgiUpstream:
    shared_tgi.forget()
    return shared_tgi


@pytest.fixture
def before_tgi(shared_before_tgi: Server, tgi: TgiUpstream) -> Iterator[Server]:
    yield shared_before_tgi
    servers.empty(shared_before_tgi)
    assert "Traceback" not in shared_before_tgi.log()


TGI_REFUSES = [
    ({"type": "video_url", "video_url": {"url": data_uri(CLIP)}}, 422, b"untagged enum"),
    ({"type": "audio_url", "audio_url": {"url": data_uri(SOUND)}}, 422, b"untagged enum"),
    ({"type": "input_audio", "input_audio": {"data": "AAAA"}}, 422, b"untagged enum"),
    ({"type": "file", "file": {"file_id": "file-1"}}, 422, b"untagged enum"),
    ({"type": "image_url", "image_url": data_uri(PICTURE)}, 422, b"untagged enum"),
    (picture("/etc/passwd"), 422, b"invalid image content"),
    (picture("file:///etc/passwd"), 422, b"invalid image content"),
    (picture(data_uri(PICTURE).replace("data:", "DATA:")), 422, b"invalid image content"),
    (picture(data_uri(PICTURE, "image/png;charset=x")), 422, b"invalid image content"),
    (picture(data_uri(PICTURE).rstrip("=") + "A"), 422, b"base64 encoding is invalid"),
    (picture(data_uri(b"no picture")), 422, b"invalid image"),
    (picture(data_uri(PICTURE, "image/jpeg")), 422, b"invalid image"),
    (picture("http://127.0.0.1:9/a"), 422, b"Could not fetch image"),
    (picture(data_uri(bytes(1_500_000))), 413, b"length limit exceeded"),
]


@pytest.mark.parametrize(("part", "status", "message"), TGI_REFUSES)
def test_tgi_refuses(tgi: TgiUpstream, part: dict[str, Any], status: int, message: bytes) -> None:
    answer = directly(tgi, part)

    assert answer.status == status
    assert message in answer.body
    assert tgi.seen == []


@pytest.mark.parametrize("form", ["url", "string", "file", "input_image"])
def test_tgi_sees_an_image_by_id(tgi: TgiUpstream, before_tgi: Server, form: str) -> None:
    file_id = by_id(before_tgi, PICTURE)
    part = {
        "url": picture(f"vllm-file://{file_id}"),
        "string": {"type": "image_url", "image_url": file_id},
        "file": {"type": "file", "file": {"file_id": file_id}},
        "input_image": {"type": "input_image", "file_id": file_id},
    }[form]

    answer = servers.post_json(before_tgi, CHAT, body(part))

    assert (answer.status, tgi.seen, tgi.fetched) == (200, [PICTURE], [])
    assert "The upstream's engine is tgi." in before_tgi.log()


def test_image_that_makes_a_request_too_long_for_tgi_is_fetched(
    tgi: TgiUpstream, before_tgi: Server
) -> None:
    large = noise()

    answer = servers.post_json(before_tgi, CHAT, body(picture(by_id(before_tgi, large))))

    assert (answer.status, tgi.seen) == (200, [large])
    assert [url.startswith(f"{before_tgi.url}/v1/media/") for url in tgi.fetched] == [True]
    assert len(tgi.chats[0].body) < 1000


def test_image_that_makes_a_request_too_long_for_tgi_is_refused_where_it_may_not_fetch(
    tgi: TgiUpstream, tmp_path: Path
) -> None:
    flags = ("--upstream", tgi.server.url, "--delivery", "inline")
    with servers.serving(*flags, store=tmp_path / "store") as gateway:
        part = picture(by_id(gateway, noise()))

        answer = servers.post_json(gateway, CHAT, body(part))

    assert answer.code == (413, "body_too_large")
    assert answer.error["param"] == "messages[0].content[1].image_url.url"
    assert "TGI" in answer.error["message"]
    assert "--advertise-url" in answer.error["message"]
    assert tgi.chats == []


def test_what_tgi_cannot_take_it_never_hears_of(tgi: TgiUpstream, before_tgi: Server) -> None:
    video, audio = by_id(before_tgi, CLIP), by_id(before_tgi, SOUND)
    for part, param, why in (
        ({"type": "video_url", "video_url": {"url": video}}, "video_url.url", "no videos"),
        ({"type": "file", "file": {"file_id": audio}}, "file.file_id", "no audio"),
        (
            {"type": "input_audio", "input_audio": {"data": audio}},
            "input_audio.data",
            "no audio",
        ),
        (
            {"type": "audio_url", "audio_url": {"url": data_uri(SOUND, "audio/wav")}},
            "audio_url.url",
            "no audio",
        ),
    ):
        answer = servers.post_json(before_tgi, CHAT, body(part))

        assert answer.code == (400, "not_taken_by_engine")
        assert answer.error["param"] == f"messages[0].content[1].{param}"
        assert "TGI" in answer.error["message"]
        assert why in answer.error["message"]
    for source in ("/etc/passwd", "file:///etc/passwd", f"{tgi.server.url}/a"):
        answer = servers.post_json(before_tgi, CHAT, body(picture(source)))
        assert answer.code == (400, "media_source_not_allowed")
    assert tgi.chats == []
    assert tgi.fetched == []


def test_what_tgi_says_itself_comes_through(tgi: TgiUpstream, before_tgi: Server) -> None:
    for part in (
        picture(data_uri(bytes(1_500_000))),
        picture(data_uri(PICTURE, "image/png;charset=x")),
        {"type": "nonsense"},
    ):
        answer, alone = servers.post_json(before_tgi, CHAT, body(part)), directly(tgi, part)

        assert answer.status == alone.status
        assert answer.header("content-type") == alone.header("content-type")
        assert answer.body == alone.body


# both ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ollama", "tgi"])
def test_upstream_is_found_out_once_media_is_sent_and_then_never_asked_again(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    upstream: OllamaUpstream | TgiUpstream = request.getfixturevalue(name)

    def asked() -> list[str]:
        return [each.path for each in upstream.server.received if each.method == "GET"]

    with servers.serving("--upstream", upstream.server.url, store=tmp_path / "store") as gateway:
        servers.post_json(gateway, CHAT, body())
        assert asked() == []
        part = picture(by_id(gateway, PICTURE))
        for _ in range(2):
            assert servers.post_json(gateway, CHAT, body(part)).status == 200
        assert f"The upstream's engine is {name}." in gateway.log()

    assert sorted(asked()) == sorted({signal.path for signal in SIGNALS})
    assert upstream.seen == [PICTURE, PICTURE]
