"""The servers that are measured, each as its own processes on a free loopback port."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from benchmarks import harness
from benchmarks.harness import Answer

_T = TypeVar("_T")
_START_S = 30.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server(Protocol):
    """One running server."""

    @property
    def pid(self) -> int:
        """Of the process whose tree it is."""

    def upload(self, media: Path) -> Answer:
        """Send `media` once."""

    def check_and_delete(self, answer: Answer) -> tuple[int, str]:
        """Size and SHA-256 of what was stored, which is deleted afterwards."""


@dataclass(frozen=True)
class Mediagate:
    """`mediagate serve`, with forms or with raw bodies.

    Attributes:
        pid: Of the process whose tree it is.
        url: Of the Files API.
        form: How to upload.
    """

    pid: int
    url: str
    form: bool = True

    def upload(self, media: Path) -> Answer:
        """Send `media` once."""
        return self.upload_at_once(media, clients=1)[0]

    def upload_at_once(self, media: Path, *, clients: int) -> list[Answer]:
        """Send `media` on several connections."""
        url = self.url if self.form else f"{self.url}?filename=noise.wav&purpose=vision"
        return harness.send(url, media, form=self.form, clients=clients)

    def raw(self) -> "Mediagate":
        """The same server, with raw bodies."""
        return dataclasses.replace(self, form=False)

    def check_and_delete(self, answer: Answer) -> tuple[int, str]:
        """Download it, delete it."""
        url = f"{self.url}/{_id_in(answer)}"
        digest = hashlib.sha256()
        size_bytes = 0
        with _OPENER.open(f"{url}/content", timeout=harness.TIMEOUT_S) as content:
            while chunk := content.read(harness.MIB):
                digest.update(chunk)
                size_bytes += len(chunk)
        delete = urllib.request.Request(url, method="DELETE")  # noqa: S310 - our own server
        with _OPENER.open(delete, timeout=harness.TIMEOUT_S):
            return size_bytes, digest.hexdigest()


@dataclass(frozen=True)
class FrameworkDefault:
    """`uploadfile_server.py`.

    Attributes:
        pid: Of the process.
        url: Where it takes forms.
        directory: Its store.
    """

    pid: int
    url: str
    directory: Path

    def upload(self, media: Path) -> Answer:
        """Send `media` once."""
        return harness.send(self.url, media, form=True)[0]

    def check_and_delete(self, answer: Answer) -> tuple[int, str]:
        """Look at the file, unlink it."""
        return _check_and_unlink(self.directory / _id_in(answer))


@dataclass(frozen=True)
class Nginx:
    """nginx with `dav_methods PUT`. It never syncs: where that is wanted, the client does it, within the time.

    Attributes:
        pid: Of the master process.
        url: Where it puts files.
        directory: Its store.
        durable: Whether the client syncs.
    """

    pid: int
    url: str
    directory: Path
    durable: bool

    def upload(self, media: Path) -> Answer:
        """Send `media` once."""
        sync = self.directory / "noise.wav" if self.durable else None
        return harness.send(f"{self.url}/noise.wav", media, form=False, sync=sync)[0]

    def check_and_delete(self, answer: Answer) -> tuple[int, str]:
        """Look at the file, unlink it."""
        if answer.status != 201:
            raise AssertionError(f"{answer.status} {answer.body}")
        return _check_and_unlink(self.directory / "noise.wav")


@contextmanager
def mediagate(directory: Path, *, durable: bool, flags: Sequence[str] = ()) -> Iterator[Mediagate]:
    """`mediagate serve`, as it is started by anyone: a directory of its own is what makes it durable."""
    store = directory / "mediagate"
    if durable:
        flags = ("--file-upload-dir", str(store), *flags)
    store.mkdir(exist_ok=True)
    log = directory / "mediagate.log"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIAGATE_", "OPENAI_"))}
    program = str(Path(sys.executable).with_name("mediagate"))
    command = (program, "serve", "--port", "0", *flags)
    with _running(command, log, env={**kept, "TMPDIR": str(directory)}) as process:
        ready = _until(lambda: re.search(r"ready at (http://[0-9.:]+)", log.read_text()), process)
        yield Mediagate(process.pid, f"{ready[1]}/v1/files")


@dataclass(frozen=True)
class Vllm:
    """vLLM as it is released, on a tiny model.

    Attributes:
        pid: Of the API server, whose children are the engine's processes.
        url: Of the server.
    """

    pid: int
    url: str

    @property
    def files(self) -> Mediagate:
        """Its Files API, where uploads are enabled."""
        return Mediagate(self.pid, f"{self.url}/v1/files")


@contextmanager
def vllm(directory: Path, *, flags: Sequence[str] = ()) -> Iterator[Vllm]:
    """`vllm serve` on a Qwen2-VL of random weights, on the CPU.

    Args:
        directory: For its log, its caches and, made once, its model.
        flags: Of `vllm serve`.
    """
    others = ("MEDIAGATE_", "OPENAI_", "VLLM_")
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(others)},
        **_VLLM_ENV,
        "VLLM_CACHE_ROOT": str(directory / "vllm-cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(directory / "torch-cache"),
    }
    model = directory / "model"
    if not model.exists():
        script = harness.ROOT / "tests" / "engines" / "tiny_models.py"
        command: tuple[str | Path, ...] = (_vllm_python(), script, "qwen2_vl", model)
        subprocess.run(command, env=env, stderr=subprocess.DEVNULL, check=True)
    port = harness.free_port()
    command = (
        *(_vllm_python(), "-m", "vllm.entrypoints.cli.main", "serve", model),
        *("--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--max-model-len", "4096", "--enforce-eager"),
        # What is probed is kept out of the log by whoever probes it.
        *("--disable-access-log-for-endpoints", "/health", *flags),
    )
    with _running(command, directory / "vllm.log", env=env) as process:
        _until(lambda: _is_listening(port), process, within_s=harness.TIMEOUT_S)
        yield Vllm(process.pid, f"http://127.0.0.1:{port}")


def vllm_version() -> str:
    """As its package tells it."""
    code = "from importlib.metadata import version; print(version('vllm'))"
    command = (_vllm_python(), "-c", code)
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def _vllm_python() -> Path:
    default = harness.ROOT / ".venv-vllm-0.32.0" / "bin" / "python"
    found = Path(os.environ.get("VLLM_PYTHON") or default)
    if not found.exists():
        sys.exit(f"{found} is missing: run 'make vllm'")
    return found


_VLLM_ENV = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # One thread computes, wherever the scheduler puts it: what is beside it has the rest.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class LlamaServer:
    """llama-server, on a tiny model.

    Attributes:
        pid: Of the process, whose children decode videos.
        url: Of the server.
    """

    pid: int
    url: str


@contextmanager
def llama_server(directory: Path, *, flags: Sequence[str] = ()) -> Iterator[LlamaServer]:
    """`llama-server` on random weights, on the CPU.

    Args:
        directory: For its log and its model.
        flags: Added to its command line.
    """
    model = directory / "model"
    if not model.exists():
        _with_engines("from engines import tiny_gguf; tiny_gguf.write(Path(argv[1]))", model)
    port = harness.free_port()
    command: tuple[str | Path, ...] = (
        *(llama_server_program(), "--model", model / "model.gguf"),
        *("--mmproj", model / "mmproj.gguf", "--alias", "tiny"),
        *("--host", "127.0.0.1", "--port", str(port), *LLAMA_SERVER_FLAGS, *flags),
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
    with _running(command, directory / "llama-server.log", env=env) as process:
        url = f"http://127.0.0.1:{port}"
        _until(lambda: _is_healthy(url), process)
        yield LlamaServer(process.pid, url)


LLAMA_SERVER_FLAGS = ("--ctx-size", "8192", "--parallel", "1", "--threads", "1", "--no-warmup")
"""Frames are taken as it does it by default: four a second. One thread computes: more of them spin while they wait for
each other, on the cores that its decoder needs."""


@functools.cache
def llama_server_program() -> Path:
    """The one that `make engines` builds, or that the environment names."""
    told = _with_engines("from engines.install_llama_server import PROGRAM; print(PROGRAM)")
    found = Path(os.environ.get("LLAMA_SERVER") or told)
    if not found.exists():
        sys.exit(f"{found} is missing: run 'make engines'")
    return found


def llama_server_version() -> str:
    """As it tells it, the compiler included."""
    done = subprocess.run(
        [llama_server_program(), "--version"], stderr=subprocess.PIPE, text=True, check=True
    )
    return " ".join(re.findall(r"^(?:version:|built with) (.*)$", done.stderr, re.M))


def _with_engines(code: str, *arguments: Path) -> str:
    """What Python prints that finds the recipes of the tests."""
    code = f"from pathlib import Path; from sys import argv; {code}"
    env = {**os.environ, "PYTHONPATH": str(harness.ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def _is_healthy(url: str) -> bool:
    with contextlib.suppress(OSError), _OPENER.open(f"{url}/health", timeout=1):
        return True
    return False


@contextmanager
def framework_default(directory: Path, *, durable: bool) -> Iterator[FrameworkDefault]:
    """The framework-default server."""
    store = directory / "uploadfile"
    store.mkdir()
    port = harness.free_port()
    command: list[str | Path] = [
        *(sys.executable, Path(__file__).with_name("uploadfile_server.py")),
        *(str(port), store, "fsync" if durable else "no-fsync"),
    ]
    log = directory / "uploadfile.log"
    with _running(command, log, env={**os.environ, "TMPDIR": str(directory)}) as process:
        _until(lambda: _is_listening(port), process)
        yield FrameworkDefault(process.pid, f"http://127.0.0.1:{port}/v1/files", store)


@contextmanager
def nginx(directory: Path, *, durable: bool, tuned: bool) -> Iterator[Nginx]:
    """nginx: one worker, for there is one connection at a time; its temporary files on the same file system.

    Args:
        directory: For all it writes.
        durable: Whether the client syncs.
        tuned: With a body buffer of 1 MiB for its default of 16 KiB: half the CPU.
    """
    directory = directory / ("nginx-tuned" if tuned else "nginx")
    store = directory / "store"
    store.mkdir(parents=True)
    port = harness.free_port()
    config = directory / "nginx.conf"
    config.write_text(_NGINX_CONFIG.format(
        user="user root;" if os.geteuid() == 0 else "",
        directory=directory,
        store=store,
        port=port,
        tuning="client_body_buffer_size 1m;" if tuned else "",
    ))  # fmt: skip
    command: list[str | Path] = [_nginx(), "-p", directory, "-c", config, "-e", "stderr"]
    with _running(command, directory / "nginx.log", env=os.environ.copy()) as process:
        _until(lambda: _is_listening(port), process)
        yield Nginx(process.pid, f"http://127.0.0.1:{port}", store, durable)


def nginx_version() -> str:
    """As nginx tells it."""
    told = subprocess.run([_nginx(), "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr
    return told.strip().rpartition("/")[2]


def _nginx() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        sys.exit("nginx is missing: run 'make services'")
    return found


_NGINX_CONFIG = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {directory}/nginx-temporary;
  proxy_temp_path {directory}/nginx-unused;
  fastcgi_temp_path {directory}/nginx-unused;
  uwsgi_temp_path {directory}/nginx-unused;
  scgi_temp_path {directory}/nginx-unused;
  server {{
    listen 127.0.0.1:{port};
    root {store};
    dav_methods PUT;
    {tuning}
  }}
}}
"""


@contextmanager
def _running(
    command: Sequence[str | Path], log: Path, *, env: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of a block; its output goes to `log`, which is shown when something fails."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env
        )
    try:
        yield process
    except BaseException:
        sys.stderr.write(log.read_text(errors="replace"))
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(harness.TIMEOUT_S)
        finally:
            process.kill()


def _until(
    ask: Callable[[], _T | None], process: subprocess.Popen[bytes], *, within_s: float = _START_S
) -> _T:
    """Ask again until there is an answer, as long as the server lives."""
    deadline = time.monotonic() + within_s
    while not (answer := ask()):
        if time.monotonic() > deadline or process.poll() is not None:
            raise AssertionError("the server did not start")
        time.sleep(0.02)
    return answer


def _is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _id_in(answer: Answer) -> str:
    if answer.status != 200:
        raise AssertionError(f"{answer.status} {answer.body}")
    return str(json.loads(answer.body)["id"])


def _check_and_unlink(path: Path) -> tuple[int, str]:
    found = path.stat().st_size, harness.digest_of(path)
    path.unlink()
    return found
