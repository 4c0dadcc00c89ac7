"""`make demo`: the main job from end to end, on a clip encoded just now; exits 0 only if every step did what it says.

Starts `mediagate serve` with its built-in inspector on a free loopback port, uploads, asks three times by id,
deletes, and prints the `curl` lines that do the same by hand.
"""

import array
import json
import math
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import av
import httpx2
from PIL import Image

CLIP = Path(__file__).parents[1] / "build" / "demo" / "clip.mp4"
WIDTH, HEIGHT, FPS = 640, 360, 25
COLOURS = ("red", "green", "blue")  # one second each
SAMPLE_RATE, TONE_HZ = 48_000, 440
START_TIMEOUT_S = STOP_TIMEOUT_S = 20
MODEL = "mediagate-inspector"
BY_HAND = "http://127.0.0.1:8080"  # where `make serve` listens


def main() -> None:
    """Run the steps."""
    say("1. Encode a clip")
    encode_clip(CLIP)
    size = CLIP.stat().st_size
    note(f"{len(COLOURS)} s of H.264, {WIDTH}x{HEIGHT} at {FPS} frames/s: red, green, blue")
    note(f"with an AAC tone of {TONE_HZ} Hz: {size:,} bytes in {os.path.relpath(CLIP)}")

    with tempfile.TemporaryDirectory(prefix="mediagate-demo-") as directory:
        say("2. Start the gateway, with the built-in inspector behind it")
        with serving(Path(directory)) as url, httpx2.Client(base_url=url, trust_env=False) as http:
            note(f"mediagate serve answers at {url}")
            converse(http, size)
        note("SIGTERM: the gateway drained and exited with 0")

    say("The same by hand: `make serve` in one terminal, these lines in another")
    print()
    print("\n\n".join(by_hand()))
    print("\nAll steps did what they say.")


def converse(http: httpx2.Client, size: int) -> None:
    """Upload, ask three times, delete, look again."""
    say("3. Upload it, once")
    with CLIP.open("rb") as source:
        reply = http.post(
            "/v1/files", data={"purpose": "user_data"}, files={"file": ("clip.mp4", source)}
        )
    check(reply.status_code == 200, f"the upload was answered {reply.status_code}: {reply.text}")
    uploaded = reply.json()
    file_id = uploaded["id"]
    check(uploaded["bytes"] == size, f"{uploaded['bytes']} bytes arrived, {size} were sent")
    note(f"{file_id}: {uploaded['bytes']:,} bytes of {uploaded['mime_type']}")

    say(f"4. Ask about vllm-file://{file_id}")
    answer = ask(http, video_part(f"vllm-file://{file_id}"), "What is in this clip?")
    seconds = len(COLOURS)
    measured = f"{WIDTH} x {HEIGHT} pixels", f"{FPS} frames per second", f"{seconds} seconds"
    for fact in ("h264", "aac", *measured, *COLOURS):
        check(fact in answer.lower(), f"the answer does not say {fact}")

    say("5. Ask again, by the bare id: nothing is sent twice")
    again = ask(http, video_part(file_id), "And how long is it?")
    check("h264" in again.lower(), "the bare id was not understood")

    say("6. Ask a third time, with OpenAI's own file part")
    third = ask(http, file_part(file_id), "Once more?")
    check("h264" in third.lower(), "the file part was not understood")

    say("7. Delete it")
    reply = http.delete(f"/v1/files/{file_id}")
    check(reply.status_code == 200, f"the deletion was answered {reply.status_code}: {reply.text}")
    note(reply.text)

    say("8. Look again")
    reply = http.get(f"/v1/files/{file_id}")
    check(reply.status_code == 404, f"the deleted file was answered {reply.status_code}")
    check(reply.json()["error"]["code"] == "file_not_found", f"an odd 404: {reply.text}")
    note(f"404: {reply.text}")


def ask(http: httpx2.Client, part: dict[str, Any], question: str) -> str:
    """Ask about one content part, print the answer as it comes, return it."""
    note(f"» {question}\n")
    pieces: list[str] = []
    with http.stream("POST", "/v1/chat/completions", json=question_body(part, question)) as reply:
        if reply.status_code != 200:
            reply.read()
            fail(f"the question was answered {reply.status_code}: {reply.text}")
        print("   ", end="")
        for line in reply.iter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                print()
                return "".join(pieces)
            if not line.startswith("data: "):
                continue
            event = json.loads(data)
            check("choices" in event, f"the answer failed: {data}")
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                print(piece.replace("\n", "\n   "), end="", flush=True)
                pieces.append(piece)
    fail("the answer broke off before its end")


def question_body(part: dict[str, Any], question: str) -> dict[str, Any]:
    """A chat request: one media part, one question."""
    content = [part, {"type": "text", "text": question}]
    return {
        "model": MODEL,
        "stream": True,
        "messages": [{"role": "user", "content": content}],
    }


def video_part(url: str) -> dict[str, Any]:
    """What vLLM takes; the gateway takes an id in place of a URL."""
    return {"type": "video_url", "video_url": {"url": url}}


def file_part(file_id: str) -> dict[str, Any]:
    """What OpenAI takes."""
    return {"type": "file", "file": {"file_id": file_id}}


def by_hand() -> Iterator[str]:
    """The `curl` lines; the shell keeps the id in a variable."""
    clip = shlex.quote(os.path.relpath(CLIP))
    yield (
        f"id=$(curl -sS {BY_HAND}/v1/files -F purpose=user_data -F file=@{clip}"
        " | grep -oE 'file-[0-9a-f]{32}'); echo $id"
    )
    chat = f"curl -sSN {BY_HAND}/v1/chat/completions -H 'Content-Type: application/json' -d"
    for part, question in (
        (video_part("vllm-file://$id"), "What is in this clip?"),
        (video_part("$id"), "And how long is it?"),
        (file_part("$id"), "Once more?"),
    ):
        body = json.dumps(question_body(part, question), separators=(",", ":"))
        yield f"{chat} '{body}'".replace("$id", "'$id'")
    yield f"curl -sS -X DELETE {BY_HAND}/v1/files/$id"
    yield f"curl -sSi {BY_HAND}/v1/files/$id"


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """A gateway of our own; its URL. Ends by SIGTERM, and must then exit with 0."""
    mediagate = Path(sys.executable).with_name("mediagate")
    # The demo shows the defaults, whatever the reader has configured.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MEDIAGATE_")}
    server = subprocess.Popen(  # noqa: S603 - our own program
        [mediagate, "serve", "--port", "0", "--file-upload-dir", directory / "store"],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    urls: queue.SimpleQueue[str] = queue.SimpleQueue()
    said: list[str] = []

    def listen() -> None:
        assert server.stderr is not None  # noqa: S101 - it is a pipe
        for line in server.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                urls.put(found[0])
        urls.put("")

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        try:
            url = urls.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            url = ""
        check(bool(url), "the gateway did not start:\n" + "".join(said))
        yield url
        server.send_signal(signal.SIGTERM)
        try:
            status = server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            fail("the gateway did not end after SIGTERM")
        check(status == 0, f"the gateway exited with {status}:\n" + "".join(said))
    finally:
        server.kill()
        server.wait()
        listener.join()


def encode_clip(path: Path) -> None:
    """Write the clip: a second of each colour, and a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=SAMPLE_RATE)
        sound.layout = "mono"
        for number in range(len(COLOURS) * FPS):
            picture = Image.new("RGB", (WIDTH, HEIGHT), COLOURS[number // FPS])
            frame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]  # PyAV's stub says so
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        samples = len(COLOURS) * SAMPLE_RATE
        for start in range(0, samples, 1024):
            container.mux(sound.encode(tone(start, min(1024, samples - start))))
        container.mux(video.encode())
        container.mux(sound.encode())


def tone(start: int, count: int) -> av.AudioFrame:
    """`count` samples of a sine, from sample number `start`."""
    turn = 2 * math.pi * TONE_HZ / SAMPLE_RATE
    values = array.array("f", (0.2 * math.sin(turn * n) for n in range(start, start + count)))
    frame = av.AudioFrame(format="fltp", layout="mono", samples=count)
    frame.planes[0].update(values.tobytes().ljust(frame.planes[0].buffer_size, b"\0"))
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    return frame


def say(title: str) -> None:
    """Begin a step."""
    print(f"\n{title}", flush=True)


def note(text: str) -> None:
    """Tell what came of it."""
    print(f"   {text}", flush=True)


def check(is_right: bool, complaint: str) -> None:
    """End the demo unless this holds."""
    if not is_right:
        fail(complaint)


def fail(complaint: str) -> NoReturn:
    """End the demo."""
    sys.exit(f"\nThe demo failed: {complaint}")


if __name__ == "__main__":
    main()
