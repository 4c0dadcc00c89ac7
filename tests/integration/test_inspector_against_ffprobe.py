"""The inspector under a real server: its facts against ffprobe's, and its answers against the official client."""

import asyncio
import base64
import json
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from fractions import Fraction
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

import corpus
from mediagate.core.errors import FileNotFound, MediagateError
from mediagate.executor import Executor
from mediagate.gateway.inspector import Inspector, OpenedMedia
from mediagate.gateway.inspector_request import MODEL
from mediagate.media.facts import MediaFacts
from mediagate.media.probe import Prober
from mediagate.web.asgi import Receive, Scope, Send
from mediagate.web.errors import render

pytestmark = pytest.mark.media

SEED = random.SystemRandom().randrange(2**32)


# --- ffprobe ----------------------------------------------------------------------------------------------------------


def ffprobe(path: Path) -> dict[str, Any]:
    program = shutil.which("ffprobe")
    assert program, "Debian's package ffmpeg has ffprobe"
    answer = subprocess.run(
        [program, "-v", "error", "-of", "json", "-show_format", "-show_streams", str(path)],
        capture_output=True,
        check=True,
    )
    found = json.loads(answer.stdout)
    assert isinstance(found, dict)
    return found


def _check(facts: MediaFacts, found: dict[str, Any]) -> None:
    """Compare what two independent readers, FFmpeg 8 in PyAV and Debian's, say of one file."""
    sounds = [stream for stream in found["streams"] if stream["codec_type"] == "audio"]
    video = next((stream for stream in found["streams"] if stream["codec_type"] == "video"), None)
    if facts.container not in {"mpeg", "aac"}:  # they carry no duration; we count, ffprobe guesses
        tolerance_s = (
            0.1 if facts.container == "mp3" else 0.05
        )  # FFmpeg 8 takes the encoder's padding off
        assert facts.duration_s == pytest.approx(
            float(found["format"]["duration"]), abs=tolerance_s
        )
        assert facts.duration_s is not None
        assert facts.bit_rate_bps == pytest.approx(
            int(found["format"]["size"]) * 8 / facts.duration_s, rel=0.01
        )
    for track, sound in zip(facts.audio, sounds, strict=True):
        assert track.codec == sound["codec_name"]
        assert track.sample_rate_hz == int(sound["sample_rate"])
        assert track.channels == sound["channels"]
    if video is None:
        assert facts.video is None
        return
    assert facts.video is not None
    assert facts.video.codec == video["codec_name"]
    assert (facts.video.width, facts.video.height) == (video["width"], video["height"])
    assert facts.video.pixel_format == video["pix_fmt"]
    if video["avg_frame_rate"] != "0/0" and facts.video.frame_rate is not None:
        assert float(facts.video.frame_rate) == pytest.approx(
            float(Fraction(video["avg_frame_rate"])), rel=0.02
        )
    if "nb_frames" in video:
        assert facts.video.frame_count == int(video["nb_frames"])


def _check_colours(facts: MediaFacts, media: corpus.Media) -> None:
    """Each sampled frame shows the colour that was drawn at its time."""
    assert media.seconds is not None
    assert facts.duration_s == pytest.approx(media.seconds, abs=0.15)
    assert media.fps is not None
    count = round(media.seconds * media.fps)
    slack = (
        3 if facts.container == "avi" else 1
    )  # frames; beside sound, the AVI muxer puts empty ones first
    for frame in facts.frames:
        assert frame.at_s is not None
        number = round(frame.at_s * media.fps)
        around = {min(max(n, 0), count - 1) for n in range(number - slack, number + slack + 1)}
        wanted = {media.colours[n * len(media.colours) // count] for n in around}
        found = (frame.colour.red, frame.colour.green, frame.colour.blue)
        distances = [
            max(abs(a - b) for a, b in zip(found, colour, strict=True)) for colour in wanted
        ]
        assert min(distances) <= 20, (frame, wanted)


@pytest.mark.services
@pytest.mark.parametrize("container", sorted(corpus.CLIPS))
async def test_random_clips_are_measured_as_ffprobe_does(container: str, tmp_path: Path) -> None:
    rng = random.Random(f"{SEED}{container}")
    for _ in range(2):
        media = corpus.random_clip(rng, container=container)
        path = media.write(tmp_path)

        facts = await Prober().probe(path, mime_type=media.mime_type)

        try:
            _check(facts, ffprobe(path))
            _check_colours(facts, media)
        except AssertionError as error:
            error.add_note(
                f"seed {SEED}, {media.filename}, asked for {media.width} x {media.height} at {media.fps}"
            )
            raise


@pytest.mark.services
@pytest.mark.parametrize("container", sorted(corpus.SOUNDS))
async def test_random_sounds_are_measured_as_ffprobe_does(container: str, tmp_path: Path) -> None:
    media = corpus.random_sound(random.Random(f"{SEED}{container}"), container=container)
    path = media.write(tmp_path)

    facts = await Prober().probe(path, mime_type=media.mime_type)

    try:
        _check(facts, ffprobe(path))
    except AssertionError as error:
        error.add_note(f"seed {SEED}, {media.filename}")
        raise


@pytest.mark.services
@pytest.mark.parametrize("container", sorted(corpus.IMAGES))
async def test_random_images_are_measured_as_ffprobe_does(container: str, tmp_path: Path) -> None:
    media = corpus.random_image(random.Random(f"{SEED}{container}"), container=container)
    path = media.write(tmp_path)

    facts = await Prober().probe(path, mime_type=media.mime_type)

    assert facts.image is not None
    assert (facts.image.width, facts.image.height) == (media.width, media.height), SEED
    if container not in {"animated.webp", "avif"}:  # Debian's ffprobe reads neither
        (picture,) = ffprobe(path)["streams"]
        assert (facts.image.width, facts.image.height) == (picture["width"], picture["height"]), (
            SEED
        )


@pytest.mark.services
@pytest.mark.parametrize("degrees", [90, 180, 270])
async def test_turned_clip_is_turned_as_ffprobe_says(degrees: int, tmp_path: Path) -> None:
    source = corpus.encode_clip(width=64, height=48).write(tmp_path)
    turned = tmp_path / "turned.mp4"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-i",
        str(source),
        "-c",
        "copy",
        "-metadata:s:v",
        f"rotate={degrees}",
    ]
    subprocess.run([*command, str(turned)], check=True)

    facts = await Prober().probe(turned, mime_type="video/mp4")

    (side,) = next(s for s in ffprobe(turned)["streams"] if s["codec_type"] == "video")[
        "side_data_list"
    ]
    assert facts.video is not None
    assert (
        facts.video.rotation_degrees == -side["rotation"] % 360
    )  # ffprobe counts against the clock
    assert facts.video.rotation_degrees in {
        degrees,
        360 - degrees,
    }  # and ffmpeg's tag depends on its version


@pytest.mark.services
async def test_long_clip_is_sampled_over_its_whole_length_in_time(tmp_path: Path) -> None:
    path = tmp_path / "long.mkv"
    picture = "testsrc2=size=640x360:rate=30:duration=120"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        picture,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
    ]
    subprocess.run([*command, str(path)], check=True)
    began = time.monotonic()

    facts = await Prober().probe(path, mime_type="video/x-matroska")

    assert time.monotonic() - began < 10
    assert [frame.at_s for frame in facts.frames] == pytest.approx([12, 36, 60, 84, 108], abs=0.1)


# --- the official client ----------------------------------------------------------------------------------------------


def _answered(inspector: Inspector) -> Any:
    """The layer that answers errors, as the gateway has one."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await inspector(scope, receive, send)
        except MediagateError as error:
            status, headers, body = render(error)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return app


def _no_handle(_: str) -> AbstractAsyncContextManager[OpenedMedia]:
    raise FileNotFound("There is no such file.")


@pytest.fixture
def executor() -> Iterator[Executor]:
    executor = Executor("inspector", threads=1)
    yield executor
    executor.close()


@pytest.fixture
async def client(executor: Executor, tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    inspector = Inspector(
        prober=Prober(),
        open_media=_no_handle,
        executor=executor,
        spool_dir=tmp_path,
        clock=time.time,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(_answered(inspector), lifespan="off", log_level="error", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as connected:
            yield connected
        server.should_exit = True
        await serving


def _ask(*media: corpus.Media) -> Any:
    parts = [
        {"type": "image_url" if m.mime_type.startswith("image/") else "video_url", **_named(m)}
        for m in media
    ]
    return [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, *parts]}]


def _named(media: corpus.Media) -> dict[str, Any]:
    key = "image_url" if media.mime_type.startswith("image/") else "video_url"
    return {key: {"url": f"data:{media.mime_type};base64,{base64.b64encode(media.data).decode()}"}}


async def test_official_client_reads_the_whole_answer(client: openai.AsyncOpenAI) -> None:
    media = corpus.encode_clip(width=128, height=96, fps=30, seconds=1)

    answer = await client.chat.completions.create(model=MODEL, messages=_ask(media))

    text = answer.choices[0].message.content or ""
    assert "h264, 128 x 96 pixels, 30 frames per second, 30 frames" in text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(text.split())
    assert answer.usage.prompt_tokens == 0


async def test_official_client_reads_the_stream(client: openai.AsyncOpenAI) -> None:
    media = corpus.encode_clip(width=128, height=96, fps=30, seconds=1)
    image = corpus.encode_image(width=40, height=30)

    stream = await client.chat.completions.create(
        model=MODEL,
        messages=_ask(media, image),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "128 x 96 pixels" in text
    assert re.search(r"File 2 of 2.*40 x 30 pixels", text, re.DOTALL)
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(text.split())


async def test_official_client_finds_the_model(client: openai.AsyncOpenAI) -> None:
    models = [model.id async for model in client.models.list()]

    assert models == [MODEL]
    assert (await client.models.retrieve(MODEL)).owned_by == "mediagate"
    with pytest.raises(openai.NotFoundError, match=MODEL):
        await client.models.retrieve("gpt-9")


async def test_official_client_gets_a_400_for_a_broken_file_even_streamed(
    client: openai.AsyncOpenAI,
) -> None:
    whole = corpus.encode_image(width=100, height=100)
    broken = corpus.Media(
        data=whole.data[:-30], filename="b.png", mime_type="image/png", container="png"
    )

    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model=MODEL, messages=_ask(broken), stream=stream)

        assert caught.value.code == "unreadable_media"
        assert caught.value.param == "messages[0].content[1].image_url.url"
