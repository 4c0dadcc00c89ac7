"""The results of benchmarks that the documentation shows are the ones that were measured."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_where_it_comes_from_and_names_no_machine(path: Path) -> None:
    text = path.read_text()

    result = json.loads(text)

    assert {"commit", "command", "machine", "versions", "goals", "samples"} <= result.keys()
    assert set(result["machine"]) == {"cores", "memory_gib", "kernel", "filesystem"}
    assert "/" not in text, "a path of the machine"
    assert path.stem == f"{result['question']}-{result['date']}"


def test_the_readme_shows_the_newest_results() -> None:
    from benchmarks import report

    before, inside, _ = report.parts_of(report.README.read_text())

    assert before.endswith("## Results\n\n")
    assert inside == report.block(), "run python -m benchmarks.report"
