"""`mediagate chat`: one question about files, the answer as it comes."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mediagate.cli.failure import CommandFailed, printable
from mediagate.cli.target import add_server_flags, connect
from mediagate.cli.upload import upload_file
from mediagate.core.files import Purpose, parse_file_id

if TYPE_CHECKING:
    from mediagate.cli.client import Client


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `chat`."""
    parser = commands.add_parser(
        "chat",
        help="ask about files",
        description="Ask one question and print the answer as it comes. Files on disk are uploaded first, and their "
        "ids are printed on standard error, so that the next question can name them.",
        allow_abbrev=False,
    )
    parser.add_argument("prompt", metavar="PROMPT")
    parser.add_argument(
        "--file",
        dest="files",
        action="append",
        default=[],
        metavar="PATH|ID",
        help="a file to ask about: a path, or the id of an uploaded one; repeatable",
    )
    parser.add_argument(
        "--model", help="the model to ask [default: the first that the server lists]"
    )
    add_server_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Upload what is no id, then ask."""
    with connect(arguments) as client:
        ids = [_id_of(client, name) for name in arguments.files]
        content: list[object] = [{"type": "file", "file": {"file_id": each}} for each in ids]
        content.append({"type": "text", "text": arguments.prompt})
        model = arguments.model or client.first_model()
        body = {"model": model, "messages": [{"role": "user", "content": content}]}
        ending = "\n"
        try:
            for piece in client.chat(body):
                print(printable(piece, keep="\n\t"), end="", flush=True)
                ending = piece[-1:] or ending
        finally:
            if ending != "\n":
                print(flush=True)
    return 0


def _id_of(client: "Client", name: str) -> str:
    if file_id := parse_file_id(name.removeprefix("vllm-file://")):
        return file_id
    if not Path(name).exists():
        raise CommandFailed(f"{printable(name)}: no such file, and no file id")
    try:
        uploaded = upload_file(client, name, purpose=Purpose.USER_DATA.value)
    except CommandFailed as error:
        raise CommandFailed(f"{printable(name)}: {error}") from None
    print(f"{printable(name)} is {uploaded['id']}", file=sys.stderr)
    return str(uploaded["id"])
