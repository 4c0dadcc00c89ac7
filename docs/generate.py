"""Writes the reference pages that are made from the code: settings and command line.

python docs/generate.py          write them
python docs/generate.py --check  exit 1 if a committed page differs
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from mediagate.cli.config import with_unit
from mediagate.cli.main import build_parser
from mediagate.cli.target import API_KEY_ENV, DEFAULT_SERVER
from mediagate.config import CONFIG_ENV, SERVER_ENV, Group, settings

REFERENCE = Path(__file__).parent / "reference"
NOTICE = "<!-- Made by docs/generate.py from the code; change the code and run it again. -->\n"


def settings_page() -> str:
    """Every setting of `mediagate serve`."""
    lines = [
        NOTICE,
        "# Settings\n",
        "Each setting of `mediagate serve` can be given in three ways,",
        "and where several are given the later one in this list wins:\n",
        f"1. a flat key in a TOML file, named by `--config FILE` or `{CONFIG_ENV}`: `max_json_mb = 16`;",
        "2. an environment variable: `MEDIAGATE_MAX_JSON_MB=16`, lists separated by commas;",
        "3. a flag: `--max-json-mb 16`.\n",
        "MB and GB are MiB and GiB, and fractions are allowed.",
        "A setting that is malformed, unknown (a `MEDIAGATE_…` variable or a key too)",
        "or in contradiction to another",
        "stops the start with one line on standard error and exit status 2.",
        "`mediagate config show` prints what holds, and where each value came from; secrets are masked.\n",
        f"The client commands read `{SERVER_ENV}` and `{API_KEY_ENV}` instead; see the",
        "[command line](cli.md).",
        "In Kubernetes, a Service that is itself named `mediagate` puts variables such as `MEDIAGATE_SERVICE_HOST`",
        "into the environment of every pod beside it: set `enableServiceLinks: false` for the gateway's pod.\n",
    ]
    for group in Group:
        lines.append(f"## {group.value.capitalize()}\n")
        for setting in settings():
            if setting.outside.group is not group:
                continue
            off = f", `--no-{setting.flag.removeprefix('--')}`" if setting.is_switch else ""
            lines += [
                f"### `{setting.name}`\n",
                f"{setting.text}\n",
                f"- Flag: `{setting.flag}`{off}{', repeatable' if setting.outside.is_repeatable else ''}",
                f"- Environment: `{setting.env}`",
                f"- Default: {with_unit(setting, setting.default)}\n",
            ]
    return "\n".join(lines).rstrip() + "\n"


def cli_page() -> str:
    """Every command, its arguments and its flags."""
    lines = [
        NOTICE,
        "# Command line\n",
        "Standard output carries results only: ids, file objects, bytes, answers.",
        "Messages and progress bars go to standard error, bars only if it is a terminal.\n",
        "| exit status | means |",
        "|--:|---|",
        "| 0 | done; `serve`: drained after SIGTERM or SIGINT |",
        "| 1 | the command failed, wholly or for one of several files |",
        "| 2 | wrong usage, or a bad setting |",
        "| 130 | interrupted by Ctrl-C |",
        "| 141 | the reader of the output went away |\n",
        "`upload`, `files` and `chat` are clients: they talk HTTP to any server with this Files API.",
        f"They find it by `--server` or `{SERVER_ENV}` (default `{DEFAULT_SERVER}`),",
        f"and send the key of `--api-key` or `{API_KEY_ENV}`.",
        "`MEDIAGATE_API_KEY` is not read by them: it holds the keys that `serve` accepts.\n",
    ]
    for title, parser in _commands(build_parser()):
        lines += [f"## {title}\n", f"{parser.description}\n"]
        if title == "mediagate serve":
            lines.append("Its flags are the [settings](settings.md), and `--config FILE`.\n")
            continue
        if title == "mediagate config show":
            lines.append("It takes the flags of `mediagate serve`.\n")
            continue
        lines += [_row(action) for action in parser._actions if action.dest != "help"]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"settings.md": settings_page, "cli.md": cli_page}


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    is_check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        path = REFERENCE / name
        text = page()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not is_check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"{'stale' if is_check else 'written'}: {', '.join(stale)}\n")
    return 1 if is_check and stale else 0


def _commands(
    parser: argparse.ArgumentParser,
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Leaf commands, in the order of the help."""
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield parser.prog, parser
    for group in groups:
        for child in group.choices.values():
            yield from _commands(child)


def _row(action: argparse.Action) -> str:
    value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
    if action.choices is not None:
        value = "{" + ",".join(action.choices) + "}"
    if not action.option_strings:
        name = f"{value}…" if action.nargs == "+" else str(value)
    else:
        name = ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")
    return f"- `{name}`" + (f": {action.help}" if action.help else "")


if __name__ == "__main__":
    sys.exit(main())
