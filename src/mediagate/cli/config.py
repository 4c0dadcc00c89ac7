"""`mediagate config`, and the settings as flags."""

import argparse
from collections.abc import Sequence

from mediagate.config import (
    CONFIG_ENV,
    Group,
    OriginKind,
    Program,
    Resolved,
    Setting,
    environment,
    load,
    settings,
    with_unit,
)

EPILOG = (
    "Every flag has a twin in the environment (--max-json-mb: MEDIAGATE_MAX_JSON_MB) and in a TOML file "
    "(max_json_mb = 64). Order: defaults < file < environment < flags. `mediagate config show` tells what "
    "holds, and where it came from."
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `config` and its actions."""
    parser = commands.add_parser("config", help="show the settings", allow_abbrev=False)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="print each setting of `serve`, its value and where that came from",
        description="Print each setting of `serve`, its value and where that came from. Secrets are masked.",
        usage="%(prog)s [--config FILE] [any flag of mediagate serve]",
        allow_abbrev=False,
    )
    add_setting_flags(show)
    show.set_defaults(run=run_show)


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each setting, the ones most people need first."""
    groups = {group: parser.add_argument_group(group.value) for group in Group}
    for setting in settings(Program.SERVER):
        _add_flag(groups[setting.outside.group], setting)
    groups[Group.SERVER].add_argument(
        "--config", metavar="FILE", help=f"TOML file with settings; also {CONFIG_ENV}"
    )
    parser.epilog = EPILOG


def load_settings(arguments: argparse.Namespace) -> Resolved:
    """The configuration that the given flags, the environment and the file make together."""
    given = {
        setting.name: value
        for setting in settings(Program.SERVER)
        if (value := getattr(arguments, setting.name, None)) is not None
    }
    return load(flags=given, environ=environment(), config_file=arguments.config)


def run_show(arguments: argparse.Namespace) -> int:
    """Print the table."""
    resolved = load_settings(arguments)
    rows = [_row(setting, resolved) for setting in settings(Program.SERVER)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")
    return 0


def _row(setting: Setting, resolved: Resolved) -> Sequence[str]:
    value = getattr(resolved.config, setting.name)
    origin = resolved.origins[setting.name]
    where = "" if origin.kind is OriginKind.DEFAULT else f" ({origin.label})"
    return setting.name, with_unit(setting, value), f"{origin.kind}{where}"


def _add_flag(group: "argparse._ArgumentGroup", setting: Setting) -> None:
    text = f"{setting.text} [default: {with_unit(setting, setting.default)}]".replace("%", "%%")
    if setting.is_switch:
        group.add_argument(
            setting.flag, action=argparse.BooleanOptionalAction, help=text, default=None
        )
    elif setting.outside.is_repeatable:
        group.add_argument(
            setting.flag, action="append", metavar=setting.outside.metavar, help=text
        )
    else:
        group.add_argument(setting.flag, metavar=setting.outside.metavar, help=text)
