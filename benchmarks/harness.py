"""What the benchmarks share: processes and what they cost, the machine, the result file.

A server's cost is read from `/proc` and covers all of its processes. CPU seconds are those of the server alone: the
client is another process, and the kernel's write-back to the disk is nobody's, for all servers alike.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
MIB = 1024**2
GIB = 1024**3
TIMEOUT_S = 300.0
"""Longest wait for one step; only a broken benchmark ever waits so long."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be.

    Attributes:
        figure: What is measured, for people.
        at_most: The ceiling.
        measured: What came out.
        unit: Of both.
    """

    figure: str
    at_most: float
    measured: float
    unit: str

    @property
    def is_met(self) -> bool:
        """Whether the ceiling holds."""
        return self.measured <= self.at_most

    def __str__(self) -> str:
        """One line."""
        verdict = "met" if self.is_met else "MISSED"
        return (
            f"{self.figure}: {self.measured:.2f} {self.unit}, goal <= {self.at_most:g}: {verdict}"
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some samples and their extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """Of at least one sample."""
        ordered = sorted(samples)
        middle = len(ordered) // 2
        median = (
            ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        )
        return cls(median, ordered[0], ordered[-1])

    def __str__(self) -> str:
        """For a table."""
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


# Processes


def process_tree(pid: int) -> list[int]:
    """`pid` and all of its descendants."""
    pids = [pid]
    for parent in pids:
        for listing in Path(f"/proc/{parent}/task").glob("*/children"):
            pids += map(int, listing.read_text().split())
    return pids


def cpu_s(pid: int) -> float:
    """CPU seconds that a process and its descendants have used so far, children that ended included."""
    return sum(sum(_cpu_times_s(member)) for member in process_tree(pid))


def cpu_of_ended_children_s(pid: int) -> float:
    """CPU seconds of the children of a process that have ended."""
    return sum(_cpu_times_s(pid)[2:])


def _cpu_times_s(pid: int) -> Sequence[float]:
    """As user and in the kernel: its own, then that of its ended children."""
    # The second field is the name in parentheses, which may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) / _TICKS_PER_S for field in fields[11:15]]


def reset_peak(pid: int) -> None:
    """Make `peak_bytes` begin anew."""
    for member in process_tree(pid):
        Path(f"/proc/{member}/clear_refs").write_text("5")


def peak_bytes(pid: int, *, alone: bool = False) -> int:
    """Sum of `VmHWM` over a process and its descendants, or `alone`: the most of each that was ever resident."""
    return _sum_of("VmHWM", [pid] if alone else process_tree(pid))


def resident_bytes(pid: int, *, alone: bool = False) -> int:
    """Sum of `VmRSS`."""
    return _sum_of("VmRSS", [pid] if alone else process_tree(pid))


def _sum_of(key: str, pids: Sequence[int]) -> int:
    total = 0
    for member in pids:
        found = re.search(rf"^{key}:\s+(\d+) kB$", Path(f"/proc/{member}/status").read_text(), re.M)
        total += int(found[1]) * 1024 if found else 0
    return total


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


# Files


@contextmanager
def workspace(needed_bytes: int) -> Iterator[Path]:
    """A temporary directory on a real disk, gone afterwards.

    It is made where temporary files go; if that is in memory, where a sync costs nothing, beside the benchmarks.
    """
    parent = Path(tempfile.gettempdir())
    if filesystem(parent) in {"tmpfs", "ramfs"}:
        parent = RESULTS.parent
    if shutil.disk_usage(parent).free < needed_bytes:
        sys.exit(f"needs {needed_bytes / GIB:.0f} GiB of free disk space")
    with tempfile.TemporaryDirectory(prefix="mediagate-benchmark-", dir=parent) as directory:
        yield Path(directory)


def make_media(path: Path, size_bytes: int, *, seed: int) -> str:
    """Write a WAV file of `size_bytes` full of noise: a type that is accepted, bytes that nothing can compress.

    Returns:
        Its SHA-256.
    """
    rng = random.Random(seed)
    with path.open("wb") as raw, wave.open(raw, "wb") as sound:
        sound.setparams((2, 2, 48_000, 0, "NONE", ""))
        sound.setnframes((size_bytes - 44) // 4)
        left = size_bytes - 44
        while left:
            block = rng.randbytes(min(left, 4 * MIB))
            sound.writeframesraw(block)
            left -= len(block)
    return digest_of(path)


def warm_up_memory(directory: Path, size_bytes: int) -> float:
    """Fill the page cache with `size_bytes` thrice over, one after the other, and drop them.

    A virtual machine gives pages that were free for a while back to its host. To get them again costs up to ten times
    the write itself, is charged to whoever touches them first, and would drown what is measured.

    Returns:
        CPU seconds of the last plain write, without a sync: the floor, and a measure of how quiet the machine is.
    """
    block = bytes(MIB)
    path = directory / "warm-up"
    used_s = 0.0
    for _ in range(3):
        spare = path.with_suffix(".spare")
        if path.exists():
            path.rename(spare)
        before_s = time.process_time()
        with path.open("wb", buffering=0) as file:
            for _ in range(size_bytes // MIB):
                file.write(block)
        used_s = time.process_time() - before_s
        spare.unlink(missing_ok=True)
    path.unlink()
    return used_s


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def filesystem(path: Path) -> str:
    """Type of the file system that holds `path`."""
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


# The clients


@contextmanager
def asking_for_health(url: str) -> Iterator[list[float]]:
    """A process of its own asks a server for `/health` for the length of a block.

    Args:
        url: Of the server.

    Yields:
        How long each answer took, sorted, in milliseconds; filled after the block.

    Raises:
        AssertionError: It was not healthy all the time.
    """
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", Path(__file__).with_name("prober.py"), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    times_ms: list[float] = []
    with process:
        if process.stdout is None or process.stdout.readline() != b"asking\n":
            raise AssertionError("/health does not answer")
        yield times_ms
        told, _ = process.communicate(timeout=TIMEOUT_S)
    if process.returncode:
        raise AssertionError("/health failed")
    times_ms += sorted(json.loads(told))


def percentile(ordered: Sequence[float], percent: int) -> float:
    """Of sorted samples."""
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one upload got.

    Attributes:
        wall_s: From connecting to the end of the answer, with the sync where the client was told to do it.
        status: Of the answer.
        body: Of the answer.
    """

    wall_s: float
    status: int
    body: str


def send(
    url: str,
    media: Path,
    *,
    form: bool,
    clients: int = 1,
    sync: Path | None = None,
) -> list[Answer]:
    """Upload `media` to `url` from a process of its own, `clients` times at once.

    Args:
        url: Where to; `{client}` in it stands for the number of the client.
        media: What.
        form: POST as multipart/form-data; otherwise PUT as the raw body.
        clients: Uploads at once, each on its connection.
        sync: A file, `{client}` in its name as above, that is synced with its directory after the answer; that counts.
    """
    order = {
        "url": url,
        "media": str(media),
        "form": form,
        "clients": clients,
        "sync": sync and str(sync),
    }
    done = subprocess.run(
        [sys.executable, "-I", "-S", Path(__file__).with_name("sender.py"), json.dumps(order)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=TIMEOUT_S,
    )
    return [Answer(**answer) for answer in json.loads(done.stdout)]


# The result


@functools.cache
def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", ROOT, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


def write_result(
    question: str,
    *,
    command: Sequence[str],
    directory: Path,
    versions: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    goals: Sequence[Goal],
) -> Path:
    """Write `results/<question>-<date>.json`; a run on the same day replaces it.

    Args:
        question: Name of the benchmark.
        command: The module and its arguments.
        directory: On the file system that was measured.
        versions: Of what took part, beside our own.
        samples: Every single measurement, in the order in which they were made.
        goals: What came out of them.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    result = {
        "question": question,
        "date": date,
        "commit": _git("rev-parse", "HEAD"),
        "is_dirty": bool(_git("status", "--porcelain", "--", "src", "benchmarks/*.py")),
        "command": ["python", "-m", *command],
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(memory_bytes / GIB, 1),
            "kernel": platform.release().partition("-")[0],
            "filesystem": filesystem(directory),
        },
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in (
                    "mediagate",
                    "uvicorn",
                    "uvloop",
                    "httptools",
                    "python-multipart",
                    "blake3",
                )
            },
            **versions,
        },
        "goals": [
            {
                "figure": goal.figure,
                "at_most": goal.at_most,
                "measured": round(goal.measured, 3),
                "unit": goal.unit,
                "is_met": goal.is_met,
            }
            for goal in goals
        ],
        "samples": samples,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{question}-{date}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path
