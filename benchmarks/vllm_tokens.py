"""What do uploads cost those who wait for tokens of a vLLM on the same machine?

    python -m benchmarks.vllm_tokens [--rounds N] [--clients N] [--size-mib N]

One vLLM generates without a pause: one stream of 200 tokens after the other. Meanwhile nobody uploads; or all clients
upload at once, to that vLLM itself, to a side-car on the same directory, or to nginx, which only stores. The four take
turns, each round beginning with another one; ratios are taken within a round. Every file is synced before it counts as
stored, nginx's by the client, and compared with what was sent.
"""

import argparse
import contextlib
import http.client
import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from benchmarks import harness, servers
from benchmarks.harness import GIB, MIB, Answer, Goal, Spread

IDLE = "nobody uploads"
INSIDE = "to vLLM"
SIDE_CAR = "to the side-car"
NGINX = "to nginx, tuned"

_TOKENS = 200
_IDLE_S = 5.0
_WARM_UP_STREAMS = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One stretch of time.

    Attributes:
        server: Where was uploaded.
        round: Its number.
        upload_s: Of the slowest client; 0: nobody uploaded.
        ms_per_token: On average, within streams: without the time to the first token of each.
        p50_ms: Between two pieces of a stream.
        p99_ms: The same.
        worst_ms: The same.
        tokens_per_s: The time between streams included.
        lost_s: How much sooner as many tokens would have come when nobody uploaded.
    """

    server: str
    round: int
    upload_s: float
    ms_per_token: float
    p50_ms: float
    p99_ms: float
    worst_ms: float
    tokens_per_s: float
    lost_s: float


@dataclass(frozen=True, slots=True)
class Piece:
    """What came of a stream at once.

    Attributes:
        after_s: Since the piece before; None: it was the first.
        tokens: In it; several, if it could not be sent in time.
    """

    after_s: float | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was generated in a stretch of time.

    Attributes:
        pieces: Of all streams.
        wall_s: From its beginning to its end.
        upload_s: Of the slowest client; 0: nobody uploaded.
    """

    pieces: Sequence[Piece]
    wall_s: float
    upload_s: float

    @property
    def tokens_per_s(self) -> float:
        """All tokens, in all of the time."""
        return sum(piece.tokens for piece in self.pieces) / self.wall_s


class Target(Protocol):
    """Where to upload."""

    def upload(self) -> list[Answer]:
        """By all clients at once."""

    def check_and_delete(self, answers: Sequence[Answer]) -> list[tuple[int, str]]:
        """Size and SHA-256 of each file that was stored."""


@dataclass(frozen=True, slots=True)
class FilesApi:
    """vLLM's own, or the side-car's."""

    server: servers.Mediagate
    media: Path
    clients: int

    def upload(self) -> list[Answer]:
        """By all clients at once."""
        return self.server.upload_at_once(self.media, clients=self.clients)

    def check_and_delete(self, answers: Sequence[Answer]) -> list[tuple[int, str]]:
        """Downloads them."""
        return [self.server.check_and_delete(answer) for answer in answers]


@dataclass(frozen=True, slots=True)
class Put:
    """nginx: each client stores a file of its own, and syncs it."""

    server: servers.Nginx
    media: Path
    clients: int

    def upload(self) -> list[Answer]:
        """By all clients at once."""
        name = "{client}.wav"
        stored = self.server.directory / name
        url = f"{self.server.url}/{name}"
        return harness.send(url, self.media, form=False, clients=self.clients, sync=stored)

    def check_and_delete(self, answers: Sequence[Answer]) -> list[tuple[int, str]]:
        """Looks at them."""
        if any(answer.status != 201 for answer in answers):
            raise AssertionError(str(answers))
        stored = list(self.server.directory.iterdir())
        found = [(path.stat().st_size, harness.digest_of(path)) for path in stored]
        for path in stored:
            path.unlink()
        return found


def stream(url: str) -> Iterator[Piece]:
    """One stream of 200 tokens."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=harness.TIMEOUT_S
    )
    order = {
        "model": "tiny",
        "prompt": secrets.token_hex(8),
        "max_tokens": _TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    with contextlib.closing(connection):
        connection.request(
            "POST", "/v1/completions", json.dumps(order), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        if answer.status != 200:
            raise AssertionError(f"{answer.status} {answer.read()[:300]!r}")
        before_s, before = 0.0, 0
        for line in answer:
            now_s = time.perf_counter()
            if not line.startswith(b"data: {"):
                continue
            tokens = json.loads(line[6:])["usage"]["completion_tokens"]
            if tokens > before:
                yield Piece(now_s - before_s if before else None, tokens - before)
            before_s, before = now_s, tokens
        if before != _TOKENS:
            raise AssertionError(f"{before} tokens")


def generate_while(url: str, is_going: Callable[[], bool]) -> tuple[list[Piece], float]:
    """One stream after the other, and the seconds in which they came; what comes afterwards does not count."""
    began = time.perf_counter()
    pieces: list[Piece] = []
    wall_s = 0.0
    while is_going():
        for piece in stream(url):
            if is_going():
                pieces.append(piece)
                wall_s = time.perf_counter() - began
    return pieces, wall_s


def measure(url: str, target: Target | None, expected: tuple[int, str]) -> Stretch:
    """Generate while all clients upload to `target`; for a while if that is None.

    Raises:
        AssertionError: Something else was stored.
    """
    if target is None:
        until = time.monotonic() + _IDLE_S
        pieces, wall_s = generate_while(url, lambda: time.monotonic() < until)
        return Stretch(pieces, wall_s, 0.0)
    answers: list[Answer] = []
    uploading = threading.Thread(target=lambda: answers.extend(target.upload()))
    uploading.start()
    pieces, wall_s = generate_while(url, uploading.is_alive)
    uploading.join()
    if not answers or any(found != expected for found in target.check_and_delete(answers)):
        raise AssertionError("something else was stored")
    return Stretch(pieces, wall_s, max(answer.wall_s for answer in answers))


def sum_up(name: str, number: int, stretch: Stretch, idle: Stretch) -> Sample:
    """The figures of a stretch, and against that of the round in which nobody uploaded."""
    within = [piece for piece in stretch.pieces if piece.after_s is not None]
    times_ms = sorted((piece.after_s or 0.0) * 1000 for piece in within)
    tokens = sum(piece.tokens for piece in stretch.pieces)
    return Sample(
        server=name,
        round=number,
        upload_s=round(stretch.upload_s, 2),
        ms_per_token=round(sum(times_ms) / sum(piece.tokens for piece in within), 3),
        p50_ms=round(harness.percentile(times_ms, 50), 2),
        p99_ms=round(harness.percentile(times_ms, 99), 2),
        worst_ms=round(times_ms[-1], 2),
        tokens_per_s=round(stretch.tokens_per_s, 1),
        lost_s=round(stretch.wall_s - tokens / idle.tokens_per_s, 2),
    )


def run(directory: Path, *, rounds: int, clients: int, size_mib: int) -> list[Sample]:
    """All rounds."""
    media = directory / "noise.wav"
    seed = secrets.randbits(32)
    print(f"{clients} x {size_mib} MiB of noise, seed {seed}")
    expected = size_mib * MIB, harness.make_media(media, size_mib * MIB, seed=seed)
    limit = ("--file-upload-max-size-mb", str(size_mib))
    samples: list[Sample] = []
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        side_car = enter(servers.mediagate(directory, durable=True, flags=("--files-only", *limit)))
        shared = ("--enable-file-uploads", "--file-upload-dir", str(directory / "mediagate"))
        vllm = enter(servers.vllm(directory, flags=(*shared, *limit)))
        nginx = enter(servers.nginx(directory, durable=True, tuned=True))
        contestants: list[tuple[str, Target | None]] = [
            (IDLE, None),
            (INSIDE, FilesApi(vllm.files, media, clients)),
            (NGINX, Put(nginx, media, clients)),
            (SIDE_CAR, FilesApi(side_car, media, clients)),
        ]
        for _ in range(_WARM_UP_STREAMS):
            for _ in stream(vllm.url):
                pass
        for number in range(1, rounds + 1):
            stretches = {}
            for name, target in contestants:
                os.sync()  # what others left to write is nobody's business here
                harness.warm_up_memory(directory, clients * size_mib * MIB)
                stretches[name] = measure(vllm.url, target, expected)
            for name, stretch in stretches.items():
                sample = sum_up(name, number, stretch, stretches[IDLE])
                samples.append(sample)
                _show(sample)
            contestants.append(contestants.pop(0))
    return samples


def _show(sample: Sample) -> None:
    print(
        f"round {sample.round}  {sample.server:16} {sample.ms_per_token:6.2f} ms per token  "
        f"p99 {sample.p99_ms:6.1f} ms  worst {sample.worst_ms:6.1f} ms  {sample.tokens_per_s:6.1f} tokens/s  "
        f"uploaded in {sample.upload_s:5.2f} s  lost {sample.lost_s:5.2f} s",
        flush=True,
    )


def report(samples: Sequence[Sample], what: str) -> Sequence[Goal]:
    """What came out means this for the goals; ratios are taken within a round."""
    of = {(s.server, s.round): s.ms_per_token for s in samples}
    rounds = {s.round for s in samples}
    return [
        Goal(
            f"time per token while {what} go {name}, against {NGINX}",
            1.0,
            Spread.of([of[name, n] / of[NGINX, n] for n in rounds]).median,
            "x",
        )
        for name in (INSIDE, SIDE_CAR)
    ]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm_tokens", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--size-mib", type=int, default=256)
    arguments = parser.parse_args()
    clients, size_mib = arguments.clients, arguments.size_mib
    with harness.workspace((2 * clients + 2) * size_mib * MIB + GIB) as directory:
        samples = run(directory, rounds=arguments.rounds, clients=clients, size_mib=size_mib)
        goals = report(samples, f"{clients} x {size_mib} MiB")
        print(*goals, sep="\n")
        path = harness.write_result(
            "vllm-tokens",
            command=("benchmarks.vllm_tokens", *sys.argv[1:]),
            directory=directory,
            versions={"vllm": servers.vllm_version(), "nginx": servers.nginx_version()},
            samples=[asdict(sample) for sample in samples],
            goals=goals,
        )
    print(path.relative_to(harness.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
