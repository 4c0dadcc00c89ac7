"""The description is true: schemathesis sends what it allows and what it forbids, and checks every answer."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import servers

pytestmark = pytest.mark.peers

TESTS = Path(__file__).parents[1]
KEY = "a-key-of-tests"
EXAMPLES = 20
"""For each operation, beside those that cover its description: a run of some twenty seconds."""


def run_schemathesis(server: servers.Server, directory: Path) -> str:
    """What it prints; fails unless it found nothing."""
    done = subprocess.run(
        [
            str(Path(os.environ["PEERS_BIN"]) / "schemathesis"),
            "--no-color",
            f"--config-file={TESTS / 'schemathesis.toml'}",
            "run",
            f"{server.url}/openapi.json",
            f"--header=Authorization: Bearer {KEY}",
            "--header=X-Tenant: somebody",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
            "--max-failures=1",
        ],
        cwd=directory,  # where it leaves its notes
        env=os.environ
        | {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(TESTS), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_server_does_what_its_description_says(tmp_path: Path) -> None:
    """H92: for all errors that it provokes; with all checks that schemathesis has by default."""
    flags = ("--api-key", KEY, "--file-upload-scope-header", "X-Tenant")
    with servers.serving(
        *flags, "--file-upload-max-size-mb", "1", store=tmp_path / "store"
    ) as server:
        document = servers.get(server, "/openapi.json", authorization=f"Bearer {KEY}").json()
        output = run_schemathesis(server, tmp_path)

    del document["paths"]["/openapi.json"]  # which it reads, and therefore leaves out
    operations = sum(len(item) for item in document["paths"].values())
    tested = re.search(r"Tested: (\d+)", output)
    assert tested is not None
    assert int(tested[1]) == operations, output


def test_description_is_for_those_who_have_a_key(tmp_path: Path) -> None:
    with servers.serving("--api-key", KEY, store=tmp_path / "store") as server:
        assert servers.get(server, "/openapi.json").code == (401, "invalid_api_key")
