"""The command line against the real server.

The server is always a process of its own; a client is one where that matters: its standard input, terminal, signals.
"""

import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

import corpus
from mediagate.cli.main import main
from servers import until

ROOT = Path(__file__).parents[2]
MEDIAGATE = Path(sys.executable).with_name("mediagate")
TIMEOUT_S = 60

pytestmark = pytest.mark.media


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MEDIAGATE_", "OPENAI_"))}
    return kept | dict(extra or {})


@dataclass(frozen=True, slots=True)
class Served:
    url: str
    ready_line: str
    process: subprocess.Popen[str]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status, and what it wrote on standard error since it was ready."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, said


@contextlib.contextmanager
def serving(*flags: str, env: Mapping[str, str] | None = None) -> Iterator[Served]:
    process = subprocess.Popen(
        [MEDIAGATE, "serve", "--port", "0", *flags],
        env=clean_environment(env),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = ""
        while not said.startswith("mediagate: ready"):
            said = process.stderr.readline()
            assert said, "the server ended before it was ready"
        found = re.search(r"http://\S+:\d+", said)
        assert found is not None
        yield Served(found[0], said, process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    media = corpus.encode_clip(container="mp4", video="h264", audio="aac")
    return media.write(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving("--file-upload-dir", str(tmp_path_factory.mktemp("store"))) as served:
        yield served


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


def mediagate(served: Served, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Done:
    """Run a command in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with (
        mock.patch.dict(
            os.environ, clean_environment(_server_of(served) | dict(env or {})), clear=True
        ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = main([str(argument) for argument in arguments])
    err.flush()
    out.flush()
    return Done(status, out.buffer.getvalue(), err.buffer.getvalue().decode())


def run(command: Sequence[str | Path], served: Served | None = None, *, stdin: bytes = b"") -> Done:
    """Run a command as a process."""
    done = subprocess.run(
        command,
        input=stdin,
        cwd=ROOT,
        env=clean_environment(_server_of(served)),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr.decode())


def _server_of(served: Served | None) -> dict[str, str]:
    return {} if served is None else {"MEDIAGATE_SERVER": served.url}


def upload(served: Served, *arguments: str | Path) -> str:
    done = mediagate(served, "upload", *arguments)
    assert (done.status, done.err) == (0, "")
    return done.lines[-1]


def test_file_is_uploaded_shown_listed_fetched_and_deleted(
    gateway: Served, clip: Path, tmp_path: Path
) -> None:
    file_id = upload(gateway, clip)
    shown = mediagate(gateway, "files", "show", file_id)
    as_json = mediagate(gateway, "files", "show", f"vllm-file://{file_id}", "--json")
    listed = mediagate(gateway, "files", "list")
    to_stdout = mediagate(gateway, "files", "get", file_id)
    to_file = mediagate(gateway, "files", "get", file_id, "-o", tmp_path / "copy.mp4")
    to_directory = mediagate(gateway, "files", "get", file_id, "-o", tmp_path)
    again = mediagate(gateway, "files", "get", file_id, "-o", tmp_path / "copy.mp4")
    deleted = mediagate(gateway, "files", "delete", file_id)
    gone = mediagate(gateway, "files", "show", file_id)

    assert re.fullmatch("file-[0-9a-f]{32}", file_id)
    assert re.search(rf"^bytes +{clip.stat().st_size}$", shown.out.decode(), re.MULTILINE)
    assert json.loads(as_json.out)["filename"] == clip.name
    row = next(line for line in listed.lines if file_id in line)
    assert row.endswith(clip.name)
    assert "video/mp4" in row
    assert to_stdout.out == clip.read_bytes()
    assert (to_file.status, (tmp_path / "copy.mp4").read_bytes()) == (0, clip.read_bytes())
    assert (to_directory.status, (tmp_path / clip.name).read_bytes()) == (0, clip.read_bytes())
    assert again.status == 1
    assert "exists and is not overwritten" in again.err
    assert (deleted.status, deleted.lines) == (0, [file_id])
    assert gone.status == 1
    assert "(404)" in gone.err
    assert gone.err.count("\n") == 1


def test_header_names_the_tenant_in_every_command(clip: Path, tmp_path: Path) -> None:
    alice, bob = ("-H", "X-Scope: alice"), ("--header", "X-Scope:bob")
    flags = ("--file-upload-scope-header", "X-Scope", "--file-upload-dir", str(tmp_path / "store"))

    with serving(*flags) as served:
        file_id = upload(served, clip, *alice)
        asked = mediagate(served, "chat", "What is it?", "--file", file_id, *alice)
        listed_by_bob = mediagate(served, "files", "list", *bob)
        shown_to_nobody = mediagate(served, "files", "show", file_id)
        deleted = mediagate(served, "files", "delete", file_id, *alice)

    assert "video/mp4" in asked.out.decode()
    assert (listed_by_bob.status, file_id in listed_by_bob.out.decode()) == (0, False)
    assert shown_to_nobody.err == "mediagate: Scope header 'X-Scope' is required. (400)\n"
    assert (deleted.status, deleted.lines) == (0, [file_id])


def test_download_that_fails_leaves_no_file(gateway: Served, tmp_path: Path) -> None:
    done = mediagate(gateway, "files", "get", f"file-{'0' * 32}", "-o", tmp_path / "none.mp4")

    assert done.status == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_file_does_not_stop_the_others(gateway: Served, clip: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.mp4"
    script.write_text("#!/bin/sh\nexit 0\n")

    done = mediagate(gateway, "upload", clip, script, tmp_path / "none", clip, "--json")

    assert done.status == 1
    assert [json.loads(line)["filename"] for line in done.lines] == [clip.name, clip.name]
    complaints = done.err.splitlines()
    assert complaints[0].startswith(f"mediagate: {script}: ")
    assert complaints[0].endswith("(400)")
    assert complaints[1] == f"mediagate: {tmp_path / 'none'}: No such file or directory"


def test_standard_input_is_uploaded_from_a_pipe_and_from_a_file(
    gateway: Served, clip: Path
) -> None:
    piped = run([MEDIAGATE, "upload", "-", "--json"], gateway, stdin=clip.read_bytes())
    with clip.open("rb") as source:
        redirected = subprocess.run(
            [MEDIAGATE, "upload", "-", "--purpose", "vision", "--json"],
            stdin=source,
            env=clean_environment({"MEDIAGATE_SERVER": gateway.url}),
            capture_output=True,
            check=True,
        )

    assert json.loads(piped.out)["bytes"] == clip.stat().st_size
    assert json.loads(piped.out)["filename"] == "upload.bin"
    assert json.loads(redirected.stdout)["bytes"] == clip.stat().st_size
    assert json.loads(redirected.stdout)["purpose"] == "vision"


@pytest.mark.parametrize("name", ["a b&c=d.mp4", "clip ü 視頻.mp4", "-leading.mp4"])
def test_filename_arrives_as_it_is(gateway: Served, clip: Path, tmp_path: Path, name: str) -> None:
    named = tmp_path / name
    named.write_bytes(clip.read_bytes())

    done = mediagate(gateway, "upload", "--json", "--", named)

    assert json.loads(done.out)["filename"] == name


def test_chat_asks_about_paths_and_ids(gateway: Served, clip: Path) -> None:
    by_path = mediagate(gateway, "chat", "What is this?", "--file", clip)
    file_id = by_path.err.split()[-1]
    by_id = mediagate(gateway, "chat", "What is this?", "--file", file_id, "--file", file_id)

    assert by_path.status == 0
    assert by_path.err == f"{clip} is {file_id}\n"
    assert "h264" in by_path.out.decode()
    assert by_path.out.endswith(b"\n")
    assert (by_id.status, by_id.err) == (0, "")
    assert "h264" in by_id.out.decode()


def test_chat_names_what_the_server_said_against_it(gateway: Served) -> None:
    done = mediagate(gateway, "chat", "What is this?", "--file", f"file-{'0' * 32}")

    assert done.status == 1
    assert done.err.endswith("(404)\n")


def test_refused_upload_shows_the_reason_while_bytes_were_still_to_come(
    clip: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(clip.read_bytes())
    os.truncate(large, 64 * 1024**2)

    with serving("--file-upload-max-size-mb", "1") as served:
        declared = mediagate(served, "upload", large)
        undeclared = run([MEDIAGATE, "upload", "-"], served, stdin=large.read_bytes())
        left = mediagate(served, "files", "list", "--json")

    for done in (declared, undeclared):
        assert done.status == 1
        assert done.err.endswith("(413)\n")
    assert left.out == b""


def test_api_key_comes_from_flag_or_environment_but_not_from_the_servers_variable() -> None:
    with serving(env={"MEDIAGATE_API_KEY": "one,two"}) as served:
        none = mediagate(served, "files", "list", env={"MEDIAGATE_API_KEY": "one"})
        by_flag = mediagate(served, "files", "list", "--api-key", "two")
        by_env = mediagate(served, "files", "list", env={"OPENAI_API_KEY": "one"})

    assert none.status == 1
    assert none.err.endswith("(401)\n")
    assert (by_flag.status, by_env.status) == (0, 0)


def test_reader_that_leaves_ends_the_command_quietly(gateway: Served, clip: Path) -> None:
    upload(gateway, clip)
    reader, writer = os.pipe()
    os.close(reader)

    listing = subprocess.run(
        [MEDIAGATE, "files", "list"],
        env=clean_environment({"MEDIAGATE_SERVER": gateway.url}),
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
        check=False,
    )

    os.close(writer)
    assert (listing.returncode, listing.stderr) == (141, b"")


def test_interrupted_upload_ends_quietly_and_leaves_nothing(clip: Path) -> None:
    with serving() as served:
        sending = subprocess.Popen(
            # What a shell runs in the background ignores SIGINT, and hands that on.
            ["env", "--default-signal=INT", MEDIAGATE, "upload", "-"],
            env=clean_environment({"MEDIAGATE_SERVER": served.url}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert sending.stdin is not None
        sending.stdin.write(clip.read_bytes() + bytes(512 * 1024))
        sending.stdin.flush()
        # When it has read all and waits for more: a signal right before that would be noticed only with the next bytes.
        doing = Path(f"/proc/{sending.pid}/wchan")
        until(lambda: "pipe" in doing.read_text())
        sending.send_signal(signal.SIGINT)
        sending.wait(
            TIMEOUT_S
        )  # with its input open: at its end the upload might be faster than the signal
        out, said = sending.communicate()
        left = mediagate(served, "files", "list", "--json")

    assert (sending.returncode, out, said) == (130, b"", b"")
    assert left.out == b""


def test_progress_is_drawn_on_a_terminal_and_ids_stay_on_standard_output(
    gateway: Served, clip: Path
) -> None:
    ours, theirs = pty.openpty()

    done = subprocess.run(
        [MEDIAGATE, "upload", clip],
        env=clean_environment({"MEDIAGATE_SERVER": gateway.url, "COLUMNS": "120"}),
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=TIMEOUT_S,
        check=True,
    )

    os.close(theirs)
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert re.fullmatch(rb"file-[0-9a-f]{32}\n", done.stdout)
    assert "100%" in drawn
    assert drawn.endswith("\r\x1b[K")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_ends_with_status_0(number: signal.Signals) -> None:
    with serving() as served:
        status, said = served.stop(number)

    assert status == 0
    assert "Traceback" not in said


def test_several_workers_share_an_ephemeral_store(clip: Path) -> None:
    with serving("--workers", "2") as served:
        file_id = upload(served, clip)
        shown = [mediagate(served, "files", "show", file_id).status for _ in range(6)]
        status, _ = served.stop()

    assert shown == [0] * 6
    assert status == 0


def test_ready_line_tells_who_answers_and_what_becomes_of_uploads(tmp_path: Path) -> None:
    with serving() as ephemeral, serving("--file-upload-dir", str(tmp_path)) as kept:
        behind = ["--upstream", kept.url + "/v1", "--host", "0.0.0.0"]  # noqa: S104
        with serving(*behind) as chained:
            pass

    assert "the built-in inspector answers; uploads vanish at exit" in ephemeral.ready_line
    assert "vanish" not in kept.ready_line
    assert f"; {kept.url} answers;" in chained.ready_line
    assert "there is no --api-key" in chained.ready_line
    assert "there is no --api-key" not in ephemeral.ready_line


def test_files_survive_a_restart_only_in_a_given_directory(clip: Path, tmp_path: Path) -> None:
    with serving("--file-upload-dir", str(tmp_path)) as first:
        file_id = upload(first, clip)
        assert first.stop()[0] == 0
    with serving("--file-upload-dir", str(tmp_path)) as second:
        kept = mediagate(second, "files", "get", file_id)
    with serving() as third:
        other = mediagate(third, "files", "get", file_id)

    assert kept.out == clip.read_bytes()
    assert other.status == 1


def test_port_in_use_is_one_line_and_exit_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run([MEDIAGATE, "serve", "--port", port])

    assert done.status == 1
    assert done.err == (
        f"mediagate: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    )


@pytest.mark.parametrize("name", ["occupied", "file"])
def test_directory_that_cannot_be_used_is_one_line_and_exit_2(tmp_path: Path, name: str) -> None:
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "theirs.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")

    done = run([MEDIAGATE, "serve", "--port", "0", "--file-upload-dir", tmp_path / name])

    assert done.status == 2
    assert done.err.startswith("mediagate: --file-upload-dir: ")
    assert done.err.count("\n") == 1
    assert (tmp_path / "occupied" / "theirs.txt").read_text() == "precious"


def test_store_that_does_not_open_ends_the_start_without_a_traceback(tmp_path: Path) -> None:
    with serving("--file-upload-dir", str(tmp_path)) as served:
        served.stop()
    (tmp_path / "index.sqlite3").write_text("no database")

    done = run([MEDIAGATE, "serve", "--port", "0", "--file-upload-dir", tmp_path])

    assert done.status == 1
    assert "ready" not in done.err


def test_demo_shows_the_whole_job_and_its_curl_lines_work_by_hand(gateway: Served) -> None:
    demo = run([sys.executable, "examples/demo.py"])
    lines = [line for line in demo.out.decode().splitlines() if re.match(r"(id=\$\()?curl ", line)]
    script = "\n".join(lines).replace("http://127.0.0.1:8080", gateway.url)
    by_hand = run(["bash", "-euo", "pipefail", "-c", script])

    assert (demo.status, demo.err) == (0, "")
    assert "All steps did what they say." in demo.out.decode()
    assert len(lines) == 6
    assert (by_hand.status, by_hand.err) == (0, "")
    said = by_hand.out.decode()
    assert said.count("data: [DONE]") == 3
    assert '"deleted":true' in said.replace(" ", "")
    assert "HTTP/1.1 404" in said


def test_demo_exits_with_a_complaint_when_a_step_fails(tmp_path: Path) -> None:
    source = (ROOT / "examples" / "demo.py").read_text(encoding="utf-8")
    assert '"aac", *measured' in source
    altered = source.replace('"aac", *measured', '"no such fact"')
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "demo.py").write_text(altered, encoding="utf-8")

    demo = run([sys.executable, str(tmp_path / "examples" / "demo.py")])

    assert demo.status == 1
    assert "The demo failed: the answer does not say no such fact" in demo.err


def test_openai_example_does_its_round(gateway: Served, clip: Path) -> None:
    base_url = f"{gateway.url}/v1"
    done = run(
        [sys.executable, "examples/openai_file_upload_client.py", "--base-url", base_url, str(clip)]
    )

    said = done.out.decode()
    assert (done.status, done.err) == (0, "")
    assert said.count("h264") == 2
    assert f"uploaded {clip.name}: {clip.stat().st_size} bytes" in said
    assert said.endswith("deleted: True\ngone: 404 file_not_found\n")
