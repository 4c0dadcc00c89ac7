"""The official clients do the same round: for Python the newest and the generation before, and the one for node."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import corpus
import servers

ROOT = Path(__file__).parents[2]

SDK1_PYTHON = os.environ.get("SDK1_PYTHON", "")
"""`make test-all` makes this environment: the two generations cannot live in one."""

PYTHON = [
    pytest.param(sys.executable, id="newest"),
    pytest.param(SDK1_PYTHON, id="1.x", marks=pytest.mark.sdk1),
]

PEERS = Path(os.environ.get("PEERS_BIN", "")).parent
PY_ROUND = ("-W", "error", str(ROOT / "tests" / "sdk_round.py"))
NODE_ROUND = (str(ROOT / "tests" / "sdk_round.mjs"), str(PEERS / "npm"))
CLIENTS = [
    pytest.param((sys.executable, *PY_ROUND), "3.", id="python"),
    pytest.param((SDK1_PYTHON, *PY_ROUND), "1.", id="python-1.x", marks=pytest.mark.sdk1),
    pytest.param(
        (str(PEERS / "bin" / "node"), *NODE_ROUND), "7.", id="node", marks=pytest.mark.peers
    ),
]

BAD, GONE = "invalid_request_error", "file_not_found"
FACTS = [True, True, True]
STEPS = [
    ["upload a path", ["file", "clip.mp4", True]],
    ["upload bytes", ["named.mp4", "vision"]],
    ["upload a stream", ["stream.mp4", True]],
    ["upload in parts", ["pending", "completed", "cancelled", True, True]],
    ["list by pages of two", [4, True]],
    ["list one purpose", [True]],
    ["retrieve", "clip.mp4"],
    ["wait for processing", "processed"],
    ["content", True],
    ["range", "ftyp"],
    ["chat by file part", FACTS],
    ["streamed chat by file part", True],
    ["chat by video_url", FACTS],
    ["streamed chat by video_url", True],
    ["chat by vllm-file://", FACTS],
    ["streamed chat by vllm-file://", True],
    [
        "stale id in a chat",
        [404, BAD, "messages[0].content[0].file.file_id", GONE, "NotFoundError"],
    ],
    ["purpose unknown", [400, BAD, "purpose", "invalid_value", "BadRequestError"]],
    ["no media", [400, BAD, "file", "unsupported_media_type", "BadRequestError"]],
    ["page after nothing", [400, BAD, "after", "invalid_value", "BadRequestError"]],
    ["too large", [413, BAD, "file", "file_too_large", "APIStatusError"]],
    ["no room", [507, "server_error", "file", "insufficient_storage", "InternalServerError"]],
    ["delete", [True] * 4],
    ["gone", [404, BAD, None, GONE, "NotFoundError"]],
    ["gone twice", [404, BAD, None, GONE, "NotFoundError"]],
    ["list nothing", []],
]
"""What every client must see; the one for node calls an `APIStatusError` an `APIError`."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    store = tmp_path_factory.mktemp("official") / "store"
    with servers.serving("--file-upload-max-size-mb", "1", store=store) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    media = corpus.encode_clip(width=128, height=96, seconds=1, audio="aac")
    return media.write(tmp_path_factory.mktemp("clip"))


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("command", "version"), CLIENTS)
def test_every_client_takes_the_same_steps_and_sees_the_same(
    server: servers.Server, clip: Path, tmp_path: Path, command: Sequence[str], version: str
) -> None:
    """H1, H6, H11, H12, H32, H38, H39, H47, H50, H53, H54, H77, H92, H93: and none sends in vain what was refused."""
    large = tmp_path / "large.mp4"
    large.write_bytes(clip.read_bytes() + bytes(24 * 1024**2))
    refused_before = server.log().count("POST /v1/files 413")
    small_store = ("--file-upload-max-total-gb", "0.001")
    with servers.serving(*small_store, store=tmp_path / "small") as full:
        urls = (f"{server.url}/v1", f"{full.url}/v1")

        lines = run(*command, *urls, clip, large).splitlines()

        servers.until(lambda: "POST /v1/files 507" in full.log())
        servers.until(lambda: server.log().count("POST /v1/files 413") > refused_before)
        # Each client read the refusal at its first try, while it was still sending, and left it at that.
        assert server.log().count("POST /v1/files 413") == refused_before + 1
        assert full.log().count("POST /v1/files 507") == 1
    (name, number), *steps = map(json.loads, lines)
    assert name == "client"
    assert number.startswith(version)
    for _, seen in steps:
        if isinstance(seen, list) and seen[-1:] == ["APIError"]:
            seen[-1] = "APIStatusError"
    assert steps == STEPS


@pytest.mark.parametrize("python", PYTHON)
def test_the_example_works_with_it(server: servers.Server, clip: Path, python: str) -> None:
    said = run(
        python,
        *("-W", "error"),
        ROOT / "examples" / "openai_file_upload_client.py",
        "--base-url",
        f"{server.url}/v1",
        clip,
    )

    assert said.count("h264") == 2
    assert said.endswith("deleted: True\ngone: 404 file_not_found\n")
