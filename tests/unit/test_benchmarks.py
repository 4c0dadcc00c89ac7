"""The results of benchmarks that the documentation shows are the ones that were measured."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
README = (ROOT / "README.md").read_text()


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


def test_the_projects_readme_opens_with_the_newest_results() -> None:
    from benchmarks import report

    before, inside, _ = report.parts_of(README)

    assert len(before.strip().split("\n\n")) == 2, "a title and a paragraph"
    assert inside == report.top(), "run python -m benchmarks.report"


def figures(row: str) -> Sequence[str]:
    """The numbers in the cells of one row of the table, by what it begins with."""
    (line,) = [
        line for line in README.splitlines() if line.startswith((f"| [{row}", f"| - [{row}"))
    ]
    return re.findall(r"\d+(?:\.\d+)?", line.split("|", 2)[2])


def samples(row: str) -> Sequence[dict[str, Any]]:
    """Those of the result that a row of the table links to."""
    (name,) = re.findall(rf"\[{re.escape(row)}[^\]]*\]\((benchmarks/results/[^)]+)\)", README)
    assert ROOT / name == [path for path in RESULTS if path.name[:-15] == Path(name).name[:-15]][-1]
    return list(json.loads((ROOT / name).read_text())["samples"])


def of(row: str, server: str, figure: str) -> Sequence[float]:
    return [sample[figure] for sample in samples(row) if sample["server"] == server]


def check(row: str, *measured: float) -> None:
    """A row shows these, in this order, rounded as it pleases to at least two digits."""
    shown = figures(row)
    assert len(shown) == len(measured)
    for text, figure in zip(shown, measured, strict=True):
        places = -int(Decimal(text).as_tuple().exponent)
        assert float(text) == round(figure, places)
        assert figure == int(figure) or figure >= 10 or places, f"{text} for {figure}"


def test_each_figure_of_the_projects_readme_is_that_of_the_result_it_links_to() -> None:
    by_data, by_id = "200 MB, data URI", "200 MB, id"
    row = "second question about"
    check(row, *(median(of(row, way, "second_s")) for way in (by_data, by_id)))
    row = "longest stall"
    both = ("health_first_worst_ms", "health_second_worst_ms")
    check(row, *(max(max(of(row, way, which)) for which in both) for way in (by_data, by_id)))
    row = "server memory"
    both = ("first_above_mib", "second_above_mib")
    check(row, *(median(of(row, way, which)) for way in (by_data, by_id) for which in both))
    row = "ten turns"
    check(row, *(median(of(row, way, "sent_mb")) for way in ("data URI", "id, shared disk")))
    row = "time"
    ways = ("data URI", "id, shared disk", "id, no shared disk")
    check(row, *(median(of(row, way, "wall_s")) for way in ways))
    row = "files lost"
    lives = samples(row)
    check(
        row, *(sum(life[which] for life in lives) for which in ("lost", "acknowledged")), len(lives)
    )
