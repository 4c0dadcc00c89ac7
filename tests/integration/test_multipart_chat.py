"""A question and its files in one request, as vLLM issue #38531 asks for it: the real curl, real servers."""

import base64
import errno
import json
import os
import random
import shlex
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import corpus
import servers
from mediagate.testing.upstream import Received
from servers import RawClient, Server
from upstreams import ThreadedUpstream

pytestmark = pytest.mark.media

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
MIB = 1024**2
MODEL = "mediagate-inspector"
PNG = corpus.png_pixel()
GIF = corpus.gif_pixel()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--file-upload-max-size-mb", "32")
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def inspector(shared: Server) -> Iterator[Server]:
    yield shared
    servers.empty(shared)
    assert "Traceback" not in shared.log()


class Upstream(ThreadedUpstream):
    """Answers with what `status` says, and holds an answer until it is told to `go_on`, where the query says `hold`."""

    def __init__(self) -> None:
        super().__init__()
        self.status = b"200 OK"
        self.asked, self.gone = threading.Event(), threading.Event()
        for path in (CHAT, RESPONSES):
            self.server.handlers[path] = self._answer

    async def _answer(self, request: Received) -> None:
        await request.read_body()
        if "hold" in request.target:
            self.asked.set()
            await request.until_gone()
            self.gone.set()
            return
        await request.answer(
            b'{"ok":true}', status=self.status, headers=b"content-type: application/json\r\n"
        )


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as started:
        yield started


@pytest.fixture(scope="module")
def in_front(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = (
        "--upstream",
        upstream.server.url,
        "--engine",
        "openai",
        "--file-upload-max-size-mb",
        "1",
    )
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(in_front: Server, upstream: Upstream) -> Iterator[Server]:
    upstream.server.received.clear()
    upstream.status = b"200 OK"
    yield in_front
    servers.empty(in_front)
    assert "Traceback" not in in_front.log()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with media in it."""
    directory = tmp_path_factory.mktemp("media")
    for medium in (
        corpus.encode_clip(container="mp4", seconds=0.5, stem="clip"),
        corpus.encode_image(container="png", stem="red picture"),
        corpus.encode_sound(container="wav", seconds=0.3, stem="sound"),
    ):
        medium.write(directory)
    (directory / "request.json").write_text(json.dumps(question("What?")))
    return directory


def question(content: object, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


@dataclass(frozen=True, slots=True)
class Curled:
    """What curl printed."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """What the inspector said."""
        assert self.status == 200, self
        return str(json.loads(self.body)["choices"][0]["message"]["content"])

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        assert self.status >= 400, self
        return dict(json.loads(self.body)["error"])

    @property
    def file_ids(self) -> list[str]:
        ids = self.headers.get("x-mediagate-file-ids")
        return ids.split(",") if ids else []


def curl(server: Server, *arguments: str, place: Path, path: str = CHAT) -> Curled:
    """Ask; curl itself must succeed, so it must have read the whole answer."""
    run = subprocess.run(
        ["curl", "-sS", "-D", "/dev/stderr", server.url + path, *arguments],
        cwd=place,
        capture_output=True,
        timeout=servers.TIMEOUT_S,
        check=False,
    )
    head = run.stderr.decode().split("\r\n\r\n")
    assert run.returncode == 0, head
    status_line, *lines = head[-2].split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return Curled(int(status_line.split(" ")[1]), headers, run.stdout)


def form(*files: str, payload: str) -> list[str]:
    return [word for part in (*files, f"payload={payload}") for word in ("-F", part)]


# the request's own words ----------------------------------------------------------------------------------


def test_command_line_of_the_request_works(inspector: Server, place: Path) -> None:
    """Its own, but for the model, the path and the words."""
    command = (
        f"curl -sS {inspector.url}/v1/chat/completions "
        f'-F "file=@{place}/clip.mp4" '
        """-F 'payload={"model":"mediagate-inspector","messages":[{"role":"user","content":"What is it?"}]}'"""
    )

    run = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60)

    text = json.loads(run.stdout)["choices"][0]["message"]["content"]
    assert "File 1 of 1: clip.mp4" in text
    assert "- Duration: 0.5 seconds" in text


@pytest.mark.parametrize(
    "payload",
    [
        "payload=" + json.dumps(question("What?")),
        "payload=<request.json",
        "payload=@request.json",
        "payload=@request.json;type=application/json",
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_payload_may_be_sent_in_any_way_before_or_after_the_file(
    inspector: Server, place: Path, payload: str, is_first: bool
) -> None:
    parts = ["-F", payload, "-F", "file=@clip.mp4"]

    answer = curl(inspector, *(parts if is_first else parts[2:] + parts[:2]), place=place)

    assert "File 1 of 1: clip.mp4" in answer.text
    assert answer.file_ids == servers.list_ids(inspector)


def test_several_files_are_asked_about_in_their_order(inspector: Server, place: Path) -> None:
    """The same field twice, as a browser's form does it, and two more."""
    files = ("file=@red picture.png", "file=@clip.mp4", "other=@sound.wav")

    answer = curl(inspector, *form(*files, payload="<request.json"), place=place)

    names = ["red picture.png", "clip.mp4", "sound.wav"]
    for number, name in enumerate(names, 1):
        assert f"File {number} of 3: {name}" in answer.text
    assert [
        servers.get(inspector, f"/v1/files/{each}").json()["filename"] for each in answer.file_ids
    ] == names


def test_content_parts_name_the_files_where_they_belong(inspector: Server, place: Path) -> None:
    """By filename, blanks included, and by field; the sound, which nothing names, comes last."""
    content = [
        {"type": "video_url", "video_url": {"url": "attachment://clip.mp4"}},
        {"type": "text", "text": "Is this in it?"},
        {"type": "image_url", "image_url": {"url": "attachment://red picture.png"}},
        {"type": "image_url", "image_url": {"url": "attachment://picture"}},
    ]
    files = ("file=@sound.wav", "picture=@red picture.png", "file=@clip.mp4")

    answer = curl(inspector, *form(*files, payload=json.dumps(question(content))), place=place)

    for number, name in enumerate(
        ["clip.mp4", "red picture.png", "red picture.png", "sound.wav"], 1
    ):
        assert f"File {number} of 4: {name}" in answer.text


def test_answer_is_streamed(inspector: Server, place: Path) -> None:
    payload = json.dumps(question("What?", stream=True))

    answer = curl(inspector, "-N", *form("file=@clip.mp4", payload=payload), place=place)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert len(answer.file_ids) == 1
    events = answer.body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    said = [json.loads(each.removeprefix("data: ")) for each in events[:-2]]
    text = "".join(each["choices"][0]["delta"].get("content", "") for each in said)
    assert "File 1 of 1: clip.mp4" in text


def test_next_turn_names_the_file_instead_of_sending_it_again(
    inspector: Server, place: Path
) -> None:
    first = curl(inspector, *form("file=@clip.mp4", payload="<request.json"), place=place)
    (file_id,) = first.file_ids

    again = servers.chat(inspector, {"type": "file", "file": {"file_id": file_id}})

    assert again.status == 200
    assert again.json()["choices"][0]["message"]["content"] == first.text
    assert again.header("x-mediagate-file-ids") is None


def test_file_is_one_of_the_store_and_lives_an_hour_used_or_not(
    inspector: Server, place: Path
) -> None:
    (file_id,) = curl(
        inspector, *form("file=@clip.mp4", payload="<request.json"), place=place
    ).file_ids

    servers.chat(inspector, {"type": "file", "file": {"file_id": file_id}})

    file = servers.get(inspector, f"/v1/files/{file_id}").json()
    content = servers.get(inspector, f"/v1/files/{file_id}/content").body
    assert content == (place / "clip.mp4").read_bytes()
    assert (file["purpose"], file["expires_at"] - file["created_at"]) == ("user_data", 3600)


# past the shell's limit ----------------------------------------------------------------------------------


@pytest.fixture
def long_clip(place: Path, tmp_path: Path) -> Path:
    """24 MB of MP4: the clip, and a `free` box behind it."""
    clip = (place / "clip.mp4").read_bytes()
    rest = 24_000_000 - len(clip)
    noise = random.Random(1).randbytes(rest - 8)
    path = tmp_path / "long.mp4"
    path.write_bytes(clip + struct.pack(">I4s", rest, b"free") + noise)
    return path


def test_clip_whose_base64_no_command_line_can_hold_is_asked_about(
    inspector: Server, long_clip: Path
) -> None:
    """What the request is about: 24 MB, of which base64 makes 32, where Linux takes 128 KiB an argument."""
    encoded = base64.b64encode(long_clip.read_bytes()).decode()
    part = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{encoded}"}}
    body = json.dumps(question([part]))
    url = inspector.url + CHAT
    in_shell = (
        f"curl -sS {url} -H 'Content-Type: application/json' -d "
        '\'{"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": '
        '{"url": "data:video/mp4;base64,\'"$(base64 -w 0 ' + shlex.quote(str(long_clip)) + ')"'
        "'\"}}]}]}'"
    )

    with pytest.raises(OSError, match="Argument list too long") as refused:
        subprocess.run(["curl", "-sS", url, "-d", body], check=True)
    shell = subprocess.run(["bash", "-c", in_shell], capture_output=True, text=True, check=False)
    answer = curl(
        inspector,
        *form("file=@long.mp4", payload=json.dumps(question("What?"))),
        place=long_clip.parent,
    )

    assert refused.value.errno == errno.E2BIG
    assert len(encoded) + 4096 > os.sysconf("SC_ARG_MAX")
    assert shell.returncode == 126
    assert "Argument list too long" in shell.stderr
    assert "24,000,000 bytes" in answer.text
    assert "- Duration: 0.5 seconds" in answer.text


# what the engine gets --------------------------------------------------------------------------------------


def test_engine_gets_plain_json_with_the_media_in_it(
    gateway: Server, upstream: Upstream, place: Path
) -> None:
    payload = (
        '{"model": "m", "temperature": 1.0, "messages": [{"role": "user", "content": "\\u00e9"}]}'
    )

    answer = curl(
        gateway,
        *("-H", "Authorization: Bearer of-the-engine", "-H", "X-Other: 1"),
        *form("file=@red picture.png", payload=payload),
        place=place,
    )

    assert (answer.status, answer.body, len(answer.file_ids)) == (200, b'{"ok":true}', 1)
    (received,) = upstream.server.received
    data = base64.b64encode((place / "red picture.png").read_bytes())
    uri = b"data:image/png;base64," + data
    part = b'{"type":"image_url","image_url":{"url":"%b"}}' % uri
    content = b'[{"type":"text","text":"\\u00e9"},%b]' % part
    assert received.body == payload.encode().replace(b'"\\u00e9"', content)
    assert received.values("content-type") == ["application/json"]
    assert received.values("content-length") == [str(len(received.body))]
    assert received.values("transfer-encoding") == received.values("expect") == []
    assert received.values("authorization") == ["Bearer of-the-engine"]
    assert received.values("x-other") == ["1"]


@pytest.mark.parametrize("is_named", [True, False])
def test_responses_take_forms_too(
    gateway: Server, upstream: Upstream, place: Path, is_named: bool
) -> None:
    image = {"type": "input_image", "image_url": "attachment://file"}
    text = {"type": "input_text", "text": "What?"}
    content: Any = [{"role": "user", "content": [text, image]}] if is_named else "What?"
    payload = json.dumps({"model": "m", "input": content})

    answer = curl(
        gateway, *form("file=@red picture.png", payload=payload), place=place, path=RESPONSES
    )

    assert (answer.status, len(answer.file_ids)) == (200, 1)
    (received,) = upstream.server.received
    (item,) = json.loads(received.body)["input"]
    uri = (
        "data:image/png;base64,"
        + base64.b64encode((place / "red picture.png").read_bytes()).decode()
    )
    detail = {} if is_named else {"detail": "auto"}
    assert item["content"] == [text, {"type": "input_image", "image_url": uri, **detail}]


def test_responses_have_no_part_for_a_video_that_nothing_names(
    gateway: Server, upstream: Upstream, place: Path
) -> None:
    payload = json.dumps({"model": "m", "input": "What?"})

    answer = curl(gateway, *form("file=@clip.mp4", payload=payload), place=place, path=RESPONSES)

    assert (answer.status, answer.error["code"]) == (400, "media_kind_mismatch")
    assert upstream.server.received == []
    servers.until(gateway.is_clean)


def test_without_file_uploads_a_form_passes_as_it_is(upstream: Upstream, place: Path) -> None:
    """H96: as the bare server, which may take forms of its own."""
    upstream.server.received.clear()
    flags = ("--upstream", upstream.server.url, "--no-enable-file-uploads")

    with servers.serving(*flags, store=None) as server:
        answer = curl(server, *form("file=@clip.mp4", payload="<request.json"), place=place)

    assert (answer.status, answer.file_ids) == (200, [])
    (received,) = upstream.server.received
    assert received.values("content-type")[0].startswith("multipart/form-data")
    assert (place / "clip.mp4").read_bytes() in received.body


def test_files_belong_to_the_caller(tmp_path: Path, place: Path) -> None:
    """H66: as those that were uploaded; another scope neither sees nor names them."""
    with servers.serving("--file-upload-scope-header", "X-Team", store=tmp_path / "s") as server:
        (file_id,) = curl(
            server,
            *("-H", "X-Team: one"),
            *form("file=@clip.mp4", payload="<request.json"),
            place=place,
        ).file_ids
        target = f"/v1/files/{file_id}"
        own = servers.request(server, "GET", target, headers={"X-Team": "one"})
        foreign = servers.request(server, "GET", target, headers={"X-Team": "two"})
        named = question([{"type": "file", "file": {"file_id": file_id}}])
        asked = curl(
            server,
            *("-H", "X-Team: two", "-F", f"payload={json.dumps(named)}"),
            place=place,
        )

    assert (own.status, foreign.status) == (200, 404)
    assert (asked.status, asked.error["code"]) == (404, "file_not_found")


# nothing is left -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "payload", "code", "param"),
    [
        (["file=@clip.mp4"], None, "invalid_value", "payload"),
        (["file=@clip.mp4"], "{", "malformed_body", "payload"),
        (
            ["file=@clip.mp4"],
            json.dumps({"model": "m", "messages": []}),
            "invalid_value",
            "messages",
        ),
        (["file=clip.mp4"], "<request.json", "invalid_value", "file"),
        (["a=@clip.mp4", "b=@request.json"], "<request.json", "unsupported_media_type", "b"),
        (
            ["file=@clip.mp4"],
            json.dumps(question([{"type": "video_url", "video_url": {"url": "attachment://x"}}])),
            "invalid_reference",
            "messages[0].content[0].video_url.url",
        ),
        (
            ["file=@clip.mp4", "file=@sound.wav"],
            json.dumps(
                question([{"type": "image_url", "image_url": {"url": "attachment://clip.mp4"}}])
            ),
            "media_kind_mismatch",
            "messages[0].content[0].image_url.url",
        ),
    ],
)
def test_refusal_leaves_nothing(
    gateway: Server,
    upstream: Upstream,
    place: Path,
    files: list[str],
    payload: str | None,
    code: str,
    param: str,
) -> None:
    parts = form(*files, payload=payload or "")

    answer = curl(gateway, *(parts if payload else parts[:-2]), place=place)

    assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, param)
    assert answer.file_ids == []
    assert upstream.server.received == []
    servers.until(gateway.is_clean)


def test_name_of_a_form_is_refused_in_plain_json(gateway: Server, upstream: Upstream) -> None:
    part = {"type": "image_url", "image_url": {"url": "attachment://clip.mp4"}}

    answer = servers.chat(gateway, part)

    assert answer.code == (400, "invalid_reference")
    assert answer.error["param"] == "messages[0].content[1].image_url.url"
    assert "multipart/form-data" in answer.error["message"]
    assert upstream.server.received == []


def test_too_large_a_file_is_refused_while_it_is_sent_and_curl_reads_why(
    gateway: Server, long_clip: Path
) -> None:
    """H9: as on `/v1/files`; the answer names the part."""
    (long_clip.parent / "a.png").write_bytes(PNG)

    answer = curl(
        gateway,
        *form("first=@a.png", "second=@long.mp4", payload=json.dumps(question("?"))),
        place=long_clip.parent,
    )

    assert (answer.status, answer.error["code"]) == (413, "file_too_large")
    assert answer.error["param"] == "second"
    servers.until(gateway.is_clean)


def test_client_that_leaves_between_two_files_leaves_nothing(
    gateway: Server, upstream: Upstream
) -> None:
    """H22: on disk, in the index and of the quota."""
    begun = servers.part("a", PNG, "a.png") + servers.part("b", GIF + bytes(100_000), "b.gif")

    with RawClient(gateway) as client:
        client.send_head(
            "POST", CHAT, f"Content-Type: {servers.FORM_TYPE}", "Content-Length: 900000"
        )
        client.send(begun[:-50_000])
        servers.until(lambda: gateway.usage()[1] == 2)
        client.reset()

    servers.until(gateway.is_clean)
    assert upstream.server.received == []


def test_client_that_leaves_before_the_answer_leaves_nothing(
    gateway: Server, upstream: Upstream
) -> None:
    """Nobody knows the ids; and the engine stops working for nobody."""
    payload = servers.part("payload", json.dumps(question("?")).encode())
    body = servers.form(payload, servers.part("a", PNG, "a.png"))
    upstream.asked.clear()
    upstream.gone.clear()

    with RawClient(gateway) as client:
        client.send_head(
            *("POST", CHAT + "?hold", f"Content-Type: {servers.FORM_TYPE}"),
            f"Content-Length: {len(body)}",
        )
        client.send(body)
        assert upstream.asked.wait(30)
        assert gateway.usage()[1] == 1
        client.reset()
        assert upstream.gone.wait(30)

    servers.until(gateway.is_clean)


def test_refusal_of_the_engine_passes_with_the_ids_and_a_second_try_names_them(
    gateway: Server, upstream: Upstream, place: Path
) -> None:
    upstream.status = b"503 Service Unavailable"
    busy = curl(gateway, *form("file=@sound.wav", payload="<request.json"), place=place)
    upstream.status = b"200 OK"

    again = servers.chat(gateway, {"type": "file", "file": {"file_id": busy.file_ids[0]}})

    assert (busy.status, busy.body) == (503, b'{"ok":true}')
    assert again.status == 200


def test_engine_that_is_not_there_leaves_nothing(tmp_path: Path, place: Path) -> None:
    with servers.serving("--upstream", "http://127.0.0.1:9", store=tmp_path / "store") as server:
        answer = curl(server, *form("file=@clip.mp4", payload="<request.json"), place=place)

        assert (answer.status, answer.error["code"]) == (502, "upstream_unreachable")
        assert answer.file_ids == []
        servers.until(server.is_clean)
