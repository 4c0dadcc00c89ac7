"""Flags on vLLM's own command line: what is there, who beats whom, what is refused before any model is loaded."""

import re
from pathlib import Path
from typing import Any

import pytest

import vllm_servers
from engines.install_vllm import ROOT
from mediagate.config import Program, settings, with_unit

pytestmark = pytest.mark.vllm

OF_THE_PULL_REQUEST = {
    "--enable-file-uploads": "off",
    "--file-upload-dir": "a private temporary directory: files are gone at exit",
    "--file-upload-ttl-seconds": "3600 s",
    "--file-upload-max-size-mb": "512 MiB",
    "--file-upload-max-total-gb": "5 GiB",
    "--file-upload-max-concurrent": "4 per process",
    "--file-upload-scope-header": "none: all callers share their files",
    "--file-upload-disable-listing": "off",
}
"""#39003: the eight names, and what they do where they are not given."""

DEFAULTS = {
    setting.name: str(setting.default_in(Program.VLLM)) for setting in settings(Program.VLLM)
}

FACTS = """
import contextlib
from vllm_children import *
from mediagate.config import Program, environment, load

ON = "--enable-file-uploads"
config_file, toml, store = sys.argv[1:]


def settled(*flags):
    # What API servers read when a parent has parsed these flags.
    try:
        parse(*flags)
    except SystemExit as exit_:
        return exit_.code
    config = load(environ=environment(), program=Program.VLLM).config
    return {
        "on": config.enable_file_uploads, "ttl": config.file_upload_ttl_seconds,
        "header": config.file_upload_scope_header, "proxies": config.trusted_proxy,
        "listing": config.file_upload_disable_listing, "types": config.file_upload_allowed_types,
        "connector": os.environ.get("VLLM_MEDIA_CONNECTOR"),
    }


def everything():
    # Every setting at once: by flags, by our twins, and by those of the pull request where it has any.
    from mediagate.config import settings

    values = {
        "file_upload_dir": store, "file_upload_scope_header": "X-Tenant", "trusted_proxy": "10.0.0.0/8",
        "audit_log": "off", "file_upload_allowed_types": "image/png,video/mp4",
        "file_upload_listing_status": "404",
    }
    table = settings(Program.VLLM)
    given = {s: "1" if s.is_switch else values.get(s.name, "3") for s in table}
    flags = [part for s, value in given.items() for part in ([s.flag] if s.is_switch else [s.flag, value])]
    ours = {s.env: value for s, value in given.items()}
    theirs = {s.vllm_env or s.env: value for s, value in given.items()}

    def read(*flags):
        parse(*flags)
        config = load(environ=environment(), program=Program.VLLM).config
        return {s.name: str(getattr(config, s.name)) for s in table}

    return [ask(lambda: read(*flags)), ask(read, env=ours), ask(read, env=theirs)]


def refused(*flags, **env):
    return ask(lambda: refusal(*flags), env=env)


def left():
    # Of /var/tmp, which others use as well, only what this process makes there.
    made = []
    sys.addaudithook(lambda event, args: event == "tempfile.mkdtemp" and made.append(args[0]))
    before = set(os.listdir(tempfile.gettempdir()))
    refusal(ON, "--file-upload-ttl-seconds", "0")
    refusal(ON, "--help")
    refusal(ON, "--no-such-flag")
    refusal(ON, "--file-upload-dir", store, "--file-upload-clear-on-start", "--no-such-flag")
    there = set(os.listdir(tempfile.gettempdir())) - before
    return sorted({*there, *(path for path in made if os.path.exists(path))})


def again():
    parse(ON)
    first = os.environ["_MEDIAGATE_HELD_DIR"]
    parse()
    parse(ON)
    return [first, os.environ["_MEDIAGATE_HELD_DIR"]]


def helped():
    help_ = io.StringIO()
    FlexibleArgumentParser._search_keyword = "all"
    with contextlib.redirect_stdout(help_), contextlib.suppress(SystemExit):
        parse("--help")
    return help_.getvalue()


def grouped():
    help_ = io.StringIO()
    FlexibleArgumentParser._search_keyword = "fileuploads"
    with contextlib.redirect_stdout(help_), contextlib.suppress(SystemExit):
        parse("--help")
    return help_.getvalue()


os.environ["COLUMNS"] = "500"
import io
print(json.dumps({
    "help": ask(helped), "group": ask(grouped),
    "yaml": ask(lambda: settled("--config", config_file)),
    "yaml_and_flag": ask(lambda: settled("--config", config_file, "--file-upload-ttl-seconds", "5")),
    "environment": ask(lambda: settled(ON), env={"MEDIAGATE_FILE_UPLOAD_TTL_SECONDS": "7", "MEDIAGATE_CONFIG": toml}),
    "file": ask(lambda: settled(), env={"MEDIAGATE_CONFIG": toml}),
    "flag": ask(lambda: settled(ON, "--file-upload-ttl-seconds", "5"),
                env={"MEDIAGATE_FILE_UPLOAD_TTL_SECONDS": "7", "MEDIAGATE_CONFIG": toml}),
    "pull_request": ask(lambda: settled(), env={"VLLM_ENABLE_FILE_UPLOADS": "1", "VLLM_FILE_UPLOAD_TTL_SECONDS": "8"}),
    "no": ask(lambda: settled("--no-enable-file-uploads"), env={"MEDIAGATE_ENABLE_FILE_UPLOADS": "1"}),
    "no_beats_file": ask(lambda: settled("--no-enable-file-uploads"), env={"MEDIAGATE_CONFIG": toml}),
    "twins": everything(),
    "bad": refused(ON, "--file-upload-ttl-seconds", "0"),
    "bad_twin": refused(MEDIAGATE_FILE_UPLOAD_MAX_SIZE_MB="much", MEDIAGATE_ENABLE_FILE_UPLOADS="1"),
    "connector": refused(ON, VLLM_MEDIA_CONNECTOR="theirs"),
    "rust": refused(ON, VLLM_USE_RUST_FRONTEND="1"),
    "grpc": refused(ON, "--grpc"),
    "headless": ask(lambda: settled(ON, "--headless", "--file-upload-dir", store)),
    "again": ask(again),
    "left": ask(left),
}))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All answers."""
    directory = tmp_path_factory.mktemp("flags")
    yaml, toml = directory / "vllm.yaml", directory / "mediagate.toml"
    yaml.write_text(
        "enable-file-uploads: true\n"
        "file-upload-ttl-seconds: -1\n"
        "file_upload_scope_header: X-Tenant\n"
        "trusted-proxy: [10.0.0.0/8, 127.0.0.1]\n"
        "file-upload-allowed-types: [image/png, video/mp4]\n"
        "file-upload-disable-listing: true\n"
    )
    toml.write_text("enable_file_uploads = true\nfile_upload_ttl_seconds = 9\n")
    arguments = f"import sys; sys.argv[1:] = {[str(yaml), str(toml), str(directory / 'store')]}\n"
    found: dict[str, Any] = vllm_servers.run(
        arguments + FACTS, env={"PYTHONPATH": f"{ROOT}/tests/engines"}
    )
    assert not (directory / "store" / "blobs").exists()
    return found


def entry(text: str, flag: str) -> str:
    """What the help says of a flag, on one line."""
    (found,) = re.findall(rf"^  {flag}[ ,].*(?:\n {{8,}}.*)*", text, re.M)
    return " ".join(str(found).split())


def test_the_help_has_the_flags_and_defaults_of_the_pull_request(facts: dict[str, Any]) -> None:
    for text in (facts["help"], facts["group"]):
        for flag, default in OF_THE_PULL_REQUEST.items():
            assert entry(text, flag).endswith(f"(default: {default})")


def test_the_help_has_every_flag_of_ours_with_its_text(facts: dict[str, Any]) -> None:
    for setting in settings(Program.VLLM):
        default = with_unit(setting, setting.default_in(Program.VLLM))
        assert entry(facts["group"], setting.flag).endswith(f"{setting.text} (default: {default})")


def test_flags_stand_in_the_real_help_and_bad_ones_end_the_real_command() -> None:
    helped = vllm_servers.command("serve", "--help=all")
    refused = vllm_servers.command("serve", "m", "--file-upload-ttl-seconds", "0")

    assert helped.status == 0
    assert all(flag in helped.stdout for flag in OF_THE_PULL_REQUEST)
    assert refused.status == 2
    assert refused.stderr.endswith(
        "\nmediagate: --file-upload-ttl-seconds: must be above 0, or -1 for files that never expire\n"
    )


def test_each_flag_and_each_twin_says_the_same_to_the_children(facts: dict[str, Any]) -> None:
    by_flags, by_ours, by_theirs = facts["twins"]

    assert by_flags == by_ours == by_theirs
    assert {name: value for name, value in by_flags.items() if value == DEFAULTS[name]} == {}
    assert by_flags.keys() == DEFAULTS.keys()


def test_the_yaml_file_of_vllm_has_them_too(facts: dict[str, Any]) -> None:
    assert facts["yaml"] == {
        "on": True,
        "ttl": -1,
        "header": "X-Tenant",
        "listing": True,
        "connector": "mediagate",
        "proxies": ["10.0.0.0/8", "127.0.0.1/32"],
        "types": ["image/png", "video/mp4"],
    }
    assert facts["yaml_and_flag"] == {**facts["yaml"], "ttl": 5}


def test_flag_beats_environment_beats_file(facts: dict[str, Any]) -> None:
    ttls = {name: facts[name]["ttl"] for name in ("flag", "environment", "file", "pull_request")}

    assert ttls == {"flag": 5, "environment": 7, "file": 9, "pull_request": 8}
    assert all(facts[name]["on"] for name in ttls)
    assert all(facts[name]["connector"] == "mediagate" for name in ttls)


def test_the_flag_that_says_no_beats_all(facts: dict[str, Any]) -> None:
    for name in ("no", "no_beats_file"):
        assert facts[name]["on"] is False
        assert facts[name]["connector"] is None


def test_what_is_wrong_is_one_line_and_status_2(facts: dict[str, Any]) -> None:
    named = {
        "bad": "--file-upload-ttl-seconds",
        "bad_twin": "MEDIAGATE_FILE_UPLOAD_MAX_SIZE_MB (environment)",
        "connector": "VLLM_MEDIA_CONNECTOR=theirs",
        "rust": "VLLM_USE_RUST_FRONTEND",
        "grpc": "--grpc",
    }
    for name, what in named.items():
        status, told = facts[name]
        assert status == 2
        assert told.startswith("mediagate: ")
        assert what in told
        assert told.count("\n") == 1


def test_what_is_refused_and_what_helps_leaves_nothing_behind(facts: dict[str, Any]) -> None:
    assert facts["left"] == []


def test_a_node_without_http_reads_the_same_command_line(facts: dict[str, Any]) -> None:
    assert facts["headless"]["connector"] is None


def test_the_parser_that_vllm_makes_for_its_own_defaults_settles_nothing(
    facts: dict[str, Any],
) -> None:
    """There is one directory for all, however often a command line is parsed."""
    first, second = facts["again"]

    assert first == second
    assert not Path(first).exists()
