"""`mediagate`: the parser, and how every command ends.

Exit status: 0 done, 1 the command failed, 2 wrong usage or a bad setting, 130 interrupted, 141 nobody reads the output.
Heavy imports happen inside the commands, so that `--help` answers at once.
"""

import argparse
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mediagate.cli import chat, doctor, files, serve, upload
from mediagate.cli import config as config_command
from mediagate.cli.failure import CommandFailed
from mediagate.config import SettingError

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; each command sets `run`, a function of the parsed arguments."""
    parser = _Parser(
        prog="mediagate",
        description="Upload media once, name it by id in any chat request.",
        allow_abbrev=False,
    )
    version = importlib.metadata.version("mediagate")
    parser.add_argument("--version", action="version", version=f"mediagate {version}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    for command in (serve, upload, files, chat, config_command, doctor):
        command.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is returned, except for wrong usage and `--help`, which exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name the terminal cannot show
    try:
        try:
            arguments = build_parser().parse_args(argv)
            status: int = arguments.run(arguments)
        finally:
            sys.stdout.flush()
    except SettingError as error:
        return _complain(str(error), WRONG_USAGE)
    except CommandFailed as error:
        return _complain(str(error), FAILED)
    except BrokenPipeError:
        # What is still buffered must not be written again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _complain(f"{name}{error.strerror or type(error).__name__}", FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _complain(message: str, status: int) -> int:
    print(f"mediagate: {message}", file=sys.stderr)
    return status
