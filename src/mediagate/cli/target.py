"""Which server the client commands talk to, and whether an address leaves this machine."""

import argparse
import ipaddress
from typing import TYPE_CHECKING

from mediagate.config import SERVER_ENV, environment

if TYPE_CHECKING:
    from mediagate.cli.client import Client

API_KEY_ENV = "OPENAI_API_KEY"
DEFAULT_SERVER = "http://127.0.0.1:8080"


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


def connect(arguments: argparse.Namespace) -> "Client":
    """The server that the flags and the environment name."""
    from mediagate.cli.client import Client  # late: it loads the HTTP library

    environ = environment()
    return Client(
        server=arguments.server or environ.get(SERVER_ENV) or DEFAULT_SERVER,
        api_key=arguments.api_key or environ.get(API_KEY_ENV),
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, for nobody but itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
