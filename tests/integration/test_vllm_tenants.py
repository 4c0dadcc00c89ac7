"""Tenants of a real vLLM: what one of them learns of another, from mediagate, and from what vLLM keeps for all."""

import contextlib
import http.client
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

import servers
import vllm_questions as questions
import vllm_servers
from engines import echo_plugin
from mediagate.core.scopes import Principal, Scope
from mediagate.core.store_key import StoreKey
from mediagate.gateway.cache_salts import CacheSalts
from servers import Answer, RawClient
from vllm_questions import (
    CHAT,
    ELSEWHERE,
    IN_CHAT,
    MESSAGES,
    OF_IMAGES,
    RESPONSES,
    Asker,
    Form,
    by_id,
    chat,
    inline,
)
from vllm_servers import NEWEST, OLDEST, VllmServer

pytestmark = [pytest.mark.vllm, pytest.mark.media]

HEADER = "X-Scope"
TENANTS = ("--file-upload-scope-header", HEADER, "--trusted-proxy", "127.0.0.1")
UNKNOWN = "file-" + "0" * 32
IMAGE = questions.image(questions.RED)
LONG = "Once upon a time there was a fox. " * 60
FORMS: Mapping[str, Form] = {**IN_CHAT, **OF_IMAGES, **ELSEWHERE}
MORE = (
    *("/v1/completions", "/generative_scoring", "/v1/systemone", "/inference/v1/generate"),
    *("/v1/chat/completions/render", "/v1/completions/render", "/v1/responses/render"),
)
"""More endpoints of this model that vLLM may read media on, now or some day."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    """Its uvicorn believes what anybody says about addresses, as in many a container: that must not count."""
    env = echo_plugin.installed(tmp_path_factory.mktemp("plugin")) | {"FORWARDED_ALLOW_IPS": "*"}
    flags = (*TENANTS, "--enable-prompt-tokens-details")
    store = tmp_path_factory.mktemp("store")
    with vllm_servers.serving(*flags, store=store, env=env) as started:
        yield started
        for asker in (tenant(started, "alice"), tenant(started, "bob")):
            for file in asker.request("GET", "/v1/files").json()["data"]:
                assert asker.delete(file["id"]).status == 200
        servers.until(lambda: started.is_clean() and started.leases() == 0, timeout_s=10)
        assert "Traceback" not in started.log()


def tenant(server: VllmServer, scope: str) -> Asker:
    return Asker(server, {HEADER: scope})


@pytest.fixture
def alice(server: VllmServer) -> Asker:
    return tenant(server, "alice")


@pytest.fixture
def bob(server: VllmServer) -> Asker:
    return tenant(server, "bob")


@pytest.fixture
def nobody(server: VllmServer) -> Asker:
    """It does not say who it is."""
    return Asker(server)


def same(answer: Answer) -> tuple[int, Sequence[tuple[str, str]], bytes]:
    """Everything but what differs between any two answers."""
    own = {"date", "x-request-id"}
    return answer.status, [line for line in answer.headers if line[0] not in own], answer.body


def check_unknown(ask: Callable[[str], Answer], file_id: str) -> None:
    """What is `ask`ed about a file of another's is answered as about one that never was."""
    of_another, of_nobody = ask(file_id), ask(UNKNOWN)

    assert of_another.code == (404, "file_not_found")
    assert same(of_another) == same(of_nobody)


# what one tenant sees of another -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_anothers_file_is_none_in_any_form_that_names_one(
    alice: Asker, bob: Asker, name: str
) -> None:
    """H66, H68: byte for byte, while its owner goes on using it."""
    form = FORMS[name]
    file_id = alice.upload(IMAGE)
    said = alice.ask(form, by_id(file_id, IMAGE))

    check_unknown(lambda each: bob.post(form.path, form.body(by_id(each, IMAGE))), file_id)

    assert alice.ask(form, by_id(file_id, IMAGE)) == said


@pytest.mark.parametrize("path", MORE)
def test_anothers_file_is_none_on_any_endpoint_that_may_read_media(
    alice: Asker, bob: Asker, nobody: Asker, path: str
) -> None:
    """H65, H68: before vLLM has a say."""
    file_id = alice.upload(IMAGE)

    def about(each: str) -> dict[str, Any]:
        return chat(by_id(each, IMAGE).part)

    check_unknown(lambda each: bob.post(path, about(each)), file_id)
    check_needs_header(nobody.post(path, about(file_id)))


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_anothers_file_is_none_in_a_form_with_files(alice: Asker, bob: Asker, path: str) -> None:
    """H68: and what came with it is not kept."""
    file_id = alice.upload(IMAGE)
    before = alice.server.usage()

    def ask(each: str) -> Answer:
        part = by_id(each, IMAGE).part
        body = chat(part) if path == CHAT else responses_about(each)
        form = servers.form(
            servers.part("payload", json.dumps(body).encode()),
            servers.part("file", questions.image(questions.BLUE).data, "b.png"),
        )
        return bob.request("POST", path, form, content_type=servers.FORM_TYPE)

    check_unknown(ask, file_id)
    servers.until(lambda: alice.server.usage() == before, timeout_s=10)


def responses_about(file_id: str) -> dict[str, Any]:
    return OF_IMAGES["responses, file_id"].body(by_id(file_id, IMAGE))


@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("GET", "/content"), ("DELETE", ""), ("HEAD", "")]
)
def test_anothers_file_is_none_of_the_files(
    alice: Asker, bob: Asker, method: str, suffix: str
) -> None:
    """H66, H67."""
    file_id = alice.upload(IMAGE)

    answers = [bob.request(method, f"/v1/files/{each}{suffix}") for each in (file_id, UNKNOWN)]

    assert answers[0].status == 404
    assert same(answers[0]) == same(answers[1])
    listed = bob.request("GET", "/v1/files").json()["data"]
    assert file_id not in {file["id"] for file in listed}
    assert alice.request("GET", f"/v1/files/{file_id}/content").body == IMAGE.data


def test_anothers_upload_is_none_and_neither_are_its_parts(alice: Asker, bob: Asker) -> None:
    """H66: in the path, and where parts are joined."""
    of_alice, of_bob = begin_upload(alice), begin_upload(bob)
    part_of_alice = add_part(alice, of_alice).json()["id"]
    assert add_part(bob, of_bob).status == 200

    no_upload, no_part = ("upload_" + "0" * 32, "part_" + "0" * 32)
    for ask in (
        add_part,
        lambda asker, each: asker.request("GET", f"/v1/uploads/{each}"),
        lambda asker, each: asker.request("POST", f"/v1/uploads/{each}/cancel", b""),
        lambda asker, each: asker.post(
            f"/v1/uploads/{each}/complete", {"part_ids": [part_of_alice]}
        ),
    ):
        answers = [ask(bob, each) for each in (of_alice, no_upload)]
        assert answers[0].status == 404
        assert same(answers[0]) == same(answers[1])
    complete = f"/v1/uploads/{of_bob}/complete"
    joined = [bob.post(complete, {"part_ids": [each]}) for each in (part_of_alice, no_part)]
    assert 400 <= joined[0].status < 500
    assert same(joined[0]) == same(joined[1])

    completed = alice.post(f"/v1/uploads/{of_alice}/complete", {"part_ids": [part_of_alice]})
    assert completed.json()["file"]["bytes"] == len(IMAGE.data)
    assert bob.request("POST", f"/v1/uploads/{of_bob}/cancel", b"").status == 200


def begin_upload(asker: Asker) -> str:
    body = {
        "purpose": "vision",
        "filename": "a.png",
        "bytes": len(IMAGE.data),
        "mime_type": "image/png",
    }
    answer = asker.post("/v1/uploads", body)
    assert answer.status == 200, answer
    return str(answer.json()["id"])


def add_part(asker: Asker, upload_id: str) -> Answer:
    form = servers.form(servers.part("data", IMAGE.data, "blob"))
    target = f"/v1/uploads/{upload_id}/parts"
    return asker.request("POST", target, form, content_type=servers.FORM_TYPE)


# the header ----------------------------------------------------------------------------------------------


def check_needs_header(answer: Answer) -> None:
    assert answer.code == (400, "invalid_scope")
    assert answer.error["param"] == HEADER
    assert HEADER in answer.error["message"]


@pytest.mark.parametrize("name", FORMS)
def test_reference_that_names_no_tenant_is_refused(alice: Asker, nobody: Asker, name: str) -> None:
    """H65: in every form."""
    form = FORMS[name]

    check_needs_header(nobody.post(form.path, form.body(by_id(alice.upload(IMAGE), IMAGE))))


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_form_with_a_file_that_names_no_tenant_is_refused(nobody: Asker, path: str) -> None:
    """H65: it would have to be kept for somebody."""
    form = servers.form(
        servers.part("payload", json.dumps(chat()).encode()),
        servers.part("file", IMAGE.data, "a.png"),
    )

    check_needs_header(nobody.request("POST", path, form, content_type=servers.FORM_TYPE))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/files"),
        ("PUT", "/v1/files"),
        ("GET", "/v1/files"),
        ("GET", f"/v1/files/{UNKNOWN}"),
        ("DELETE", f"/v1/files/{UNKNOWN}"),
        ("POST", "/v1/uploads"),
    ],
)
def test_files_of_nobody_are_refused(nobody: Asker, method: str, target: str) -> None:
    """H65."""
    check_needs_header(nobody.request(method, target, IMAGE.data if method[0] == "P" else None))


def test_question_without_files_needs_no_tenant_and_reaches_vllm_as_it_was(nobody: Asker) -> None:
    """H65, H79: as stock vLLM, and not salted."""
    body = b'{ "model":"tiny","temperature":0, "max_tokens":4,"messages":[{"role":"user","content":"hi"}] }'
    arrived = nobody.request("POST", f"/echo{CHAT}", body, **questions.JSON).json()["body"]

    assert arrived == body.decode()
    for path, asked in {
        CHAT: json.loads(body),
        RESPONSES: questions.response({"role": "user", "content": "hi"}),
        MESSAGES: questions.message({"role": "user", "content": "hi"}),
        "/v1/completions": {"model": "tiny", "prompt": "hi", "max_tokens": 4},
        "/tokenize": {"model": "tiny", "prompt": "hi"},
    }.items():
        assert nobody.post(path, asked).status == 200
    assert nobody.ask(IN_CHAT["file"], inline(IMAGE)).prompt_tokens > 0
    assert nobody.request("GET", "/v1/models").status == 200


@pytest.mark.parametrize(
    "lines",
    [
        (f"{HEADER}: alice", f"{HEADER}: bob"),
        (f"{HEADER}: alice", f"{HEADER}: alice"),
        (f"{HEADER}: alice", "X_Scope: bob"),
        ("X_Scope: alice",),
        (f"{HEADER}: alice, bob",),
        (f"{HEADER}:",),
        (f"{HEADER}: {'x' * 257}",),
        (f"{HEADER}: alicé",),
    ],
)
def test_header_that_could_be_read_in_two_ways_is_refused(
    server: VllmServer, lines: tuple[str, ...]
) -> None:
    """H69, H70: with a question that names no file, too."""
    body = json.dumps(chat())
    for method, target, sent in (("GET", "/v1/files", ""), ("POST", CHAT, body)):
        with RawClient(server) as client:
            length = f"Content-Length: {len(sent)}"
            client.send_head(method, target, "Content-Type: application/json", length, *lines)
            client.send(sent.encode())
            answer = client.read_answer()

        assert answer.code == (400, "invalid_scope")
        assert answer.error["param"] == HEADER


def test_vllm_never_hears_of_the_tenant(alice: Asker) -> None:
    """H71: of the others it gets all, and in their order."""
    part = by_id(alice.upload(IMAGE), IMAGE).part
    body = json.dumps(chat(part)).encode()

    lines = questions.JSON | {"x-one": "1", "x-other": "2"}
    answer = alice.request("POST", f"/echo{CHAT}", body, **lines)

    arrived = answer.json()
    names = [name for name, _ in arrived["headers"]]
    assert [name for name in names if name.startswith("x-")] == ["x-one", "x-other"]
    assert b"alice" not in answer.body
    assert re.search(r'"mediagate-media:[0-9a-f]{32}"', arrived["body"])


# who may say it ------------------------------------------------------------------------------------------


def from_address(
    server: VllmServer, source: str, method: str, target: str, body: bytes | None, **headers: str
) -> Answer:
    """A request by a client whose own address is `source`."""
    connection = http.client.HTTPConnection(
        server.host, server.port, timeout=servers.TIMEOUT_S, source_address=(source, 0)
    )
    with contextlib.closing(connection):
        lines = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, target, body, lines)
        response = connection.getresponse()
        pairs = [(name.lower(), value) for name, value in response.getheaders()]
        return Answer(response.status, pairs, response.read())


@pytest.mark.parametrize("said", [{}, {"x_forwarded_for": "127.0.0.1"}], ids=["", "and claims"])
def test_tenant_is_taken_from_a_trusted_proxy_only(
    server: VllmServer, said: Mapping[str, str]
) -> None:
    """H72: which is the one that connects, whatever uvicorn is told about others."""
    body = json.dumps(chat()).encode()
    for method, target, sent in (("GET", "/v1/files", None), ("POST", CHAT, body)):
        answer = from_address(server, "127.0.0.2", method, target, sent, x_scope="alice", **said)

        assert answer.code == (403, "scope_not_allowed")
        assert answer.error["param"] == HEADER
    plain = {"content_type": "application/json", **said}
    assert from_address(server, "127.0.0.2", "POST", CHAT, body, **plain).status == 200


def test_proxy_may_say_whom_it_speaks_for(server: VllmServer, alice: Asker) -> None:
    """H72: as nginx does in our own example; vLLM's log goes on naming the client."""
    file_id = alice.upload(IMAGE)
    form = IN_CHAT["file"]
    body = json.dumps(form.body(by_id(file_id, IMAGE))).encode()

    answer = alice.request("POST", form.path, body, **questions.JSON, x_forwarded_for="203.0.113.5")

    assert answer.status == 200
    assert "203.0.113.5" in server.log()


# what vLLM keeps for all ---------------------------------------------------------------------------------


def _chat(file_id: str, text: str) -> dict[str, Any]:
    return chat({"type": "text", "text": text}, by_id(file_id, IMAGE).part)


def _completion(_: str, text: str) -> dict[str, Any]:
    return {"model": "tiny", "prompt": text, "max_tokens": 4}


def _response(file_id: str, text: str) -> dict[str, Any]:
    content = [
        {"type": "input_text", "text": text},
        {"type": "input_image", "file_id": file_id, "detail": "auto"},
    ]
    return questions.response({"role": "user", "content": content})


def _message(file_id: str, text: str) -> dict[str, Any]:
    content = [
        {"type": "text", "text": text},
        {"type": "image", "source": by_id(file_id, IMAGE).source},
    ]
    return questions.message({"role": "user", "content": content})


@pytest.mark.parametrize(
    ("path", "about", "where"),
    [
        (CHAT, _chat, ("prompt_tokens_details", "cached_tokens")),
        ("/invocations", _chat, ("prompt_tokens_details", "cached_tokens")),
        ("/v1/completions", _completion, ("prompt_tokens_details", "cached_tokens")),
        (RESPONSES, _response, ("input_tokens_details", "cached_tokens")),
        (MESSAGES, _message, ("cache_read_input_tokens",)),
    ],
)
def test_no_tenant_is_answered_sooner_for_what_another_asked(
    alice: Asker,
    bob: Asker,
    path: str,
    about: Callable[[str, str], dict[str, Any]],
    where: Sequence[str],
) -> None:
    """The same long text with the same picture is computed anew for another, and for another salt of one's own."""
    text = f"{path} {LONG}"
    of_alice, of_bob = alice.upload(IMAGE), bob.upload(IMAGE)

    def cached_tokens(asker: Asker, file_id: str, **own: str) -> int:
        answer = asker.post(path, about(file_id, text) | own)
        assert answer.status == 200, answer
        value = answer.json()["usage"]
        for key in where:
            value = value[key]
        return int(value)

    assert cached_tokens(alice, of_alice) == 0
    assert cached_tokens(alice, of_alice) > 200
    assert cached_tokens(bob, of_bob) == 0
    assert cached_tokens(bob, of_bob) > 200
    assert cached_tokens(alice, of_alice, cache_salt="mine") == 0
    assert cached_tokens(alice, of_alice, cache_salt="mine") > 200
    assert cached_tokens(bob, of_bob, cache_salt="mine") == 0


TAKERS = """
import importlib, json, typing
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.api_server import build_app
from vllm.tasks import GENERATION_TASKS
from vllm.utils.argparse_utils import FlexibleArgumentParser

try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser

def models(annotation):
    inner = typing.get_args(annotation)
    return [m for each in inner for m in models(each)] if inner else [annotation]

app = build_app(make_arg_parser(FlexibleArgumentParser()).parse_args([]), (*GENERATION_TASKS, "render"))
for kind in ("pooling", "classify", "embed", "scoring"):
    app.include_router(importlib.import_module(f"vllm.entrypoints.pooling.{kind}.api_router").router)
takers = {}
for route in app.routes:
    if "POST" in getattr(route, "methods", ()):
        body = getattr(route, "body_field", None)
        found = [] if body is None else models(body.field_info.annotation)
        takers[route.path] = any("cache_salt" in getattr(m, "model_fields", ()) for m in found)
message = {"model": "m", "max_tokens": 1, "messages": [], "cache_salt": "s"}
AnthropicMessagesRequest.model_validate(message)
print(json.dumps(takers))
"""


@pytest.mark.parametrize(
    ("version", "in_vain"),
    [
        (NEWEST, {"/invocations"}),
        (OLDEST, {"/invocations", "/v1/messages", "/generative_scoring"}),
    ],
)
async def test_whatever_takes_a_salt_gets_one(version: str, in_vain: set[str]) -> None:
    """Asked of vLLM's own endpoints; `/invocations` hands its body on to others.

    0.26 has no such field in two more places. It does not refuse it there, and nothing keeps tenants' prefixes apart.
    """
    takers = vllm_servers.run(TAKERS, version=version)
    salts = CacheSalts(key=StoreKey(bytes(32)), is_wanted=_yes)
    alice = Principal(Scope("alice"))

    salted = set()
    for path in takers:
        names = await salts.names_for("POST", path.encode(), alice)
        if names is not None and names.salt is not None:
            salted.add(path)

    assert salted - {path for path in takers if takers[path]} == in_vain
    assert {path for path in takers if takers[path]} <= salted
    assert len(takers) > 20


async def _yes() -> bool:
    return True


def kept_under(name: str) -> dict[str, Any]:
    return chat({"type": "image_url", "image_url": None, "uuid": name})


def named(part: Mapping[str, Any], name: str) -> dict[str, Any]:
    return chat({**part, "uuid": name})


def test_media_that_vllm_keeps_under_a_name_are_kept_for_one_tenant(
    alice: Asker, bob: Asker, nobody: Asker
) -> None:
    """H81: whoever knows the name of another's gets vLLM's own answer to a name that it does not know."""
    part = by_id(alice.upload(IMAGE), IMAGE).part
    first = alice.post(CHAT, named(part, "holiday"))
    assert first.status == 200

    again = alice.post(CHAT, kept_under("holiday"))

    assert again.status == 200
    assert questions.read_chat(again.json()) == questions.read_chat(first.json())
    for asker in (bob, nobody):
        answers = [asker.post(CHAT, kept_under(name)) for name in ("holiday", "never heard of")]
        assert answers[0].status == 400
        assert "Cache miss" in answers[0].json()["error"]["message"]
        assert same(answers[0]) == same(answers[1])


def test_no_tenant_puts_its_media_in_the_place_of_anothers(alice: Asker, bob: Asker) -> None:
    """Where a name is known, vLLM does not look at the media."""
    other = questions.image(questions.GREEN)
    of_alice, of_bob = (
        by_id(asker.upload(m), m).part for asker, m in ((alice, IMAGE), (bob, other))
    )
    assert bob.post(CHAT, named(of_bob, "logo")).status == 200

    under_name = questions.read_chat(alice.post(CHAT, named(of_alice, "logo")).json())

    assert under_name == questions.read_chat(alice.post(CHAT, chat(of_alice)).json())
    assert under_name != questions.read_chat(bob.post(CHAT, kept_under("logo")).json())


def counted(server: VllmServer, name: str) -> float:
    """Of vLLM's own `/metrics`; all series of one name together."""
    lines = servers.get(server, "/metrics").body.decode().splitlines()
    found = [line for line in lines if re.match(rf"{name}[ {{]", line)]
    assert found, name
    return sum(float(line.rpartition(" ")[2]) for line in found)


def test_processed_media_of_a_tenant_are_of_use_to_no_other(
    server: VllmServer, alice: Asker, bob: Asker
) -> None:
    """Neither decoded nor processed, nor found by sending the same picture: its speed would tell that it is known."""
    unseen = questions.image((1, 99, 77))
    of_alice = [by_id(alice.upload(unseen), unseen) for _ in range(2)]
    of_bob = by_id(bob.upload(unseen), unseen)

    def asked(asker: Asker, medium: questions.Medium) -> tuple[float, float, float]:
        """Hits and misses of vLLM's cache of processed media, and what was decoded for that."""
        names = (
            "vllm:mm_cache_hits_total",
            "vllm:mm_cache_queries_total",
            "mediagate_decodings_total",
        )
        before = [counted(server, name) for name in names]
        asker.ask(IN_CHAT["file"], medium)
        hits, queries, decodings = (
            counted(server, n) - b for n, b in zip(names, before, strict=True)
        )
        return hits, queries - hits, decodings

    assert asked(alice, of_alice[0]) == (0, 1, 1)
    assert asked(alice, of_alice[0]) == (1, 0, 0)
    assert asked(bob, of_bob) == (0, 1, 1)
    assert asked(bob, of_bob) == (1, 0, 0)
    assert asked(bob, inline(unseen)) == (0, 1, 0)
    assert asked(alice, of_alice[1]) == (1, 0, 1), "one's own copy is the same picture"
