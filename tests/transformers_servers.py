"""Real `transformers serve` processes for tests, on a tiny model of random weights that sees, hears and watches.

    with transformers_servers.serving() as server:
        servers.post_json(server, "/v1/chat/completions", body).json()

The packages are installed by `make engines`. A start takes four seconds and half a gigabyte of memory: share one server
in a module where tests do not disturb each other.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import engine_processes
from engine_processes import EngineServer
from engines import cache
from engines.install_transformers import LAYER, command, environment

_SCRIPTS = Path(__file__).with_name("engines")
_MODEL = cache.path("tiny-gemma4", _SCRIPTS / "tiny_gemma4.py")


@contextlib.contextmanager
def serving(*flags: str, env: Mapping[str, str] | None = None) -> Iterator[EngineServer]:
    """`transformers serve` on a free loopback port, ready; the model is called `tiny`.

    Args:
        flags: Added to the command line.
        env: Added to the environment.
    """
    assert LAYER.exists(), f"{LAYER} is not there: run `make engines`"
    with tempfile.TemporaryDirectory(prefix="test-of-engine-") as home:
        # A model goes by the path that was given for it, so it is given one that is its name.
        Path(home, "tiny").symlink_to(cache.fill(_MODEL, _write_model))
        Path(home, "hub").mkdir()
        arguments = ("--host", "127.0.0.1", "--device", "cpu", *flags)
        with engine_processes.serving(
            command(_SCRIPTS / "serve_transformers.py", "tiny", *arguments),
            env=_environment() | {"HF_HOME": home} | dict(env or {}),
            cwd=Path(home),
        ) as server:
            yield server


def _write_model(directory: Path) -> None:
    subprocess.run(
        command(_SCRIPTS / "tiny_gemma4.py", str(directory)),
        env=_environment(), check=True, capture_output=True,
    )  # fmt: skip


def _environment() -> dict[str, str]:
    return engine_processes.inherited() | dict(environment())
