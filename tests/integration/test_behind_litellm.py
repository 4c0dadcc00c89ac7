"""The real LiteLLM proxy in front, with the configuration of `examples/`: its clients upload and ask as ours do.

LiteLLM starts once, which takes it some ten seconds; the gateway behind it starts anew for each test, on one port.
"""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

import corpus
import servers

pytestmark = pytest.mark.peers

CONFIG = Path(__file__).parents[2] / "examples" / "litellm.yaml"
MODEL = "media"
KEY = "a-key-of-the-gateway"
MASTER_KEY = "sk-" + "0123456789abcdef" * 4
START_S = 240.0
"""LiteLLM imports for ten seconds on an idle machine."""

PROVIDER = {"custom-llm-provider": "hosted_vllm"}
"""Which of its `files_settings` LiteLLM uses: a header for all requests, or the start of the path."""

_RUNNING = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


@dataclass(frozen=True)
class Chain:
    """LiteLLM, and a port for the gateway behind it."""

    url: str
    gateway_port: int

    @contextlib.contextmanager
    def gateway(self, store: Path, *flags: str) -> Iterator[servers.Server]:
        """A gateway where LiteLLM looks for it."""
        port = str(self.gateway_port)
        with servers.serving("--api-key", KEY, "--port", port, *flags, store=store) as server:
            yield server

    def client(self) -> openai.OpenAI:
        """Of LiteLLM."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=MASTER_KEY,
            default_headers=PROVIDER,
            max_retries=0,
            timeout=servers.TIMEOUT_S,
        )


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where gateways listen, one after another."""
    with servers.reserved_port() as reserved:
        yield reserved


@pytest.fixture(scope="module")
def chain(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    home = tmp_path_factory.mktemp("litellm")
    log_path = home / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                str(Path(os.environ["PEERS_BIN"]) / "litellm"),
                *("--config", str(CONFIG)),
                *("--host", "127.0.0.1", "--port", "0", "--telemetry", "False"),
            ],
            # Nothing else of ours, and a table of prices from the package instead of one from the net.
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_MASTER_KEY": MASTER_KEY,
                "GATEWAY_URL": f"http://127.0.0.1:{port}/v1",
                "GATEWAY_KEY": KEY,
            },
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:

        def find() -> re.Match[str] | None:
            text = log_path.read_text(errors="replace")
            assert process.poll() is None, f"LiteLLM ended:\n{text}"
            return _RUNNING.search(text)

        yield Chain(servers.until(find, timeout_s=START_S)[1], port)
    finally:
        process.terminate()
        try:
            process.wait(servers.TIMEOUT_S)
        finally:
            process.kill()
            process.wait()


def ask(client: openai.OpenAI, part: dict[str, Any], *, stream: bool = False) -> str:
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]
    if not stream:
        answer = client.chat.completions.create(model=MODEL, messages=messages)
        return answer.choices[0].message.content or ""
    chunks = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_files_api_through_litellm_is_ours(chain: Chain, tmp_path: Path) -> None:
    clip = corpus.encode_clip(width=64, height=48, seconds=1)
    with chain.gateway(tmp_path / "store") as gateway:
        client = chain.client()

        file = client.files.create(
            file=(clip.filename, clip.data),
            purpose="user_data",
            expires_after={"anchor": "created_at", "seconds": 7200},
        )
        other = client.files.create(file=(clip.filename, clip.data), purpose="vision")

        direct = servers.get(gateway, f"/v1/files/{file.id}", authorization=f"Bearer {KEY}").json()
        assert (direct["filename"], direct["bytes"]) == (clip.filename, len(clip.data))
        assert direct["expires_at"] == file.expires_at == file.created_at + 7200
        assert client.files.retrieve(other.id).purpose == "vision"
        assert client.files.content(file.id).read() == clip.data
        assert sorted(each.id for each in client.files.list(limit=1)) == sorted([file.id, other.id])
        assert client.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file.id)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_through_litellm_names_a_file_in_every_form(
    chain: Chain, tmp_path: Path, stream: bool
) -> None:
    clip = corpus.encode_clip(width=128, height=96, seconds=1)
    image = corpus.encode_image(width=33, height=21)
    sound = corpus.encode_sound(container="wav")
    with chain.gateway(tmp_path / "store"):
        client = chain.client()
        clip_id, image_id, sound_id = (
            client.files.create(file=(media.filename, media.data), purpose="user_data").id
            for media in (clip, image, sound)
        )

        for wanted, part, key, file_id in (
            ("128 x 96", "video_url", "url", clip_id),
            ("33 x 21", "image_url", "url", image_id),
            ("audio/wav", "audio_url", "url", sound_id),
            ("audio/wav", "input_audio", "data", sound_id),
        ):
            for content in (
                {"type": "file", "file": {"file_id": file_id}},
                {"type": part, part: {key: file_id}},
                {"type": part, part: {key: f"vllm-file://{file_id}"}},
            ):
                answer = ask(client, content, stream=stream)

                assert "File 1 of 1" in answer
                assert wanted in answer


def test_id_that_litellm_encoded_works_in_a_file_part_alone(chain: Chain, tmp_path: Path) -> None:
    """Named with a model, an upload gets an id of LiteLLM's, which LiteLLM decodes in `file` parts and nowhere else."""
    clip = corpus.encode_clip(width=64, height=48, seconds=1)
    with chain.gateway(tmp_path / "store"):
        client = chain.client()

        file = client.files.create(
            file=(clip.filename, clip.data), purpose="user_data", extra_body={"model": MODEL}
        )

        assert len(file.id) > 64
        assert "64 x 48" in ask(client, {"type": "file", "file": {"file_id": file.id}})
        with pytest.raises(openai.BadRequestError, match="This is not a file id"):
            ask(client, {"type": "video_url", "video_url": {"url": file.id}})


def test_errors_come_through_and_one_clients_stale_id_stops_nobody_else(
    chain: Chain, tmp_path: Path
) -> None:
    """H77: with LiteLLM's default settings a 404 takes the only deployment out of service for five seconds."""
    clip = corpus.encode_clip(width=64, height=48, seconds=1)
    with chain.gateway(tmp_path / "store", "--file-upload-max-size-mb", "1"):
        client = chain.client()
        file_id = client.files.create(file=(clip.filename, clip.data), purpose="user_data").id

        with pytest.raises(openai.NotFoundError) as stale:
            ask(client, {"type": "file", "file": {"file_id": "file-" + "0" * 32}})
        after = ask(client, {"type": "file", "file": {"file_id": file_id}})
        with pytest.raises(openai.APIStatusError) as large:
            client.files.create(file=clip.data + bytes(1024**2), purpose="user_data")
        with pytest.raises(openai.BadRequestError) as wrong:
            client.files.create(file=b"MZ" * 100, purpose="user_data")

    assert "messages[0].content[1].file.file_id" in stale.value.message
    assert "64 x 48" in after
    assert "file_too_large" in large.value.message
    assert large.value.status_code == 413
    assert "unsupported_media_type" in wrong.value.message


@pytest.mark.parametrize("status", [None, 403, 404])
def test_litellm_takes_a_listing_that_answers_404_for_no_files_api(
    chain: Chain, tmp_path: Path, status: int | None
) -> None:
    """H45: it asks for the list before an upload for a model; refused with 403 it uploads, with 404 it does not."""
    clip = corpus.encode_clip(width=64, height=48, seconds=1)
    flags = (
        ()
        if status is None
        else ("--file-upload-disable-listing", "--file-upload-listing-status", str(status))
    )
    with chain.gateway(tmp_path / "store", *flags) as gateway:
        client = chain.client()

        def upload() -> openai.types.FileObject:
            return client.files.create(
                file=(clip.filename, clip.data), purpose="user_data", extra_body={"model": MODEL}
            )

        if status == 404:
            with pytest.raises(openai.BadRequestError, match="has no Files API"):
                upload()
        else:
            assert upload().bytes == len(clip.data)
        servers.until(lambda: f"GET /v1/files {status or 200}" in gateway.log(), timeout_s=10)
