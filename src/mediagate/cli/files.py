"""`mediagate files`: what is stored on the server."""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mediagate.cli.failure import CommandFailed, printable
from mediagate.cli.progress import progress
from mediagate.cli.target import add_server_flags, connect
from mediagate.core.files import sanitise_filename

if TYPE_CHECKING:
    from mediagate.cli.client import Client, Json

COLUMNS = ("ID", "BYTES", "TYPE", "CREATED", "EXPIRES", "NAME")
ROW = "{:<37}  {:>12}  {:<16}  {:<20}  {:<20}  {}"


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `files` and its actions."""
    parser = commands.add_parser(
        "files", help="list, show, get or delete uploaded files", allow_abbrev=False
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    listing = _add_action(actions, "list", run_list, "list the files, newest first")
    listing.add_argument(
        "--json", action="store_true", help="print each file object as one line of JSON"
    )

    show = _add_action(actions, "show", run_show, "print what the server knows of a file")
    show.add_argument("id", metavar="ID")
    show.add_argument("--json", action="store_true", help="print the file object as JSON")

    get = _add_action(actions, "get", run_get, "download a file")
    get.add_argument("id", metavar="ID")
    get.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="a new file, or a directory, where it gets its own name; an existing file is never "
        "overwritten [default: standard output, unless that is a terminal]",
    )

    delete = _add_action(actions, "delete", run_delete, "delete files, print their ids")
    delete.add_argument("ids", nargs="+", metavar="ID")

    for action in (listing, show, get, delete):
        add_server_flags(action)


def run_list(arguments: argparse.Namespace) -> int:
    """Print the listing as it comes."""
    with connect(arguments) as client:
        files = client.files()
        first = tuple(itertools.islice(files, 1))  # no heading over what is refused
        if not arguments.json:
            print(ROW.format(*COLUMNS))
        for file in itertools.chain(first, files):
            print(json.dumps(file) if arguments.json else ROW.format(*_cells(file)))
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print one file object."""
    with connect(arguments) as client:
        file = client.file(arguments.id)
    if arguments.json:
        print(json.dumps(file))
        return 0
    width = max(map(len, file), default=0)
    for key, value in file.items():
        text = _moment(value) if key.endswith("_at") else str(value)
        print(f"{printable(key):<{width}}  {printable(text)}")
    return 0


def run_get(arguments: argparse.Namespace) -> int:
    """Download one file."""
    if arguments.output is None and sys.stdout.isatty():
        raise CommandFailed("will not write media to a terminal: name a file with -o")
    with connect(arguments) as client:
        if arguments.output is None:
            _download(client, arguments.id, sys.stdout.buffer, total=None)
            sys.stdout.buffer.flush()
            return 0
        file = client.file(arguments.id)
        path = Path(arguments.output)
        if path.is_dir():
            path /= sanitise_filename(str(file.get("filename", "")))
        size = file.get("bytes")
        _download_new(client, arguments.id, path, total=size if isinstance(size, int) else None)
    return 0


def run_delete(arguments: argparse.Namespace) -> int:
    """Delete one file after the other."""
    failed = False
    with connect(arguments) as client:
        for file_id in arguments.ids:
            try:
                client.delete(file_id)
            except CommandFailed as error:
                print(f"mediagate: {printable(file_id)}: {error}", file=sys.stderr)
                failed = True
            else:
                print(printable(file_id), flush=True)
    return 1 if failed else 0


def _add_action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=text, description=f"{text.capitalize()}.", allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def _download_new(client: "Client", file_id: str, path: Path, *, total: int | None) -> None:
    """Write a file that did not exist; a download that fails leaves none."""
    try:
        target = path.open("xb")
    except FileExistsError:
        raise CommandFailed(f"{path} exists and is not overwritten") from None
    try:
        with target:
            _download(client, file_id, target, total=total)
    except BaseException:
        path.unlink()
        raise


def _download(client: "Client", file_id: str, target: BinaryIO, *, total: int | None) -> None:
    with (
        client.content(file_id) as chunks,
        progress(label=file_id, total=total, stream=sys.stderr, clock=time.monotonic) as bar,
    ):
        for chunk in chunks:
            target.write(chunk)
            bar.advance(len(chunk))


def _cells(file: "Json") -> Sequence[str]:
    cells: Iterable[object] = (
        file.get("id", ""),
        file.get("bytes", ""),
        file.get("mime_type", ""),
        _moment(file.get("created_at")),
        _moment(file.get("expires_at")),
        file.get("filename", ""),
    )
    return [printable(str(cell)) for cell in cells]


def _moment(seconds: object) -> str:
    """A time in UTC; `never` where there is none."""
    if not isinstance(seconds, int | float):
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
