"""Two API servers of one real vLLM share what is uploaded to either: no leader, no sticky sessions, no directory given.

A connection belongs to one of them for as long as it lives, and the kernel says to which.
"""

import contextlib
import functools
import http.client
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import servers
import vllm_questions as questions
import vllm_servers
from corpus import Media
from servers import Answer, RawClient
from vllm_questions import (
    CHAT,
    ELSEWHERE,
    IN_CHAT,
    OF_IMAGES,
    RESPONSES,
    Asker,
    Form,
    by_id,
    chat,
    inline,
)
from vllm_servers import VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.media]

KEY = "a-key-of-tests"
SCOPE = "X-Tenant"
FLAGS = (
    *("--api-server-count", "2", "--enable-file-uploads", "--enable-prompt-tokens-details"),
    *("--file-upload-scope-header", SCOPE, "--file-upload-max-size-mb", "64"),
)
IMAGE, OTHER_IMAGE = questions.image(questions.RED), questions.image(questions.BLUE)
CLIP = questions.clip(questions.RED, questions.BLUE)
UNKNOWN = "file-" + "0" * 32
FORMS: Mapping[str, Form] = {**IN_CHAT, **OF_IMAGES, **ELSEWHERE}


@dataclass(slots=True)
class At(Asker):
    """A tenant's client of one of the API servers.

    Attributes:
        pid: Which.
    """

    pid: int = 0

    def request(
        self, method: str, target: str, body: bytes | None = None, **headers: str
    ) -> Answer:
        """One request, on a connection that the API server has accepted."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        assert isinstance(self.server, VllmServer)
        with connected(self.server, self.pid) as connection:
            connection.request(method, target, body, self.headers | more)
            response = connection.getresponse()
            lines = [(name.lower(), value) for name, value in response.getheaders()]
            return Answer(response.status, lines, response.read())

    def of(self, tenant: str) -> "At":
        """Another tenant's, of the same API server."""
        return At(self.server, self.headers | {SCOPE: tenant}, self.pid)


@contextlib.contextmanager
def connected(server: VllmServer, pid: int) -> Iterator[http.client.HTTPConnection]:
    """A connection to one process of a server.

    What others have accepted meanwhile stays open, as they prefer whoever has fewest.
    """
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            connection = http.client.HTTPConnection(
                server.host, server.port, timeout=servers.TIMEOUT_S
            )
            stack.callback(connection.close)
            connection.connect()
            if servers.until(functools.partial(owner_of, server, connection)) == pid:
                yield connection
                return
    raise AssertionError(f"process {pid} accepts nothing")


def owner_of(server: VllmServer, connection: http.client.HTTPConnection) -> int | None:
    """The process at the other end; None: nobody has accepted it yet."""
    ours = connection.sock.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(field.rpartition(":")[2], 16) for field in fields[1:3]]
        if ports == [server.port, ours] and fields[9] != "0":
            held = f"socket:[{fields[9]}]"
            return next((pid for pid in server.pids if held in open_files(pid)), None)
    return None


def open_files(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(str(descriptor.readlink()))
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[VllmServer]:
    with vllm_servers.serving(*FLAGS, env={"VLLM_API_KEY": KEY}) as started:
        yield started
        assert re.findall("(?:file-|upload_|part_)(?!0{32})[0-9a-f]{32}", started.log()) == []


@pytest.fixture
def api_servers(server: VllmServer) -> tuple[At, At]:
    """One client of each, of the same tenant."""
    headers = {"authorization": f"Bearer {KEY}", SCOPE: "acme"}
    first, second = (
        At(server, headers, process.pid)
        for process in server.processes()
        if process.title.startswith("VLLM::APIServer")
    )
    return first, second


# from one to the other -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_uploaded_at_one_named_at_the_other(api_servers: tuple[At, At], name: str) -> None:
    """H73, H74, H75, H76, H100."""
    form = FORMS[name]
    for here, there in (api_servers, api_servers[::-1]):
        file_id = here.upload(IMAGE)
        assert there.ask(form, by_id(file_id, IMAGE)) == there.ask(form, inline(IMAGE))
        if form.path in {CHAT, RESPONSES}:
            by_value = there.ask_streaming(form, inline(IMAGE))
            assert there.ask_streaming(form, by_id(file_id, IMAGE)) == by_value


def test_a_clip_uploaded_at_one_named_at_the_other(api_servers: tuple[At, At]) -> None:
    for here, there in (api_servers, api_servers[::-1]):
        file_id = here.upload(CLIP)
        for form in IN_CHAT.values():
            said = there.ask(form, by_id(file_id, CLIP))
            assert said == there.ask(form, inline(CLIP))
            assert said == here.ask(form, by_id(file_id, CLIP))


def test_a_file_of_a_form_at_one_is_known_to_the_other(api_servers: tuple[At, At]) -> None:
    here, there = api_servers
    body = servers.form(
        servers.part("payload", json.dumps(chat()).encode()), servers.part("a", IMAGE.data, "a")
    )

    answer = here.request("POST", CHAT, body, content_type=servers.FORM_TYPE)

    file_id = str(answer.header("x-mediagate-file-ids"))
    said = there.ask(IN_CHAT["file"], by_id(file_id, IMAGE))
    assert said == questions.read_chat(answer.json())


def test_an_upload_in_parts_at_both(api_servers: tuple[At, At]) -> None:
    here, there = api_servers
    halves = CLIP.data[:900], CLIP.data[900:]
    wanted = {"filename": "a.mp4", "purpose": "vision", "mime_type": "video/mp4"}
    upload = here.post("/v1/uploads", {**wanted, "bytes": len(CLIP.data)}).json()["id"]

    parts = [
        at.request(
            "POST",
            f"/v1/uploads/{upload}/parts",
            servers.form(servers.part("data", half, "half")),
            content_type=servers.FORM_TYPE,
        ).json()["id"]
        for at, half in zip(api_servers, halves, strict=True)
    ]
    done = there.post(f"/v1/uploads/{upload}/complete", {"part_ids": parts}).json()

    medium = by_id(done["file"]["id"], CLIP)
    assert here.ask(IN_CHAT["file"], medium) == here.ask(IN_CHAT["file"], inline(CLIP))


def test_deleted_at_one_gone_at_the_other(api_servers: tuple[At, At]) -> None:
    """H53, H77, P7: also from the memory of both."""
    here, there = api_servers
    file_id = here.upload(CLIP)
    question = chat(by_id(file_id, CLIP).part)
    for at in (here, there, here, there):
        assert at.post(CHAT, question).status == 200

    assert here.delete(file_id).status == 200

    for at in (there, here):
        assert at.post(CHAT, question).code == (404, "file_not_found")
        assert at.request("GET", f"/v1/files/{file_id}").code == (404, "file_not_found")


def test_the_numbers_of_both_are_added_up(api_servers: tuple[At, At]) -> None:
    here, there = api_servers
    before = uploads_counted(here)

    for at in (here, here, there):
        at.upload(IMAGE)

    assert uploads_counted(here) == uploads_counted(there) == before + 3


def uploads_counted(asker: Asker) -> float:
    text = asker.request("GET", "/metrics").body.decode()
    (count,) = re.findall(r'^mediagate_operations_total\{op="file.upload"\} (\S+)$', text, re.M)
    return float(count)


def test_many_clients_at_once(server: VllmServer, api_servers: tuple[At, At]) -> None:
    """Whoever is sent where: each gets what is its own."""
    media: tuple[Media, ...] = (IMAGE, OTHER_IMAGE)
    form = IN_CHAT["file"]
    expected = [api_servers[0].ask(form, inline(each)) for each in media]
    wrong: list[object] = []

    def client(number: int) -> None:
        asker = Asker(server, api_servers[0].headers | {SCOPE: f"tenant-{number}"})
        each = media[number % 2]
        try:
            for _ in range(3):
                file_id = asker.upload(each)
                heard = asker.ask(form, by_id(file_id, each))
                if heard != expected[number % 2]:
                    wrong.append(heard)
                asker.delete(file_id)
        except BaseException as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=client, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


# tenants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_another_tenants_file_is_as_good_as_none(api_servers: tuple[At, At], name: str) -> None:
    """H68, P7: on each endpoint that reads media, at either API server, known to it or not."""
    here, there = api_servers
    form = FORMS[name]
    file_id = here.upload(IMAGE)
    here.ask(form, by_id(file_id, IMAGE))

    foreign = [
        at.of("globex").post(form.path, form.body(by_id(file_id, IMAGE))) for at in (here, there)
    ]
    unknown = here.of("globex").post(form.path, form.body(by_id(UNKNOWN, IMAGE)))

    for answer in foreign:
        assert (answer.status, answer.body) == (404, unknown.body)
        assert answer.error["code"] == "file_not_found"


def test_who_does_not_say_for_whom_may_ask_about_everything_but_files(
    api_servers: tuple[At, At],
) -> None:
    """H65: where it names files, it is told what is missing."""
    here, _ = api_servers
    medium = by_id(here.upload(IMAGE), IMAGE)
    nobody = At(here.server, {"authorization": f"Bearer {KEY}"}, here.pid)

    for form in FORMS.values():
        refused = nobody.post(form.path, form.body(medium))
        assert refused.status == 400
        assert SCOPE in refused.error["message"]
        assert nobody.ask(form, inline(IMAGE)) == here.ask(form, inline(IMAGE))
    assert nobody.request("GET", "/v1/files").status == 400


@pytest.mark.parametrize("path", ["/tokenize", "/invocations"])
def test_where_vllm_asks_for_no_key_who_names_a_file_needs_one(
    api_servers: tuple[At, At], path: str
) -> None:
    """P7, D13: an id alone opens nothing where there are keys, and vLLM's own openness stays."""
    here, _ = api_servers
    form = ELSEWHERE[path]
    medium = by_id(here.upload(IMAGE), IMAGE)
    keyless = At(here.server, {SCOPE: "acme"}, here.pid)

    refused = keyless.post(path, form.body(medium))

    assert refused.status == 401
    assert "API key" in refused.error["message"]
    assert keyless.post(path, form.body(inline(IMAGE))).status == 200
    assert here.post(path, form.body(medium)).status == 200


def test_what_is_cached_for_one_tenant_tells_nothing_to_another(
    api_servers: tuple[At, At],
) -> None:
    """One who asks what another has asked waits as long as if nobody had."""
    here, there = api_servers
    words = {"type": "text", "text": "which colour has the square " * 20}

    def cached(at: At) -> int:
        file_id = at.upload(IMAGE)
        answer = at.post(CHAT, chat(words, by_id(file_id, IMAGE).part)).json()
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    assert cached(here) == 0
    assert cached(there) > 100
    assert cached(there.of("globex")) == 0
    assert cached(here.of("globex")) > 100


# keys, and the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/v1/files", f"/v1/files/{UNKNOWN}", "/v1/uploads"])
def test_the_key_of_the_environment_guards_both(
    api_servers: tuple[At, At], method: str, path: str
) -> None:
    for at in api_servers:
        for headers in ({SCOPE: "acme"}, {SCOPE: "acme", "authorization": "Bearer other"}):
            assert At(at.server, headers, at.pid).request(method, path).status == 401


def test_sigterm_during_an_upload_and_an_answer(
    server: VllmServer, api_servers: tuple[At, At]
) -> None:
    """P11: vLLM ends its API servers as it does without us; the directory that its parent made goes with it."""
    here, _ = api_servers
    file_id = here.upload(IMAGE)
    (directory,) = server.scratch.glob("mediagate-*")
    body = json.dumps(
        chat(by_id(file_id, IMAGE).part, max_tokens=3000, ignore_eos=True, stream=True)
    ).encode()
    lines = [f"{name}: {value}" for name, value in here.headers.items()]
    with RawClient(server) as uploader, RawClient(server) as listener:
        uploader.send_head("PUT", "/v1/files?filename=a.png", "Content-Length: 50000000", *lines)
        uploader.send(IMAGE.data + bytes(1_000_000))
        servers.until(lambda: list(directory.glob("blobs/*/*.partial")))
        listener.send_head(
            "POST", CHAT, "Content-Type: application/json", f"Content-Length: {len(body)}", *lines
        )
        listener.send(body)
        assert listener.read_head().status == 200

        server.stop()

    assert not directory.exists()
