"""A test run says what it left out, and with `--all` leaves out nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

@pytest.mark.vllm
@pytest.mark.parametrize("number", range(3))
def test_with_vllm(number):
    pass

@pytest.mark.slow
def test_slow():
    pass

def test_that_skips_itself():
    pytest.skip("no reason")

def test_that_is_run():
    pass
"""


def run(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`pytest` as in this checkout, on tests elsewhere."""
    (directory / "test_it.py").write_text(TESTS)
    setup = ("-c", ROOT / "pyproject.toml", "--rootdir", directory, "-p", "conftest")
    return subprocess.run(
        (sys.executable, "-m", "pytest", "-q", *setup, *options, directory / "test_it.py"),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("processes", ["0", "2"])
def test_what_is_left_out_is_counted(tmp_path: Path, processes: str) -> None:
    ended = run(tmp_path, "-n", processes)

    told = ended.stdout.splitlines()
    at = next(number for number, line in enumerate(told) if " not run " in line)
    assert ended.returncode == 0
    assert [line.split() for line in told[at + 1 : at + 4]] == [
        ["1", "skipped", "themselves"],
        ["1", "slow"],
        ["3", "vllm"],
    ]


@pytest.mark.parametrize("processes", ["0", "2"])
def test_nothing_is_left_out_of_all(tmp_path: Path, processes: str) -> None:
    ended = run(tmp_path, "--all", "-n", processes)

    assert ended.returncode == 1
    assert "0: everything was run" in ended.stdout
    assert "1 failed, 5 passed" in ended.stdout
    assert "test_that_skips_itself was not run, and --all leaves nothing out" in ended.stdout
