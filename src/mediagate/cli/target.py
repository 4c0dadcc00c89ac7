"""Which server the client commands talk to, and whether an address leaves this machine."""

import argparse
import ipaddress
import re
from typing import TYPE_CHECKING

from mediagate.config import SERVER_ENV, environment

if TYPE_CHECKING:
    from mediagate.cli.client import Client

API_KEY_ENV = "OPENAI_API_KEY"
DEFAULT_SERVER = "http://127.0.0.1:8080"

_HEADER = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)[ \t]*"
)


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    """Add what every client command needs to know."""
    parser.add_argument(
        "--server",
        metavar="URL",
        help=f"the server, with or without /v1 [default: ${SERVER_ENV}, else {DEFAULT_SERVER}]",
    )
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"key to send [default: ${API_KEY_ENV}, which the official clients read too]",
    )
    parser.add_argument(
        "-H",
        "--header",
        dest="headers",
        action="append",
        default=[],
        type=_header,
        metavar="'NAME: VALUE'",
        help="a header to send too, such as the one that names the tenant; repeatable",
    )


def connect(arguments: argparse.Namespace) -> "Client":
    """The server that the flags and the environment name."""
    from mediagate.cli.client import Client  # late: it loads the HTTP library

    environ = environment()
    return Client(
        server=arguments.server or environ.get(SERVER_ENV) or DEFAULT_SERVER,
        api_key=arguments.api_key or environ.get(API_KEY_ENV),
        headers=dict(arguments.headers),
    )


def _header(text: str) -> tuple[str, str]:
    """What `--header` takes, in curl's spelling."""
    if match := _HEADER.fullmatch(text):
        return match[1], match[2]
    raise argparse.ArgumentTypeError("not a header, such as 'X-Scope: team-a'")


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, for nobody but itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
