"""The table with which the project's README opens: what is better than today. No figure in it was typed by hand.

`python -m benchmarks.report` writes it. A row whose name links to a result has its figures from there; the others
link to the test that holds them. The pull request was not run: what is said of it stands in its text or its code.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Spread

_ISSUE = "https://github.com/vllm-project/vllm/issues/38531"
_PULL_REQUEST = "https://github.com/vllm-project/vllm/pull/39003"


@dataclass(frozen=True, slots=True)
class Result:
    """One result file, to be asked for figures.

    Attributes:
        path: Of the file.
    """

    path: Path

    def link(self, text: str) -> str:
        """`text`, leading to the file from the project's README."""
        return f"[{text}](benchmarks/results/{self.path.name})"

    def median(self, figure: str, server: str) -> float:
        """The median over the samples of one server."""
        return Spread.of(self._samples(figure, server)).median

    def worst(self, figures: Sequence[str], server: str) -> float:
        """The highest of any sample of one server, over several figures."""
        return max(Spread.of(self._samples(figure, server)).high for figure in figures)

    def total(self, figure: str) -> int:
        """The sum over all samples."""
        return int(sum(self._samples(figure, None)))

    @property
    def rounds(self) -> int:
        """How many there were."""
        return int(max(self._samples("round", None)))

    def _samples(self, figure: str, server: str | None) -> Sequence[float]:
        samples: Sequence[Mapping[str, Any]] = json.loads(self.path.read_text())["samples"]
        return [s[figure] for s in samples if server is None or s["server"] == server]


def table(results: Mapping[str, Path]) -> str:
    """The table, as Markdown.

    Args:
        results: The newest result file of each question.
    """
    lines = [
        f"| | vLLM [#38531]({_ISSUE}), pull request [#39003]({_PULL_REQUEST}) | base64 in JSON | mediagate |",
        "|---|---|---|---|",
        *_inside_vllm(Result(results["vllm-repeat"])),
        *_conversation(Result(results["conversation"])),
        _row(
            "[tenants in chat](docs/how-to/serve-several-tenants.md)",
            "whoever has an id may name it: tenants are not looked at there",
            "nothing is kept",
            "another tenant's id is [one that never was](tests/integration/test_tenants.py), "
            "inside vLLM [too](tests/integration/test_vllm_tenants.py)",
        ),
        _killed(Result(results["kill-minus-nine"])),
        _row(
            "clients unchanged",
            "yes, but that a listing has no `has_more`, so that Python's never ends",
            "yes",
            "[yes](tests/integration/test_official_clients.py): the official ones for Python and node, "
            "[LiteLLM](tests/integration/test_behind_litellm.py), curl",
        ),
    ]
    return "\n".join(lines) + "\n"


def _inside_vllm(result: Result) -> Sequence[str]:
    by_data, by_id = "200 MB, data URI", "200 MB, id"
    stalls = ("health_first_worst_ms", "health_second_worst_ms")

    def took(server: str) -> str:
        return f"{_short(result.median('second_s', server))} s"

    def stall(server: str) -> str:
        return f"{_short(result.worst(stalls, server))} ms"

    def memory(server: str) -> str:
        first, second = (result.median(f"{n}_above_mib", server) for n in ("first", "second"))
        return f"{_short(first)} MiB, then {_short(second)}"

    return [
        _row(
            result.link("second question about a 200 MB clip") + ", inside vLLM",
            "not measured; the file is read again",
            took(by_data),
            took(by_id),
        ),
        _row(
            "- " + result.link("longest stall of `/health`") + " during the first or second",
            "not measured",
            stall(by_data),
            stall(by_id),
        ),
        _row(
            "- " + result.link("server memory") + " that the first takes, and the second",
            "not measured; the whole file is read into it",
            memory(by_data),
            memory(by_id),
        ),
    ]


def _conversation(result: Result) -> Sequence[str]:
    by_data, by_id, without_disk = "data URI", "id, shared disk", "id, no shared disk"
    not_there = "vLLM only; not measured"

    def sent(server: str) -> str:
        return f"{_short(result.median('sent_mb', server))} MB"

    def took(server: str) -> str:
        return f"{_short(result.median('wall_s', server))} s"

    return [
        _row(
            result.link("ten turns about a 24 MiB clip") + " with llama-server: the client sends",
            not_there,
            sent(by_data),
            sent(by_id),
        ),
        _row(
            "- " + result.link("time") + ", upload or encoding included",
            not_there,
            took(by_data),
            f"{took(by_id)}; {took(without_disk)} without a shared disk",
        ),
    ]


def _killed(result: Result) -> str:
    return _row(
        result.link("files lost over `kill -9`"),
        "all: its index is in memory",
        "nothing is kept",
        f"{result.total('lost')} of {result.total('acknowledged')}, in {result.rounds} kills",
    )


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _short(figure: float) -> str:
    """Two digits, or all before the point."""
    if figure == 0:
        return "0"
    return f"{figure:.{0 if figure >= 10 else 1 if figure >= 1 else 2}f}"
