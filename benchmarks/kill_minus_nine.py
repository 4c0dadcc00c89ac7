"""How many acknowledged files are gone after kill -9?

    python -m benchmarks.kill_minus_nine [--rounds N]

Each round starts `mediagate serve` on the directory of the round before and lets four clients upload one small file
after the other, until SIGKILL ends it at a random moment. Lost is what got a 200 and is not there, byte for byte,
when the next server has started on that directory.

A process is killed, and not the machine: what was written and not synced survives. `docs/explanation/durability.md`
says what a power cut may take.
"""

import argparse
import contextlib
import hashlib
import http.client
import io
import json
import os
import random
import secrets
import signal
import sys
import time
import wave
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import harness, servers
from benchmarks.harness import GIB, Goal, Spread

_CLIENTS = 4
_SMALLEST_BYTES, _LARGEST_BYTES = 1_000, 250_000
_LONGEST_S = 1.5
_FLAGS = ("--file-upload-ttl-seconds", "-1")


@dataclass(frozen=True, slots=True)
class Sample:
    """One life of a server.

    Attributes:
        round: Its number.
        acknowledged: Uploads that were answered with a 200.
        cut_off: Uploads that were under way when it was killed.
        lost: Of the acknowledged, those that are not there after the next start.
        restart_s: From starting the next server until it is ready.
    """

    round: int
    acknowledged: int
    cut_off: int
    lost: int
    restart_s: float


def live(directory: Path, dice: random.Random) -> tuple[Mapping[str, str], int]:
    """Start a server, upload to it, kill it.

    Returns:
        The SHA-256 of what was sent by the id that the answer gave, and how many uploads had no answer.
    """
    acknowledged: dict[str, str] = {}
    with (
        servers.mediagate(directory, durable=True, flags=_FLAGS) as server,
        ThreadPoolExecutor(_CLIENTS) as clients,
    ):
        seeds = [dice.getrandbits(32) for _ in range(_CLIENTS)]
        uploads = [clients.submit(_upload_until_it_dies, server.url, seed) for seed in seeds]
        time.sleep(dice.uniform(0, _LONGEST_S))
        for pid in harness.process_tree(server.pid):
            os.kill(pid, signal.SIGKILL)
        cut_off = 0
        for upload in uploads:
            told, is_cut_off = upload.result()
            acknowledged |= told
            cut_off += is_cut_off
    return acknowledged, cut_off


def _upload_until_it_dies(url: str, seed: int) -> tuple[Mapping[str, str], bool]:
    """What was acknowledged, and whether an upload was under way."""
    dice = random.Random(seed)
    acknowledged: dict[str, str] = {}
    with contextlib.closing(_connect(url)) as connection:
        while True:
            data = _sound(dice)
            try:
                connection.request(
                    "PUT",
                    f"{urlsplit(url).path}?filename=a.wav",
                    data,
                    {"Content-Type": "audio/wav"},
                )
                response = connection.getresponse()
                told = response.read()
            except ConnectionRefusedError:
                return acknowledged, False
            except (OSError, http.client.HTTPException):
                return acknowledged, True
            if response.status != 200:
                raise AssertionError(f"{response.status} {told[:300].decode(errors='replace')}")
            acknowledged[json.loads(told)["id"]] = hashlib.sha256(data).hexdigest()


def _sound(dice: random.Random) -> bytes:
    """A WAV file that there was never before."""
    size_bytes = dice.randint(_SMALLEST_BYTES, _LARGEST_BYTES) // 2 * 2
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setparams((1, 2, 48_000, 0, "NONE", ""))
            sound.writeframes(dice.randbytes(size_bytes))
        return file.getvalue()


def lost_of(acknowledged: Mapping[str, str], url: str) -> int:
    """How many are not there, or not as they were sent."""
    found = 0
    with contextlib.closing(_connect(url)) as connection:
        for file_id, digest in acknowledged.items():
            connection.request("GET", f"{urlsplit(url).path}/{file_id}/content")
            response = connection.getresponse()
            data = response.read()
            found += response.status == 200 and hashlib.sha256(data).hexdigest() == digest
    return len(acknowledged) - found


def _connect(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    return http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=harness.TIMEOUT_S
    )


def run(directory: Path, *, rounds: int, dice: random.Random) -> list[Sample]:
    """All lives; at the end all files once more.

    Raises:
        AssertionError: A file that was there after the next start is not there at the end.
    """
    samples: list[Sample] = []
    every: dict[str, str] = {}
    for number in range(1, rounds + 1):
        acknowledged, cut_off = live(directory, dice)
        every |= acknowledged
        began = time.perf_counter()
        with servers.mediagate(directory, durable=True, flags=_FLAGS) as server:
            restart_s = time.perf_counter() - began
            lost = lost_of(acknowledged, server.url)
        samples.append(Sample(number, len(acknowledged), cut_off, lost, round(restart_s, 2)))
        print(
            f"round {number}  {len(acknowledged)} acknowledged, {cut_off} cut off, {lost} lost",
            flush=True,
        )
    with servers.mediagate(directory, durable=True, flags=_FLAGS) as server:
        if lost_of(every, server.url) != sum(sample.lost for sample in samples):
            raise AssertionError("files are lost long after the kill")
    return samples


def report(samples: Sequence[Sample]) -> Sequence[Goal]:
    """None may be lost."""
    total = sum(sample.acknowledged for sample in samples)
    figure = f"lost of {total} acknowledged files, in {len(samples)} kills"
    return [Goal(figure, 0.0, sum(sample.lost for sample in samples), "files")]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill_minus_nine", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    with harness.workspace(4 * GIB) as directory:
        samples = run(directory, rounds=arguments.rounds, dice=random.Random(seed))
        goals = report(samples)
        restart = Spread.of([sample.restart_s for sample in samples])
        print(f"\nrestarted in {restart} s: median (lowest-highest)", *goals, sep="\n")
        path = harness.write_result(
            "kill-minus-nine",
            command=("benchmarks.kill_minus_nine", *sys.argv[1:]),
            directory=directory,
            versions={},
            samples=[asdict(sample) for sample in samples],
            goals=goals,
        )
    print(path.relative_to(harness.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
