"""The picture that is asked about, the question, and what its answer proves.

An engine that leaves out what it does not understand answers as if nothing were wrong. What it cannot do is to count
the tokens of a picture that it did not see: the prompt with the picture has to be longer than the one without.
"""

import json
import struct
import zlib
from collections.abc import Collection
from typing import Any

import httpx2

from mediagate.doctor.report import Mark

SIDE = 64
"""Pixels: no image processor in use takes this for too small."""

MAX_WORDS = 240
"""Characters of what an engine says that are shown."""

PLACE = 1
"""Of the picture among the content parts."""

_QUESTION = "What do you see?"


def picture() -> bytes:
    """A PNG of `SIDE` x `SIDE` pixels, in colours."""
    rows = b"".join(
        b"\0" + b"".join(bytes((x & 0xE0, 4 * y & 0xE0, 128)) for x in range(0, 4 * SIDE, 4))
        for y in range(SIDE)
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def question(model: str, reference: str | None = None) -> dict[str, Any]:
    """A chat that is answered by one token.

    Args:
        model: Who is asked.
        reference: Names the picture; None: there is none, and all else is the same.
    """
    parts: list[dict[str, Any]] = [{"type": "text", "text": _QUESTION}]
    if reference is not None:
        parts.insert(PLACE, {"type": "image_url", "image_url": {"url": reference}})
    messages = [{"role": "user", "content": parts}]
    return {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}


def prompt_tokens(answer: httpx2.Response) -> int | None:
    """How long the prompt was, if the engine says so."""
    usage = _object(answer).get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    # 0 is said by engines that do not count.
    return count if isinstance(count, int) and count > 0 else None


def is_answer(response: httpx2.Response) -> bool:
    """Whether a model said something."""
    return response.status_code == 200 and bool(_object(response).get("choices"))


def evidence(with_picture: int | None, without: int | None) -> tuple[Mark, str]:
    """What two prompt lengths prove."""
    if with_picture is None or without is None:
        return Mark.OK, "answered, but does not tell whether it looked (no count of prompt tokens)"
    more = with_picture - without
    if more > 0:
        return Mark.OK, f"the picture arrived ({more} more prompt tokens with it)"
    return Mark.NO, "answered as if there were no picture (no more prompt tokens with it)"


def words(response: httpx2.Response, *, secrets: Collection[str] = ()) -> str:
    """What an answer says for itself: status and message, in one short line, without `secrets`."""
    said = " ".join((_message(_object(response)) or response.text).split())
    for secret in secrets:
        said = said.replace(secret, "********")
    if len(said) > MAX_WORDS:
        said = f"{said[:MAX_WORDS]}…"
    return f"{response.status_code} {said or response.reason_phrase}".rstrip().rstrip(".")


def _message(body: dict[str, Any]) -> str | None:
    """The text in an error body: OpenAI's, FastAPI's, or of the many that write one of these alone."""
    error = body.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    for text in (inner, body.get("message"), body.get("detail")):
        if isinstance(text, str) and text.strip():
            return text
    return None


def _object(response: httpx2.Response) -> dict[str, Any]:
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
