"""`mediagate upload`: files from disk or standard input to the server, chunk by chunk."""

import argparse
import json
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mediagate.cli.failure import CommandFailed, printable
from mediagate.cli.progress import Progress, progress
from mediagate.cli.target import add_server_flags, connect
from mediagate.core.files import Purpose, sanitise_filename

if TYPE_CHECKING:
    from mediagate.cli.client import Client, Json

CHUNK_BYTES = 256 * 1024
STDIN = "-"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `upload`."""
    parser = commands.add_parser(
        "upload",
        help="upload files, print their ids",
        description="Upload files and print their ids on standard output, one per line. "
        "A file that fails does not stop the others; the exit status is then 1.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="a path, or - for standard input")
    parser.add_argument(
        "--purpose",
        choices=[purpose.value for purpose in Purpose],
        default=Purpose.USER_DATA.value,
        help="OpenAI's field [default: user_data]",
    )
    parser.add_argument(
        "--json", action="store_true", help="print each file object as one line of JSON"
    )
    add_server_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Upload one file after the other."""
    failed = False
    with connect(arguments) as client:
        for name in arguments.files:
            try:
                uploaded = upload_file(client, name, purpose=arguments.purpose)
            except CommandFailed as error:
                print(f"mediagate: {printable(name)}: {error}", file=sys.stderr)
                failed = True
            else:
                print(json.dumps(uploaded) if arguments.json else uploaded["id"], flush=True)
    return 1 if failed else 0


def upload_file(client: "Client", name: str, *, purpose: str) -> "Json":
    """Upload the file of that path, or standard input for `-`.

    Raises:
        CommandFailed: The file cannot be read, or the server refused it.
    """
    if name == STDIN:
        return _send(client, sys.stdin.buffer, filename=None, purpose=purpose)
    try:
        with Path(name).open("rb") as file:
            filename = sanitise_filename(Path(name).name)
            return _send(client, file, filename=filename, purpose=purpose)
    except OSError as error:
        raise CommandFailed(error.strerror or "cannot be read") from None


def _send(client: "Client", file: BinaryIO, *, filename: str | None, purpose: str) -> "Json":
    status = os.fstat(file.fileno())
    # A pipe has no length; what stdin was redirected from may already be read in part.
    size = status.st_size - file.tell() if stat.S_ISREG(status.st_mode) else None
    label = filename or "standard input"
    with progress(label=label, total=size, stream=sys.stderr, clock=time.monotonic) as bar:
        return client.upload(
            _chunks(file, size, bar), size=size, filename=filename, purpose=purpose
        )


def _chunks(file: BinaryIO, size: int | None, bar: Progress) -> Iterator[bytes]:
    """The file's bytes, never more than were announced: it may be growing."""
    left = size
    while chunk := file.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left)):
        left = None if left is None else left - len(chunk)
        yield chunk
        bar.advance(len(chunk))
