"""Real llama-server processes for tests, on a tiny model of random weights that sees, hears and watches.

    with llama_servers.serving("--media-path", str(directory)) as server:
        servers.post_json(server, "/v1/chat/completions", body).json()

The program is built by `make engines`. A start takes a tenth of a second.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import engine_processes
from engine_processes import EngineServer
from engines import cache, tiny_gguf
from engines.install_llama_server import PROGRAM

_MODEL = cache.path("tiny-gguf", Path(tiny_gguf.__file__))


@contextlib.contextmanager
def serving(*flags: str, env: Mapping[str, str] | None = None) -> Iterator[EngineServer]:
    """`llama-server` on a free loopback port, ready; the model is called `tiny`.

    Args:
        flags: Added to the command line. `--media-path DIR` opens it to files there.
        env: Added to the environment.
    """
    assert PROGRAM.exists(), f"{PROGRAM} is not there: run `make engines`"
    model = cache.fill(_MODEL, tiny_gguf.write)
    command = (
        str(PROGRAM),
        *("--model", str(model / "model.gguf"), "--mmproj", str(model / "mmproj.gguf")),
        *("--alias", "tiny", "--host", "127.0.0.1"),
        *("--ctx-size", str(tiny_gguf.CONTEXT), "--parallel", "1", "--threads", "1"),
        # Two frames of a clip of two seconds; nothing is computed before it is asked for.
        *("--video-fps", "1", "--no-warmup"),
        *flags,
    )
    environment = engine_processes.inherited() | dict(env or {})
    with engine_processes.serving(command, env=environment) as server:
        yield server
