"""For scripts in a vLLM environment: one import of vLLM, and then as many fresh processes as there are questions.

    ask(function, plugins="mediagate", env={...}, is_installed=True)

`function` runs in a fork of this process, which has imported vLLM and done nothing with it: no plugin was loaded, no
command line parsed. It returns what JSON can carry. `tests/engines` has to be on `PYTHONPATH`.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import traceback
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import vllm.engine.arg_utils
import vllm.plugins
from vllm.lora.resolver import LoRAResolverRegistry
from vllm.platforms import resolve_current_platform_cls_qualname
from vllm.utils.argparse_utils import FlexibleArgumentParser

try:
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:  # 0.26
    from vllm.entrypoints.openai.api_server import build_app
    from vllm.entrypoints.openai.cli_args import make_arg_parser


def ask(
    function: Callable[[], Any],
    *,
    plugins: str | None = None,
    env: Mapping[str, str] | None = None,
    is_installed: bool = True,
) -> Any:
    """What `function` returns in a process of its own.

    Args:
        function: The question.
        plugins: `VLLM_PLUGINS`; None: not set.
        env: Added to the environment.
        is_installed: False: as if mediagate had never been installed.
    """
    sys.stdout.flush()
    with tempfile.TemporaryFile("w+") as answer, tempfile.NamedTemporaryFile() as notes:
        child = os.fork()
        if child == 0:
            os.environ |= {"OTHERS_NOTES": notes.name} | dict(env or {})
            if plugins is not None:
                os.environ["VLLM_PLUGINS"] = plugins
            if not is_installed:
                # The environment on top of vLLM holds us and what we need, and nothing else.
                sys.path = [path for path in sys.path if not _is_ours(path)]
            status = 1
            try:
                json.dump(function(), answer)
                answer.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0, f"{function.__name__} failed"
        answer.seek(0)
        return json.load(answer)


def _is_ours(path: str) -> bool:
    return path.startswith(sys.prefix) or (Path(path) / "mediagate").is_dir()


def parse(*flags: str) -> Namespace:
    """What `vllm serve m FLAGS` makes of its command line, plugins loaded on the way."""
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))
    namespace: Namespace = parser.parse_args(["m", *flags])
    return namespace


def refusal(*flags: str) -> tuple[object, str]:
    """Exit status of a command line that is refused, and what it says."""
    told = StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parse(*flags)
    except SystemExit as exit_:
        return exit_.code, told.getvalue()
    return None, told.getvalue()


def loaded(*flags: str) -> dict[str, object]:
    """Who is loaded where an API server starts with these flags: others' notes, endpoint plugins, LoRA resolvers."""
    resolve_current_platform_cls_qualname()
    parse(*flags)
    endpoints = [plugin.name for plugin in vllm.plugins.load_endpoint_plugins(("generate",))]
    notes = map(json.loads, Path(os.environ["OTHERS_NOTES"]).read_text().splitlines())
    return {
        "others": sorted({note["name"] for note in notes if note["what"] == "plugin"}),
        "endpoints": sorted(endpoints),
        "resolvers": sorted(LoRAResolverRegistry.get_supported_resolvers()),
    }


def twins() -> dict[str, object]:
    """What is wrapped where the environment alone enables uploads, and what stands in front of the app."""
    functions = (vllm.plugins.load_endpoint_plugins, vllm.engine.arg_utils.EngineArgs.add_cli_args)
    in_front = [middleware.cls.__name__ for middleware in app().user_middleware]
    now = (vllm.plugins.load_endpoint_plugins, vllm.engine.arg_utils.EngineArgs.add_cli_args)
    return {
        "wrapped": [
            before.__name__
            for before, after in zip(functions, now, strict=True)
            if before is not after
        ],
        "in_front": in_front.count("Uploads"),
        "connector": os.environ.get("VLLM_MEDIA_CONNECTOR"),
    }


def often() -> list[object]:
    """How deep functions are wrapped, and how many of us are loaded, when the plugin is loaded many times."""
    from mediagate.vllm_plugin import register

    parse("--enable-file-uploads")
    for _ in range(5):
        register()
    depth = [
        _depth(vllm.plugins.load_endpoint_plugins),
        _depth(vllm.engine.arg_utils.EngineArgs.add_cli_args),
    ]
    return [*depth, [plugin.name for plugin in vllm.plugins.load_endpoint_plugins(())]]


def _depth(function: Any) -> int:
    return 1 + _depth(function.__wrapped__) if hasattr(function, "__wrapped__") else 0


def app(*flags: str) -> Any:
    """The app of an API server with these flags, which was not started."""
    return build_app(parse(*flags), ("generate",))


def answers(asked: Any, *requests: tuple[str, str]) -> list[list[object]]:
    """Status, headers and body (latin-1) of each answer of an ASGI app, as they go over the wire."""
    return [asyncio.run(_answer(asked, method, path)) for method, path in requests]


async def _answer(asked: Any, method: str, path: str) -> list[object]:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }
    said: list[Any] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await asked(scope, receive, send)
    head, *bodies = said
    lines = [[name.decode(), value.decode()] for name, value in head["headers"]]
    return [
        head["status"],
        lines,
        b"".join(part.get("body", b"") for part in bodies).decode("latin-1"),
    ]


def handed_on(*flags: str) -> dict[str, str]:
    """What the parent that parsed these flags leaves in the environment of its children."""
    before = dict(os.environ)
    parse(*flags)
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def engine() -> list[str]:
    """What of ours, and of what we need, an engine process has imported when it has loaded its plugins."""
    vllm.plugins.load_general_plugins()
    wanted = ("mediagate", "sqlalchemy")
    return sorted(name for name in sys.modules if name.partition(".")[0] in wanted)


def exchange(asked: Any, *requests: tuple[str, str]) -> list[list[object]]:
    """As `answers`, of an app that is started for it and stopped afterwards."""

    async def run() -> list[list[object]]:
        asked.state.log_stats = False  # there is no engine whose numbers could be logged
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_live(asked))
            return [await _answer(asked, method, path) for method, path in requests]

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def _live(asked: Any) -> AsyncIterator[None]:
    to_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    running = asyncio.create_task(asked(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert await from_app.get() == {"type": "lifespan.startup.complete"}
    yield
    await to_app.put({"type": "lifespan.shutdown"})
    assert await from_app.get() == {"type": "lifespan.shutdown.complete"}
    await running
