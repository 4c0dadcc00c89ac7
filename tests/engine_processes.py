"""Processes of a real inference server for tests, whichever it is; `vllm_servers` and `llama_servers` stand on it.

    with engine_processes.serving(command, env=env) as server:
        servers.get(server, "/v1/models"); servers.RawClient(server)      as with mediagate's own
        server.pids, server.processes(), server.cpu_s(), server.log()
        server.scratch                                                    its TMPDIR, removed at the end

The whole process group is ended whatever happens.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import servers

READY_S = 480.0
"""Half a minute is usual for vLLM; only a failing test, or a busy machine, ever waits so long."""

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a server.

    Attributes:
        pid: Its id.
        title: What it calls itself: `VLLM::EngineCore`, `VLLM::APIServer_0`; a command line otherwise.
        cpu_s: Seconds of a core that it used so far, and its ended children.
    """

    pid: int
    title: str
    cpu_s: float


class EngineServer(servers.Server):
    """An inference server.

    Attributes:
        scratch: Its TMPDIR, removed at the end.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], *, store: Path, scratch: Path, port: int
    ) -> None:
        log_path = scratch.with_suffix(".log")
        super().__init__(process, store=store, log_path=log_path, host="127.0.0.1", port=port)
        self.scratch = scratch

    @property
    def pids(self) -> list[int]:
        """Of all its processes: parent, API servers, engine, workers."""
        return [process.pid for process in self.processes()]

    def processes(self) -> list[Process]:
        """All that were started by it and its children; zombies are none."""
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The fields after the name, which may hold anything: state, parent, process group, …
                fields = (directory / "stat").read_text().rpartition(") ")[2].split()
                if int(fields[2]) == self.pid and fields[0] != "Z":
                    line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    # … time in user mode and in the kernel, its own and that of ended children.
                    cpu_s = sum(map(int, fields[11:15])) / _TICKS
                    found.append(Process(int(directory.name), line.strip(), cpu_s))
        return sorted(found, key=lambda process: process.pid)

    def cpu_s(self) -> float:
        """Seconds of a core that all its processes used so far."""
        return sum(process.cpu_s for process in self.processes())

    def stop(self, *, sig: int = signal.SIGTERM) -> None:
        """Ask it to end; fails unless it exits with status 0 and no process of it is left soon after."""
        super().stop(sig=sig)
        servers.until(lambda: not self.processes(), timeout_s=10)

    def kill(self) -> None:
        """End all of its processes as a power cut would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(servers.TIMEOUT_S)


@contextlib.contextmanager
def serving(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    store: Path | None = None,
) -> Iterator[EngineServer]:
    """A server, once its `/health` says 200; killed at the end if it still runs.

    Args:
        command: How it is started; `--port` and a free one are added.
        env: All of its environment, but for TMPDIR.
        cwd: Where it runs; None: here.
        store: The directory of mediagate's files, if it has one.
    """
    scratch = Path(tempfile.mkdtemp(prefix="test-of-engine-"))
    with contextlib.ExitStack() as stack:
        stack.callback(scratch.with_suffix(".log").unlink, missing_ok=True)
        stack.callback(shutil.rmtree, scratch)
        # An engine listens long after it was told where.
        port = stack.enter_context(servers.reserved_port())
        with scratch.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                env={**env, "TMPDIR": str(scratch)},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        server = EngineServer(process, store=store or Path(os.devnull), scratch=scratch, port=port)
        stack.callback(server.kill)
        _wait_until_ready(server)
        yield server


def _wait_until_ready(server: EngineServer) -> None:
    def is_healthy() -> bool:
        assert server.is_running, "the engine ended before it was ready"
        with contextlib.suppress(ConnectionError, TimeoutError):
            return servers.get(server, "/health").status == 200
        return False

    try:
        servers.until(is_healthy, timeout_s=READY_S)
    except AssertionError as error:
        error.add_note(server.log())
        raise


def inherited() -> dict[str, str]:
    """This environment, without what would change a server that is started in it."""
    others = ("MEDIAGATE_", "OPENAI_", "VLLM_", "LLAMA_", "HF_", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}
