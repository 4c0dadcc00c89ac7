"""Break mediagate on purpose, one line at a time: a named test must turn red each time.

    python tests/sabotage/run.py [WORD …]      all of `breakages.toml`, or those whose name contains a WORD

1. The tree is copied once per job, without what git ignores; the copies are what is imported, which is asserted.
2. Every named test is run on the unbroken copies and must pass.
3. One breakage at a time is applied to a copy, its test is run, the file is put back.

A breakage is *caught* if its test fails: not if it cannot be collected, not if a fixture fails, not if it takes too
long, and not if the broken file is no longer a sound program (a syntax error is no mistake that tests are for).
The exit status is 0 if every breakage was caught.
"""

import argparse
import ast
import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("breakages.toml")
JOBS = 2
GREEN_TIMEOUT_S = 240.0
RED_TIMEOUT_S = 60.0

_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS) (\S.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """One mistake, and the test that must notice.

    Attributes:
        name: What was done, in a few words.
        breaks: The promise, contract item or rule that no longer holds.
        file: Below the repository.
        old: Occurs exactly once in `file`.
        new: What stands there instead.
        test: A pytest node id.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    test: str

    def apply(self, root: Path) -> str:
        """The text of `file` below `root` with the breakage in it.

        Raises:
            StaleError: It no longer fits.
        """
        path = root / self.file
        text = path.read_text() if path.is_file() else ""
        if (count := text.count(self.old)) != 1:
            raise StaleError(f"'{self.old.strip()}' occurs {count} times in {self.file}")
        broken = text.replace(self.old, self.new)
        try:
            ast.parse(broken)
        except SyntaxError as error:
            raise StaleError(f"{self.file} would be no Python: {error}") from None
        return broken


class StaleError(Exception):
    """A breakage no longer fits the code."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one breakage."""

    breakage: Breakage
    is_caught: bool
    reason: str
    elapsed_s: float


def read_list(path: Path = LIST) -> Sequence[Breakage]:
    """The committed breakages."""
    return [Breakage(**entry) for entry in tomllib.loads(path.read_text())["breakage"]]


class Copy:
    """One copy of the tree, in which tests are run."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._is_sound = True

    @classmethod
    def make(cls, root: Path) -> "Copy":
        """Copy what git tracks or would track."""
        listed = subprocess.run(
            ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in listed.stdout.split("\0"):
            if name and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        copy = cls(root)
        imported = copy._run("-c", "import mediagate; print(mediagate.__file__)", timeout_s=30)
        expected = root / "src" / "mediagate" / "__init__.py"
        assert imported.strip() == str(expected), f"not the copy is imported, but {imported}"
        return copy

    def test(self, *arguments: str, timeout_s: float) -> dict[str, set[str]]:
        """Run tests; the node ids of each outcome.

        Args:
            arguments: Node ids, and options of pytest.
            timeout_s: For all of them.

        Raises:
            RunError: pytest did not get as far as outcomes, or not in time.
        """
        # Plugins that no test needs take a good part of the time of a short run.
        options = (
            "-q",
            "-rpfEsxX",
            "--tb=short",
            "--no-header",
            "-p",
            "no:xdist",
            "-p",
            "no:anyio",
        )
        output = self._run("-m", "pytest", *options, *arguments, timeout_s=timeout_s, fails=True)
        outcomes: dict[str, set[str]] = {}
        for outcome, what in _OUTCOME.findall(output):
            outcomes.setdefault(outcome, set()).add(what)
        if not outcomes:
            raise RunError(_last_line(output))
        return outcomes

    @contextlib.contextmanager
    def broken(self, breakage: Breakage) -> Iterator[None]:
        """The copy with a breakage in it."""
        path = self._root / breakage.file
        stat, sound = path.stat(), path.read_text()
        path.write_text(breakage.apply(self._root))
        # Bytecode is matched by size and second: neither may be those of the sound file.
        os.utime(path, (stat.st_atime, stat.st_mtime + 10))
        self._is_sound = False
        try:
            undefined = self._run("-m", "ruff", "check", "-q", "--no-cache", "--isolated",
                                  "--select=F821", breakage.file, timeout_s=30, fails=True)  # fmt: skip
            if undefined.strip():
                raise StaleError(f"the broken file uses unknown names: {undefined.strip()}")
            yield
        finally:
            path.write_text(sound)
            os.utime(path, (stat.st_atime, stat.st_mtime))
            self._is_sound = True

    def _run(self, *arguments: str, timeout_s: float, fails: bool = False) -> str:
        """Run Python in the copy; its output. `fails`: a status of 1 is an answer too."""
        env = os.environ | {
            "PYTHONPATH": str(self._root / "src"),
            # The first run leaves bytecode of the sound files for all others.
            "PYTHONDONTWRITEBYTECODE": "" if self._is_sound else "1",
            "COLUMNS": "400",
        }
        process = subprocess.Popen(
            (sys.executable, *arguments), cwd=self._root, env=env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise RunError(f"not finished after {timeout_s:g} s") from None
        finally:
            # Servers that a failed test left behind are of the same session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode not in ((0, 1) if fails else (0,)):
            raise RunError(f"status {process.returncode}: {_last_line(output)}")
        return output


class RunError(Exception):
    """A run gave no verdict."""


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _is_of(test: str, outcome: str) -> bool:
    """Whether a line of pytest's summary is about `test`, or about one of its parameters."""
    return outcome == test or outcome.startswith((f"{test}[", f"{test} - ", f"{test}::"))


def judge(copy: Copy, breakage: Breakage) -> Verdict:
    """Apply one breakage and run its test."""
    began = time.monotonic()
    is_caught = False
    try:
        with copy.broken(breakage):
            outcomes = copy.test("-x", breakage.test, timeout_s=RED_TIMEOUT_S)
    except (StaleError, RunError) as error:
        reason = str(error)
    else:
        failed = sorted(o for o in outcomes.get("FAILED", ()) if _is_of(breakage.test, o))
        is_caught = bool(failed)
        reason = failed[0].partition(" - ")[2] if failed else f"SURVIVED: {sorted(outcomes)}"
    return Verdict(breakage, is_caught, reason, time.monotonic() - began)


def find_not_green(copy: Copy, tests: Sequence[str]) -> list[str]:
    """Those of `tests` that do not pass on sound code."""
    if not tests:
        return []
    try:
        outcomes = copy.test(*tests, timeout_s=GREEN_TIMEOUT_S)
    except RunError as error:
        return [f"{error} ({len(tests)} tests)"]
    passed = outcomes.pop("PASSED", set())
    bad = sorted(line for lines in outcomes.values() for line in lines)
    return bad + [test for test in tests if not any(_is_of(test, line) for line in passed)]


def main() -> int:
    """Run the list."""
    parser = argparse.ArgumentParser(description="Break mediagate; see what turns red.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only breakages whose name has it")
    words = parser.parse_args().words
    breakages = [b for b in read_list() if not words or any(word in b.name for word in words)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sabotage-") as scratch:
        copies = [Copy.make(Path(scratch).resolve() / str(n)) for n in range(JOBS)]
        tests = sorted({b.test for b in breakages})
        with ThreadPoolExecutor(JOBS) as pool:
            shares = [tests[n::JOBS] for n in range(JOBS)]
            not_green = [
                line for found in pool.map(find_not_green, copies, shares) for line in found
            ]
        if not_green:
            print("Not green before anything is broken:", *not_green, sep="\n  ")
            return 1
        print(f"{len(tests)} named tests are green on sound code "
              f"({time.monotonic() - began:.0f} s); breaking:\n", flush=True)  # fmt: skip
        verdicts = list(_judge_all(copies, breakages))
    caught = sum(verdict.is_caught for verdict in verdicts)
    print(f"\n{caught} of {len(verdicts)} breakages were caught ({time.monotonic() - began:.0f} s)")
    return 0 if caught == len(verdicts) else 1


def _judge_all(copies: Sequence[Copy], breakages: Sequence[Breakage]) -> Iterator[Verdict]:
    """Judge in parallel, tell in order."""
    free: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def judge_in_a_free_copy(breakage: Breakage) -> Verdict:
        copy = free.get()
        try:
            return judge(copy, breakage)
        finally:
            free.put(copy)

    with ThreadPoolExecutor(len(copies)) as pool:
        for number, verdict in enumerate(pool.map(judge_in_a_free_copy, breakages), 1):
            mark = "caught" if verdict.is_caught else "MISSED"
            breakage = verdict.breakage
            print(f"{number:3} {mark} {verdict.elapsed_s:5.1f} s  {breakage.name}", flush=True)
            print(
                f"{'':19} by {breakage.test.rpartition('::')[2]}: {verdict.reason[:150]}",
                flush=True,
            )
            if not verdict.is_caught:
                print(f"{'':19} {breakage.file}: breaks {breakage.breaks}", flush=True)
            yield verdict


if __name__ == "__main__":
    sys.exit(main())
