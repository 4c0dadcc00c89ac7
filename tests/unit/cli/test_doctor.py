"""What `doctor` checks before it looks at anything, and how it prints."""

from pathlib import Path

import pytest

from mediagate.cli.doctor import SUBJECT_WIDTH, _print
from mediagate.cli.main import main
from mediagate.doctor.report import Check, Mark


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--port", "x"], "--port: "),
        (["--upstream", "ftp://gpu"], "--upstream: "),
        (["--delivery", "path", "--upstream", "http://gpu"], "--delivery and media_path"),
    ],
)
def test_bad_setting_ends_it_with_one_line(
    flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *flags]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mediagate: {words}")
    assert err.count("\n") == 1


def test_bad_key_file_ends_it_as_it_ends_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys.toml").write_text("scopes = 1")
    flags = ["--api-key-file", str(tmp_path / "keys.toml")]

    assert main(["doctor", *flags]) == 2
    ours = capsys.readouterr().err
    assert main(["serve", *flags]) == 2

    assert ours == capsys.readouterr().err


def test_check_is_one_line_that_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _print(Check(Mark.NOT_TRIED, "path", "says \x1b[2Jthis\nand that"))

    assert capsys.readouterr().out == f"--  {'path':<{SUBJECT_WIDTH}}  says [2Jthisand that\n"
