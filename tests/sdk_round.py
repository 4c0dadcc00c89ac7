"""One round with the official `openai` client, whichever generation runs it; prints what it saw as JSON.

python sdk_round.py BASE_URL MEDIA_FILE TOO_LARGE_FILE
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai


def status_of(error: openai.APIStatusError) -> list[object]:
    """What a caller can learn of a failure."""
    return [type(error).__name__, error.status_code, error.code, error.param]


def main() -> None:
    """Upload, page, read, ask, delete; and three errors."""
    base_url, media, too_large = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="none", timeout=30)
    seen: dict[str, object] = {"version": openai.__version__}

    with Path(media).open("rb") as source:
        ids = [client.files.create(file=source, purpose="user_data").id]
    ids += [client.files.create(file=Path(media), purpose="vision").id for _ in range(4)]
    seen["pages"] = sorted(file.id for file in client.files.list(limit=2)) == sorted(ids)
    seen["filename"] = client.files.retrieve(ids[0]).filename
    seen["status"] = client.files.wait_for_processing(ids[0]).status
    seen["content"] = client.files.content(ids[0]).read() == Path(media).read_bytes()
    seen["range"] = client.files.content(ids[0], extra_headers={"Range": "bytes=0-3"}).read().hex()

    part = {"type": "video_url", "video_url": {"url": f"vllm-file://{ids[0]}"}}
    messages: Any = [
        {"role": "user", "content": [part]}
    ]  # vLLM's own part type, unknown to OpenAI's
    stream: Any = client.chat.completions.create(
        model="mediagate-inspector", messages=messages, stream=True
    )
    seen["answer"] = "".join(
        chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices
    )

    seen["deleted"] = [client.files.delete(file_id).deleted for file_id in ids]
    attempts: dict[str, Callable[[], object]] = {
        "gone": lambda: client.files.retrieve(ids[0]),
        "bad purpose": lambda: client.files.create(file=Path(media), purpose="batch"),
        "too large": lambda: client.files.create(file=Path(too_large), purpose="vision"),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except openai.APIStatusError as error:
            seen[name] = status_of(error)
    print(json.dumps(seen))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
