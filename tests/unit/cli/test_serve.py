"""What `serve` says, and what it checks before anything is started."""

import sys

import pytest

from mediagate.cli.main import main
from mediagate.cli.serve import ready_line
from mediagate.config import Config


@pytest.mark.parametrize(
    ("config", "host", "line"),
    [
        (
            Config(),
            "127.0.0.1",
            "mediagate: ready at http://127.0.0.1:8080; the built-in inspector answers; uploads vanish at exit, "
            "unless --file-upload-dir names a place for them",
        ),
        (
            Config.model_validate({"upstream": "http://gpu:8000/v1", "file_upload_dir": "/srv"}),
            "::1",
            "mediagate: ready at http://[::1]:8080; http://gpu:8000 answers",
        ),
        (
            Config.model_validate({"file_upload_dir": "/srv"}),
            "0.0.0.0",  # noqa: S104 - the one that is warned about
            "mediagate: ready at http://0.0.0.0:8080; the built-in inspector answers; anybody who reaches this "
            "address may use it, as there is no --api-key",
        ),
        (
            Config.model_validate({"enable_file_uploads": False, "api_key": ["k"]}),
            "0.0.0.0",  # noqa: S104
            "mediagate: ready at http://0.0.0.0:8080; the built-in inspector answers",
        ),
        (
            Config.model_validate({"file_upload_dir": "/srv", "api_key_file": "/etc/keys.toml"}),
            "0.0.0.0",  # noqa: S104
            "mediagate: ready at http://0.0.0.0:8080; the built-in inspector answers; one tenant may fill the store, "
            "as there is no --file-upload-scope-max-gb",
        ),
        (
            Config.model_validate(
                {
                    "file_upload_dir": "/srv",
                    "file_upload_scope_header": "X-Tenant",
                    "file_upload_scope_max_gb": 1,
                }
            ),
            "127.0.0.1",
            "mediagate: ready at http://127.0.0.1:8080; the built-in inspector answers",
        ),
        (
            Config.model_validate({"files_only": True, "file_upload_dir": "/srv"}),
            "127.0.0.1",
            "mediagate: ready at http://127.0.0.1:8080; a side-car, for files only",
        ),
    ],
    ids=[
        *("plain", "upstream", "open", "keyed", "tenants", "ceilings", "side-car"),
    ],
)
def test_ready_line_tells_what_one_must_know(config: Config, host: str, line: str) -> None:
    assert ready_line(config, host, 8080) == line


def test_libmagic_that_is_not_installed_stops_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "magic", None)

    status = main(["serve", "--file-upload-libmagic"])

    said = capsys.readouterr().err
    assert status == 2
    assert said.startswith("mediagate: --file-upload-libmagic: needs libmagic")
    assert said.count("\n") == 1
