"""`mediagate serve`: the gateway, or the side-car of an engine that resolves ids itself."""

import argparse
import asyncio
import contextlib
import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from mediagate.cli.config import add_setting_flags, load_settings
from mediagate.cli.failure import CommandFailed
from mediagate.cli.target import is_loopback
from mediagate.config import Config, Resolved, SettingError

if TYPE_CHECKING:
    from mediagate.web.keys import Keys

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `serve`."""
    parser = commands.add_parser(
        "serve",
        help="run the gateway",
        usage="%(prog)s [--upstream URL] [--host ADDRESS] [--port PORT] [--api-key KEY] "
        "[--file-upload-dir DIR] [...]",
        description="Run the gateway in front of an OpenAI-compatible inference server, or, without --upstream, "
        "in front of a built-in inspector that says what it measured in the files it is asked about. "
        "With --files-only, run a side-car: it has the files of an engine that resolves ids itself.",
        allow_abbrev=False,
    )
    add_setting_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT, then drain."""
    resolved = load_settings(arguments)
    check_extras(resolved)
    config = resolved.config

    # Late, so that --help and the client commands do without all of it.
    from mediagate.blobs.directory import DirectoryError
    from mediagate.observe.metrics import Board, Metrics
    from mediagate.web import server
    from mediagate.wiring import check_lease_directory, create_app, open_audit_log, open_directory

    _log_to_stderr()
    keys = checked_keys(resolved)
    try:
        # Tried now, as workers open it for themselves.
        if (audit_log := open_audit_log(config)) is not None:
            audit_log.close()
    except OSError as error:
        label = resolved.origins["audit_log"].label
        raise SettingError(f"{label}: {config.audit_log!r}: {error.strerror}") from None
    # Made before workers are forked: they share it.
    board = Board(workers=config.workers)
    try:
        # Opened before workers are forked: they share it, and its lock.
        directory = open_directory(config)
    except DirectoryError as error:
        label = resolved.origins["file_upload_dir"].label
        raise SettingError(f"{label}: {error}") from None
    with contextlib.closing(directory):
        try:
            # Tried now, as workers open it for themselves.
            asyncio.run(check_lease_directory(config, directory))
        except DirectoryError as error:
            raise SettingError(f"{resolved.origins['media_path'].label}: {error}") from None
        try:
            status = server.run(
                lambda worker: create_app(
                    config,
                    directory=directory,
                    keys=keys,
                    metrics=Metrics(board=board, worker=worker),
                ),
                host=config.host,
                port=config.port,
                workers=config.workers,
                on_ready=_announcer(config),
            )
        except OSError as error:
            # asyncio and socket add to strerror what this line already says.
            reason = (
                error.strerror
                if isinstance(error, socket.gaierror)
                else os.strerror(error.errno or 0)
            )
            raise CommandFailed(
                f"cannot listen on {config.host} port {config.port}: {reason}"
            ) from None
    return 1 if status else 0


def ready_line(config: Config, host: str, port: int) -> str:
    """What is told when clients can connect."""
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    line = f"mediagate: ready at {url}; {_answering(config)}"
    if config.enable_file_uploads and config.is_ephemeral:
        line += "; uploads vanish at exit, unless --file-upload-dir names a place for them"
    if not config.has_keys and not is_loopback(host):
        line += "; anybody who reaches this address may use it, as there is no --api-key"
    if config.has_tenants and config.max_scope_bytes is None:
        line += "; one tenant may fill the store, as there is no --file-upload-scope-max-gb"
    return line


def _answering(config: Config) -> str:
    """What stands behind our own routes."""
    if config.files_only:
        return "a side-car, for files only"
    if config.upstream_root is None:
        return "the built-in inspector answers"
    return f"{config.upstream_root} answers"


def _announcer(config: Config) -> Callable[[str, int], None]:
    def announce(host: str, port: int) -> None:
        print(ready_line(config, host, port), file=sys.stderr, flush=True)

    return announce


def check_extras(resolved: Resolved) -> None:
    """Whether all is installed that the settings need beyond the plain installation.

    Raises:
        SettingError: It is not.
    """
    if not resolved.config.file_upload_libmagic:
        return
    try:
        importlib.import_module("magic")  # fails too where the library behind it is missing
    except ImportError:
        label = resolved.origins["file_upload_libmagic"].label
        raise SettingError(
            f"{label}: needs libmagic, and python-magic: pip install 'mediagate[libmagic]'"
        ) from None


def checked_keys(resolved: Resolved) -> "Keys":
    """Who may come in.

    Raises:
        SettingError: The key file is wrong.
    """
    from mediagate.core.keys import KeyFileError  # late, as all of `run`
    from mediagate.wiring import open_keys

    config = resolved.config
    try:
        return open_keys(config)
    except KeyFileError as error:
        label = resolved.origins["api_key_file"].label
        raise SettingError(f"{label}: {config.api_key_file} {error}") from None


def _log_to_stderr() -> None:
    from mediagate.observe.stderr import LogStream  # late, as all of `run`

    # Where it was closed (`2>&-`), the first file to be opened would take its number, and every line of the logs.
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    logging.basicConfig(format=LOG_FORMAT, level=logging.WARNING, stream=LogStream())
    logging.getLogger("mediagate").setLevel(logging.INFO)
    # It would repeat what a client sent; the refusal of such a form is in our own log, with the request's id.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
