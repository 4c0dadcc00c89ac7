"""How long do `/health` and `/v1/models` take while large uploads run?

    python -m benchmarks.latency [--rounds N] [--clients N] [--size-mib N]

Each round has a fresh server of each kind, one after the other, the order alternating. One connection asks for the two
paths in turn, some two hundred times a second: for a while on the idle server, then for as long as all clients
upload at once. The client, the uploads and the server share the machine's cores, so the figures hold what the machine's
scheduler adds; the idle ones show what that is without load. The peer is the framework's default, as in
`benchmarks.upload`.
"""

import argparse
import http.client
import secrets
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import harness, servers
from benchmarks.harness import GIB, MIB, Answer, Goal, Spread

PATHS = ("/health", "/v1/models")
_PAUSE_S = 0.004
_IDLE_S = 5.0
_GOAL_MS = 20.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One fresh server; times in milliseconds, over both paths.

    Attributes:
        round: Its number.
        server: What was asked.
        asked: How often, under load.
        idle_p99_ms: Without load.
        p50_ms: Under load.
        p99_ms: Under load.
        worst_ms: Under load.
        upload_s: Of the slowest client.
    """

    round: int
    server: str
    asked: int
    idle_p99_ms: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    upload_s: float


def ask_while(url: str, is_going: Callable[[], bool]) -> list[float]:
    """Ask for both paths in turn; how long each answer took, sorted, in milliseconds."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    times_ms = []
    while is_going():
        for path in PATHS:
            began = time.perf_counter()
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            times_ms.append((time.perf_counter() - began) * 1000)
            if answer.status != 200:
                raise AssertionError(f"{path}: {answer.status}")
            time.sleep(_PAUSE_S)
    connection.close()
    return sorted(times_ms)


def measure(
    server: servers.Mediagate | servers.FrameworkDefault,
    name: str,
    media: Path,
    *,
    clients: int,
    number: int,
) -> Sample:
    """One fresh server."""
    until = time.monotonic() + _IDLE_S
    idle_ms = ask_while(server.url, lambda: time.monotonic() < until)
    answers: list[Answer] = []

    def upload() -> None:
        answers.extend(harness.send(server.url, media, form=True, clients=clients))

    uploading = threading.Thread(target=upload)
    uploading.start()
    busy_ms = ask_while(server.url, uploading.is_alive)
    uploading.join()
    if [answer.status for answer in answers] != [200] * clients:
        raise AssertionError("an upload failed")
    return Sample(
        round=number,
        server=name,
        asked=len(busy_ms),
        idle_p99_ms=round(harness.percentile(idle_ms, 99), 2),
        p50_ms=round(harness.percentile(busy_ms, 50), 2),
        p99_ms=round(harness.percentile(busy_ms, 99), 2),
        worst_ms=round(busy_ms[-1], 2),
        upload_s=round(max(answer.wall_s for answer in answers), 2),
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--size-mib", type=int, default=512)
    arguments = parser.parse_args()
    clients, size_mib = arguments.clients, arguments.size_mib
    flags = ("--file-upload-max-total-gb", f"{clients * size_mib * MIB / GIB + 1:g}")
    samples: list[Sample] = []
    with harness.workspace((2 * clients + 2) * size_mib * MIB) as directory:
        media = directory / "noise.wav"
        seed = secrets.randbits(32)
        print(f"{clients} x {size_mib} MiB of noise, seed {seed}")
        harness.make_media(media, size_mib * MIB, seed=seed)
        for number in range(1, arguments.rounds + 1):
            names = ("mediagate", "UploadFile") if number % 2 else ("UploadFile", "mediagate")
            for name in names:
                with harness.workspace(clients * size_mib * MIB) as own:
                    starting: AbstractContextManager[servers.Mediagate | servers.FrameworkDefault]
                    if name == "mediagate":
                        starting = servers.mediagate(own, durable=True, flags=flags)
                    else:
                        starting = servers.framework_default(own, durable=True)
                    with starting as server:
                        sample = measure(server, name, media, clients=clients, number=number)
                samples.append(sample)
                print(
                    f"round {number}  {name:10}  idle p99 {sample.idle_p99_ms:.1f} ms  under load p50 "
                    f"{sample.p50_ms:.1f} p99 {sample.p99_ms:.1f} worst {sample.worst_ms:.1f} ms"
                )
        p99 = Spread.of([sample.p99_ms for sample in samples if sample.server == "mediagate"])
        figure = f"p99 while {clients} x {size_mib} MiB upload"
        goals = [Goal(figure, _GOAL_MS, p99.median, "ms")]
        print(*goals, sep="\n")
        path = harness.write_result(
            "latency",
            command=("benchmarks.latency", *sys.argv[1:]),
            directory=directory,
            versions={},
            samples=[asdict(sample) for sample in samples],
            goals=goals,
        )
    print(path.relative_to(harness.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
