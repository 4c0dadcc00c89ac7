"""Settings: where they come from, which wins, and what is said of a bad one."""

from pathlib import Path, PurePosixPath

import pydantic
import pytest

from mediagate.config import (
    GIB,
    MIB,
    Config,
    Origin,
    OriginKind,
    Program,
    Setting,
    SettingError,
    load,
    settings,
)

SECRET = "sk-very-secret"  # noqa: S105


def write_toml(directory: Path, text: str) -> str:
    path = directory / "gate.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def complaint(**sources: object) -> str:
    with pytest.raises(SettingError) as caught:
        load(**({"environ": {}} | sources))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_those_of_the_design() -> None:
    config = Config()

    assert (config.host, config.port, config.workers) == ("127.0.0.1", 8080, 1)
    assert config.upstream_root is None
    assert config.enable_file_uploads
    assert config.is_ephemeral
    assert config.max_json_bytes == 64 * MIB
    assert config.max_file_bytes == 512 * MIB
    assert config.max_total_bytes == 5 * GIB
    assert config.file_upload_max_concurrent == 64
    assert config.ttl_s == 3600
    assert config.file_upload_max_ttl_seconds == 2_592_000
    assert config.file_upload_idle_timeout_seconds == 30
    assert config.min_rate_bytes_per_s == 8000
    assert config.file_upload_deadline_seconds == 3600
    assert config.allowed_types is None
    assert config.api_keys == ()
    assert not config.file_upload_libmagic


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    config_file = write_toml(tmp_path, "port = 1\nworkers = 2\nmax_json_mb = 3")
    environ = {"MEDIAGATE_PORT": "11", "MEDIAGATE_WORKERS": "12"}

    resolved = load(flags={"port": "111"}, environ=environ, config_file=config_file)

    config, origins = resolved.config, resolved.origins
    assert (config.port, config.workers, config.max_json_mb, config.host) == (
        111,
        12,
        3,
        "127.0.0.1",
    )
    assert origins["port"] == Origin(OriginKind.FLAG, "--port")
    assert origins["workers"] == Origin(OriginKind.ENVIRONMENT, "MEDIAGATE_WORKERS")
    assert origins["max_json_mb"] == Origin(OriginKind.FILE, f"max_json_mb in {config_file}")
    assert origins["host"].kind is OriginKind.DEFAULT


def test_file_is_named_by_the_environment_unless_a_flag_names_one(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    named_by_env = write_toml(tmp_path, "port = 1")
    named_by_flag = write_toml(tmp_path / "other", "port = 2")
    environ = {"MEDIAGATE_CONFIG": named_by_env}

    by_env = load(environ=environ)
    by_flag = load(environ=environ, config_file=named_by_flag)

    assert (by_env.config.port, by_flag.config.port) == (1, 2)


PROGRAM_AND_SETTING = [
    pytest.param(program, setting, id=f"{program}-{setting.name}")
    for program in Program
    for setting in settings(program)
]


@pytest.mark.parametrize(("program", "setting"), PROGRAM_AND_SETTING)
def test_every_setting_has_text_a_flag_and_a_twin_that_works(
    program: Program, setting: Setting
) -> None:
    sample = {
        "upstream": "http://gpu:8000",
        "upstream_api_key": "k",
        "host": "::1",
        "api_key": "a,b",
        "file_upload_dir": "/srv/files",
        "file_upload_allowed_types": "video/mp4",
        "enable_file_uploads": "off" if program is Program.SERVER else "on",
        "files_only": "on",
        "file_upload_libmagic": "on",
        "engine": "vllm",
        "delivery": "url",
        "allowed_media_domains": "media.example.com, 10.0.0.0/8",
        "advertise_url": "http://gate:8080",
        "media_path": "/srv/links:/media",
        "trusted_proxy": "10.0.0.0/8, ::1",
        "file_upload_disable_listing": "on",
        "file_upload_listing_status": "404",
        "file_upload_clear_on_start": "on",
        "file_upload_scope_max_gb": "0.5",
    }.get(setting.name, "7")
    environ = {setting.env: sample}
    needs = {
        "upstream_api_key": {"MEDIAGATE_UPSTREAM": "http://gpu:8000"},
        "delivery": {"MEDIAGATE_UPSTREAM": "http://gpu:8000"},
        "media_path": {"MEDIAGATE_UPSTREAM": "http://gpu:8000"},
        "media_group": {
            "MEDIAGATE_UPSTREAM": "http://gpu:8000",
            "MEDIAGATE_MEDIA_PATH": "/srv/links",
        },
        "trusted_proxy": {"MEDIAGATE_FILE_UPLOAD_SCOPE_HEADER": "X-Tenant"},
        "file_upload_clear_on_start": {"MEDIAGATE_FILE_UPLOAD_DIR": "/srv/files"},
        "files_only": {"MEDIAGATE_FILE_UPLOAD_DIR": "/srv/files"},
    }
    environ |= needs.get(setting.name, {})

    resolved = load(environ=environ, program=program)

    assert setting.text.endswith(".")
    assert setting.flag == "--" + setting.name.replace("_", "-")
    assert getattr(resolved.config, setting.name) != setting.default_in(program)
    assert resolved.origins[setting.name].kind is OriginKind.ENVIRONMENT


PULL_REQUEST = {
    "--enable-file-uploads": False,
    "--file-upload-dir": None,  # empty there: a temporary directory
    "--file-upload-ttl-seconds": 3600,
    "--file-upload-max-size-mb": 512,
    "--file-upload-max-total-gb": 5,
    "--file-upload-max-concurrent": 4,
    "--file-upload-scope-header": None,  # empty there: no scopes
    "--file-upload-disable-listing": False,
}
"""Flags and defaults of vLLM #39003; its documentation is to stay true."""


def test_inside_vllm_the_flags_and_defaults_are_those_of_the_pull_request() -> None:
    ours = {setting.flag: setting for setting in settings(Program.VLLM)}
    config = load(environ={}, program=Program.VLLM).config

    for flag, default in PULL_REQUEST.items():
        assert ours[flag].default_in(Program.VLLM) == default, flag
        assert getattr(config, ours[flag].name) == default, flag
        assert ours[flag].vllm_env == "VLLM_" + flag.removeprefix("--").replace("-", "_").upper()


def test_what_the_gateway_takes_for_granted_is_its_own_default() -> None:
    gateway = load(environ={}).config

    assert gateway == Config()
    assert gateway.enable_file_uploads
    assert gateway.file_upload_max_concurrent == 64


@pytest.mark.parametrize(
    ("program", "foreign"),
    [
        (
            Program.VLLM,
            {"port": "1", "upstream": "http://gpu", "files_only": "on", "host": "::1"},
        ),
        (Program.SERVER, {"file_upload_decoded_cache_gb": "0"}),
    ],
)
def test_what_only_the_other_program_has_is_left_alone(
    program: Program, foreign: dict[str, str], tmp_path: Path
) -> None:
    environ = {f"MEDIAGATE_{name.upper()}": value for name, value in foreign.items()}
    in_file = "".join(
        f"{name} = {'true' if value == 'on' else repr(value)}\n" for name, value in foreign.items()
    )
    own = "max_json_mb = 3\n"

    by_environment = load(environ=environ, program=program)
    by_file = load(environ={}, config_file=write_toml(tmp_path, in_file + own), program=program)

    untouched = load(environ={}, program=program).config
    assert by_environment.config == untouched
    assert by_file.config == untouched.model_copy(update={"max_json_mb": 3})
    for name in foreign:
        assert by_environment.origins[name].kind is OriginKind.DEFAULT


@pytest.mark.parametrize("program", Program)
def test_a_name_that_neither_program_has_is_a_mistake_in_both(
    program: Program, tmp_path: Path
) -> None:
    in_environment = complaint(environ={"MEDIAGATE_FILES_ONYL": "on"}, program=program)
    in_file = complaint(config_file=write_toml(tmp_path, "files_onyl = true"), program=program)

    assert "did you mean MEDIAGATE_FILES_ONLY?" in in_environment
    assert "did you mean files_only?" in in_file


def test_twins_of_the_pull_request_count_inside_vllm_only_and_below_ours() -> None:
    environ = {
        "VLLM_ENABLE_FILE_UPLOADS": "1",
        "VLLM_FILE_UPLOAD_MAX_SIZE_MB": "7",
        "VLLM_FILE_UPLOAD_MAX_CONCURRENT": "8",
        "MEDIAGATE_FILE_UPLOAD_MAX_CONCURRENT": "9",
        "VLLM_FILE_UPLOAD_SCOPE_HEADER": "",  # its way of saying none
        "VLLM_API_KEY": SECRET,  # vLLM's own
    }

    inside = load(environ=environ, program=Program.VLLM)
    by_flag = load(
        flags={"file_upload_max_size_mb": "10"}, environ=environ, program=Program.VLLM
    ).config
    gateway = load(environ=environ).config

    assert inside.config.enable_file_uploads
    assert inside.config.file_upload_max_size_mb == 7
    assert inside.config.file_upload_max_concurrent == 9
    assert inside.config.api_keys == ()
    assert inside.origins["file_upload_max_size_mb"] == Origin(
        OriginKind.ENVIRONMENT, "VLLM_FILE_UPLOAD_MAX_SIZE_MB"
    )
    assert by_flag.file_upload_max_size_mb == 10
    assert (gateway.file_upload_max_size_mb, gateway.file_upload_max_concurrent) == (512, 9)


def test_a_bad_twin_of_the_pull_request_is_named_as_it_was_written() -> None:
    said = complaint(environ={"VLLM_FILE_UPLOAD_MAX_SIZE_MB": "many"}, program=Program.VLLM)

    assert said.startswith("VLLM_FILE_UPLOAD_MAX_SIZE_MB (environment): ")


def test_decoded_media_are_counted_in_bytes_and_may_be_none() -> None:
    def cache_bytes(gb: str) -> int:
        environ = {"MEDIAGATE_FILE_UPLOAD_DECODED_CACHE_GB": gb}
        return load(environ=environ, program=Program.VLLM).config.decoded_cache_bytes

    assert [cache_bytes(gb) for gb in ("0", "0.5", "1")] == [0, GIB // 2, GIB]
    assert "greater than or equal to 0" in complaint(
        environ={"MEDIAGATE_FILE_UPLOAD_DECODED_CACHE_GB": "-1"}, program=Program.VLLM
    )


def test_lists_are_commas_in_the_environment_and_repeats_on_the_command_line() -> None:
    by_env = load(
        environ={
            "MEDIAGATE_API_KEY": "one, two",
            "MEDIAGATE_FILE_UPLOAD_ALLOWED_TYPES": "video/mp4, IMAGE/PNG",
        }
    ).config
    by_flag = load(
        flags={"api_key": ["three"], "file_upload_allowed_types": "audio/wav,audio/flac"},
        environ={"MEDIAGATE_API_KEY": "one,two"},
    ).config

    assert by_env.api_keys == ("one", "two")
    assert by_env.allowed_types == frozenset({"video/mp4", "image/png"})
    assert by_flag.api_keys == ("three",)
    assert by_flag.allowed_types == frozenset({"audio/wav", "audio/flac"})


def test_fractions_and_minus_one_mean_what_they_say() -> None:
    config = load(
        flags={
            "file_upload_max_size_mb": "0.5",
            "file_upload_max_total_gb": "0.25",
            "file_upload_ttl_seconds": "-1",
        },
        environ={},
    ).config

    assert config.max_file_bytes == MIB // 2
    assert config.max_total_bytes == GIB // 4
    assert config.ttl_s is None


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("http://gpu:8000", "http://gpu:8000"),
        ("http://gpu:8000/", "http://gpu:8000"),
        ("http://gpu:8000/v1", "http://gpu:8000"),
        ("https://gpu/models/v1/", "https://gpu/models"),
    ],
)
def test_upstream_may_end_in_v1_or_not(given: str, root: str) -> None:
    assert Config(upstream=given).upstream_root == root
    assert Config(advertise_url=given).advertise_root == root


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("upstream", "gpu:8000", "is no http:// or https:// URL"),
        ("upstream", "ftp://gpu", "is no http:// or https:// URL"),
        ("upstream", "http://", "is no http:// or https:// URL"),
        ("upstream", "http://gpu:99999", "range"),
        ("upstream", "http://gpu/?a=b", "query"),
        ("upstream", "http://gp u", "spaces"),
        ("port", "http", "integer"),
        ("port", "65536", "less than or equal to 65535"),
        ("port", "-1", "greater than or equal to 0"),
        ("host", " ", "empty"),
        ("workers", "0", "greater than 0"),
        ("max_json_mb", "0", "greater than 0"),
        ("max_json_mb", "nan", "finite"),
        ("max_json_mb", "inf", "finite"),
        ("enable_file_uploads", "perhaps", "boolean"),
        ("file_upload_dir", "", "empty"),
        ("media_path", "", "'' is no absolute path"),
        ("media_path", ":/media", "'' is no absolute path"),
        ("media_path", "links", "'links' is no absolute path"),
        ("media_path", "~nobody-of-this-name/links", "home of nobody known"),
        ("media_path", "/links:/media:ro", "more than one colon"),
        ("media_path", "/links:", "'' is no path that every engine reads alike"),
        ("media_path", "/links:media", "'media' is no path that every engine reads alike"),
        ("media_path", "/links:/", "'/' is no path that every engine reads alike"),
        ("media_path", "/my links", "'/my links' is no path that every engine reads alike"),
        ("media_path", "/links:/a#b", "'/a#b' is no path that every engine reads alike"),
        ("media_path", "/links:/a?b", "'/a?b' is no path that every engine reads alike"),
        ("media_path", "/links:/a%20b", "'/a%20b' is no path that every engine reads alike"),
        ("media_path", '/links:/a"b', "is no path that every engine reads alike"),
        ("media_path", "/links:/a\\b", "is no path that every engine reads alike"),
        ("media_path", "/links:/média", "is no path that every engine reads alike"),
        ("media_path", "/links://media", "is no path that every engine reads alike"),
        ("media_path", "/links:/media/../x", "is no path that every engine reads alike"),
        ("media_path", "/links:/media\n", "is no path that every engine reads alike"),
        ("media_group", "", "empty"),
        ("file_upload_ttl_seconds", "0", "above 0, or -1"),
        ("file_upload_ttl_seconds", "-2", "above 0, or -1"),
        ("file_upload_max_ttl_seconds", "-1", "greater than 0"),
        ("file_upload_max_concurrent", "0", "greater than 0"),
        ("trusted_proxy", "10.0.0.1/8", "no address or network"),
        ("allowed_media_domains", "https://media.example.com", "host alone, without scheme"),
        ("allowed_media_domains", "media.example.com,", "'' is no host name"),
        ("file_upload_scope_header", "X_Tenant", "letters, digits and hyphens"),
        ("file_upload_scope_header", "Authorization", "meaning of its own"),
        ("file_upload_listing_status", "500", "must be 403 or 404"),
        ("file_upload_scope_max_gb", "0", "greater than 0"),
        ("file_upload_scope_max_files", "0", "greater than 0"),
        ("api_key_file", "", "empty"),
        ("file_upload_allowed_types", "image/*", "'image/*' is a pattern"),
        ("file_upload_allowed_types", "application/pdf", "no image, audio or video"),
        ("file_upload_allowed_types", "video/mp4,", "no image, audio or video"),
    ],
)
def test_bad_value_is_refused_in_one_line_that_names_the_flag(
    name: str, value: str, reason: str
) -> None:
    said = complaint(flags={name: value})

    assert said.startswith(f"--{name.replace('_', '-')}: ")
    assert reason in said


def test_complaint_names_the_source_that_was_wrong(tmp_path: Path) -> None:
    config_file = write_toml(tmp_path, "port = 'x'")

    assert complaint(config_file=config_file).startswith(f"port in {config_file}: ")
    assert complaint(environ={"MEDIAGATE_PORT": "x"}).startswith("MEDIAGATE_PORT (environment): ")
    assert complaint(flags={"port": "x"}).startswith("--port: ")


def test_several_mistakes_are_told_at_once() -> None:
    said = complaint(flags={"port": "x"}, environ={"MEDIAGATE_WORKERS": "0"})

    assert "--port: " in said
    assert "; MEDIAGATE_WORKERS (environment): " in said


def test_unknown_name_is_a_mistake_wherever_it_stands(tmp_path: Path) -> None:
    in_file = complaint(config_file=write_toml(tmp_path, "prot = 1"))
    in_environment = complaint(environ={"MEDIAGATE_FILE_UPLOAD_MAX_SIZE": "1"})

    assert "did you mean port?" in in_file
    assert "did you mean MEDIAGATE_FILE_UPLOAD_MAX_SIZE_MB?" in in_environment


def test_what_the_client_commands_read_is_no_mistake() -> None:
    assert load(environ={"MEDIAGATE_SERVER": "http://gate:8080", "PATH": "/bin"}).config == Config()


@pytest.mark.parametrize("variable", ["MEDIAGATE_API_KEY", "MEDIAGATE_UPSTREAM"])
def test_empty_variable_is_refused_rather_than_taken_for_none(variable: str) -> None:
    assert complaint(environ={variable: ""}).startswith(f"{variable} (environment): is empty")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("port = true", "port in"),
        ("enable_file_uploads = 1", "must be true or false"),
        ("api_key = 'one,two'", "should be a valid tuple"),
        ("[serve]\nport = 1", "serve in"),
        ("port 8080", "is no TOML"),
        ("port = 1\nport = 2", "is no TOML"),
    ],
)
def test_file_is_read_strictly(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in complaint(config_file=write_toml(tmp_path, text))


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")

    by_flag = complaint(config_file=missing)
    by_env = complaint(environ={"MEDIAGATE_CONFIG": missing})
    not_text = complaint(config_file=str(binary))

    assert by_flag == f"--config: '{missing}': No such file or directory"
    assert by_env.startswith("MEDIAGATE_CONFIG: ")
    assert "is no TOML" in not_text


def test_links_have_a_path_here_and_one_at_the_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/gate")

    def paths(text: str) -> tuple[Path | None, PurePosixPath | None]:
        config = Config(upstream="http://gpu", media_path=text)
        return config.lease_path, config.upstream_lease_path

    assert paths("/srv/links/") == (Path("/srv/links"), None)
    assert paths("/srv/my links:/media/in_1.0/") == (
        Path("/srv/my links"),
        PurePosixPath("/media/in_1.0"),
    )
    assert paths("~/links:/media") == (Path("/srv/gate/links"), PurePosixPath("/media"))
    assert (Config().lease_path, Config().upstream_lease_path) == (None, None)


def test_contradictions_name_both_settings() -> None:
    keys = complaint(environ={"MEDIAGATE_UPSTREAM_API_KEY": SECRET})
    urls = complaint(flags={"delivery": "url"})

    assert "MEDIAGATE_UPSTREAM_API_KEY (environment) and upstream (default)" in keys
    assert SECRET not in keys
    assert "--delivery and upstream (default)" in urls


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"upstream": "http://gpu"}, "--files-only and --upstream: "),
        ({"enable_file_uploads": False}, "--files-only and --enable-file-uploads: "),
        ({}, "--files-only and file_upload_dir (default): name the directory"),
    ],
)
def test_side_car_has_files_and_no_upstream(flags: dict[str, str | bool], named: str) -> None:
    assert complaint(flags={"files_only": True, **flags}).startswith(named)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"trusted_proxy": ["::1"]}, "file_upload_scope_header (default)"),
        ({"file_upload_clear_on_start": True}, "file_upload_dir (default)"),
        ({"media_path": "/links"}, "upstream (default)"),
        ({"media_group": "video"}, "media_path (default)"),
        ({"delivery": "path"}, "media_path (default)"),
        ({"file_upload_scope_max_gb": "5.5"}, "file_upload_max_total_gb (default)"),
    ],
)
def test_setting_that_means_nothing_alone_is_refused(
    flags: dict[str, str | bool | list[str]], named: str
) -> None:
    said = complaint(flags=flags)

    (name,) = flags
    assert said.startswith(f"--{name.replace('_', '-')} and {named}: ")


def test_half_of_the_slots_are_one_tenants_where_there_are_tenants() -> None:
    """H62."""
    alone = Config(file_upload_max_concurrent=5)
    by_header = Config(file_upload_max_concurrent=5, file_upload_scope_header="X-Tenant")
    by_key = Config(file_upload_max_concurrent=1, api_key_file=Path("keys.toml"))

    assert alone.max_concurrent_per_scope is None
    assert by_header.max_concurrent_per_scope == 3
    assert by_key.max_concurrent_per_scope == 1


def test_listing_is_refused_by_403_unless_told_otherwise() -> None:
    """H45."""
    off = {"file_upload_disable_listing": True}

    assert Config().listing_refused_by is None
    assert Config.model_validate(off).listing_refused_by == 403
    assert (
        Config.model_validate(off | {"file_upload_listing_status": 404}).listing_refused_by == 404
    )


def test_type_that_only_libmagic_may_know_needs_libmagic() -> None:
    flags = {"file_upload_allowed_types": "video/mp4,image/x-odd"}

    said = complaint(flags=flags)
    allowed = load(flags={**flags, "file_upload_libmagic": True}, environ={}).config.allowed_types

    assert "--file-upload-allowed-types and file_upload_libmagic (default)" in said
    assert "does not know image/x-odd," in said
    assert allowed == frozenset({"video/mp4", "image/x-odd"})


def test_what_is_no_media_cannot_be_allowed_even_with_libmagic() -> None:
    flags = {"file_upload_allowed_types": "video/mp4,image/svg+xml", "file_upload_libmagic": True}

    said = complaint(flags=flags)

    assert "image/svg+xml is never accepted" in said


@pytest.mark.parametrize("key", [f"{SECRET} x", f"{SECRET}\n", f"{SECRET},é", ""])
def test_bad_key_is_refused_without_being_shown(key: str) -> None:
    said = complaint(flags={"api_key": ["fine", key]})

    assert said.startswith("--api-key: ")
    assert SECRET not in said


def test_password_in_the_upstream_url_is_refused_without_being_shown() -> None:
    assert SECRET not in complaint(flags={"upstream": f"http://me:{SECRET}@gpu"})


def test_secrets_are_masked_wherever_a_configuration_is_shown() -> None:
    config = load(
        flags={"api_key": [SECRET, SECRET], "upstream": "http://gpu", "upstream_api_key": SECRET},
        environ={},
    ).config

    shown = {setting.name: setting.shown(getattr(config, setting.name)) for setting in settings()}

    assert shown["api_key"] == "********, ********"
    assert shown["upstream_api_key"] == "********"
    assert SECRET not in repr(config) + str(shown)


def test_configuration_is_frozen_and_closed() -> None:
    with pytest.raises(pydantic.ValidationError):
        Config().port = 1

    with pytest.raises(pydantic.ValidationError):
        Config.model_validate({"prot": 1})
