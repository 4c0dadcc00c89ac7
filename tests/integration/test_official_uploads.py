"""The official client of today and of the generation before send a file in parts (H88, H90, H91)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import corpus
import servers

SCRIPT = Path(__file__).parents[1] / "sdk_uploads.py"


@pytest.mark.parametrize(
    ("python", "version"),
    [
        pytest.param(sys.executable, "3.", id="newest"),
        pytest.param(os.environ.get("SDK1_PYTHON", ""), "1.", id="1.x", marks=pytest.mark.sdk1),
    ],
)
def test_the_official_client_uploads_in_parts(tmp_path: Path, python: str, version: str) -> None:
    """H88, H90, H91."""
    picture = tmp_path / "a.png"
    picture.write_bytes(corpus.png_pixel().ljust(400, b"\0"))
    with servers.serving(store=tmp_path / "store") as server:
        done = subprocess.run(
            # The client of the generation before leaves the file open that it was given the path of.
            [
                *(python, "-W", "error", "-W", "ignore::ResourceWarning"),
                *(str(SCRIPT), f"{server.url}/v1", str(picture)),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

        assert (done.returncode, done.stderr) == (0, "")
        seen = json.loads(done.stdout)
        assert seen.pop("version").startswith(version)
        assert seen == {
            "chunked": ["completed", "upload", "a.png", 400],
            "content": True,
            "in memory": ["b.png", "user_data"],
            "part": ["upload.part", True],
            "again": True,
            "parallel": True,
            "bad md5": ["invalid_value", "md5"],
            "cancelled": ["cancelled", "pending"],
        }
        servers.until(server.is_clean, timeout_s=10)
