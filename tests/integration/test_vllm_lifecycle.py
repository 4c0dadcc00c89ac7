"""Lives of real vLLM servers on one directory: limits as clients meet them, sounds, kill -9, another version, SIGTERM.

First a model for sounds on the newest version; it is killed with uploads going on. Then a model for pictures on the
oldest one, on what the first has left.
"""

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import pytest

import servers
import vllm_questions as questions
import vllm_servers
from mediagate.core.leases import LEASE_S
from servers import RawClient
from vllm_questions import (
    CHAT,
    ELSEWHERE,
    IN_CHAT,
    MESSAGES,
    OF_IMAGES,
    OF_SOUNDS,
    RESPONSES,
    Asker,
    Form,
    by_id,
    chat,
    inline,
)
from vllm_servers import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.media]

MIB = 1024**2
TOTAL_MIB, FILE_MIB = 1280, 1536
SLOTS = 4
"""By default."""
IDLE_S = 3
LIMITS = (
    *("--file-upload-max-total-gb", str(TOTAL_MIB / 1024)),
    *("--file-upload-max-size-mb", str(FILE_MIB)),
    *("--file-upload-idle-timeout-seconds", str(IDLE_S)),
)
SOUND, LONGER_SOUND = questions.sound(1.0), questions.sound(2.0)
IMAGE, OTHER_IMAGE = questions.image(questions.RED), questions.image(questions.BLUE)
CLIP = questions.clip(questions.RED, questions.BLUE)
UNKNOWN = "file-" + "0" * 32
RENDER = "/v1/chat/completions/render"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def newest(store: Path) -> Iterator[VllmServer]:
    with vllm_servers.serving(*LIMITS, store=store, model=vllm_servers.SOUND) as started:
        yield started


@pytest.fixture
def server(newest: VllmServer) -> Iterator[VllmServer]:
    """Afterwards nothing is left in it."""
    yield newest
    servers.empty(newest)


@dataclass(frozen=True, slots=True)
class Kept:
    """What was acknowledged before the server was killed."""

    image: str
    clip: str


@pytest.fixture(scope="module")
def kept(newest: VllmServer) -> Kept:
    """Uploads are acknowledged, one is under way, and a question is being answered: then all processes end."""
    asker = Asker(newest)
    kept = Kept(asker.upload(IMAGE), asker.upload(CLIP))
    sound = asker.upload(SOUND)
    with contextlib.ExitStack() as stack:
        # The upload last: whoever stalls for `IDLE_S` is given up.
        begin_answer(stack.enter_context(slow_reader(newest)), by_id(sound, SOUND).part)
        stack.enter_context(uploading(newest))
        servers.until(lambda: any(name.endswith(".partial") for name in newest.on_disk()))
        assert newest.leases() == 1
        newest.kill()
    return kept


@pytest.fixture(scope="module")
def oldest(kept: Kept, store: Path) -> Iterator[VllmServer]:
    assert kept
    with vllm_servers.serving(store=store, version=vllm_servers.OLDEST) as started:
        yield started


def uploading(server: VllmServer) -> contextlib.AbstractContextManager[RawClient]:
    """Somebody who has sent the beginning of a file."""
    return servers.slot_taken(server, IMAGE.data + bytes(MIB), size_bytes=64 * MIB)


def slow_reader(server: VllmServer) -> RawClient:
    """Somebody who holds next to nothing unread."""
    return RawClient(server, receive_buffer=4096)


def begin_answer(client: RawClient, part: Mapping[str, object]) -> None:
    """Ask for an answer that is longer than what holds unread, so that it cannot end, and see it begin."""
    more = {"n": 16, "temperature": 1, "logprobs": True, "top_logprobs": 20}
    body = json.dumps(chat(part, max_tokens=300, stream=True) | more).encode()
    client.send_head("POST", CHAT, "Content-Type: application/json", f"Content-Length: {len(body)}")
    client.send(body)
    assert client.read_head().status == 200
    client.receive_exactly(1)


# sounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*IN_CHAT, *OF_SOUNDS])
def test_a_sound_by_id_is_the_sound(server: VllmServer, name: str) -> None:
    """H73, H74, H77, H78: as by value, streamed too; another one is another."""
    form, asker = {**IN_CHAT, **OF_SOUNDS}[name], Asker(server)
    file_id, other_id = asker.upload(SOUND), asker.upload(LONGER_SOUND)
    said = asker.ask(form, inline(SOUND))

    assert asker.ask(form, by_id(file_id, SOUND)) == said
    assert asker.ask(form, by_id(other_id, LONGER_SOUND)) == asker.ask(form, inline(LONGER_SOUND))
    assert asker.ask(form, by_id(other_id, LONGER_SOUND)).prompt_tokens > said.prompt_tokens
    by_value = asker.ask_streaming(form, inline(SOUND))
    assert asker.ask_streaming(form, by_id(file_id, SOUND)) == by_value
    assert asker.post(CHAT, form.body(by_id(UNKNOWN, SOUND))).code == (404, "file_not_found")
    if name != "file":
        of_image = form.body(by_id(asker.upload(IMAGE), SOUND))
        assert asker.post(CHAT, of_image).code == (400, "media_kind_mismatch")


def test_a_form_with_a_sound(server: VllmServer) -> None:
    asker = Asker(server)
    body = servers.form(
        servers.part("file", SOUND.data, "a.wav"),
        servers.part("payload", json.dumps(chat()).encode()),
    )

    answer = asker.request("POST", CHAT, body, content_type=servers.FORM_TYPE)

    assert questions.read_chat(answer.json()) == asker.ask(IN_CHAT["file"], inline(SOUND))


@pytest.mark.parametrize("head", [40, 44])
def test_a_sound_without_a_sample(server: VllmServer, head: int) -> None:
    """400; a library's words would come with a 500."""
    asker = Asker(server)
    file_id = asker.upload(SOUND.data[:head])

    for form in (IN_CHAT["file"], OF_SOUNDS["input_audio"]):
        answer = asker.post(form.path, form.body(by_id(file_id, SOUND)))
        assert answer.status == 400
        assert answer.json()["error"]["message"].startswith("The file cannot be decoded")


# limits --------------------------------------------------------------------------------------------------

HOW = {
    "form": lambda path: ["-F", f"file=@{path}"],
    "raw": lambda path: ["-T", str(path)],
}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes no space until somebody reads it; tests give it a length."""
    path = tmp_path_factory.mktemp("media") / "large.png"
    path.write_bytes(IMAGE.data)
    return path


def curl(server: VllmServer, path: Path, *, how: str, expects: bool) -> tuple[int, str]:
    """Status and `error.code` of what curl printed; it must not have found the connection broken."""
    expect = "Expect: 100-continue" if expects else "Expect:"
    done = subprocess.run(
        [
            *("curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", "-H", expect),
            *(*HOW[how](path), f"{server.url}/v1/files"),
        ],
        capture_output=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)["error"]["code"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("expects", [True, False])
@pytest.mark.parametrize(
    ("size_mib", "refusal"),
    [(FILE_MIB + 8, (413, "file_too_large")), (TOTAL_MIB + 8, (507, "insufficient_storage"))],
)
def test_curl_reads_that_it_is_too_much(
    server: VllmServer, sparse: Path, how: str, expects: bool, size_mib: int, refusal: object
) -> None:
    """H10, H60: while most of the file is still to be sent, through uvicorn."""
    os.truncate(sparse, size_mib * MIB)
    assert curl(server, sparse, how=how, expects=expects) == refusal
    assert server.is_clean()


def test_who_waits_to_be_asked_for_the_body_is_not_asked(server: VllmServer) -> None:
    """H10: a `100 Continue` would be an invitation."""
    with RawClient(server) as client:
        client.send_head(
            *("PUT", "/v1/files", f"Content-Length: {(FILE_MIB + 8) * MIB}", "Expect: 100-continue")
        )
        answer = client.read_answer()
        assert answer.code == (413, "file_too_large")
        assert answer.header("connection") == "close"
        assert client.is_closed_by_server()


@contextlib.contextmanager
def slots_taken(server: VllmServer) -> Iterator[list[RawClient]]:
    """Others send, slowly, but often enough that nobody gives them up."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(IDLE_S / 10):
            for client in clients:
                with contextlib.suppress(OSError):  # a test may have closed one
                    client.send(b"\0")

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(uploading(server)) for _ in range(SLOTS)]
        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            servers.until(lambda: server.usage()[1] == SLOTS)
            yield clients
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("how", HOW)
def test_curl_reads_that_there_is_no_slot(server: VllmServer, tmp_path: Path, how: str) -> None:
    """H23, H94: four at once by default."""
    path = tmp_path / "a.png"
    path.write_bytes(IMAGE.data + bytes(2 * MIB))
    with slots_taken(server):
        assert curl(server, path, how=how, expects=False) == (503, "too_many_uploads")


class Attempts(httpx2.HTTPTransport):
    """Remembers what was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[httpx2.Response] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.answers.append(super().handle_request(request))
        return self.answers[-1]


@contextlib.contextmanager
def official_client(server: VllmServer, attempts: Attempts) -> Iterator[openai.OpenAI]:
    with (
        httpx2.Client(transport=attempts) as http,
        openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="any", http_client=http, max_retries=3
        ) as client,
    ):
        yield client


def test_the_official_client_waits_for_a_slot(server: VllmServer) -> None:
    """H94: as long as `Retry-After` says, then it succeeds."""
    attempts = Attempts()
    with slots_taken(server) as others, official_client(server, attempts) as client:

        def make_room() -> None:
            servers.until(lambda: attempts.answers)
            others[0].close()

        thread = threading.Thread(target=make_room)
        thread.start()
        file = client.files.create(file=("a.png", IMAGE.data), purpose="vision")
        thread.join()

    statuses = [answer.status_code for answer in attempts.answers]
    assert statuses[0] == 503
    assert statuses[-1] == 200
    assert int(attempts.answers[0].headers["retry-after"]) >= 1
    assert file.bytes == len(IMAGE.data)


def test_the_official_client_reads_that_it_is_too_much(server: VllmServer, sparse: Path) -> None:
    """H12: at once, and does not try again."""
    attempts = Attempts()
    os.truncate(sparse, (FILE_MIB + 8) * MIB)
    with (
        official_client(server, attempts) as client,
        sparse.open("rb") as file,
        pytest.raises(openai.APIStatusError) as refused,
    ):
        client.files.create(file=("a.png", file), purpose="vision")

    assert (refused.value.status_code, refused.value.code) == (413, "file_too_large")
    assert len(attempts.answers) == 1


def test_a_client_that_stalls_is_given_up(server: VllmServer) -> None:
    """P10."""
    began = time.monotonic()
    with uploading(server) as client:
        answer = client.read_answer()

    assert answer.code == (408, "receive_timeout")
    assert time.monotonic() - began > IDLE_S * 0.9
    servers.until(server.is_clean, timeout_s=10)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_leaves_leaves_nothing(server: VllmServer, how: str) -> None:
    """H22, P2."""
    with uploading(server) as client:
        servers.until(lambda: server.usage()[1] == 1)
        client.reset() if how == "reset" else client.close()

        servers.until(server.is_clean, timeout_s=10)


def test_a_gibibyte_takes_no_memory(server: VllmServer, sparse: Path) -> None:
    """P9: nor does vLLM stop answering meanwhile."""
    os.truncate(sparse, 1024 * MIB)
    serving = api_server(server)
    Path(f"/proc/{serving}/clear_refs").write_text("5")  # the peak begins now
    before = memory_mib(serving, "VmRSS")
    longest_s, sent_from = 0.0, time.monotonic()

    with subprocess.Popen(
        ["curl", "-sS", "-T", str(sparse), f"{server.url}/v1/files"], stdout=subprocess.PIPE
    ) as sending:
        while sending.poll() is None:
            began = time.monotonic()
            assert servers.get(server, "/health").status == 200
            longest_s = max(longest_s, time.monotonic() - began)
        answer, _ = sending.communicate()
    took_s = time.monotonic() - sent_from

    assert json.loads(answer)["bytes"] == 1024 * MIB
    assert memory_mib(serving, "VmHWM") - before < 64
    assert longest_s < max(2, took_s / 2)


def api_server(server: VllmServer) -> int:
    """The process that answers HTTP."""
    return server.pid


def memory_mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


# after kill -9, on the oldest version --------------------------------------------------------------------

FORMS: Mapping[str, Form] = {**IN_CHAT, **OF_IMAGES, **ELSEWHERE}


def test_what_was_acknowledged_is_there_and_nothing_else(oldest: VllmServer, kept: Kept) -> None:
    """H64, P1, P3: what nobody was told of is gone after one sweep, bytes and reservations."""
    asker = Asker(oldest)

    for file_id, media in ((kept.image, IMAGE), (kept.clip, CLIP)):
        assert asker.request("GET", f"/v1/files/{file_id}/content").body == media.data
    assert len(servers.list_ids(oldest)) == 3
    # What was reserved lapses in its own time, however soon this server was up.
    servers.until(lambda: oldest.usage()[1] == 3, timeout_s=LEASE_S + 30)
    servers.until(lambda: len(oldest.on_disk()) == 3, timeout_s=30)


@pytest.mark.parametrize("name", FORMS)
def test_an_image_by_an_id_from_before(oldest: VllmServer, kept: Kept, name: str) -> None:
    """H73, H74, H75, H76."""
    form, asker = FORMS[name], Asker(oldest)
    said = asker.ask(form, inline(IMAGE))

    assert asker.ask(form, by_id(kept.image, IMAGE)) == said
    if "token" not in form.path:
        assert asker.ask(form, by_id(asker.upload(OTHER_IMAGE), OTHER_IMAGE)) != said
    if form.path in {CHAT, RESPONSES, MESSAGES}:
        by_value = asker.ask_streaming(form, inline(IMAGE))
        assert asker.ask_streaming(form, by_id(kept.image, IMAGE)) == by_value


@pytest.mark.parametrize("name", IN_CHAT)
def test_a_clip_by_an_id_from_before(oldest: VllmServer, kept: Kept, name: str) -> None:
    asker = Asker(oldest)
    said = asker.ask(IN_CHAT[name], by_id(kept.clip, CLIP))
    assert said == asker.ask(IN_CHAT[name], inline(CLIP))
    assert said == asker.ask(IN_CHAT[name], by_id(kept.clip, CLIP))


def test_a_prompt_is_rendered_with_the_file(oldest: VllmServer, kept: Kept) -> None:
    asker = Asker(oldest)
    tokens = [
        asker.post(RENDER, chat(medium.part)).json()["token_ids"]
        for medium in (by_id(kept.image, IMAGE), inline(IMAGE))
    ]
    assert tokens[0] == tokens[1]
    assert asker.post(RENDER, chat(by_id(UNKNOWN, IMAGE).part)).code == (404, "file_not_found")


@pytest.mark.parametrize("name", FORMS)
def test_statuses_of_the_oldest(oldest: VllmServer, kept: Kept, name: str) -> None:
    """H77, H78."""
    form, asker = FORMS[name], Asker(oldest)
    assert asker.post(form.path, form.body(by_id(UNKNOWN, IMAGE))).code == (404, "file_not_found")
    assert asker.post(form.path, form.body(by_id("file-x", IMAGE))).code == (
        400,
        "invalid_reference",
    )
    if name not in {"file", "image_url or video_url, with a scheme"}:
        of_clip = asker.post(form.path, form.body(by_id(kept.clip, IMAGE)))
        assert of_clip.code == (400, "media_kind_mismatch")


def test_a_damaged_clip_on_the_oldest(oldest: VllmServer) -> None:
    asker = Asker(oldest)
    start, stop = CLIP.data.index(b"mdat") + 4, CLIP.data.index(b"moov") - 4
    noise = CLIP.data[:start] + b"\xa7" * (stop - start) + CLIP.data[stop:]

    answer = asker.post(CHAT, chat(by_id(asker.upload(noise), CLIP).part))

    assert answer.status == 400
    assert answer.json()["error"]["message"].startswith("The file cannot be decoded")


def test_a_form_on_the_oldest(oldest: VllmServer) -> None:
    asker = Asker(oldest)
    body = servers.form(
        servers.part("payload", json.dumps(chat()).encode()),
        servers.part("file", CLIP.data, "a.mp4"),
    )

    answer = asker.request("POST", CHAT, body, content_type=servers.FORM_TYPE)

    assert questions.read_chat(answer.json()) == asker.ask(IN_CHAT["file"], inline(CLIP))


def test_an_upload_is_taken_in_to_its_end_after_sigterm(oldest: VllmServer, kept: Kept) -> None:
    """P1, P11: what is sent to its end is kept; vLLM itself waits until whoever listens has left; exit status 0."""
    data = IMAGE.data + bytes(3 * MIB)
    with RawClient(oldest) as uploader, slow_reader(oldest) as listener:
        uploader.send_head("PUT", "/v1/files?filename=a.png", f"Content-Length: {len(data)}")
        uploader.send(data[:MIB])
        servers.until(lambda: any(name.endswith(".partial") for name in oldest.on_disk()))
        begin_answer(listener, by_id(kept.image, IMAGE).part)

        stopping = threading.Thread(target=oldest.stop)
        stopping.start()
        servers.until(lambda: "Waiting for connections to close" in oldest.log())
        uploader.send(data[MIB:])
        answer = uploader.read_answer()
        listener.close()
        stopping.join()

    assert answer.status == 200
    assert not oldest.is_running
    rows = oldest.rows("SELECT id, size_bytes FROM files")
    assert (answer.json()["id"], len(data)) in rows
    assert not any(name.endswith(".partial") for name in oldest.on_disk())
    assert oldest.leases() == 0
    assert "lifespan" not in oldest.log()
