"""Put the newest results into `benchmarks/README.md`, and into the table on top of the project's README.

No figure there was typed by hand.

python -m benchmarks.report
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import comparison
from benchmarks.harness import RESULTS, ROOT, Spread

README = RESULTS.parent / "README.md"
TOP = ROOT / "README.md"
BEGIN = "<!-- results: written by python -m benchmarks.report -->\n"
END = "<!-- end of results -->\n"


def newest(results: Path = RESULTS) -> dict[str, Path]:
    """The newest result file of each question."""
    # File names end in the date, so that they sort by it.
    return {path.stem[: -len("-2000-01-01")]: path for path in sorted(results.glob("*.json"))}


def render(path: Path) -> str:
    """One result as Markdown: the goals, then every figure's median and extremes."""
    result: dict[str, Any] = json.loads(path.read_text())
    machine = result["machine"]
    lines = [
        f"### [{path.stem}](results/{path.name})",
        "",
        f"`{' '.join(result['command'])}`, on {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, {machine['filesystem']}.",
    ]
    if result["goals"]:
        lines += ["", "| goal | at most | measured | |", "|---|--:|--:|---|"]
    lines += [
        f"| {goal['figure']} | {goal['at_most']:g} {goal['unit']} | {goal['measured']:.2f} {goal['unit']} "
        f"| {'met' if goal['is_met'] else 'missed'} |"
        for goal in result["goals"]
    ]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for sample in result["samples"]:
        groups[sample.get("server", "mediagate")].append(sample)
    figures = [name for name in result["samples"][0] if name not in {"server", "round"}]
    lines += [
        "",
        f"| median (lowest-highest) | {' | '.join(figures)} |",
        f"|---|{'--:|' * len(figures)}",
    ]
    lines += [
        f"| {name} | {' | '.join(str(Spread.of([s[figure] for s in samples])) for figure in figures)} |"
        for name, samples in sorted(groups.items())
    ]
    return "\n".join(lines) + "\n"


def block() -> str:
    """What stands between the markers of the README of the benchmarks."""
    return "\n" + "\n".join(render(path) for path in newest().values()) + "\n"


def top() -> str:
    """What stands between the markers of the project's README."""
    return f"\n{comparison.table(newest())}\n"


def parts_of(readme: str) -> tuple[str, str, str]:
    """A README before the results, the results, the README after them."""
    before, _, rest = readme.partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside, after


def main() -> int:
    """Rewrite both."""
    for readme, results in ((README, block()), (TOP, top())):
        before, _, after = parts_of(readme.read_text())
        readme.write_text(f"{before}{BEGIN}{results}{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
