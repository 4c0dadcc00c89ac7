"""Flags on a parser that is no vLLM's: what needs no engine to be judged."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from mediagate.blobs.directory import DirectoryError, StoreDirectory
from mediagate.config import Config, Program, settings
from mediagate.vllm_plugin import flags, hooks

ENABLED = hooks.ENABLED_ENV[0]


@pytest.fixture(autouse=True)
def environ() -> Iterator[None]:
    """The environment as it was, and no line told yet."""
    hooks.tell.cache_clear()
    with patch.dict(os.environ):
        for name in (*hooks.ENABLED_ENV, flags.HELD_ENV, hooks.CONNECTOR_ENV, hooks.PLUGINS_ENV):
            os.environ.pop(name, None)
        yield


def server_parser(*others: str) -> argparse.ArgumentParser:
    """What vLLM hands over for a command that answers HTTP."""
    parser = argparse.ArgumentParser(prog="vllm serve")
    for flag in ("--middleware", *others):
        parser.add_argument(flag)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--grpc", action="store_true")
    parser.add_argument("--api-server-count", type=int)
    return parser


def with_flags(*others: str) -> argparse.ArgumentParser:
    parser = server_parser(*others)
    flags.add(parser)
    return parser


def refused(
    capsys: pytest.CaptureFixture[str],
    *arguments: str,
    parser: argparse.ArgumentParser | None = None,
) -> str:
    """What a command line that is refused says."""
    with pytest.raises(SystemExit) as exited:
        (parser or with_flags()).parse_args(arguments)
    assert exited.value.code == 2
    return capsys.readouterr().err


# what is there ---------------------------------------------------------------------------------------------


def test_every_setting_of_vllm_is_a_flag_with_its_default_and_no_other_is() -> None:
    parser = with_flags()

    added = set(parser._option_string_actions) - set(server_parser()._option_string_actions)

    assert {flag for flag in added if not flag.startswith("--no-")} == {
        setting.flag for setting in settings(Program.VLLM)
    }


def test_the_switch_comes_first_in_the_help() -> None:
    text = with_flags().format_help()

    group = text[text.index(flags.GROUP) :]
    assert group.index("--enable-file-uploads") < group.index("--file-upload-dir")


def test_what_is_not_given_leaves_no_trace() -> None:
    namespace = with_flags().parse_args(["--middleware", "m"])

    assert vars(namespace) == vars(server_parser().parse_args(["--middleware", "m"]))


def test_a_command_that_answers_no_http_gets_no_flags() -> None:
    bench = argparse.ArgumentParser(prog="vllm bench latency")

    flags.add(bench)

    assert bench.format_help() == argparse.ArgumentParser(prog="vllm bench latency").format_help()


def test_flags_are_added_once() -> None:
    parser = with_flags()
    once = parser.format_help()

    flags.add(parser)

    assert parser.format_help() == once


def test_lists_are_repeated_or_follow_each_other() -> None:
    """In its file, vLLM turns a list into one flag with several values."""
    parser = with_flags()
    header = ("--file-upload-scope-header", "X-Tenant")

    namespace = parser.parse_args(
        [*header, "--trusted-proxy", "10.0.0.1", "10.0.0.2", "--trusted-proxy", "10.0.0.3"]
    )

    assert namespace.trusted_proxy == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


# other people's flags --------------------------------------------------------------------------------------


def test_a_vllm_with_uploads_of_its_own_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """In its children too, where nothing but the environment says so."""
    os.environ["VLLM_ENABLE_FILE_UPLOADS"] = "1"
    os.environ[hooks.CONNECTOR_ENV] = hooks.NAME
    parser = server_parser("--enable-file-uploads")
    before = parser.format_help()

    flags.add(parser)
    flags.add(server_parser("--enable-file-uploads"))

    assert parser.format_help() == before
    assert not hooks.is_enabled_by_environment()
    assert hooks.CONNECTOR_ENV not in os.environ
    assert [record.getMessage() for record in caplog.records] == [
        "mediagate: this vLLM has a --enable-file-uploads of its own, so the plugin stays out"
    ]


def test_a_flag_that_vllm_has_too_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Its value is none of ours: there is no such network."""
    parser = with_flags("--trusted-proxy")

    namespace = parser.parse_args(["--trusted-proxy", "everybody", "--no-enable-file-uploads"])

    assert namespace.trusted_proxy == "everybody"
    assert "MEDIAGATE_TRUSTED_PROXY" in caplog.text


# judged ----------------------------------------------------------------------------------------------------


def test_a_bad_value_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "--file-upload-max-size-mb", "-3")

    assert told == "mediagate: --file-upload-max-size-mb: should be greater than 0\n"


def test_contradictions_between_a_flag_and_a_variable_name_both(
    capsys: pytest.CaptureFixture[str],
) -> None:
    os.environ["MEDIAGATE_FILE_UPLOAD_MAX_TOTAL_GB"] = "1"

    told = refused(capsys, "--file-upload-scope-max-gb", "2")

    assert "--file-upload-scope-max-gb and MEDIAGATE_FILE_UPLOAD_MAX_TOTAL_GB" in told
    assert told.count("\n") == 1


def test_nothing_happens_when_vllm_is_about_to_refuse_the_command_line() -> None:
    _, unknown = with_flags().parse_known_args(
        ["--enable-file-uploads", "--file-upload-ttl-seconds", "0", "--no-such-flag"]
    )

    assert unknown == ["--no-such-flag"]
    assert flags.HELD_ENV not in os.environ


def test_a_variable_that_means_somebody_else_does_not_stop_a_vllm_without_uploads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Kubernetes sets such for a service that is called mediagate, in every pod beside it."""
    os.environ["MEDIAGATE_SERVICE_HOST"] = "10.0.0.1"

    with_flags().parse_args([])

    assert "MEDIAGATE_SERVICE_HOST" in caplog.text
    assert "stay off" in caplog.text


@pytest.mark.parametrize("enabled", ["1", "0", "perhaps"])
def test_it_stops_one_that_was_told_anything_of_uploads(
    capsys: pytest.CaptureFixture[str], enabled: str
) -> None:
    os.environ |= {"MEDIAGATE_SERVICE_HOST": "10.0.0.1", ENABLED: enabled}

    assert "MEDIAGATE_SERVICE_HOST" in refused(capsys)


def test_a_bad_file_stops_the_start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It might have switched uploads on."""
    os.environ["MEDIAGATE_CONFIG"] = str(tmp_path / "none.toml")

    assert "none.toml" in refused(capsys)


def test_the_flag_that_says_no_beats_the_environment() -> None:
    """What the environment had set in motion is taken back, for the processes to come."""
    os.environ |= {ENABLED: "1", hooks.CONNECTOR_ENV: hooks.NAME}

    with_flags().parse_args(["--no-enable-file-uploads"])

    assert not hooks.is_enabled_by_environment()
    assert hooks.CONNECTOR_ENV not in os.environ


def test_another_connector_is_left_where_uploads_are_off() -> None:
    os.environ[hooks.CONNECTOR_ENV] = "theirs"

    with_flags().parse_args([])

    assert os.environ[hooks.CONNECTOR_ENV] == "theirs"


def test_flags_that_have_no_effect_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with_flags().parse_args(["--file-upload-ttl-seconds", "60"])

    assert (
        "mediagate: --file-upload-ttl-seconds: no effect without --enable-file-uploads"
        in caplog.messages
    )


@pytest.mark.parametrize("how", [("--headless",), ("--api-server-count", "0")])
def test_a_node_that_answers_no_http_opens_nothing(how: tuple[str, ...], tmp_path: Path) -> None:
    """The same flags on every node: the directory belongs to the one with the API servers."""
    store = tmp_path / "store"

    with_flags().parse_args(["--enable-file-uploads", "--file-upload-dir", str(store), *how])

    assert not store.exists()
    assert flags.HELD_ENV not in os.environ


@pytest.mark.parametrize(
    ("variable", "arguments", "named"),
    [
        ("1", (), "Rust frontend (VLLM_USE_RUST_FRONTEND)"),
        ("0", ("--grpc",), "gRPC server (--grpc)"),
    ],
)
def test_what_runs_no_plugins_is_named(
    capsys: pytest.CaptureFixture[str], variable: str, arguments: tuple[str, ...], named: str
) -> None:
    os.environ["VLLM_USE_RUST_FRONTEND"] = variable

    told = refused(capsys, "--enable-file-uploads", *arguments)

    assert named in told
    assert "mediagate serve --upstream URL" in told
    assert told.count("\n") == 1


def test_what_is_settled_is_not_judged_again() -> None:
    """In its children vLLM parses an empty command line, to learn its own defaults."""
    os.environ |= {flags.HELD_ENV: "/nowhere", ENABLED: "true"}
    os.environ["MEDIAGATE_FILE_UPLOAD_TTL_SECONDS"] = "0"

    with_flags().parse_args([])
    with_flags().parse_args(["--enable-file-uploads"])

    assert os.environ[flags.HELD_ENV] == "/nowhere"


# the directory ---------------------------------------------------------------------------------------------


def test_children_join_the_directory_that_the_parent_made() -> None:
    parent = StoreDirectory.temporary()
    os.environ[flags.HELD_ENV] = str(parent.path)

    child = flags.open_handed_on(Config())
    parent.close()

    assert child.path.is_dir()
    child.close()
    assert not child.path.exists()


def test_a_directory_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    os.environ[flags.HELD_ENV] = str(tmp_path / "gone")

    with pytest.raises(DirectoryError, match="gone"):
        flags.open_handed_on(Config())


@pytest.mark.parametrize("is_first", [True, False])
def test_only_who_looks_first_clears_the_directory(is_first: bool, tmp_path: Path) -> None:
    StoreDirectory.given(tmp_path).close()
    (tmp_path / "index.sqlite3").write_bytes(b"rows")
    if not is_first:
        os.environ[flags.HELD_ENV] = str(tmp_path)

    config = Config(file_upload_dir=tmp_path, file_upload_clear_on_start=True)
    flags.open_handed_on(config).close()

    assert (tmp_path / "index.sqlite3").exists() is not is_first


def test_several_servers_need_one_directory(tmp_path: Path) -> None:
    assert not flags.is_shared(Config())
    assert flags.is_shared(Config(file_upload_dir=tmp_path))
    os.environ[flags.HELD_ENV] = str(tmp_path)
    assert flags.is_shared(Config())


FORKING = """
import os, sys
from pathlib import Path
from mediagate.config import Config
from mediagate.vllm_plugin import flags

directory = flags.open_handed_on(Config(file_upload_dir=Path(sys.argv[1])))
if os.fork() == 0:
    print(os.getpid(), flush=True)  # by itself, and so when all is done that is done at a fork
    sys.stdin.read()  # until the test is over
    os._exit(0)
os.wait()
"""


def test_a_forked_engine_does_not_keep_the_directory_of_a_server_that_was_killed(
    tmp_path: Path,
) -> None:
    """P12: a lock lives as long as the process that uses the store, and no longer."""
    with subprocess.Popen(
        (sys.executable, "-c", FORKING, str(tmp_path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        child = int(server.stdout.readline())
        with pytest.raises(DirectoryError, match="in use"):
            StoreDirectory.given(tmp_path, is_cleared=True)

        server.send_signal(signal.SIGKILL)
        server.wait()

        StoreDirectory.given(tmp_path, is_cleared=True).close()
        assert Path(f"/proc/{child}").exists()
