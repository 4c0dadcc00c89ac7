"""What the client commands share: one HTTP client that speaks the Files API and fails in one line."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx2

from mediagate.cli.failure import CommandFailed, printable
from mediagate.cli.target import is_loopback

PAGE_SIZE = 1000
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0

Json = dict[str, Any]
_T = TypeVar("_T")


class Client:
    """A Files API server.

    Args:
        server: Its URL, with or without `/v1`.
        api_key: Bearer key to send, if any.
        headers: To send too.
        transport: What carries the requests; the network, unless a test says otherwise.

    Raises from every method:
        CommandFailed: The server cannot be reached, refused, or answered something else than the API promises.
    """

    def __init__(
        self,
        *,
        server: str,
        api_key: str | None,
        headers: Mapping[str, str] | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        parts = urlsplit(server)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise CommandFailed(f"--server: {printable(server)} is no http:// or https:// URL")
        self._server = server.rstrip("/").removesuffix("/v1").rstrip("/")
        own = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = httpx2.Client(
                base_url=self._server,
                headers={**own, **(headers or {})},
                timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
                transport=transport,
                trust_env=not is_loopback(parts.hostname),  # no proxy reaches our own loopback
            )
        except (httpx2.InvalidURL, ValueError):
            # Their text may quote the key.
            raise CommandFailed("--server or --api-key cannot be sent over HTTP") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def upload(
        self, chunks: Iterable[bytes], *, size: int | None, filename: str | None, purpose: str
    ) -> Json:
        """Send one file as a raw body, never whole in memory.

        Args:
            chunks: The bytes.
            size: How many there are; None: unknown, sent in HTTP chunks.
            filename: For the file object; None: the server names it.
            purpose: OpenAI's field.
        """
        query = {"purpose": purpose} | ({} if filename is None else {"filename": filename})
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
        with self._stream(
            "PUT", "/v1/files", params=query, headers=headers, content=chunks
        ) as response:
            file = self._json(response)
        text_of(file, "id")
        return file

    def file(self, file_id: str) -> Json:
        """One file object."""
        with self._stream("GET", _path(file_id)) as response:
            return self._json(response)

    def files(self) -> Iterator[Json]:
        """Every file object, newest first, page by page."""
        query: dict[str, str | int] = {"limit": PAGE_SIZE}
        while True:
            with self._stream("GET", "/v1/files", params=query) as response:
                page = self._json(response)
            listed = page.get("data")
            if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
                raise CommandFailed("the server's listing is no listing")
            yield from listed
            if page.get("has_more") is not True or not listed:
                return
            query["after"] = text_of(listed[-1], "id")

    @contextlib.contextmanager
    def content(self, file_id: str) -> Iterator[Iterator[bytes]]:
        """The bytes of one file, as they come."""
        with self._stream("GET", f"{_path(file_id)}/content") as response:
            yield self._translated(response.iter_bytes())

    def delete(self, file_id: str) -> None:
        """Delete one file."""
        with self._stream("DELETE", _path(file_id)) as response:
            self._json(response)

    def first_model(self) -> str:
        """The first model that the server lists."""
        with self._stream("GET", "/v1/models") as response:
            listed = self._json(response).get("data")
        if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
            raise CommandFailed("the server lists no model: name one with --model")
        return text_of(listed[0], "id")

    def chat(self, body: Json) -> Iterator[str]:
        """The pieces of a streamed answer."""
        patient = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S)
        is_complete = False
        with self._stream(
            "POST", "/v1/chat/completions", json=body | {"stream": True}, timeout=patient
        ) as response:
            for line in self._translated(response.iter_lines()):
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    is_complete = True
                    break
                yield from _pieces(data)
        if not is_complete:
            raise CommandFailed("the answer broke off before its end")

    @contextlib.contextmanager
    def _stream(self, method: str, path: str, **options: Any) -> Iterator[httpx2.Response]:
        """A response with a good status, its body unread."""
        with contextlib.ExitStack() as stack:
            with self._translating():
                response = stack.enter_context(self._http.stream(method, path, **options))
                if not response.is_success:
                    response.read()
            if not response.is_success:
                raise CommandFailed(_refusal(response))
            yield response

    def _json(self, response: httpx2.Response) -> Json:
        with self._translating():
            raw = response.read()
        try:
            parsed = json.loads(raw)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise CommandFailed(f"{self._server} does not answer like a Files API: no JSON object")
        return parsed

    def _translated(self, items: Iterator[_T]) -> Iterator[_T]:
        while True:
            with self._translating():
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        """The one place where the library's errors become ours."""
        try:
            yield
        except httpx2.ConnectError:
            raise CommandFailed(
                f"cannot connect to {self._server}: is `mediagate serve` running there?"
            ) from None
        except httpx2.TimeoutException:
            raise CommandFailed(f"{self._server} did not answer in time") from None
        except httpx2.LocalProtocolError:
            raise CommandFailed("the file changed while it was read") from None
        except httpx2.HTTPError:
            raise CommandFailed(f"the connection to {self._server} broke") from None


def text_of(answer: Json, key: str) -> str:
    """A string that the API promises."""
    value = answer.get(key)
    if not isinstance(value, str):
        raise CommandFailed(f"the server's answer has no {key}")
    return value


def _path(file_id: str) -> str:
    return f"/v1/files/{quote(file_id.removeprefix('vllm-file://'), safe='')}"


def _pieces(data: str) -> Iterator[str]:
    """The text in one event of a chat stream."""
    try:
        event = json.loads(data)
    except ValueError:
        raise CommandFailed("the answer's stream holds an event that is no JSON") from None
    if not isinstance(event, dict):
        raise CommandFailed("the answer's stream holds an event that is no object")
    if "error" in event:
        raise CommandFailed(_message(event) or "the server ended the answer with an error")
    for choice in event.get("choices") or ():
        piece = (choice.get("delta") or {}).get("content")
        if isinstance(piece, str):
            yield piece


def _refusal(response: httpx2.Response) -> str:
    try:
        parsed = json.loads(response.content)
    except ValueError:
        parsed = None
    message = _message(parsed)
    return f"{message} ({response.status_code})" if message else f"HTTP {response.status_code}"


def _message(parsed: object) -> str | None:
    """The message of an OpenAI error body, in one line."""
    error = parsed.get("error") if isinstance(parsed, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return printable(" ".join(message.split())) if isinstance(message, str) else None
