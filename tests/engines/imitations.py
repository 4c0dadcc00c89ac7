"""Ollama and TGI as a client of theirs sees them: no models, but their grammar, limits, statuses and words.

    with OllamaUpstream() as ollama:        servers.serving("--upstream", ollama.server.url)
        ollama.seen                         the media that it decoded, in order

Written from the sources of Ollama 0.33.0 (`server/routes.go`, `openai/openai.go`) and TGI 3.3.7 (`server.rs`,
`validation.rs` and `lib.rs` of its router), and as strict: the case of schemes, padding, parameters, unknown parts.
"""

import asyncio
import base64
import binascii
import http.client
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from mediagate.testing.upstream import Handler, Received
from upstreams import ThreadedUpstream

CHAT = "/v1/chat/completions"
_JSON = b"content-type: application/json\r\n"
_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


class _Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: bytes, body: bytes, headers: bytes = _JSON) -> None:
        super().__init__(body)
        self.status, self.body, self.headers = status, body, headers


class _Imitation(ThreadedUpstream):
    """Answers known paths, and chats with how many media there were.

    Attributes:
        seen: The bytes of all media that it decoded, in order.
    """

    def __init__(self, known: Mapping[str, tuple[bytes, bytes]], unknown: bytes) -> None:
        super().__init__()
        self.seen: list[bytes] = []
        for path, (body, headers) in known.items():
            self.server.handlers[path] = _saying(b"200 OK", body, headers)
        for path in ("/info", "/version", "/props", "/openapi.json", "/v1/files"):
            self.server.handlers.setdefault(path, _saying(b"404 Not Found", unknown, _TEXT))
        for path in ("/v1/system/info", "/.well-known/localai.json"):
            self.server.handlers[path] = _saying(b"404 Not Found", unknown, _TEXT)
        self.server.handlers[CHAT] = self._chat

    @property
    def chats(self) -> list[Received]:
        """The chats that it heard of."""
        return [each for each in self.server.received if each.path == CHAT]

    def forget(self) -> None:
        """Begin anew."""
        self.server.received.clear()
        self.seen.clear()

    async def _chat(self, request: Received) -> None:
        try:
            await self._check_head(request)
            await request.read_body()
            found = await asyncio.to_thread(self._media, request.body)
        except _Refusal as refusal:
            await request.answer(refusal.body, status=refusal.status, headers=refusal.headers)
            return
        self.seen += found
        message = {"role": "assistant", "content": f"I was given {len(found)}."}
        body = {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}
        await request.answer(json.dumps(body).encode(), headers=_JSON)

    async def _check_head(self, request: Received) -> None:
        raise NotImplementedError

    def _media(self, body: bytes) -> list[bytes]:
        raise NotImplementedError


def _saying(status: bytes, body: bytes, headers: bytes) -> Handler:
    async def answer(request: Received) -> None:
        await request.read_body()
        await request.answer(body, status=status, headers=headers)

    return answer


class OllamaUpstream(_Imitation):
    """Nothing is fetched, no path is opened; images by four types of `data:`, sound by base64, no limit of length."""

    def __init__(self) -> None:
        model = {"id": "tiny:latest", "object": "model", "created": 1, "owned_by": "library"}
        models = json.dumps({"object": "list", "data": [model]}).encode()
        known = {
            "/": (b"Ollama is running", _TEXT),
            "/api/version": (b'{"version":"0.33.0"}', _JSON),
            "/v1/models": (models, _JSON),
        }
        super().__init__(known, b"404 page not found")

    async def _check_head(self, request: Received) -> None:
        """It answers nobody who came by another name, nor pages of other origins."""
        (host,) = request.values("host")
        local = re.fullmatch(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", host)
        origins = [urlsplit(origin).hostname for origin in request.values("origin")]
        if not local or any(origin not in {"127.0.0.1", "localhost"} for origin in origins):
            raise _Refusal(b"403 Forbidden", b"", b"")

    def _media(self, body: bytes) -> list[bytes]:
        try:
            messages = json.loads(body)["messages"]
        except ValueError as error:
            raise _ollama(str(error)) from None
        found = []
        for message in messages:
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                found += self._of_part(part)
        return found

    def _of_part(self, part: object) -> list[bytes]:
        match part:
            case {"type": "text", "text": str()}:
                return []
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                return [_ollama_image(url)]
            case {"type": "image_url", "image_url": str(url)}:
                return [_ollama_image(url)]
            case {"type": "input_audio", "input_audio": {"data": str(data)}}:
                try:
                    return [_go_base64(data)]
                except binascii.Error:
                    message = "illegal base64 data at input byte 0"
                    raise _ollama(f"invalid input_audio base64 data: {message}") from None
            case {"type": "input_audio", "input_audio": dict()}:
                raise _ollama("invalid input_audio format: missing data")
            case {"type": "input_audio"}:
                raise _ollama("invalid input_audio format")
        raise _ollama("invalid message format")


def _ollama(message: str) -> _Refusal:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return _Refusal(b"400 Bad Request", json.dumps({"error": error}).encode())


def _ollama_image(url: str) -> bytes:
    if url.startswith(("http://", "https://")):
        raise _ollama(
            "image URLs are not currently supported, please use base64 encoded data instead"
        )
    types = ("", "image/jpeg", "image/jpg", "image/png", "image/webp")
    heads = (f"data:{each};base64," for each in types)
    head = next((head for head in heads if url.startswith(head)), None)
    try:
        if head is not None:
            return _go_base64(url.removeprefix(head))
    except binascii.Error:
        pass
    raise _ollama("invalid image input")


def _go_base64(text: str) -> bytes:
    """Go's `base64.StdEncoding`: padded, nothing between but line breaks."""
    return base64.b64decode(re.sub(r"[\r\n]", "", text), validate=True)


class TgiUpstream(_Imitation):
    """Images only, which it fetches from anywhere; 2,000,000 bytes of request.

    Attributes:
        fetched: The URLs that it fetched.
    """

    MAX_BODY_BYTES = 2_000_000

    def __init__(self) -> None:
        model = {"id": "org/tiny", "object": "model", "created": 0, "owned_by": "org/tiny"}
        models = json.dumps({"object": "list", "data": [model]}).encode()
        info = {
            "model_id": "org/tiny",
            "model_sha": None,
            "model_pipeline_tag": "image-text-to-text",
            "max_concurrent_requests": 128,
            "max_input_tokens": 1024,
            "max_total_tokens": 2048,
            "validation_workers": 2,
            "router": "text-generation-router",
            "version": "3.3.6-dev0",
            "sha": None,
            "docker_label": None,
        }
        known = {
            "/": (b"", b""),
            "/info": (json.dumps(info).encode(), _JSON),
            "/v1/models": (models, _JSON),
        }
        super().__init__(known, b"")
        self.fetched: list[str] = []

    def forget(self) -> None:
        """Begin anew."""
        super().forget()
        self.fetched.clear()

    async def _check_head(self, request: Received) -> None:
        if request.values("content-type") != ["application/json"]:
            message = b"Expected request with `Content-Type: application/json`"
            raise _Refusal(b"415 Unsupported Media Type", message, _TEXT)
        (length,) = request.values("content-length")
        if int(length) > self.MAX_BODY_BYTES:
            message = b"Failed to buffer the request body: length limit exceeded"
            await request.read_body()  # or the answer would be lost with the connection
            raise _Refusal(b"413 Payload Too Large", message, _TEXT)

    def _media(self, body: bytes) -> list[bytes]:
        try:
            messages = json.loads(body)["messages"]
        except ValueError as error:
            message = f"Failed to parse the request body as JSON: {error}".encode()
            raise _Refusal(b"400 Bad Request", message, _TEXT) from None
        # What it does: all becomes one text, in which images are then looked for.
        text = "".join(map(_tgi_text, range(len(messages)), messages))
        return [self._image(found[4:-1]) for found in re.findall(r"!\[\]\([^)]*\)", text)]

    def _image(self, url: str) -> bytes:
        if url.startswith(("http://", "https://")):
            self.fetched.append(url)
            return _decoded(_fetched(url), None)
        tokens = url.removeprefix("data:").split(";")
        is_inline = url.startswith("data:") and len(tokens) == 2
        if not is_inline or not tokens[1].startswith("base64,"):
            raise _tgi(f"invalid image content: ![]({url})")
        try:
            data = base64.b64decode(tokens[1].removeprefix("base64,"), validate=True)
        except binascii.Error:
            raise _tgi("base64 encoding is invalid: Invalid padding") from None
        return _decoded(data, tokens[0])


_TGI_FORMATS = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/tiff": "TIFF",
}


def _tgi(message: str) -> _Refusal:
    body = {"error": f"Input validation error: {message}", "error_type": "validation"}
    return _Refusal(b"422 Unprocessable Entity", json.dumps(body).encode())


def _tgi_text(number: int, message: object) -> str:
    match message:
        case {"role": str(), "content": str(text)}:
            return text
        case {"role": str(), "content": [*parts]}:
            texts = [_tgi_chunk(part) for part in parts]
            if None not in texts:
                return "".join(filter(None, texts))
    body = (
        "Failed to deserialize the JSON body into the target type: "
        f"messages[{number}]: data did not match any variant of untagged enum MessageBody"
    )
    raise _Refusal(b"422 Unprocessable Entity", body.encode(), _TEXT)


def _tgi_chunk(part: object) -> str | None:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return f"![]({url})"
    return None


def _decoded(data: bytes, mime_type: str | None) -> bytes:
    """The data, if it is an image of that type; of a type that it does not know it looks for itself."""
    form = _TGI_FORMATS.get(mime_type or "")
    try:
        with Image.open(io.BytesIO(data), formats=[form] if form else None) as image:
            image.load()
    except (UnidentifiedImageError, OSError) as error:
        raise _tgi(f"invalid image: {error}") from None
    return data


def _fetched(url: str) -> bytes:
    parts = urlsplit(url)
    connect: Callable[..., Any] = (
        http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    )
    connection = connect(parts.hostname, parts.port, timeout=30)
    try:
        connection.request("GET", parts.path)
        data: bytes = connection.getresponse().read()  # it does not look at the status
    except OSError as error:
        raise _tgi(f"Could not fetch image: {error}") from None
    finally:
        connection.close()
    return data
