"""One round with the official Python client, whichever generation runs it; prints its steps as JSON, one a line.

    python sdk_round.py BASE_URL FULL_URL CLIP LARGE

LARGE is too large for one server, and larger than the whole store of the other, at FULL_URL. A line is
`[step, what was seen]`. `sdk_round.mjs` takes the same steps with the client for node, and must see the same.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import openai

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Step = tuple[str, object]

MODEL = "mediagate-inspector"
PART_BYTES = 4000
NOBODYS = "file-" + "0" * 32


class OneWay(io.RawIOBase):
    """Bytes whose length nobody knows beforehand: they go with `Transfer-Encoding: chunked`."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Some more."""
        return self._data.readinto(buffer)


def main() -> None:
    """Take the steps."""
    *urls, clip, large = sys.argv[1:]
    client, full = (openai.OpenAI(base_url=url, api_key="none", timeout=60) for url in urls)
    for step in round_with(client, full, Path(clip), Path(large)):
        print(json.dumps(step))  # noqa: T201 - read by the test


def round_with(
    client: openai.OpenAI, full: openai.OpenAI, clip: Path, large: Path
) -> Iterator[Step]:
    """The steps, in order."""
    yield "client", openai.__version__
    data = clip.read_bytes()

    by_path = client.files.create(file=clip, purpose="user_data")
    yield "upload a path", [by_path.object, by_path.filename, by_path.bytes == len(data)]
    by_bytes = client.files.create(file=("named.mp4", data), purpose="vision")
    yield "upload bytes", [by_bytes.filename, by_bytes.purpose]
    by_stream = client.files.create(
        file=("stream.mp4", cast("IO[bytes]", OneWay(data))), purpose="user_data"
    )
    yield "upload a stream", [by_stream.filename, by_stream.bytes == len(data)]
    yield "upload in parts", upload_in_parts(client, data)

    listed = [file.id for file in client.files.list(limit=2)]
    known = {by_path.id, by_bytes.id, by_stream.id}
    yield "list by pages of two", [len(listed), known < set(listed)]
    yield (
        "list one purpose",
        [file.id == by_bytes.id for file in client.files.list(purpose="vision")],
    )
    yield "retrieve", client.files.retrieve(by_path.id).filename
    yield "wait for processing", client.files.wait_for_processing(by_path.id).status
    yield "content", all(client.files.content(each).read() == data for each in listed)
    part_of_it = client.files.content(by_path.id, extra_headers={"Range": "bytes=4-7"})
    yield "range", part_of_it.read().decode()

    for name, part in {
        "file part": {"type": "file", "file": {"file_id": by_path.id}},
        "video_url": {"type": "video_url", "video_url": {"url": by_path.id}},
        "vllm-file://": {"type": "video_url", "video_url": {"url": f"vllm-file://{by_path.id}"}},
    }.items():
        # vLLM's own part types are unknown to OpenAI's.
        messages: Any = [{"role": "user", "content": [part]}]
        whole = client.chat.completions.create(model=MODEL, messages=messages)
        yield f"chat by {name}", facts(whole.choices[0].message.content)
        stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        told = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        yield f"streamed chat by {name}", told == whole.choices[0].message.content

    stale: Any = [
        {"role": "user", "content": [{"type": "file", "file": {"file_id": NOBODYS}}]},
    ]
    attempts: dict[str, Callable[[], object]] = {
        "stale id in a chat": lambda: client.chat.completions.create(model=MODEL, messages=stale),
        "purpose unknown": lambda: client.files.create(file=clip, purpose="batch"),
        "no media": lambda: client.files.create(file=("clip.mp4", b"MZ" * 99), purpose="vision"),
        "page after nothing": lambda: client.files.list(after=NOBODYS),
        "too large": lambda: client.files.create(file=large, purpose="vision"),
        "no room": lambda: full.files.create(file=large, purpose="vision"),
    }
    for name, attempt in attempts.items():
        yield name, failure(attempt)

    yield "delete", [client.files.delete(each).deleted for each in listed]
    yield "gone", failure(lambda: client.files.retrieve(by_path.id))
    yield "gone twice", failure(lambda: client.files.delete(by_path.id))
    yield "list nothing", [file.id for file in client.files.list(limit=2)]


def upload_in_parts(client: openai.OpenAI, data: bytes) -> object:
    """An Upload whose parts are sent last one first."""
    upload = client.uploads.create(
        bytes=len(data), filename="parts.mp4", mime_type="video/mp4", purpose="user_data"
    )
    pieces = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
    sent = [client.uploads.parts.create(upload.id, data=piece).id for piece in reversed(pieces)]
    done = client.uploads.complete(upload.id, part_ids=sent[::-1])
    other = client.uploads.create(
        bytes=5, filename="never.mp4", mime_type="video/mp4", purpose="user_data"
    )
    cancelled = client.uploads.cancel(other.id).status
    size = done.file.bytes if done.file else None
    return [upload.status, done.status, cancelled, size == len(data), len(pieces) > 1]


def facts(answer: str | None) -> object:
    """Whether the inspector saw this very clip."""
    return [fact in (answer or "") for fact in ("128 x 96", "h264", "File 1 of 1")]


def failure(attempt: Callable[[], object]) -> object:
    """What a caller learns of an error; the name of its class alone differs between the clients."""
    try:
        attempt()
    except openai.APIStatusError as error:
        return [error.status_code, error.type, error.param, error.code, type(error).__name__]
    return "no error"


if __name__ == "__main__":
    main()
