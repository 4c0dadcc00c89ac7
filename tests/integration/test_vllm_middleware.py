"""The middleware and the connector in an environment with vLLM, without a server: what would take one long to show."""

import json
from pathlib import Path
from typing import Any

import pytest

import corpus
import vllm_questions as questions
import vllm_servers

pytestmark = [pytest.mark.vllm, pytest.mark.media]

SCRIPT = """
import asyncio, json, os, sys
from fastapi import FastAPI, Request
from mediagate.config import Program, environment, load
from mediagate.vllm_plugin import connector
from mediagate.vllm_plugin.endpoint import Uploads
from mediagate.web.keys import Keys

seen, ended = {}, []

async def completions(request: Request):
    seen["asked"] = [(k.decode(), v.decode()) for k, v in request.scope["headers"]]
    return {}

def app():
    made = FastAPI()
    made.post("/v1/chat/completions")(completions)
    return made

async def ask(app, method, path, *headers, body=b""):
    sent = []
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}
    async def send(message):
        sent.append(message)
    raw = [(k.encode(), v.encode()) for k, v in (*headers, ("content-length", str(len(body))))]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
             "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": raw,
             "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
    await app(scope, receive, send)
    return [v.decode() for k, v in sent[0]["headers"] if k == b"x-request-id"]

async def main(are_named_outside):
    config = load(environ=environment(), program=Program.VLLM).config
    made = app()
    made.add_middleware(Uploads, config=config, keys=Keys(()), are_named_outside=are_named_outside)
    told, started, over = asyncio.Queue(), asyncio.Event(), asyncio.Event()
    async def send(message):
        if message["type"] == "lifespan.startup.complete":
            started.set()
        if message["type"] == "lifespan.shutdown.complete":
            ended.append(connector._source is None)
    lifespan = asyncio.create_task(made({"type": "lifespan", "asgi": {"version": "3.0"}}, told.get, send))
    await told.put({"type": "lifespan.startup"})
    await asyncio.wait([lifespan, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED)
    if lifespan.done():
        lifespan.result()
    chat = "/v1/chat/completions"
    answers = {
        "engine": await ask(made, "POST", chat, body=b"{}"),
        "asked": [v for k, v in seen["asked"] if k == "x-request-id"],
        "engine, given": await ask(made, "POST", chat, ("x-request-id", "my own"), body=b"{}"),
        "asked, given": [v for k, v in seen["asked"] if k == "x-request-id"],
        "ours": len(await ask(made, "GET", "/v1/files")),
    }
    await told.put({"type": "lifespan.shutdown"})
    await lifespan
    return answers

from pathlib import Path
from vllm.multimodal.media.audio import AudioMediaIO
from vllm.multimodal.media.image import ImageMediaIO
from vllm.multimodal.media.video import VideoMediaIO

def decode(path, **options):
    media_io = VideoMediaIO(ImageMediaIO(), num_frames=4, **options)
    try:
        return type(connector._decode(Path(path), media_io)).__name__
    except Exception as error:
        return [type(error).__name__, str(error)]

print(json.dumps({
    "stock": asyncio.run(main(False)),
    "named": asyncio.run(main(True)),
    "closed before the end": ended,
    "decoded": {path: decode(path) for path in CLIPS},
    "not installed": decode(CLIPS[0], backend="torchcodec"),
}))
"""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("clips")
    whole = questions.clip(questions.RED).data
    start, stop = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    made = {
        "whole": whole,
        "noise": whole[:start] + b"\xa7" * (stop - start) + whole[stop:],
        "cut": corpus.encode_clip(container="avi").data[:2000],
    }
    for name, data in made.items():
        (directory / name).write_bytes(data)
    return {name: str(directory / name) for name in made}


@pytest.fixture(scope="module")
def seen(clips: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    env = {
        "MEDIAGATE_ENABLE_FILE_UPLOADS": "1",
        "MEDIAGATE_FILE_UPLOAD_DIR": str(tmp_path_factory.mktemp("store")),
        "MEDIAGATE_AUDIT_LOG": "off",
    }
    code = SCRIPT.replace("CLIPS", json.dumps(list(clips.values())))
    return dict(vllm_servers.run(code, env=env))


def test_vllm_names_its_requests_and_answers_as_without_us(seen: dict[str, Any]) -> None:
    """Ours have a name; where vLLM gives one to every answer, that is the only one."""
    stock = {"engine": [], "asked": [], "engine, given": [], "asked, given": ["my own"]}
    assert seen["stock"] == {**stock, "ours": 1}
    assert seen["named"] == {**stock, "ours": 0}


def test_all_is_closed_before_the_server_hears_that_it_is_over(seen: dict[str, Any]) -> None:
    """P11: it waits for nothing that comes later."""
    assert seen["closed before the end"] == [True, True]


def test_a_clip_without_a_frame_cannot_be_decoded(
    seen: dict[str, Any], clips: dict[str, str]
) -> None:
    """A 400; vLLM would take it for a mistake of its own, and answer 500."""
    refusal = [
        "VLLMValidationError",
        "The file cannot be decoded: it may be damaged, of a codec that this server lacks, "
        "or larger or longer than this server decodes.",
    ]
    found = {name: seen["decoded"][path] for name, path in clips.items()}
    assert found["whole"] == "MediaWithBytes"
    assert found["noise"] == found["cut"] == refusal


def test_a_decoder_that_is_not_installed_is_a_refusal_in_our_words(seen: dict[str, Any]) -> None:
    """A request may ask for one, in `media_io_kwargs`, where vLLM is told to trust it."""
    assert seen["not installed"] == [
        "VLLMValidationError",
        "The decoder that this needs, or that the request asks for, is not installed on this server.",
    ]


def test_no_path_is_told(seen: dict[str, Any], clips: dict[str, str]) -> None:
    told = json.dumps(list(seen["decoded"].values()))
    assert all(str(Path(path).parent) not in told for path in clips.values())
