"""Upload a file once and ask about it twice, with the official `openai` package (1.x and newer).

    pip install openai
    python openai_file_upload_client.py clip.mp4
    python openai_file_upload_client.py --base-url http://gateway:8080/v1 --model my-model clip.mp4

A server that asks for a key gets the one in OPENAI_API_KEY.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import openai
from openai import OpenAI

# Chat servers name media by kind; the gateway takes an id wherever they take a URL.
MEDIA_PARTS = {"image": "image_url", "video": "video_url", "audio": "audio_url"}


def main() -> None:
    """Upload, ask, ask again, list, retrieve, delete."""
    parser = argparse.ArgumentParser(description="Upload a file once and ask about it twice.")
    parser.add_argument("file", type=Path, help="an image, a sound or a video")
    parser.add_argument("--base-url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--model", help="default: the first that the server lists")
    arguments = parser.parse_args()

    # The package refuses to start without a key, even where the server asks for none.
    client = OpenAI(base_url=arguments.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = arguments.model or client.models.list().data[0].id

    # The bytes go over the wire once ...
    with arguments.file.open("rb") as source:
        uploaded = client.files.create(file=source, purpose="user_data")
    print(f"uploaded {uploaded.filename}: {uploaded.bytes} bytes, {uploaded.id}")

    # ... and every turn names them by id.
    mime_type = getattr(uploaded, "mime_type", "video/mp4")  # an extra of mediagate's
    part = MEDIA_PARTS[mime_type.split("/")[0]]
    media = {"type": part, part: {"url": f"vllm-file://{uploaded.id}"}}
    question = {"type": "text", "text": "What is in this file?"}
    messages: list[Any] = [{"role": "user", "content": [media, question]}]
    answer = ask(client, model, messages)

    # The second turn sends the history; the file in it is still only an id.
    messages.append({"role": "assistant", "content": answer})
    messages.append({"role": "user", "content": "And how long is it?"})
    ask(client, model, messages)

    for file in client.files.list(limit=10):
        print(f"listed {file.id}: {file.filename}")
    print(f"retrieved {client.files.retrieve(uploaded.id).filename}")

    print(f"deleted: {client.files.delete(uploaded.id).deleted}")
    try:
        client.files.retrieve(uploaded.id)
    except openai.NotFoundError as error:
        print(f"gone: {error.status_code} {error.code}")
    else:
        sys.exit("the deleted file is still there")


def ask(client: OpenAI, model: str, messages: list[Any]) -> str:
    """Ask, print the answer as it comes, return it."""
    pieces = []
    stream = client.chat.completions.create(model=model, messages=messages, stream=True)
    for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece:
            print(piece, end="", flush=True)
            pieces.append(piece)
    print()
    return "".join(pieces)


if __name__ == "__main__":
    main()
