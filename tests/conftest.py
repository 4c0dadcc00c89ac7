"""What every test run shares: which tests it leaves out, that it says so, and what it writes down.

`make test` leaves out what needs more than a minute, a package from Debian, an environment of its own, or root where
it is not run as that, and ends with a counted list of it. With `--all` nothing may be left out: a test that skips
itself is a failure there.
"""

import os
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from conformance import Recorder, cited

LONG = ("vllm", "engines")
"""Marks of what begins first where several modules run at once, so that nobody waits for it alone at the end."""

LEFT_OUT = ["slow", "services", "sdk1", "peers", "vllm", "engines"]
if os.geteuid() != 0:
    LEFT_OUT.append("root")

# The same examples each time, so that a run says something of the change and not of the dice. For others:
# --hypothesis-profile=default. How long one takes says something of the machine only.
settings.register_profile(
    "same",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("same")

_not_run: pytest.StashKey[Counter[str]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="add what each test cites, and how it ended, here")
    parser.addoption("--all", action="store_true", help="run everything; whatever is not run fails")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--record")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(path))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties.append(("cites", cited(getattr(item, "function", item).__doc__)))
    items.sort(key=lambda item: not any(map(item.get_closest_marker, LONG)))
    not_run = config.stash[_not_run] = Counter[str]()
    # Naming a test on the command line is asking for it, whatever its marks.
    if config.getoption("--all") or any("::" in argument for argument in config.args):
        return
    kept = []
    for item in items:
        marker = next((name for name in LEFT_OUT if item.get_closest_marker(name)), None)
        if marker is None:
            kept.append(item)
        else:
            not_run[marker] += 1
    if hasattr(config, "workeroutput"):
        config.workeroutput["not_run"] = dict(not_run)
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Under -n the workers collect, each of them everything, and this process tells."""
    output = getattr(node, "workeroutput", {})  # a worker that crashed has none
    if "not_run" in output:
        node.config.stash[_not_run] = Counter[str](output["not_run"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--all"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was not run, and --all leaves nothing out: {report.longrepr}"
        )
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    not_run = config.stash.get(_not_run, Counter[str]())
    not_run["skipped themselves"] += len(terminalreporter.stats.get("skipped", ()))
    terminalreporter.section("not run")
    for reason, count in sorted((+not_run).items()):
        terminalreporter.line(f"{count:5} {reason}")
    if not +not_run:
        terminalreporter.line("    0: everything was run")
    else:
        terminalreporter.line(f"{not_run.total():5} in all; `make test-all` runs them")


@pytest.fixture
def record_cell(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a cell to the table that `engine_matrix` makes: engine, kind, form, delivery, outcome."""

    def record(*values: str) -> None:
        names = ("engine", "kind", "form", "delivery", "outcome")
        cell = dict(zip(names, values, strict=True))
        request.node.user_properties.append(("cell", cell))

    return record
