"""Our settings on vLLM's command line, and what becomes of them.

The flags are added to vLLM's own parser. When that has parsed, the parent process judges all settings together, so
that a bad one stops the start with one line, before a model is loaded. It opens the directory, or makes one if none
was named, holds it for as long as it lives, and hands everything on in the environment: API servers are spawned, and
read there what the parent has settled.
"""

import argparse
import atexit
import functools
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mediagate.blobs.directory import DirectoryError, StoreDirectory
from mediagate.config import (
    CONFIG_ENV,
    Config,
    Program,
    Setting,
    SettingError,
    environment,
    load,
    settings,
    with_unit,
)
from mediagate.vllm_plugin.hooks import ENABLED_ENV, JointError, disable, enable, tell

HELD_ENV = "_MEDIAGATE_HELD_DIR"
"""The directory that the parent has opened and holds; set by it, for its children."""

GROUP = "FileUploads"
"""As vLLM names its own: `vllm serve --help=FileUploads`."""

GONE_WITHIN_S = 5.0
"""How long processes that were killed may take to be gone; large ones take a moment."""

_SWITCH = next(s for s in settings(Program.VLLM) if s.name == "enable_file_uploads")
_OF_A_SERVER = "--middleware"
"""A flag that vLLM gives to what answers HTTP, and to nothing else that takes engine arguments."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add a group of flags to vLLM's parser, and settle them when it has parsed. Idempotent.

    Not where nothing answers HTTP, such as `vllm bench`; and a vLLM that has uploads of its own is left alone.
    """
    if _OF_A_SERVER not in parser._option_string_actions or _has_ours(parser):
        return
    if _SWITCH.flag in parser._option_string_actions:
        _stay_out()
        return
    group = parser.add_argument_group(
        GROUP,
        "Upload media once, name it by id in any request (mediagate). "
        f"The environment twin of {_SWITCH.flag} is {_SWITCH.env}, and so for each.",
    )
    table = sorted(settings(Program.VLLM), key=lambda setting: setting != _SWITCH)
    added = [setting for setting in table if _add_flag(group, setting)]
    parser.parse_known_args = functools.partial(  # type: ignore[method-assign]
        _parse_and_settle, parser, parser.parse_known_args, added
    )


def _has_ours(parser: argparse.ArgumentParser) -> bool:
    return getattr(parser.parse_known_args, "func", None) is _parse_and_settle


def _stay_out() -> None:
    tell(f"this vLLM has a {_SWITCH.flag} of its own, so the plugin stays out")
    # Its variables may be named like ours: in the processes to come they are none of our business.
    _hand_on({_SWITCH: False})
    disable()


def _add_flag(group: "argparse._ArgumentGroup", setting: Setting) -> bool:
    default = with_unit(setting, setting.default_in(Program.VLLM))
    options: dict[str, Any] = {
        # What was not given leaves no trace, so that the environment and the file can be asked.
        "default": argparse.SUPPRESS,
        "dest": setting.name,
        "help": f"{setting.text} (default: {default})".replace("%", "%%"),
    }
    if setting.is_switch:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["metavar"] = setting.outside.metavar
        if setting.is_list:  # a list in a file of vLLM's becomes one flag with several values
            options |= {"action": "extend", "nargs": "+"}
    try:
        group.add_argument(setting.flag, **options)
    except argparse.ArgumentError:
        tell(f"vLLM has a {setting.flag} of its own: set {setting.env} instead")
        return False
    return True


def _parse_and_settle(
    parser: argparse.ArgumentParser,
    parse: Any,
    added: Collection[Setting],
    *args: Any,
    **kwargs: Any,
) -> Any:
    parsed = parse(*args, **kwargs)
    namespace, unknown = parsed
    # With anything unknown, vLLM is about to refuse the command line: nothing may have happened then.
    if not unknown:
        try:
            settle(namespace, added)
        except (SettingError, JointError, DirectoryError) as error:
            parser.exit(2, f"mediagate: {error}\n")
    return parsed


def settle(namespace: argparse.Namespace, added: Collection[Setting]) -> None:
    """Judge the settings, and if uploads are wanted, make everything ready for the processes to come.

    Args:
        namespace: What vLLM has parsed.
        added: The settings that are flags of ours in it.

    Raises:
        SettingError: A setting is wrong.
        JointError: This vLLM, or its way of serving, has no place for uploads.
        DirectoryError: The directory cannot be used.
    """
    given = {
        setting: getattr(namespace, setting.name)
        for setting in added
        if hasattr(namespace, setting.name)
    }
    if _is_settled(given):
        return
    config = judge(given)
    if config is None or not config.enable_file_uploads:
        if given.keys() - {_SWITCH}:
            tell(f"{', '.join(s.flag for s in given)}: no effect without {_SWITCH.flag}")
        _hand_on({setting: value for setting, value in given.items() if setting == _SWITCH})
        disable()
    elif not _is_headless(namespace):
        _check_frontend(namespace)
        enable()
        directory = _open(config)
        atexit.register(_leave, directory)
        os.environ[HELD_ENV] = str(directory.path)
        _hand_on({_SWITCH: True} | given)


def _is_settled(given: Mapping[Setting, object]) -> bool:
    # vLLM parses more than once, in its children too: an empty command line, to learn its own defaults.
    return HELD_ENV in os.environ and all(
        os.environ.get(setting.env) == _as_text(value) for setting, value in given.items()
    )


def judge(given: Mapping[Setting, Any]) -> Config | None:
    """The configuration; None: it is wrong, and nobody has asked for uploads.

    Raises:
        SettingError: It is wrong.
    """
    environ = environment()
    try:
        flags = {setting.name: value for setting, value in given.items()}
        return load(flags=flags, environ=environ, program=Program.VLLM).config
    except SettingError as error:
        # A variable that means somebody else, such as Kubernetes sets for a service, must not stop a vLLM that has
        # nothing to do with uploads.
        if given or not environ.keys().isdisjoint({CONFIG_ENV, *ENABLED_ENV}):
            raise
        tell(f"{error}; file uploads stay off")
        return None


def _is_headless(namespace: argparse.Namespace) -> bool:
    """Whether this process and its children answer no HTTP: the engines of another node's API servers."""
    return getattr(namespace, "headless", False) or getattr(namespace, "api_server_count", 1) == 0


def _check_frontend(namespace: argparse.Namespace) -> None:
    """See to it that what serves HTTP runs plugins.

    Raises:
        JointError: It does not.
    """
    is_serve = getattr(namespace, "subparser", "serve") == "serve"
    if is_serve and os.environ.get("VLLM_USE_RUST_FRONTEND", "0").strip() not in {"", "0"}:
        what = "vLLM's Rust frontend (VLLM_USE_RUST_FRONTEND)"
    elif getattr(namespace, "grpc", False):
        what = "vLLM's gRPC server (--grpc)"
    else:
        return
    raise JointError(
        f"{what} runs no Python plugins, so that {_SWITCH.flag} has no effect there: put the gateway in "
        "front of it instead, mediagate serve --upstream URL"
    )


def _open(config: Config) -> StoreDirectory:
    if config.file_upload_dir is None:
        return _held(StoreDirectory.temporary())
    is_cleared = config.file_upload_clear_on_start
    return _held(StoreDirectory.given(config.file_upload_dir, is_cleared=is_cleared))


def _held(directory: StoreDirectory) -> StoreDirectory:
    # vLLM may be told to fork its engines, and an engine may outlive a server that was killed.
    os.register_at_fork(after_in_child=directory.leave)
    return directory


def _leave(directory: StoreDirectory) -> None:
    """Stop using it; a temporary one goes when the last API server has, which vLLM kills without waiting for it."""
    directory.close()
    deadline = time.monotonic() + GONE_WITHIN_S
    while directory.is_temporary and directory.path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
        directory.close()


def open_handed_on(config: Config) -> StoreDirectory:
    """The directory, in a process that serves; the parent has settled which, if it could be told.

    Raises:
        DirectoryError: It cannot be used, or there is none.
    """
    held = os.environ.get(HELD_ENV)
    if held is None:  # vLLM took no flags from us: this process is the first to look
        return _open(config)
    if config.file_upload_dir is None:
        return _held(StoreDirectory.joined(Path(held)))
    return _held(StoreDirectory.given(Path(held)))  # the parent has cleared it


def is_shared(config: Config) -> bool:
    """Whether all processes of this server find the same directory."""
    return config.file_upload_dir is not None or HELD_ENV in os.environ


def _hand_on(values: Mapping[Setting, object]) -> None:
    for setting, value in values.items():
        os.environ[setting.env] = _as_text(value)


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    return ",".join(map(str, value)) if isinstance(value, Sequence) else str(value).lower()
