"""How much memory do many uploads at once take, above that of an idle server?

    python -m benchmarks.memory [--rounds N] [--clients N] [--size-mib N]

Each round starts a fresh server with a directory, waits until it is idle, resets the kernel's record of the largest
resident size (`VmHWM`) of each of its processes, and lets all clients upload at once. Above idle is the sum of `VmHWM`
over all server processes at the end, less the sum of their resident size before. Every file is compared with what was
sent, and deleted.
"""

import argparse
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import harness, servers
from benchmarks.harness import GIB, MIB, Goal, Spread

_STABLE_S = 1.0
GOALS = {16: 64.0, 64: 128.0}
"""MiB above idle, by number of clients."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One fresh server: sums over its processes, in MiB.

    Attributes:
        round: Its number.
        processes: How many they were, under load.
        started_mib: Largest size until it was idle.
        idle_mib: Size when idle.
        peak_mib: Largest size under load.
        above_idle_mib: The difference of the last two.
        wall_s: Of the slowest client.
        cpu_s: Of the server, under load.
    """

    round: int
    processes: int
    started_mib: float
    idle_mib: float
    peak_mib: float
    above_idle_mib: float
    wall_s: float
    cpu_s: float


def wait_until_idle(pid: int) -> int:
    """Wait until the resident size has not changed for a while; return it."""
    size_bytes, since = 0, time.monotonic()
    while time.monotonic() - since < _STABLE_S:
        time.sleep(0.1)
        now_bytes = harness.resident_bytes(pid)
        if now_bytes != size_bytes:
            size_bytes, since = now_bytes, time.monotonic()
    return size_bytes


def measure(directory: Path, media: Path, digest: str, *, clients: int, number: int) -> Sample:
    """One fresh server.

    Raises:
        AssertionError: Something else was stored.
    """
    size_bytes = media.stat().st_size
    flags = (
        *("--file-upload-max-size-mb", f"{size_bytes / MIB:g}"),
        *("--file-upload-max-total-gb", f"{clients * size_bytes / GIB + 1:g}"),
    )
    with servers.mediagate(directory, durable=True, flags=flags) as server:
        idle_bytes = wait_until_idle(server.pid)
        started_bytes = harness.peak_bytes(server.pid)
        harness.reset_peak(server.pid)
        cpu_before_s = harness.cpu_s(server.pid)
        answers = server.upload_at_once(media, clients=clients)
        peak_bytes = harness.peak_bytes(server.pid)
        cpu_s = harness.cpu_s(server.pid) - cpu_before_s
        processes = len(harness.process_tree(server.pid))
        for answer in answers:
            if server.check_and_delete(answer) != (size_bytes, digest):
                raise AssertionError("something else was stored")
    return Sample(
        round=number,
        processes=processes,
        started_mib=round(started_bytes / MIB, 1),
        idle_mib=round(idle_bytes / MIB, 1),
        peak_mib=round(peak_bytes / MIB, 1),
        above_idle_mib=round((peak_bytes - idle_bytes) / MIB, 1),
        wall_s=round(max(answer.wall_s for answer in answers), 2),
        cpu_s=round(cpu_s, 2),
    )


def report(samples: Sequence[Sample], clients: int) -> Sequence[Goal]:
    """Print median and extremes; return what they mean for the goals: the worst round counts."""
    idle = Spread.of([sample.idle_mib for sample in samples])
    above = Spread.of([sample.above_idle_mib for sample in samples])
    print(f"\nidle {idle} MiB, above it {above} MiB: median (lowest-highest)")
    goals = [Goal("idle", 120.0, idle.high, "MiB")]
    if clients in GOALS:
        figure = f"{clients} uploads at once, above idle"
        goals.append(Goal(figure, GOALS[clients], above.high, "MiB"))
    return goals


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--size-mib", type=int, default=256)
    arguments = parser.parse_args()
    clients, size_mib = arguments.clients, arguments.size_mib
    samples: list[Sample] = []
    with harness.workspace((clients + 2) * size_mib * MIB) as directory:
        media = directory / "noise.wav"
        seed = secrets.randbits(32)
        print(f"{clients} x {size_mib} MiB of noise, seed {seed}")
        digest = harness.make_media(media, size_mib * MIB, seed=seed)
        for number in range(1, arguments.rounds + 1):
            own = directory / f"round-{number}"
            own.mkdir()
            sample = measure(own, media, digest, clients=clients, number=number)
            samples.append(sample)
            print(
                f"round {number}  idle {sample.idle_mib:.1f} MiB  above {sample.above_idle_mib:.1f} MiB  "
                f"{sample.wall_s:.1f} s  {sample.cpu_s:.1f} CPU s  {sample.processes} processes"
            )
        goals = report(samples, clients)
        print(*goals, sep="\n")
        path = harness.write_result(
            f"memory-{clients}",
            command=("benchmarks.memory", *sys.argv[1:]),
            directory=directory,
            versions={},
            samples=[asdict(sample) for sample in samples],
            goals=goals,
        )
    print(path.relative_to(harness.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
