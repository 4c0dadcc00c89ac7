"""The parser, the help, and how commands end."""

import subprocess
import sys
from pathlib import Path

import pytest

from mediagate.cli.main import main

ROOT = Path(__file__).parents[3]
ID = "file-" + "0" * 32


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEDIAGATE_SERVER", "MEDIAGATE_CONFIG", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_first_screen_of_serve_help_holds_the_five_flags_most_people_need(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")

    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])

    first_screen = "\n".join(capsys.readouterr().out.splitlines()[:24])
    assert ended.value.code == 0
    for flag in ("--upstream URL", "--host", "--port", "--api-key", "--file-upload-dir"):
        assert f"\n  {flag}" in first_screen


def test_help_loads_neither_the_store_nor_any_http_library() -> None:
    script = (
        "import sys\n"
        "from mediagate.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'sqlalchemy', 'aiohttp', 'httpx2', 'uvicorn', 'starlette', 'av'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["surve"],
        ["serve", "--prot", "1"],
        ["serve", "--por", "1"],  # no abbreviations: a later flag would change their meaning
        ["upload"],
        ["upload", "a", "--purpose", "assistants"],
        ["files"],
        ["files", "get"],
        ["chat"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    said = capsys.readouterr()
    assert ended.value.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("mediagate")


def test_bad_setting_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["serve", "--port", "http"])

    said = capsys.readouterr()
    assert status == 2
    assert said.err.startswith("mediagate: --port: ")
    assert said.err.count("\n") == 1


def test_config_show_tells_values_and_origins_and_masks_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config_file = tmp_path / "gate.toml"
    config_file.write_text("workers = 3\n", encoding="utf-8")
    monkeypatch.setenv("MEDIAGATE_API_KEY", "sk-secret")

    status = main(
        ["config", "show", "--config", str(config_file), "--port", "1", "--no-enable-file-uploads"]
    )

    rows = {
        line.split()[0]: line.split(maxsplit=1)[1] for line in capsys.readouterr().out.splitlines()
    }
    assert status == 0
    assert " ".join(rows["port"].split()) == "1 flag (--port)"
    assert " ".join(rows["enable_file_uploads"].split()) == "off flag (--enable-file-uploads)"
    assert " ".join(rows["api_key"].split()) == "******** environment (MEDIAGATE_API_KEY)"
    assert " ".join(rows["workers"].split()) == f"3 file (workers in {config_file})"
    assert " ".join(rows["max_json_mb"].split()) == "64 MiB default"
    assert " ".join(rows["file_upload_scope_max_gb"].split()) == "none default"


@pytest.mark.parametrize(
    "arguments",
    [
        ["files", "list"],
        ["files", "show", ID],
        ["files", "get", ID, "-o", "out"],
        ["files", "delete", ID],
        ["chat", "hello"],
        ["upload", __file__],
    ],
    ids=" ".join,
)
def test_server_that_is_not_there_is_one_line_and_exit_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = "http://127.0.0.1:1"

    status = main([*arguments, "--server", nobody])

    said = capsys.readouterr().err
    assert status == 1
    assert f"cannot connect to {nobody}" in said
    assert said.count("\n") == 1


def test_every_file_that_cannot_be_read_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = main(["upload", str(tmp_path), str(tmp_path / "none")])

    said = capsys.readouterr()
    assert status == 1
    assert said.out == ""
    assert said.err.splitlines() == [
        f"mediagate: {tmp_path}: Is a directory",
        f"mediagate: {tmp_path / 'none'}: No such file or directory",
    ]


def test_chat_about_what_is_neither_file_nor_id_asks_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(["chat", "hello", "--file", "file-123", "--model", "m"])

    assert status == 1
    assert "file-123: no such file, and no file id" in capsys.readouterr().err


@pytest.mark.parametrize(
    "header", ["X-Scope", "X Scope: a", "X-Scope:", "X-Scope: \xe4", "X-Scope: a\nX-Other: b"]
)
def test_what_is_no_header_is_wrong_usage(header: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["files", "list", "-H", header])

    assert ended.value.code == 2
    assert "not a header, such as 'X-Scope: team-a'" in capsys.readouterr().err


def test_committed_reference_pages_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
