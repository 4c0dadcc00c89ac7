"""How long does vLLM take for the first and the second question about a clip, named by `data:`, by `file://`, by id?

    python -m benchmarks.vllm_repeat [--rounds N]

Each round starts a fresh server for each way, one after the other, the order alternating. Each is asked about a small
clip first, so that nothing is loaded or compiled within the times, then twice about clips of ~25 MB and ~200 MB.
The second question is put in other words; while it is answered, and the first, another process asks for `/health`.
The answers by all ways must be the same. By `data:` and by `file://` vLLM runs as it is without uploads.

A second result holds how long an upload of 24.5 MiB to vLLM takes, by the official client.
"""

import argparse
import base64
import contextlib
import http.client
import json
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import clips, harness, servers
from benchmarks.harness import GIB, MIB, Goal, Spread
from openai import OpenAI

DATA = "data URI"
FILE = "file URL"
ID = "id"
WAYS = (DATA, FILE, ID)

_FRAMES = 16
_QUESTIONS = ("What is in this clip?", "How does it end?")
_AT_LEAST_S = 1.0
_ONE_UPLOAD_BYTES = 49 * MIB // 2
_UPLOADS = 7
"""In each round."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Two questions about one clip; the times of `/health` are those of another process.

    Attributes:
        server: The clip and the way.
        round: Its number.
        prepare_s: What the client did before it could ask: encode base64, or upload. It is in none of the other times.
        first_s: From connecting to the end of the answer.
        second_s: The same, for the second question.
        first_above_mib: Largest size of the API server during the first question, less that right before it.
        second_above_mib: The same, for the second question.
        peak_mib: Largest size of the API server during either.
        tree_peak_mib: Sum of the largest sizes of all processes during either; what they share counts in each.
        health_idle_worst_ms: Slowest answer of `/health` in a second in which nobody asks for anything else.
        health_first_worst_ms: Slowest answer of `/health` during the first question.
        health_second_worst_ms: During the second and, if that takes less than a second, more of its kind.
        health_p99_ms: During both.
        health_asked: How often, during both.
    """

    server: str
    round: int
    prepare_s: float
    first_s: float
    second_s: float
    first_above_mib: float
    second_above_mib: float
    peak_mib: float
    tree_peak_mib: float
    health_idle_worst_ms: float
    health_first_worst_ms: float
    health_second_worst_ms: float
    health_p99_ms: float
    health_asked: int


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload, in milliseconds."""

    server: str
    round: int
    wall_ms: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was answered.

    Attributes:
        wall_s: From connecting to the end of the answer.
        said: What there is to compare: the words, and the tokens of the prompt.
        above_bytes: Largest size of the API server, less that before the question.
        peak_bytes: Largest size of the API server.
        tree_bytes: Sum of the largest sizes of all processes.
    """

    wall_s: float
    said: tuple[str, int]
    above_bytes: int
    peak_bytes: int
    tree_bytes: int


def ask(server: servers.Vllm, url: bytes, question: str) -> Asked:
    """Ask about a clip.

    Args:
        server: Whom.
        url: Names the clip.
        question: In words.

    Raises:
        AssertionError: It was not answered.
    """
    body = _body(url, question)
    address = urlsplit(server.url)
    before_bytes = harness.resident_bytes(server.pid, alone=True)
    harness.reset_peak(server.pid)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=harness.TIMEOUT_S
    )
    with contextlib.closing(connection):
        began = time.perf_counter()
        connection.request(
            "POST",
            "/v1/chat/completions",
            body,
            {"Content-Type": "application/json", "Content-Length": str(sum(map(len, body)))},
        )
        answer = connection.getresponse()
        told = answer.read()
        wall_s = time.perf_counter() - began
    peak_bytes = harness.peak_bytes(server.pid, alone=True)
    tree_bytes = harness.peak_bytes(server.pid)
    if answer.status != 200:
        raise AssertionError(f"{answer.status} {told[:300].decode(errors='replace')}")
    completion = json.loads(told)
    said = completion["choices"][0]["message"]["content"], completion["usage"]["prompt_tokens"]
    return Asked(wall_s, said, peak_bytes - before_bytes, peak_bytes, tree_bytes)


def _body(url: bytes, question: str) -> Sequence[bytes]:
    """The request around `url`, which is not copied."""
    mark = "URL"
    content = [
        {"type": "video_url", "video_url": {"url": mark}},
        {"type": "text", "text": question},
    ]
    body = json.dumps({
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 4,
        "ignore_eos": True,
    }).encode()  # fmt: skip
    before, _, after = body.partition(mark.encode())
    return before, url, after


def name_by(way: str, clip: Path, server: servers.Vllm) -> bytes:
    """What stands for `clip` in a request; it is encoded, or uploaded, for that."""
    if way == DATA:
        return b"data:video/mp4;base64," + base64.b64encode(clip.read_bytes())
    if way == FILE:
        return clip.as_uri().encode()
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    return client.files.create(file=clip, purpose="vision").id.encode()


def measure(
    server: servers.Vllm, way: str, name: str, clip: Path, number: int
) -> tuple[Sample, list[Any]]:
    """Two questions about one clip; also what was said."""
    clip.read_bytes()  # into the page cache, whatever the way
    began = time.perf_counter()
    url = name_by(way, clip, server)
    prepare_s = time.perf_counter() - began
    with harness.asking_for_health(server.url) as idle_ms:
        time.sleep(_AT_LEAST_S)
    with harness.asking_for_health(server.url) as first_ms:
        first = ask(server, url, _QUESTIONS[0])
    with harness.asking_for_health(server.url) as second_ms:
        until = time.monotonic() + _AT_LEAST_S
        second = ask(server, url, _QUESTIONS[1])
        # What is over at once gives the other process no time to ask.
        while time.monotonic() < until:
            ask(server, url, f"{_QUESTIONS[1]} {secrets.token_hex(4)}")
    times_ms = sorted([*first_ms, *second_ms])
    sample = Sample(
        server=f"{name}, {way}",
        round=number,
        prepare_s=round(prepare_s, 3),
        first_s=round(first.wall_s, 3),
        second_s=round(second.wall_s, 4),
        first_above_mib=round(first.above_bytes / MIB, 1),
        second_above_mib=round(second.above_bytes / MIB, 1),
        peak_mib=round(max(first.peak_bytes, second.peak_bytes) / MIB, 1),
        tree_peak_mib=round(max(first.tree_bytes, second.tree_bytes) / MIB, 1),
        health_idle_worst_ms=idle_ms[-1],
        health_first_worst_ms=first_ms[-1],
        health_second_worst_ms=second_ms[-1],
        health_p99_ms=round(harness.percentile(times_ms, 99), 2),
        health_asked=len(times_ms),
    )
    return sample, [first.said, second.said]


def flags_of(way: str, media: Path, store: Path) -> Sequence[str]:
    """Of `vllm serve`."""
    decoding = ("--media-io-kwargs", json.dumps({"video": {"max_frames": _FRAMES}}))
    if way == ID:
        return (*decoding, "--enable-file-uploads", "--file-upload-dir", str(store))
    return (*decoding, "--allowed-local-media-path", str(media)) if way == FILE else decoding


def upload_often(server: servers.Vllm, media: Path, number: int) -> list[Upload]:
    """Upload 24.5 MiB several times, one after the other, and delete it."""
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    samples = []
    for _ in range(_UPLOADS):
        began = time.perf_counter()
        file = client.files.create(file=media, purpose="vision")
        wall_s = time.perf_counter() - began
        if file.bytes != media.stat().st_size:
            raise AssertionError("something else was stored")
        client.files.delete(file.id)
        samples.append(Upload("official client", number, round(wall_s * 1000, 1)))
    return samples


def run(directory: Path, *, rounds: int) -> tuple[list[Sample], list[Upload]]:
    """All questions, and the uploads."""
    media = directory / "media"
    media.mkdir()
    warm_up, *asked_about = clips.make_clips(media).items()
    noise = directory / "noise.wav"
    harness.make_media(noise, _ONE_UPLOAD_BYTES, seed=secrets.randbits(32))
    samples: list[Sample] = []
    uploads: list[Upload] = []
    said: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        for way in WAYS if number % 2 else reversed(WAYS):
            store = directory / f"store-{number}"
            with servers.vllm(directory, flags=flags_of(way, media, store)) as server:
                ask(server, name_by(way, warm_up[1], server), _QUESTIONS[0])
                for name, clip in asked_about:
                    sample, answers = measure(server, way, name, clip, number)
                    if said.setdefault(name, answers) != answers:
                        raise AssertionError(f"{sample.server}: {answers} instead of {said[name]}")
                    samples.append(sample)
                    _show(sample)
                if way == ID:
                    uploads += upload_often(server, noise, number)
    return samples, uploads


def _show(sample: Sample) -> None:
    print(
        f"round {sample.round}  {sample.server:14} {sample.first_s:6.2f} s, then {sample.second_s:7.3f} s  "
        f"above {sample.first_above_mib:5.0f} MiB, then {sample.second_above_mib:5.0f} MiB  "
        f"health worst {sample.health_first_worst_ms:.1f} ms, then {sample.health_second_worst_ms:.1f} ms",
        flush=True,
    )


def report(samples: Sequence[Sample]) -> Sequence[Goal]:
    """What came out means this for the goals; ratios are taken within a round."""
    of: Mapping[tuple[str, int], Sample] = {(s.server, s.round): s for s in samples}
    rounds = {s.round for s in samples}
    second = Spread.of(
        [of[f"200 MB, {ID}", n].second_s / of[f"200 MB, {DATA}", n].second_s for n in rounds]
    )
    figure = f"second question about 200 MB, {ID}, of the time by {DATA}"
    goals = [Goal(figure, 5.0, second.median * 100, "%")]
    for name in ("25 MB", "200 MB"):
        first = Spread.of(
            [of[f"{name}, {ID}", n].first_s / of[f"{name}, {FILE}", n].first_s for n in rounds]
        )
        goals.append(
            Goal(f"first question about {name}, {ID} against {FILE}", 1.1, first.median, "x")
        )
    by_id = [s for s in samples if s.server.endswith(f", {ID}")]
    worst_ms = max(max(s.health_first_worst_ms, s.health_second_worst_ms) for s in by_id)
    return [*goals, Goal(f"health at its worst, {ID}", 20.0, worst_ms, "ms")]


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm_repeat", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with harness.workspace(3 * GIB) as directory:
        samples, uploads = run(directory, rounds=arguments.rounds)
        goals = report(samples)
        took = Spread.of([upload.wall_ms for upload in uploads])
        print(f"\n24.5 MiB uploaded in {took} ms: median (lowest-highest)", *goals, sep="\n")
        for question, measured, reached in (
            ("vllm-repeat", samples, goals),
            ("vllm-upload", uploads, ()),
        ):
            path = harness.write_result(
                question,
                command=("benchmarks.vllm_repeat", *sys.argv[1:]),
                directory=directory,
                versions={"vllm": servers.vllm_version(), "openai": version("openai")},
                samples=[asdict(sample) for sample in measured],
                goals=reached,
            )
            print(path.relative_to(harness.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
