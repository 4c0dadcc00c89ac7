"""What tests cite and how they end, written down, and the page that is made of it.

A test cites items of `checklist.toml` at the beginning of its docstring: `H65. …`, `H12, H23: …`, `H53-H55, P6: …`.

    pytest --record RESULTS …                             adds one JSON line for each test that cites something
    python tests/conformance.py RESULTS                   exits with 1 if the committed page differs, or an item failed
    python tests/conformance.py RESULTS --write           writes the page
"""

import argparse
import json
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/conformance.md"
CHECKLIST = Path(__file__).with_name("checklist.toml")

_CITATION = re.compile(r"(?:[HP]\d+(?:-[HP]?\d+)?(?:, | and )?)+")
_ITEMS = re.compile(r"H(\d+)(?:-H?(\d+))?")


def cited(docstring: str | None) -> list[str]:
    """The items that a docstring begins with."""
    citation = _CITATION.match((docstring or "").strip())
    found = _ITEMS.findall(citation[0]) if citation else []
    return [f"H{n}" for first, last in found for n in range(int(first), int(last or first) + 1)]


class Recorder:
    """A pytest plugin: appends what was cited, and how it ended, to `path`; and the cells of `engine_matrix`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, dict[str, Any]] = {}
        self._cells: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of one test; a test has passed when no phase did anything else."""
        if report.when == "call" and report.passed:
            self._cells += ({"cell": x} for name, x in report.user_properties if name == "cell")
        cites = dict(report.user_properties).get("cites")
        if not cites:
            return
        name = report.nodeid.partition("[")[0]
        test = self._tests.setdefault(name, {"test": name, "cites": cites, "passed": True})
        test["passed"] = test["passed"] and report.passed

    def pytest_sessionfinish(self) -> None:
        """Write."""
        with self._path.open("a") as file:
            lines = (*self._tests.values(), *self._cells)
            file.writelines(json.dumps(line) + "\n" for line in lines)


def checklist() -> dict[str, dict[str, str]]:
    """The items, in order."""
    return tomllib.loads(CHECKLIST.read_text())


def page(results: Iterable[Mapping[str, Any]]) -> str:
    """The page, in Markdown."""
    tests: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for test in results:
        for item in test["cites"]:
            before = tests[item].get(test["test"], True)
            tests[item][test["test"]] = before and test["passed"]
    lines = [
        "<!-- Made by `make conformance` from what the tests cite and how they ended; do not edit. -->\n",
        "# Conformance\n",
        "What a Files API for multimodal chat has to do, item by item, the tests that prove it here, and how they",
        "ended in the last full run (`make test-all`, which fails if this page is not what it found).\n",
        "| item | what has to hold | result | proved by |",
        "|---|---|---|---|",
    ]
    for item, entry in checklist().items():
        proofs = tests.get(item, {})
        shown = "<br>".join(f"`{_short(name)}`" for name in sorted(proofs))
        if later := entry.get("later"):
            result, shown = "later", later
        elif measured := entry.get("benchmark"):
            result, shown = "measured", f"[{measured}](../../{measured})"
        elif not proofs:
            result = "**no test**"
        else:
            result = "passed" if all(proofs.values()) else "**failed**"
        lines.append(f"| {item} | {entry['title']} | {result} | {shown} |")
    return "\n".join(lines) + "\n"


def _short(nodeid: str) -> str:
    path, _, name = nodeid.partition("::")
    return f"{path.removeprefix('tests/')}::{name}"


def main() -> int:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = map(json.loads, options.results.read_text().splitlines())
    made = page(line for line in lines if "cites" in line)
    if options.write:
        PAGE.write_text(made)
    elif PAGE.read_text() != made:
        sys.stderr.write(
            f"{PAGE.relative_to(ROOT)} is not what was found: run `make conformance`\n"
        )
        return 1
    missing = [line for line in made.splitlines() if "| **" in line]
    sys.stderr.writelines(f"{line}\n" for line in missing)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
