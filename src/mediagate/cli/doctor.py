"""`mediagate doctor`: what works with these settings and this inference server."""

import argparse
import asyncio
import logging
from typing import TYPE_CHECKING

from mediagate.cli.config import add_setting_flags, load_settings
from mediagate.cli.failure import printable
from mediagate.cli.serve import check_extras, checked_keys

if TYPE_CHECKING:
    from mediagate.doctor.report import Check

SUBJECT_WIDTH = 15


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        help="find out what works",
        usage="%(prog)s [--upstream URL] [--model NAME] [any flag of mediagate serve]",
        description="Upload a small picture, ask the inference server about it in every way in which it could get "
        "files, and say which of them work, which do not and why, and what `mediagate serve` would do with the same "
        "flags, file and environment. Nothing is left behind, and a gateway that runs meanwhile is not disturbed. "
        "Exit status 0: the server gets files that chats name by id; 1: it does not.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", metavar="NAME", help="who is asked [default: the first that the server lists]"
    )
    add_setting_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look, and say what was found."""
    resolved = load_settings(arguments)
    check_extras(resolved)
    checked_keys(resolved)

    # Late, so that --help and the client commands do without all of it.
    import uvloop

    from mediagate.doctor.examination import examine

    # What goes wrong is in the lines; only what nobody expected is told beside them.
    logging.getLogger("mediagate").setLevel(logging.ERROR)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        verdict = runner.run(examine(resolved.config, model=arguments.model, tell=_print))
    print()
    for line in verdict.lines:
        print(printable(line))
    return 0 if verdict.works else 1


def _print(check: "Check") -> None:
    print(f"{check.mark:<3} {check.subject:<{SUBJECT_WIDTH}}  {printable(check.text)}", flush=True)
