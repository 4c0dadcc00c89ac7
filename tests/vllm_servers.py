"""Real vLLM processes for tests, on tiny models of random weights.

    with vllm_servers.serving("--api-key", "k", store=tmp_path / "store") as server:
        servers.upload(server, data); servers.request(server, …); servers.RawClient(server)      as with mediagate's own
        server.pids, server.processes(), server.scratch, server.log()
        server.stop()                           SIGTERM; asserts a clean exit that leaves no process
    vllm_servers.run("import json; print(json.dumps(1))")    what a script prints last, inside a vLLM environment
    vllm_servers.command("serve", "--help=all")              status and output of a vllm command that ends by itself
    vllm_servers.parse("--enable-file-uploads")              what vLLM's command line makes of flags

The environments are made by `make vllm`; `version` is one of `PYTHONS`. A start takes half a minute and 1.4 GB of
memory: share one server in a module where tests do not disturb each other, and never run two at once in a module; two
modules may run at once. `serving` ends the whole process group whatever happens.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import engine_processes
import servers
from engine_processes import EngineServer
from engines import cache
from engines.install_vllm import CACHE, ROOT

NEWEST, OLDEST, TOO_OLD = "0.32.0", "0.26.0", "0.25.1"
"""vLLM's versions: the newest, the oldest that is supported, and one before, which cannot serve here."""

PYTHONS = {
    version: Path(os.environ.get(variable) or ROOT / f".venv-vllm-{version}" / "bin" / "python")
    for version, variable in {
        NEWEST: "VLLM_PYTHON",
        OLDEST: "VLLM_OLD_PYTHON",
        TOO_OLD: "VLLM_OLDER_PYTHON",
    }.items()
}

PICTURES, SOUND = "qwen2_vl", "qwen2_audio"
"""Models: one for images and clips, one for sound."""

COMMAND_S = 480.0
"""A sixth of a minute is usual; only a failing test, or a busy machine, ever waits so long."""
_ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # What vLLM and torch work out at each start, unless they find it there.
    "VLLM_CACHE_ROOT": str(CACHE / "vllm"),
    "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "torchinductor"),
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
_CLI = ("-m", "vllm.entrypoints.cli.main")


VllmServer = EngineServer


@contextlib.contextmanager
def serving(
    *flags: str,
    store: Path | None = None,
    version: str = NEWEST,
    model: str = PICTURES,
    env: Mapping[str, str] | None = None,
) -> Iterator[VllmServer]:
    """`vllm serve` on a free loopback port, ready; if it still runs at the end, it must exit with status 0.

    Args:
        flags: Added to the command line.
        store: Adds `--enable-file-uploads --file-upload-dir STORE`; None adds nothing.
        version: A key of `PYTHONS`.
        model: `PICTURES` or `SOUND`; it is served as `tiny`.
        env: Added to the environment, from which all `MEDIAGATE_*`, `OPENAI_*` and `VLLM_*` were removed.
    """
    uploads = () if store is None else ("--enable-file-uploads", "--file-upload-dir", str(store))
    command = (
        *(_python(version), *_CLI, "serve", str(write_model(model))),
        *("--served-model-name", "tiny", "--host", "127.0.0.1"),
        *("--dtype", "bfloat16", "--max-model-len", "4096", "--enforce-eager"),
        *(*uploads, *flags),
    )
    with engine_processes.serving(command, env=_environment(env), store=store) as server:
        if "--api-server-count" in flags:
            # One of them has said that it is there; the others may be seconds behind.
            count = int(flags[flags.index("--api-server-count") + 1])
            servers.until(
                lambda: server.log().count("Application startup complete") >= count,
                timeout_s=engine_processes.READY_S,
            )
        yield server
        if server.is_running:
            server.stop()


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended by itself."""

    status: int
    stdout: str
    stderr: str


def command(*arguments: str, version: str = NEWEST, env: Mapping[str, str] | None = None) -> Ended:
    """Run `vllm ARGUMENTS` to its end: `--help`, or what is refused."""
    return _end(*_CLI, *arguments, version=version, env=env)


def parse(
    *flags: str, version: str = NEWEST, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """All arguments of `vllm serve FLAGS` as the command line hands them to the server, which is not started.

    What is no JSON comes as its `repr`.
    """
    code = """
import json
from vllm.entrypoints.cli import main, serve
serve.ServeSubcommand.cmd = staticmethod(lambda args: print(json.dumps(vars(args), default=repr)))
main.main()
"""
    return dict(_last_json(_end("-c", code, "serve", *flags, version=version, env=env)))


def run(code: str, *, version: str = NEWEST, env: Mapping[str, str] | None = None) -> Any:
    """Run a script inside a vLLM environment; the JSON that it prints last."""
    return _last_json(_end("-c", code, version=version, env=env))


def _last_json(ended: Ended) -> Any:
    assert ended.status == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def _end(*arguments: str, version: str, env: Mapping[str, str] | None) -> Ended:
    with tempfile.TemporaryDirectory(prefix="test-of-vllm-") as scratch:
        process = subprocess.Popen(
            (_python(version), *arguments),
            env=_environment(env) | {"TMPDIR": scratch},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=COMMAND_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(process.returncode, stdout, stderr)


def write_model(name: str) -> Path:
    """The directory of a model; written once for all checkouts, in a few seconds."""
    script = ROOT / "tests" / "engines" / "tiny_models.py"

    def make(directory: Path) -> None:
        subprocess.run(
            (_python(NEWEST), str(script), name, str(directory)),
            env=_environment(None), check=True, capture_output=True,
        )  # fmt: skip

    return cache.fill(cache.path(name, script), make)


def _python(version: str) -> str:
    path = PYTHONS[version]
    assert path.exists(), f"{path} is not there: run `make vllm`"
    return str(path)


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    return engine_processes.inherited() | _ENV | dict(env or {})
