"""The official `openai` client, newest version, against a real server."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

import corpus
import servers
from servers import Server

pytestmark = pytest.mark.media

MIB = 1024**2
PNG = corpus.png_pixel()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--file-upload-max-size-mb", "1")
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server) -> Iterator[Server]:
    yield shared
    servers.empty(shared)


class Transport(httpx2.HTTPTransport):
    """Remembers what was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[httpx2.Request] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return super().handle_request(request)


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def client(gateway: Server, transport: Transport) -> Iterator[openai.OpenAI]:
    with (
        httpx2.Client(transport=transport) as http,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", http_client=http) as made,
    ):
        yield made


def test_upload_retrieve_content_delete(client: openai.OpenAI) -> None:
    """H1, H32, H47, H53: everything the client can do with one file."""
    clip = corpus.encode_clip(container="mp4", seconds=0.3)

    file = client.files.create(
        file=(clip.filename, clip.data),
        purpose="vision",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    retrieved = client.files.retrieve(file.id)
    content = client.files.content(file.id)
    deleted = client.files.delete(file.id)

    assert file.object == "file"
    assert (file.bytes, file.filename, file.purpose) == (len(clip.data), "clip.mp4", "vision")
    assert file.status == "processed"
    assert file.expires_at == file.created_at + 3600
    assert file.model_extra == {"mime_type": "video/mp4"}
    assert retrieved == file
    assert content.read() == clip.data
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    with pytest.raises(openai.NotFoundError) as missing:
        client.files.retrieve(file.id)
    assert missing.value.code == "file_not_found"
    assert missing.value.type == "invalid_request_error"


def test_every_way_to_give_a_file_works(client: openai.OpenAI) -> None:
    """H11: bytes, an open file, and a stream of unknown length, which is sent chunked."""

    class Stream(io.RawIOBase):
        def __init__(self) -> None:
            self._rest = PNG

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return False

        def read(self, size: int = -1) -> bytes:
            taken, self._rest = self._rest, b""
            return taken

    given: list[Any] = [PNG, io.BytesIO(PNG), ("ü 日本.png", PNG), ("a.png", Stream(), "video/mp4")]

    files = [client.files.create(file=one, purpose="user_data") for one in given]

    assert [file.bytes for file in files] == [len(PNG)] * 4
    assert files[0].filename == "upload"
    assert files[2].filename == "ü 日本.png"
    assert {file.model_extra["mime_type"] for file in files if file.model_extra} == {"image/png"}


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_paging_terminates_and_gives_each_file_once(client: openai.OpenAI, count: int) -> None:
    """H38, H39: the client's own pager."""
    made = [client.files.create(file=PNG, purpose="user_data").id for _ in range(count)]

    for limit in (1, 2, 4):
        walked = [file.id for file in client.files.list(limit=limit)]
        ascending = [file.id for file in client.files.list(limit=limit, order="asc")]

        assert sorted(walked) == sorted(made)
        assert ascending == walked[::-1]


async def test_asynchronous_paging_terminates(gateway: Server) -> None:
    """H39."""
    made = {servers.upload(gateway, PNG)["id"] for _ in range(3)}

    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any") as client:
        walked = [file.id async for file in client.files.list(limit=1)]

    assert len(walked) == 3
    assert set(walked) == made


def test_extra_body_is_ignored(client: openai.OpenAI) -> None:
    """H29."""
    file = client.files.create(
        file=PNG,
        purpose="user_data",
        extra_body={"ttl": 60, "tags": ["a", "b"], "meta": {"k": "v"}},
    )

    assert file.bytes == len(PNG)


def test_wait_for_processing_returns_at_once(client: openai.OpenAI, transport: Transport) -> None:
    file = client.files.create(file=PNG, purpose="vision")

    waited = client.files.wait_for_processing(file.id, poll_interval=0.1, max_wait_seconds=1)

    assert waited == file
    assert [request.method for request in transport.requests] == ["POST", "GET"]


def test_range_of_a_content(client: openai.OpenAI) -> None:
    """H50: through the client's extra headers."""
    file = client.files.create(file=PNG, purpose="vision")

    answer = client.files.with_raw_response.content(file.id, extra_headers={"range": "bytes=1-3"})

    assert answer.http_response.status_code == 206
    assert answer.http_response.read() == PNG[1:4]


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (
            lambda c: c.files.create(file=PNG, purpose="batch"),
            openai.BadRequestError,
            "invalid_value",
        ),
        (
            lambda c: c.files.create(file=b"<html></html>", purpose="vision"),
            openai.BadRequestError,
            "unsupported_media_type",
        ),
        (
            lambda c: c.files.create(file=b"", purpose="vision"),
            openai.BadRequestError,
            "empty_file",
        ),
        (lambda c: c.files.list(limit=0), openai.BadRequestError, "invalid_value"),
        (lambda c: c.files.retrieve("file-x"), openai.NotFoundError, "file_not_found"),
        (lambda c: c.files.retrieve("a/../b"), openai.NotFoundError, "file_not_found"),
        (lambda c: c.files.content("file-x"), openai.NotFoundError, "file_not_found"),
        (lambda c: c.files.delete("file-x"), openai.NotFoundError, "file_not_found"),
    ],
)
def test_errors_have_their_class_and_code_and_are_not_retried(
    client: openai.OpenAI,
    transport: Transport,
    call: Callable[[openai.OpenAI], object],
    kind: type[openai.APIStatusError],
    code: str,
) -> None:
    """H92."""
    with pytest.raises(kind) as caught:
        call(client)

    assert caught.value.code == code
    assert caught.value.message
    assert len(transport.requests) == 1


@pytest.mark.parametrize("size_bytes", [MIB + 1, 3 * MIB, 32 * MIB])
def test_too_large_is_a_413_on_one_connection(
    client: openai.OpenAI, transport: Transport, size_bytes: int
) -> None:
    """H12: while the client is still sending."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("a.png", PNG + bytes(size_bytes - len(PNG))), purpose="vision")

    assert caught.value.status_code == 413
    assert caught.value.code == "file_too_large"
    assert len(transport.requests) == 1


def test_chunked_upload_that_is_too_large_is_a_413_on_one_connection(
    client: openai.OpenAI, transport: Transport
) -> None:
    """H11, H12: where no length was declared, the limit strikes in the middle."""

    class Endless(io.RawIOBase):
        def __init__(self) -> None:
            self._sent = 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return False

        def read(self, size: int = -1) -> bytes:
            self._sent += 65536
            return (PNG + bytes(65536))[:65536] if self._sent < 6 * MIB else b""

    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("a.png", Endless()), purpose="vision")  # type: ignore[arg-type]  # a stream

    assert caught.value.status_code == 413
    assert len(transport.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_chat_by_file_id(client: openai.OpenAI, stream: bool) -> None:
    """H73, H74: the question about the file, in the client's own words."""
    clip = corpus.encode_clip(container="mp4", seconds=0.3)
    file = client.files.create(file=(clip.filename, clip.data), purpose="vision")
    messages: Any = [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "file", "file": {"file_id": file.id}},
            ],
        }
    ]

    if stream:
        chunks = client.chat.completions.create(
            model="mediagate-inspector", messages=messages, stream=True
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    else:
        completion = client.chat.completions.create(model="mediagate-inspector", messages=messages)
        text = completion.choices[0].message.content or ""

    assert "clip.mp4" in text
    assert "h264" in text


def test_dead_reference_is_not_found(client: openai.OpenAI) -> None:
    """H77."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(
            model="mediagate-inspector",
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "file", "file": {"file_id": "file-" + "0" * 32}}],
                }
            ],
        )

    assert caught.value.code == "file_not_found"
    assert caught.value.param == "messages[0].content[0].file.file_id"


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mediagate-inspector"]
