r"""Which requests are read because their bodies may name media; all others pass unread.

A request is matched by what *any* server might take its path for, never by its `Content-Type`: percent-encoding (also
encoded twice), `//`, dot segments, `\`, `;parameters`, upper case and a trailing slash hide nothing. A path that is
read needlessly costs a parse; one that is not read costs the wall.
"""

import re
from collections.abc import Collection, Iterator
from urllib.parse import unquote_to_bytes

from mediagate.core.errors import BodyTooLarge, MalformedBody
from mediagate.dialects import anthropic_messages, openai_chat, openai_responses
from mediagate.dialects.attachments import CHAT, RESPONSES, Conversation
from mediagate.dialects.fields import Dialect, Judge
from mediagate.web.asgi import HeaderList

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""A body has no meaning in them (RFC 9110 §9.3); routers match them exactly."""

_MAX_DECODINGS = 8
_END = re.compile(rb"[?#\x00]")
_BLANKS = re.compile(r"[\x00-\x20\x7f]+")

DIALECTS: dict[str, Dialect] = {
    "responses": openai_responses.find,
    "messages": anthropic_messages.find,
    **dict.fromkeys(
        (
            *("chat", "completions", "completion", "infill", "apply-template", "invocations"),
            *("generate", "generate_stream", "vertex_generate", "generative_scoring"),
            *("embeddings", "embedding", "embed", "encode", "pooling", "classify"),
            *("score", "rerank", "reranking", "tokenize", "decisions", "systemone"),
            *("chat_tokenize", "vertex", "infer", "predict"),
        ),
        openai_chat.find,
    ),
}
"""By a segment of the path; any prefix (`/v1`, a root path) and suffix (`/batch`, `/render`) may be around it.

What vLLM, SGLang, LMDeploy, llama-server, transformers serve, Ollama and TGI read media on, and what they may:
`/api/chat` is `chat`, `/v1/messages/count_tokens` is `messages`.
"""

_CONVERSATIONS: dict[tuple[str, ...], Conversation] = {
    ("chat", "completions"): CHAT,
    ("responses",): RESPONSES,
}
"""Last path segments; any prefix may be before them, no suffix behind."""

_FORM_PATHS = frozenset(b"/v1/" + "/".join(end).encode() for end in _CONVERSATIONS)


_FILES = frozenset({("v1", "files"), ("v1", "uploads")})
"""First path segments."""


def is_files_api(raw_path: bytes) -> bool:
    """Whether any server might take the path for one of the Files or the Uploads API, which are answered here."""
    return any(segments[:2] in _FILES for segments in _readings(raw_path))


def media_dialect(method: str, raw_path: bytes) -> Dialect | None:
    """How to read the body of a request, or None: it is not read.

    Args:
        method: As the client wrote it.
        raw_path: Undecoded; a query is ignored.
    """
    if method.upper() in _WITHOUT_BODY:
        return None
    for segments in _readings(raw_path):
        for segment, dialect in DIALECTS.items():
            if segment in segments:
                return dialect
        if not segments:
            return openai_chat.find  # TGI generates at `POST /`
    return None


def form_conversation(raw_path: bytes, *, judge: Judge = Judge.WALL) -> Conversation | None:
    """How a request to this path may be a form, with files beside its JSON; None: it may not.

    Args:
        raw_path: Undecoded.
        judge: An engine that guards itself asks for no key at paths that it does not know. Files that come there must
            not get into the store: for such an engine only its own spelling counts.
    """
    if judge is Judge.ENGINE and raw_path not in _FORM_PATHS:
        return None
    found = (takes for end, takes in _CONVERSATIONS.items() if leads_to(raw_path, (end,)))
    return next(found, None)


def leads_to(raw_path: bytes, ends: Collection[tuple[str, ...]]) -> bool:
    """Whether any server might take the path for one that ends in one of `ends`: segments, in lower case."""
    return any(segments[-len(end) :] == end for segments in _readings(raw_path) for end in ends)


def check_encoding(headers: HeaderList) -> None:
    """Refuse headers that make a server read other text than the bytes in UTF-8.

    Raises:
        MalformedBody: A `Content-Encoding`, or a charset that is not UTF-8 (in UTF-7, `+ACI-` is a quotation mark).
    """
    for name, value in headers:
        header = name.lower()
        # SGLang has a second name for it.
        is_coding = header in {b"content-encoding", b"x-body-compressed"}
        if is_coding and value.strip().lower() not in {b"", b"identity"}:
            raise MalformedBody("This endpoint takes no Content-Encoding; send the JSON as it is.")
        if header == b"content-type" and not _is_utf8(value):
            raise MalformedBody("This endpoint takes JSON in UTF-8 only.")


def body_too_large(max_json_bytes: int) -> BodyTooLarge:
    """The error for a JSON body over the limit; says what to do instead."""
    return BodyTooLarge(
        f"The JSON body is larger than {max_json_bytes} bytes. Upload media with POST /v1/files "
        "and name it by its id instead of sending it as base64."
    )


def _readings(raw_path: bytes) -> Iterator[tuple[str, ...]]:
    """The segments of the path as servers read it: decoded once, twice …; up to a `?`, `#` or NUL, or across it."""
    decoded = raw_path.partition(b"?")[0]
    path = b""
    for _ in range(_MAX_DECODINGS):
        if decoded == path:
            return
        path, decoded = decoded, unquote_to_bytes(decoded)
        yield _segments(path)
        if _END.search(path):
            yield _segments(_END.split(path)[0])


def _segments(path: bytes) -> tuple[str, ...]:
    segments: list[str] = []
    # WHATWG's URL parser drops tabs and line breaks anywhere in a URL.
    text = _BLANKS.sub("", path.decode(errors="replace")).casefold()
    for part in re.split(r"[/\\]", text):
        segment = part.partition(";")[0]
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    return tuple(segments)


def _is_utf8(content_type: bytes) -> bool:
    # An extended parameter (`charset*=`, RFC 8187) yields an empty name, which is none of these.
    charsets = re.findall(rb"charset(?:\s*=\s*[\"']?([^\"';,\s]*)|\*)", content_type.lower())
    return all(charset in {b"utf-8", b"utf8", b"us-ascii"} for charset in charsets)
