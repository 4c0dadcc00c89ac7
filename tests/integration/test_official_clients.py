"""The official client of today and of the generation before do the same round (H1, H12, H38, H39, H47, H54)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import corpus
import servers

ROOT = Path(__file__).parents[2]

CLIENTS = [
    pytest.param(sys.executable, "3.", id="newest"),
    # `make test-all` makes this environment: the two generations cannot live in one.
    pytest.param(os.environ.get("SDK1_PYTHON", ""), "1.", id="1.x", marks=pytest.mark.sdk1),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    store = tmp_path_factory.mktemp("official") / "store"
    with servers.serving("--file-upload-max-size-mb", "1", store=store) as running:
        yield running


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    media = corpus.encode_clip(width=128, height=96, seconds=1, audio="aac")
    return media.write(tmp_path_factory.mktemp("clip"))


def run(python: str, *arguments: str | Path) -> str:
    done = subprocess.run(
        [python, "-W", "error", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("python", "version"), CLIENTS)
def test_the_client_does_its_round(
    server: servers.Server, clip: Path, tmp_path: Path, python: str, version: str
) -> None:
    too_large = tmp_path / "large.mp4"
    too_large.write_bytes(clip.read_bytes() + bytes(8 * 1024**2))
    uploads_before = server.log().count("POST /v1/files 413")

    seen = json.loads(
        run(python, ROOT / "tests" / "sdk_round.py", f"{server.url}/v1", clip, too_large)
    )

    assert seen.pop("version").startswith(version)
    answer = seen.pop("answer")
    assert "128 x 96" in answer
    assert "h264" in answer
    assert seen == {
        "pages": True,
        "filename": clip.name,
        "status": "processed",
        "content": True,
        "range": clip.read_bytes()[:4].hex(),
        "deleted": [True] * 5,
        "gone": ["NotFoundError", 404, "file_not_found", None],
        "bad purpose": ["BadRequestError", 400, "invalid_value", "purpose"],
        "too large": ["APIStatusError", 413, "file_too_large", "file"],
    }
    # Not sent again: the client read the answer at the first try, while it was still sending.
    assert server.log().count("POST /v1/files 413") == uploads_before + 1


@pytest.mark.parametrize(("python", "version"), CLIENTS)
def test_the_example_works_with_it(
    server: servers.Server, clip: Path, python: str, version: str
) -> None:
    said = run(
        python,
        ROOT / "examples" / "openai_file_upload_client.py",
        "--base-url",
        f"{server.url}/v1",
        clip,
    )

    assert said.count("h264") == 2
    assert said.endswith("deleted: True\ngone: 404 file_not_found\n")
