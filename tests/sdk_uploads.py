"""A large file in parts with the official `openai` client, whichever generation runs it; prints what it saw as JSON.

python sdk_uploads.py BASE_URL MEDIA_FILE
"""

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai


def main() -> None:
    """In parts of six bytes, by the client's own loop; in parallel, by hand; cancelled; and wrong."""
    base_url, media = sys.argv[1:]
    client = openai.OpenAI(base_url=base_url, api_key="none", timeout=60)
    path = Path(media)
    data = path.read_bytes()
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    seen: dict[str, object] = {"version": openai.__version__}

    chunked = client.uploads.upload_file_chunked(
        file=path, mime_type="image/png", purpose="vision", part_size=6, md5=md5
    )
    assert chunked.file is not None
    seen["chunked"] = [chunked.status, chunked.object, chunked.file.filename, chunked.file.bytes]
    seen["content"] = client.files.content(chunked.file.id).read() == data

    in_memory = client.uploads.upload_file_chunked(
        file=data, filename="b.png", bytes=len(data), mime_type="image/png", purpose="user_data"
    )
    assert in_memory.file is not None
    seen["in memory"] = [in_memory.file.filename, in_memory.file.purpose]

    upload = client.uploads.create(
        bytes=len(data), filename="c.png", mime_type="image/png", purpose="vision"
    )
    pieces = [data[start : start + 20] for start in range(0, len(data), 20)]
    with ThreadPoolExecutor(4) as threads:
        sent = [threads.submit(client.uploads.parts.create, upload.id, data=p) for p in pieces]
        parts = [each.result() for each in sent]
    seen["part"] = [parts[0].object, parts[0].upload_id == upload.id]
    ids = [part.id for part in parts]
    first = client.uploads.complete(upload.id, part_ids=ids, md5=md5)
    again = client.uploads.complete(upload.id, part_ids=ids, md5=md5)
    assert first.file is not None
    assert again.file is not None
    seen["again"] = first.file.id == again.file.id
    seen["parallel"] = client.files.content(first.file.id).read() == data

    other = client.uploads.create(
        bytes=len(data), filename="d.png", mime_type="image/png", purpose="vision"
    )
    part = client.uploads.parts.create(other.id, data=data)
    try:
        client.uploads.complete(other.id, part_ids=[part.id], md5="0" * 32)
    except openai.BadRequestError as error:
        seen["bad md5"] = [error.code, error.param]
    seen["cancelled"] = [client.uploads.cancel(other.id).status, other.status]
    for file_id in (chunked.file.id, in_memory.file.id, first.file.id):
        client.files.delete(file_id)
    print(json.dumps(seen))  # noqa: T201 - read by the test


if __name__ == "__main__":
    main()
