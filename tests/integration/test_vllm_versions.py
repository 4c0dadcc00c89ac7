"""Versions of vLLM: what is touched is there in those that are supported; others get one clear line, or another way."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import corpus
import servers
import vllm_servers
from engines.install_vllm import ROOT
from mediagate.vllm_plugin.symbols import FLAGS, LOGGERS, SYMBOLS
from store_locks import held_by
from vllm_servers import NEWEST, OLDEST, TOO_OLD, VllmServer

pytestmark = pytest.mark.vllm

CHILDREN = {"PYTHONPATH": f"{ROOT}/tests/engines"}
WITHOUT_HOOK = {"PYTHONPATH": f"{ROOT}/tests/engines/no_flag_hook"}
"""A vLLM that has renamed the function which gets our flags."""

FACTS = """
import logging
from vllm_children import *
from mediagate.vllm_plugin import symbols
import vllm.exceptions
import vllm.version


def without(name):
    delattr(vllm.exceptions, name)
    return refusal("--enable-file-uploads")


def with_their_own():
    # The pull request merged: the flag is there before the engine's arguments are.
    parser = FlexibleArgumentParser(prog="vllm serve")
    parser.add_argument("--enable-file-uploads", action="store_true")
    args = make_arg_parser(parser).parse_args(["m", "--enable-file-uploads"])
    in_front = [each.cls.__name__ for each in build_app(args, ("generate",)).user_middleware]
    return [args.enable_file_uploads, "Uploads" in in_front, os.environ.get("VLLM_MEDIA_CONNECTOR"),
            hasattr(args, "file_upload_dir")]


print(json.dumps({
    "version": vllm.version.__version__,
    "missing": [symbol.path for symbol in symbols.SYMBOLS if symbol.missing() is not None],
    "arguments": ask(lambda: sorted(vars(parse()))),
    "future": ask(lambda: without("VLLMNotFoundError")),
    "theirs": ask(with_their_own),
    "theirs_enabled": ask(with_their_own, env={"VLLM_ENABLE_FILE_UPLOADS": "1"}),
}))
"""


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def facts(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All answers of one version."""
    found: dict[str, Any] = vllm_servers.run(FACTS, version=request.param, env=CHILDREN)
    assert found["version"].startswith(request.param)
    return found


def test_all_that_is_touched_is_there(facts: dict[str, Any]) -> None:
    assert facts["missing"] == []
    for flag in FLAGS:
        assert flag.name.removeprefix("--").replace("-", "_") in facts["arguments"]


def test_a_name_that_a_later_version_lacks_is_named(facts: dict[str, Any]) -> None:
    status, told = facts["future"]

    assert status == 2
    assert "has no vllm.exceptions.VLLMNotFoundError: put the gateway in front" in told
    assert told.count("\n") == 1


def test_a_version_with_uploads_of_its_own_is_left_alone(facts: dict[str, Any]) -> None:
    """Whatever its own flags and variables say, the plugin brings nothing."""
    assert facts["theirs"] == facts["theirs_enabled"] == [True, False, None, False]


def test_a_version_before_plugins_says_so_in_one_line() -> None:
    ended = vllm_servers.command("serve", "m", "--enable-file-uploads", version=TOO_OLD)

    assert ended.status == 2
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("mediagate: "))
    assert f"need vLLM {OLDEST} or later; {TOO_OLD}" in line
    assert "mediagate serve --upstream URL" in line


def test_nothing_is_listed_twice() -> None:
    assert len({symbol.path for symbol in SYMBOLS}) == len(SYMBOLS)
    assert len({other.name for other in (*FLAGS, *LOGGERS)}) == len(FLAGS) + len(LOGGERS)


# a version that takes no flags -----------------------------------------------------------------------------


def test_a_version_without_our_hook_names_the_other_way() -> None:
    ended = vllm_servers.command("serve", "m", "--enable-file-uploads", env=WITHOUT_HOOK)

    assert ended.status == 2
    assert "unrecognized arguments: --enable-file-uploads" in ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if "takes no flags from plugins" in line)
    assert (
        "MEDIAGATE_ENABLE_FILE_UPLOADS=1 VLLM_PLUGINS=mediagate VLLM_MEDIA_CONNECTOR=mediagate"
        in line
    )


@pytest.fixture(scope="module")
def server() -> Iterator[VllmServer]:
    """The other way: nothing of vLLM is wrapped, the environment says it all."""
    env = {
        "MEDIAGATE_ENABLE_FILE_UPLOADS": "1",
        "VLLM_PLUGINS": "mediagate",
        "VLLM_MEDIA_CONNECTOR": "mediagate",
        "VLLM_FILE_UPLOAD_MAX_SIZE_MB": "0.5",
    }
    with vllm_servers.serving(env=env | WITHOUT_HOOK) as running:
        yield running


def question(url: str) -> dict[str, Any]:
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {"model": "tiny", "max_tokens": 8, "messages": [{"role": "user", "content": content}]}


def test_the_environment_alone_serves(server: VllmServer) -> None:
    """Files, references and limits, in a vLLM that is as it was released."""
    file = servers.upload(server, corpus.png_pixel(), filename="pixel.png", purpose="vision")

    named = servers.post_json(server, "/v1/chat/completions", question(f"vllm-file://{file['id']}"))
    gone = servers.post_json(server, "/v1/chat/completions", question(f"file-{'0' * 32}"))
    large = servers.put_file(server, bytes(2_000_000))

    assert named.status == 200, named
    assert gone.code == (404, "file_not_found")
    assert large.code == (413, "file_too_large")
    assert "takes no flags" not in server.log()


def test_an_engine_that_dies_leaves_no_directory(server: VllmServer) -> None:
    """P3: vLLM ends; what it kept for its own life goes with it. Last here: it ends the server."""
    (store,) = {store for pid in server.pids for store in held_by(pid)}
    (engine,) = (each for each in server.processes() if each.title.startswith("VLLM::EngineCore"))

    os.kill(engine.pid, signal.SIGKILL)
    servers.until(lambda: not server.is_running)

    servers.until(lambda: not server.processes(), timeout_s=10)
    assert not store.exists()
