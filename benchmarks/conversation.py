"""What do ten turns about one clip cost, sent as base64 on every turn, and named by id through the gateway?

    python -m benchmarks.conversation [--rounds N]

A chat about a clip of 24 MiB with real llama-server: each turn sends all turns before it, the clip in the first of
them. Each way has fresh servers in each round, one way after the other, each round beginning with another one:

    data URI                base64 in each request, to llama-server itself
    id, shared disk         uploaded once to mediagate, which gives llama-server a link (`--media-path`)
    id, no shared disk      uploaded once to mediagate, which sends llama-server base64 (`--delivery inline`)
    file URL                to llama-server itself, on whose disk the clip is already: what nobody can undercut

Time runs from before the client reads the clip to the end of the tenth answer: encoding or upload is within. The
answers by all ways must be the same. `decoder alone` is ffmpeg, started ten times as llama-server starts it.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import clips, harness, servers
from benchmarks.harness import GIB, MIB, Goal, Spread

DATA = "data URI"
SHARED = "id, shared disk"
INLINE = "id, no shared disk"
FILE = "file URL"
WAYS = (DATA, SHARED, INLINE, FILE)
DECODER = "decoder alone"

QUESTIONS = (
    "What is in this clip?",
    "How does it begin?",
    "And how does it end?",
    "Which colours are there?",
    "Does anybody speak?",
    "Is it day or night?",
    "What is in the middle of the picture?",
    "Is there any text?",
    "What would you cut?",
    "Give it a title.",
)
_CHAT = "/v1/chat/completions"
_TOKENS = 8
"""Of each answer."""
_WORDS_BYTES = 50_000
"""More than all questions, answers and heads of requests."""
_BOUNDARY = "a-boundary-of-the-benchmarks"
_FORM_HEAD = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="clip.mp4"\r\n'
    "Content-Type: video/mp4\r\n\r\n"
).encode()
_FORM_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()
_DECODING = (
    (
        *("ffprobe", "-v", "quiet", "-show_entries"),
        "stream=width,height,r_frame_rate,nb_frames,duration",
        *("-select_streams", "v:0", "-of", "default=noprint_wrappers=1", "pipe:0"),
    ),
    (
        *("ffmpeg", "-nostdin", "-read_ahead_limit", "-1", "-i", "cache:pipe:0"),
        *("-vf", "fps=4.000000", "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"),
        *("-loglevel", "error"),
    ),
)
"""What llama-server does in every turn."""
_LARGEST_BYTES = 512 * MIB
"""More than any server holds of the requests of one way."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One chat of ten turns; peaks of memory are of one process each, so of none of the decoder's.

    Attributes:
        server: The way.
        round: Its number.
        sent_mb: What the client wrote to its socket, heads of requests included, in 10^6 bytes.
        wall_s: Of all turns, with what comes before them.
        prepare_s: Of that, what the client did before it could ask: encode base64, or upload, which includes the sync.
        first_s: Of that, the first turn.
        turn_s: The median of the other turns.
        client_cpu_s: CPU seconds of the client.
        gateway_cpu_s: Of mediagate.
        engine_cpu_s: Of llama-server, without its decoder.
        decoder_cpu_s: Of ffmpeg and ffprobe, which llama-server starts in every turn.
        gateway_peak_mib: Largest size of mediagate, since it started.
        engine_peak_mib: Largest size of llama-server, since it started.
    """

    server: str
    round: int
    sent_mb: float
    wall_s: float
    prepare_s: float
    first_s: float
    turn_s: float
    client_cpu_s: float
    gateway_cpu_s: float
    engine_cpu_s: float
    decoder_cpu_s: float
    gateway_peak_mib: float
    engine_peak_mib: float


@dataclass(frozen=True, slots=True)
class Running:
    """The servers of one way.

    Attributes:
        url: Of the one that the client talks to.
        engine: The pid of llama-server.
        gateway: The pid of mediagate, where there is one.
    """

    url: str
    engine: int
    gateway: int | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """What a client did and heard.

    Attributes:
        prepare_s: Before it could ask.
        turns_s: Each turn.
        sent_bytes: All that it wrote.
        said: In each turn, the words and the number of tokens of the prompt.
    """

    prepare_s: float
    turns_s: Sequence[float]
    sent_bytes: int
    said: Sequence[tuple[str, int]]


class Client(http.client.HTTPConnection):
    """One connection that is kept, as the official clients keep theirs; counts what is written to its socket.

    Attributes:
        sent_bytes: So far, heads of requests included.
    """

    sent_bytes = 0

    def send(self, data: Any) -> None:
        """Write `data`, which are bytes."""
        super().send(data)
        self.sent_bytes += len(data)

    def post(self, path: str, body: bytes | Iterator[bytes], headers: Mapping[str, str]) -> Any:
        """Send a request, read its answer.

        Returns:
            The JSON of the answer.

        Raises:
            AssertionError: It is no 200.
        """
        self.request("POST", path, body, dict(headers))
        response = self.getresponse()
        told = response.read()
        if response.status != 200:
            raise AssertionError(f"{response.status} {told[:300].decode(errors='replace')}")
        return json.loads(told)

    def upload(self, clip: Path) -> str:
        """Send a file as a form, a piece at a time; its id."""
        size_bytes = len(_FORM_HEAD) + clip.stat().st_size + len(_FORM_TAIL)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={_BOUNDARY}",
            "Content-Length": str(size_bytes),
        }
        return str(self.post("/v1/files", _form(clip), headers)["id"])

    def ask(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
        """One turn; the words, and the number of tokens of the prompt."""
        body = {"messages": messages, "model": "tiny", "max_tokens": _TOKENS, "temperature": 0}
        # As the official client for Python writes JSON, which it does anew for each request.
        encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        completion = self.post(_CHAT, encoded.encode(), {"Content-Type": "application/json"})
        return completion["choices"][0]["message"]["content"], completion["usage"]["prompt_tokens"]


def _form(clip: Path) -> Iterator[bytes]:
    yield _FORM_HEAD
    with clip.open("rb") as file:
        while chunk := file.read(MIB):
            yield chunk
    yield _FORM_TAIL


def name_by(way: str, clip: Path, client: Client) -> str:
    """What stands for `clip` in a request; it is encoded, or uploaded, for that."""
    if way == DATA:
        return "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    return f"file://{clip.name}" if way == FILE else client.upload(clip)


def talk(url: str, way: str, clip: Path) -> Chat:
    """Ask all questions, one after the other."""
    address = urlsplit(url)
    client = Client(address.hostname or "", address.port, timeout=harness.TIMEOUT_S)
    with contextlib.closing(client):
        began = time.perf_counter()
        named = name_by(way, clip, client)
        prepare_s = time.perf_counter() - began
        media = {"type": "video_url", "video_url": {"url": named}}
        messages: list[dict[str, Any]] = []
        said, turns_s = [], []
        for question in QUESTIONS:
            text = {"type": "text", "text": question}
            messages.append({"role": "user", "content": [text] if messages else [media, text]})
            began = time.perf_counter()
            said.append(client.ask(messages))
            turns_s.append(time.perf_counter() - began)
            messages.append({"role": "assistant", "content": said[-1][0]})
        return Chat(prepare_s, turns_s, client.sent_bytes, said)


@contextmanager
def serving(way: str, directory: Path, clip: Path) -> Iterator[Running]:
    """The servers of one way.

    Args:
        way: Which.
        directory: Of the benchmark; holds the model.
        clip: In a directory of its own.
    """
    own = directory / way.replace(", ", "-").replace(" ", "-")
    links = own / "links"
    links.mkdir(mode=0o700, parents=True)
    seen: Mapping[str, Path] = {SHARED: links, FILE: clip.parent}
    flags = ("--media-path", str(seen[way])) if way in seen else ()
    with servers.llama_server(directory, flags=flags) as engine:
        if way in {DATA, FILE}:
            yield Running(engine.url, engine.pid)
            return
        how = ("--media-path", str(links)) if way == SHARED else ("--delivery", "inline")
        front = ("--upstream", engine.url, "--engine", "llama-server", *how)
        with servers.mediagate(own, durable=True, flags=front) as gateway:
            yield Running(gateway.url.removesuffix("/v1/files"), engine.pid, gateway.pid)


def measure(way: str, directory: Path, clip: Path, number: int) -> tuple[Sample, Any]:
    """One chat with fresh servers; also what was said.

    Raises:
        AssertionError: The client did not send what it should.
    """
    harness.warm_up_memory(directory, _LARGEST_BYTES)
    clip.read_bytes()  # into the page cache, whatever the way
    with serving(way, directory, clip) as running:
        gateway = running.gateway
        engine_s = harness.cpu_s(running.engine)
        gateway_s = harness.cpu_s(gateway) if gateway else 0.0
        client_s = time.process_time()
        chat = talk(running.url, way, clip)
        check_sent(chat.sent_bytes, way, clip)
        client_s = time.process_time() - client_s
        decoder_s = harness.cpu_of_ended_children_s(running.engine)
        engine_s = harness.cpu_s(running.engine) - engine_s - decoder_s
        engine_bytes = harness.peak_bytes(running.engine, alone=True)
        gateway_s = harness.cpu_s(gateway) - gateway_s if gateway else 0.0
        gateway_bytes = harness.peak_bytes(gateway, alone=True) if gateway else 0
    sample = Sample(
        server=way,
        round=number,
        sent_mb=round(chat.sent_bytes / 1e6, 3),
        wall_s=round(chat.prepare_s + sum(chat.turns_s), 2),
        prepare_s=round(chat.prepare_s, 3),
        first_s=round(chat.turns_s[0], 2),
        turn_s=round(Spread.of(chat.turns_s[1:]).median, 3),
        client_cpu_s=round(client_s, 2),
        gateway_cpu_s=round(gateway_s, 2),
        engine_cpu_s=round(engine_s, 2),
        decoder_cpu_s=round(decoder_s, 2),
        gateway_peak_mib=round(gateway_bytes / MIB, 1),
        engine_peak_mib=round(engine_bytes / MIB, 1),
    )
    return sample, chat.said


def check_sent(sent_bytes: int, way: str, clip: Path) -> None:
    """The clip once, or in base64 as often as it is asked about, or not at all; and words.

    Raises:
        AssertionError: Less, or more.
    """
    size_bytes = clip.stat().st_size
    encoded_bytes = -(-size_bytes // 3) * 4
    media_bytes = {DATA: len(QUESTIONS) * encoded_bytes, FILE: 0}.get(way, size_bytes)
    if not media_bytes < sent_bytes < media_bytes + _WORDS_BYTES:
        raise AssertionError(f"{way}: {sent_bytes} bytes were sent")


def decode(clip: Path, number: int) -> Sample:
    """Decode the clip as often as it is asked about, with the commands of llama-server, and drop the pictures."""
    data = clip.read_bytes()
    times_s, before = [], _cpu_of_children_s()
    for _ in QUESTIONS:
        began = time.perf_counter()
        for command in _DECODING:
            _feed(command, data)
        times_s.append(time.perf_counter() - began)
    cpu_s = _cpu_of_children_s() - before
    nothing = dict.fromkeys(Sample.__slots__, 0.0)
    figures = {
        "wall_s": round(sum(times_s), 2),
        "first_s": round(times_s[0], 2),
        "turn_s": round(Spread.of(times_s[1:]).median, 3),
        "decoder_cpu_s": round(cpu_s, 2),
    }
    return Sample(**{**nothing, "server": DECODER, "round": number, **figures})  # type: ignore[arg-type]  # by name


def _feed(command: Sequence[str], data: bytes) -> None:
    """Run it with `data` on its standard input; it may leave the rest once it knows enough, as ffprobe does."""
    quiet = subprocess.DEVNULL
    subprocess.run(
        command, input=data, stdout=quiet, stderr=quiet, check=True, timeout=harness.TIMEOUT_S
    )


def _cpu_of_children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def run(directory: Path, *, rounds: int) -> list[Sample]:
    """All chats."""
    clip = directory / "media" / "clip.mp4"
    clip.parent.mkdir()
    clips.make_clip(clip)
    samples: list[Sample] = []
    expected: Any = None
    for number in range(1, rounds + 1):
        first = (number - 1) % len(WAYS)
        for way in WAYS[first:] + WAYS[:first]:
            own = directory / f"round-{number}"
            own.mkdir(exist_ok=True)
            sample, said = measure(way, own, clip, number)
            expected = expected or said
            if said != expected:
                raise AssertionError(f"{way}: {said} instead of {expected}")
            samples.append(sample)
            _show(sample)
        samples.append(decode(clip, number))
        _show(samples[-1])
    return samples


def _show(sample: Sample) -> None:
    print(
        f"round {sample.round}  {sample.server:18} {sample.sent_mb:6.1f} MB  {sample.wall_s:6.2f} s  "
        f"turn {sample.turn_s:.3f} s  CPU client {sample.client_cpu_s:.2f} gateway {sample.gateway_cpu_s:.2f} "
        f"engine {sample.engine_cpu_s:.2f} decoder {sample.decoder_cpu_s:.2f} s  "
        f"peak gateway {sample.gateway_peak_mib:.0f} engine {sample.engine_peak_mib:.0f} MiB",
        flush=True,
    )


def report(samples: Sequence[Sample]) -> Sequence[Goal]:
    """What came out means this for the goals; ratios are taken within a round."""
    of: Mapping[tuple[str, int], Sample] = {(s.server, s.round): s for s in samples}
    rounds = sorted({s.round for s in samples})
    pairs = [(of[SHARED, n], of[DATA, n]) for n in rounds]
    sent = Spread.of([by_id.sent_mb / by_data.sent_mb for by_id, by_data in pairs])
    took = Spread.of([by_id.wall_s / by_data.wall_s for by_id, by_data in pairs])
    return [
        Goal(f"bytes sent, {SHARED}, of those by {DATA}", 8.33, sent.median * 100, "%"),
        Goal(f"time of ten turns, {SHARED}, against {DATA}", 0.75, took.median, "x"),
    ]


def versions() -> Mapping[str, str]:
    """Of what took part, and how it was started."""
    told = subprocess.run(["ffmpeg", "-version"], stdout=subprocess.PIPE, text=True, check=True)
    found = re.match(r"ffmpeg version (\S+)", told.stdout)
    return {
        "llama-server": servers.llama_server_version(),
        "llama-server flags": " ".join(servers.LLAMA_SERVER_FLAGS),
        "ffmpeg": found[1] if found else "unknown",
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with harness.workspace(2 * GIB) as directory:
        samples = run(directory, rounds=arguments.rounds)
        goals = report(samples)
        print("", *goals, sep="\n")
        path = harness.write_result(
            "conversation",
            command=("benchmarks.conversation", *sys.argv[1:]),
            directory=directory,
            versions=versions(),
            samples=[asdict(sample) for sample in samples],
            goals=goals,
        )
    print(path.relative_to(harness.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
