"""Writes what can be made from the code: whole reference pages, and marked regions of pages written by hand.

python docs/generate.py          write them
python docs/generate.py --check  exit 1 if a committed one differs

A region stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mediagate.cli.main import build_parser
from mediagate.cli.target import API_KEY_ENV, DEFAULT_SERVER
from mediagate.config import CONFIG_ENV, SERVER_ENV, Group, Program, Setting, settings, with_unit
from mediagate.core.errors import MediagateError, MethodNotAllowed, RangeNotSatisfiable
from mediagate.core.events import RequestFailed
from mediagate.core.files import MediaKind
from mediagate.dialects.parts import Part, Source
from mediagate.gateway.detection import SIGNALS, Signal
from mediagate.gateway.profiles import PROFILES, Profile
from mediagate.media.sniff import MEDIA_TYPES
from mediagate.observe.audit import FIELDS, OPERATIONS, REMOVED
from mediagate.observe.metrics import COUNTED, DECODED, STORE, Metric
from mediagate.observe.reasons import reasons
from mediagate.vllm_plugin import symbols
from mediagate.vllm_plugin.metrics import LEFT_TO_VLLM
from mediagate.web.errors import body_of, headers_of, status_of
from mediagate.web.files import FilesApi
from mediagate.web.health import Health
from mediagate.web.metrics import MetricsApi
from mediagate.web.openapi import OpenApi
from mediagate.web.protocol import EdgeLimits
from mediagate.web.routing import Guard
from mediagate.web.uploads import UploadsApi

ROOT = Path(__file__).parents[1]
NOTICE = "<!-- Made by docs/generate.py from the code; change the code and run it again. -->\n"

LIMITS = (
    "file_upload_max_size_mb",
    "file_upload_max_total_gb",
    "file_upload_max_concurrent",
    "file_upload_ttl_seconds",
    "file_upload_max_ttl_seconds",
    "file_upload_idle_timeout_seconds",
    "file_upload_min_rate_kbps",
    "file_upload_deadline_seconds",
    "max_json_mb",
)
"""The settings that the README shows."""

OF_THE_PULL_REQUEST = (
    "enable_file_uploads",
    "file_upload_dir",
    "file_upload_ttl_seconds",
    "file_upload_max_size_mb",
    "file_upload_max_total_gb",
    "file_upload_max_concurrent",
    "file_upload_scope_header",
    "file_upload_disable_listing",
)
"""The eight flags of vLLM's pull request #39003."""


SAID = {
    "_owned_by": "a model has `{beside}`, and its `owned_by` is `{owner}`",
    "_member": "has `{name}`",
    "_titled": "its `info.title` is `{title}`",
    "_has_routes": "has the routes {paths}",
    "_text": "is `{text}`",
}
"""What an answer says, by the name of the function in `gateway.detection` that looks for it."""


def settings_page() -> str:
    """Every setting of `mediagate serve`, and of the plugin inside `vllm serve`."""
    lines = [
        NOTICE,
        "# Settings\n",
        "Settings are read by `mediagate serve`, and inside `vllm serve` by the plugin;",
        "each says below which of them has it.",
        "In a file or an environment that they share, a program leaves alone what only the other one has.\n",
        "Each can be given in three ways, and where several are given the later one in this list wins:\n",
        f"1. a flat key in a TOML file, named by `{CONFIG_ENV}`, or by `--config FILE` of `mediagate serve`:",
        "   `max_json_mb = 16`;",
        "2. an environment variable: `MEDIAGATE_MAX_JSON_MB=16`, lists separated by commas;",
        "3. a flag: `--max-json-mb 16`.\n",
        "Inside vLLM some have a second variable that begins with `VLLM_`, as in vLLM's pull request #39003;",
        "where both are set, the one that begins with `MEDIAGATE_` counts.\n",
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
                f"- Environment: `{setting.env}`{_vllm_twin(setting)}",
                f"- Default: {with_unit(setting, setting.default)}{_default_in_vllm(setting)}",
                f"- Read by: {' and '.join(f'`{p}`' for p in Program if p in setting.outside.programs)}\n",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _vllm_twin(setting: Setting) -> str:
    has_one = setting.vllm_env is not None and Program.VLLM in setting.outside.programs
    return f"; inside vLLM `{setting.vllm_env}` too" if has_one else ""


def _default_in_vllm(setting: Setting) -> str:
    default = setting.default_in(Program.VLLM)
    return "" if default == setting.default else f"; inside vLLM {setting.shown(default)}"


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
        "`MEDIAGATE_API_KEY` is not read by them: it holds the keys that `serve` accepts.",
        "Where a header names the tenant and no gateway in front sets it, `-H 'X-Scope: team-a'` does.\n",
    ]
    for title, parser in _commands(build_parser()):
        lines += [f"## {title}\n", f"{parser.description}\n"]
        if title == "mediagate serve":
            lines.append("Its flags are its [settings](settings.md), and `--config FILE`.\n")
            continue
        if title == "mediagate config show":
            lines.append("It takes the flags of `mediagate serve`.\n")
            continue
        own = [action for action in parser._actions if action.dest != "help"]
        if title == "mediagate doctor":
            lines.append("It takes the flags of `mediagate serve`, and:\n")
            own = [action for action in own if action.dest == "model"]
        lines += [_row(action) for action in own]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def errors_page() -> str:
    """Every error code, by status."""
    lines = [
        NOTICE,
        "# Errors\n",
        "Each error that mediagate itself answers has OpenAI's body, with all four keys, always:\n",
        "```json",
        '{"error": {"message": "…", "type": "invalid_request_error", "param": "file", "code": "empty_file"}}',
        "```\n",
        "- `code` is stable: programs may rely on it.",
        "- `message` says what was wrong and what to do instead; its words may change.",
        "- `param` names the parameter, the header or the JSON path at fault (`messages[0].content[1].image_url.url`),",
        "  or is `null`.",
        "- `type` follows from the status, but for 401.\n",
        "An error that the inference server answers is passed on as it came.",
        "Once an answer has begun, a failure breaks the connection,",
        "so that half an answer never looks like a whole one.\n",
        "`x-should-retry: false` keeps the official clients from sending the same bytes twice more in vain.\n",
        "| status | code | type | means | headers |",
        "|--:|---|---|---|---|",
    ]
    for error in sorted(_error_samples(MediagateError), key=status_of):
        means = (type(error).__doc__ or "").partition("\n")[0].rstrip(".")
        headers = ", ".join(f"`{_header(name, value)}`" for name, value in headers_of(error))
        kind = body_of(error)["error"]["type"]
        lines.append(
            f"| {status_of(error)} | `{error.code}` | `{kind}` | {means} | {headers} |".replace(
                "|  |", "| |"
            )
        )
    return "\n".join(lines) + "\n"


def vllm_page() -> str:
    """What of vLLM the plugin touches."""
    lines = [
        NOTICE,
        "# vLLM\n",
        f"The plugin runs in vLLM {symbols.OLDEST} and later, as released.",
        "This page lists every name of vLLM's that it touches, and why;",
        "a test asserts for each supported version that all of them are there.",
        "Where one that is needed is missing, `vllm serve --enable-file-uploads` names it in one line",
        "and ends with status 2 before a model is loaded.",
        "So it does where vLLM's Rust frontend or gRPC server would serve: they run no Python plugins.",
        "The [gateway](../how-to/put-it-in-front-of-vllm.md) is the way there.",
        "A vLLM that has an `--enable-file-uploads` of its own is left alone.\n",
        "## Names\n",
        "| name | what becomes of it | why | needed |",
        "|---|---|---|---|",
    ]
    for symbol in symbols.SYMBOLS:
        needed = "yes" if symbol.is_needed else "no"
        lines.append(f"| `{symbol.path}` | {symbol.use} | {symbol.why} | {needed} |")
    for title, others in (
        ("Flags of `vllm serve`", symbols.FLAGS),
        ("Loggers", symbols.LOGGERS),
    ):
        lines += [f"\n## {title}\n", "| name | what becomes of it | why |", "|---|---|---|"]
        lines += [f"| `{other.name}` | {other.use} | {other.why} |" for other in others]
    lines += [
        "\n## Other plugins\n",
        "`VLLM_PLUGINS` is vLLM's list of plugins that may be loaded, of all kinds, hardware included.",
        "The plugin never sets it:",
        "with `--enable-file-uploads`, every other plugin is loaded that would be without it, and no more.\n",
        "| `VLLM_PLUGINS` | mediagate | others |",
        "|---|---|---|",
        "| not set | there, with the flag | as vLLM does it: all but endpoint plugins |",
        "| names `mediagate` | there, with the flag | what else it names |",
        "| does not name it | not there: vLLM does not know the flag | what it names |\n",
        "vLLM has one media connector. Where `VLLM_MEDIA_CONNECTOR` names another one, the start is refused.\n",
        "## Without the flags\n",
        "A vLLM that takes no flags from plugins says so.",
        "Its environment does the same, and nothing is wrapped then:\n",
        "```bash",
        "export MEDIAGATE_ENABLE_FILE_UPLOADS=1 VLLM_PLUGINS=mediagate VLLM_MEDIA_CONNECTOR=mediagate",
        "```\n",
        "Add other plugins that you need to `VLLM_PLUGINS`, separated by commas.",
        "With several API servers, name a directory too: `MEDIAGATE_FILE_UPLOAD_DIR`.",
        "vLLM's `--fail-on-environ-validation` knows no `VLLM_FILE_UPLOAD_…`:",
        "use the names that begin with `MEDIAGATE_`.",
    ]
    return "\n".join(lines) + "\n"


def routes_region() -> str:
    """What is answered by mediagate itself."""
    nobody = cast("Any", None)  # only asked for their routes
    routes = [
        *FilesApi(files=nobody, receiver=nobody, max_expires_after_s=None).routes(),
        *UploadsApi(uploads=nobody, executor=nobody, max_expires_after_s=None).routes(),
        *MetricsApi(files=nobody, metrics=nobody, quota_bytes=0).routes(),
        *Health(files=nobody).routes(),
    ]
    routes += OpenApi(
        routes=routes, answered=(), has_keys=False, scope_header=None, keys_have_scopes=False
    ).routes()
    needs = {Guard.NONE: "nothing", Guard.KEY: "a key", Guard.TENANT: "a key and a tenant"}
    lines = ["| method | path | does | needs, where the server asks |", "|---|---|---|---|"]
    for route in routes:
        path = route.path.replace("{}", "{id}")
        for handler in dict.fromkeys(route.methods.values()):
            methods = ", ".join(f"`{m}`" for m, h in route.methods.items() if h == handler)
            does = (handler.__doc__ or "").partition("\n")[0].rstrip(".")
            lines.append(f"| {methods} | `{path}` | {does} | {needs[route.guard]} |")
    return "\n".join(lines)


def types_region() -> str:
    """The accepted MIME types."""
    lines = ["| kind | types |", "|---|---|"]
    for kind in (MediaKind.VIDEO, MediaKind.AUDIO, MediaKind.IMAGE):
        types = ", ".join(f"`{t}`" for t in sorted(MEDIA_TYPES) if t.startswith(f"{kind}/"))
        lines.append(f"| {kind} | {types} |")
    return "\n".join(lines)


def connection_region() -> str:
    """What one connection may cost."""
    limits = EdgeLimits()
    rows = (
        ("request line and header lines together", _kib(limits.max_head_bytes), "431"),
        ("time for them to come", f"{limits.head_timeout_s:g} s", "408"),
        ("silence between two requests", f"{limits.keep_alive_s:g} s", "the connection closes"),
        (
            "rest of a body that is still taken after an early answer",
            f"{_kib(limits.linger_bytes)} or {limits.linger_s:g} s",
            "the connection closes",
        ),
        ("an answer that the client does not read", f"{limits.unread_s:g} s", "it breaks off"),
    )
    lines = ["| what | limit | beyond it |", "|---|--:|---|"]
    return "\n".join([*lines, *(f"| {what} | {limit} | {then} |" for what, limit, then in rows)])


def limits_region() -> str:
    """The settings that say how much, with their defaults."""
    table = {setting.name: setting for setting in settings()}
    lines = ["| what | default | flag of `mediagate serve` |", "|---|--:|---|"]
    for setting in (table[name] for name in LIMITS):
        default = with_unit(setting, setting.default)
        lines.append(f"| {setting.text.rstrip('.')} | {default} | `{setting.flag}` |")
    return "\n".join(lines)


def vllm_flags_region() -> str:
    """The flags of `vllm serve` that are ours: those of the pull request first, then the others."""
    table = {setting.name: setting for setting in settings(Program.VLLM)}
    order = dict.fromkeys((*OF_THE_PULL_REQUEST, *table))
    lines = ["| flag | default | twins | |", "|---|---|---|---|"]
    for setting in (table[name] for name in order):
        default = with_unit(setting, setting.default_in(Program.VLLM))
        twins = ", ".join(f"`{twin}`" for twin in (setting.env, setting.vllm_env) if twin)
        lines.append(f"| `{setting.flag}` | {default} | {twins} | {setting.text} |")
    return "\n".join(lines)


def operations_region() -> str:
    """What the audit log tells of."""
    lines = ["| `op` | what happened, to a file where one is concerned |", "|---|---|"]
    for event, operation in OPERATIONS.items():
        lines.append(f"| `{operation}` | {_first_line(event)} |")
    return "\n".join(lines)


def fields_region() -> str:
    """What stands in a line of the audit log."""
    lines = ["| field | |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{field}` | {text} |" for field, text in FIELDS.items())])


def reasons_region() -> str:
    """Why a request is refused, or a file goes."""
    lines = ["| `op` | `reason` | |", "|---|---|---|"]
    for reason, text in reasons().items():
        lines.append(f"| `{OPERATIONS[RequestFailed]}` | `{reason}` | {text} |")
    for event, reason in REMOVED.items():
        lines.append(f"| `{OPERATIONS[event]}` | `{reason}` | {_first_line(event)} |")
    return "\n".join(lines)


def metrics_region() -> str:
    """Every metric."""
    lines = ["| metric | type | label | where | |", "|---|---|---|---|---|"]
    for metric in (*STORE, *COUNTED, *DECODED):
        label = "" if metric.label is None else f"`{metric.label}`"
        where = _where(metric)
        lines.append(f"| `{metric.name}` | {metric.kind} | {label} | {where} | {metric.text} |")
    return "\n".join(lines).replace("|  |", "| |")


def known_engines() -> Sequence[Profile]:
    """The engines of which something is known."""
    return [profile for profile in PROFILES.values() if profile.chat is not None]


def chats_region() -> str:
    """What each engine takes in chat completions."""
    lines = [
        "| engine | `--engine` | looked at | images | audio | videos |",
        "|---|---|---|---|---|---|",
    ]
    for profile in known_engines():
        cells = (
            profile.title,
            f"`{profile.engine}`",
            profile.version,
            *("<br>".join(map(_part, (profile.chat or {}).get(kind, ()))) for kind in MediaKind),
        )
        lines.append(f"| {' | '.join(cell or 'none' for cell in cells)} |")
    return "\n".join(lines)


def elsewhere_region() -> str:
    """What it takes in Responses and Messages."""
    lines = ["| engine | image in Responses | image in Messages |", "|---|---|---|"]
    for profile in known_engines():
        cells = (profile.responses, profile.messages)
        shown = ("not known" if cell is None else _sources(cell) or "none" for cell in cells)
        lines.append(f"| {profile.title} | {' | '.join(shown)} |")
    return "\n".join(lines)


def left_out_region() -> str:
    """Whose parts are refused, since it would leave them out."""
    lines = ["| engine | in | reads only |", "|---|---|---|"]
    for profile in known_engines():
        for name, types in (
            ("chat completions", profile.chat_types),
            ("Responses", profile.responses_types),
            ("Messages", profile.messages_types),
            ("results of tools in Messages", profile.result_types),
            ("outputs of tools in Responses", profile.output_types),
            ("`input` of Responses, beside messages", profile.flat_types),
            ("`source` in Messages", profile.source_types),
            ("roles of messages with media in chat completions", profile.chat_roles),
            ("roles of messages with media in Responses", profile.responses_roles),
            ("roles of messages with media in Messages", profile.messages_roles),
            ("keys beside a prompt that name a file", profile.beside or None),
        ):
            if types is not None:
                shown = ", ".join(f"`{each}`" for each in sorted(types)) or "none"
                lines.append(f"| {profile.title} | {name} | {shown} |")
    return "\n".join(lines)


def engine_limits_region() -> str:
    """What each engine takes at most."""
    lines = [
        "| engine | request | one `data:` URI | one download | time for it, in seconds |",
        "|---|--:|--:|--:|---|",
    ]
    for profile in known_engines():
        limits = (profile.max_body_bytes, profile.max_inline_bytes, profile.max_download_bytes)
        cells = [*("" if each is None else _bytes(each) for each in limits), profile.download_s]
        lines.append(f"| {profile.title} | {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def signals_region() -> str:
    """How each engine is recognised."""
    lines = ["| the answer to | says | so it is |", "|---|---|---|"]
    lines += [f"| `GET {s.path}` | {_said(s)} | {PROFILES[s.engine].title} |" for s in SIGNALS]
    return "\n".join(lines)


def links_region() -> str:
    """What engines have to be started with, so that they open links."""
    lines = ["| engine | named as | started with |", "|---|---|---|"]
    for profile in known_engines():
        if profile.opens_paths:
            paths = [each for each in Source if each.way == "path" and each in profile.sources]
            started = _started(profile) or "nothing"
            lines.append(f"| {profile.title} | {_sources(paths)} | {started} |")
    return "\n".join(lines)


def where_read_region() -> str:
    """Where each engine reads media."""
    return "\n".join(
        f"- **{profile.title}**: {', '.join(f'`{path}`' for path in profile.endpoints)}"
        for profile in known_engines()
    )


def quirks_region() -> str:
    """What else is worth knowing."""
    return "\n".join(
        f"- **{profile.title}**: {' '.join(profile.quirks)}"
        for profile in known_engines()
        if profile.quirks
    )


def fetches_region() -> str:
    """What each engine fetches by itself."""
    return "\n\n".join(_fetching(profile) for profile in known_engines())


def _fetching(profile: Profile) -> str:
    most = profile.max_download_bytes
    bounds = [
        *(() if most is None else (_bytes(most),)),
        *((f"{profile.download_s} seconds",) if profile.download_s else ()),
    ]
    lines = [f"### {profile.title}\n", profile.fetches]
    if bounds:
        lines.append(f"\nLimits of a download: {'; '.join(bounds)}.")
    if started := _started(profile):
        lines.append(f"\nFiles of its machine it opens only if it was started with {started}.")
    return "\n".join(lines)


def _started(profile: Profile) -> str:
    """What it has to be started with to open links."""
    what, _, where = profile.reads_paths.format(path="DIR").partition(" in ")
    return f"`{what}`{where and f' in {where}'}" if what else ""


def _part(part: Part) -> str:
    types = ""
    if part.mime_types is not None:
        types = f" (inline: {', '.join(sorted(part.mime_types))})"
    return f"`{part.name}`: {_sources(part.sources)}{types}"


def _sources(sources: Sequence[Source]) -> str:
    return ", ".join(f"`{each}`".replace(" (public)`", "` (public)") for each in sources)


def _said(signal: Signal) -> str:
    """What is looked for in an answer: the arguments of whatever made the function that looks."""
    looked_for = inspect.getclosurevars(signal.said).nonlocals
    text = SAID[signal.said.__qualname__.partition(".")[0]]
    if looked_for.get("value") is not None:
        text = "its `{name}` is `{value}`"
    shown = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in looked_for.items()
    }
    if "paths" in shown:
        shown["paths"] = " and ".join(f"`{path}`" for path in shown["paths"])
    return text.format(**shown)


PAGES: Mapping[str, Callable[[], str]] = {
    "docs/reference/settings.md": settings_page,
    "docs/reference/cli.md": cli_page,
    "docs/reference/errors.md": errors_page,
    "docs/reference/vllm.md": vllm_page,
}
REGIONS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {"types": types_region, "limits": limits_region},
    "docs/how-to/uploads-on-vllm.md": {"vllm-flags": vllm_flags_region},
    "docs/explanation/what-engines-fetch-by-themselves.md": {"fetches": fetches_region},
    "docs/reference/engines.md": {
        "chats": chats_region,
        "elsewhere": elsewhere_region,
        "left-out": left_out_region,
        "engine-limits": engine_limits_region,
        "signals": signals_region,
        "links": links_region,
        "where-read": where_read_region,
        "quirks": quirks_region,
    },
    "docs/reference/http.md": {
        "routes": routes_region,
        "types": types_region,
        "connection": connection_region,
    },
    "docs/reference/observability.md": {
        "operations": operations_region,
        "fields": fields_region,
        "reasons": reasons_region,
        "metrics": metrics_region,
    },
}


def generated() -> Iterator[tuple[Path, str]]:
    """Every file that has something made from the code, and what must stand in it."""
    for name, page in PAGES.items():
        yield ROOT / name, page()
    for name, regions in REGIONS.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for region, content in regions.items():
            text = _put(text, region, content())
        yield ROOT / name, text


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    is_check = parser.parse_args().check
    stale = []
    for path, text in generated():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(str(path.relative_to(ROOT)))
        if not is_check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"{'stale' if is_check else 'written'}: {', '.join(stale)}\n")
    return 1 if is_check and stale else 0


def _put(text: str, region: str, content: str) -> str:
    """`text` with `content` in that region.

    Raises:
        ValueError: There is not exactly one such region.
    """
    pattern = rf"(<!-- generated: {region} -->\n).*?(<!-- end -->)"
    text, count = re.subn(pattern, lambda m: f"{m[1]}\n{content}\n\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{count} regions named {region}")
    return text


def _error_samples(base: type[MediagateError]) -> Iterator[MediagateError]:
    """One error of each leaf of the tree, in its order."""
    if "code" in vars(base):
        if issubclass(base, MethodNotAllowed):
            yield base("", allow=("…",))
        elif issubclass(base, RangeNotSatisfiable):
            yield base("", size_bytes=0)
        else:
            yield base("")
    for child in base.__subclasses__():
        yield from _error_samples(child)


def _first_line(documented: type) -> str:
    return (documented.__doc__ or "").partition("\n")[0].rstrip(".")


def _header(name: bytes, value: bytes) -> str:
    """The name; the value too where it is always the same."""
    is_fixed = name in {b"x-should-retry", b"www-authenticate"}
    return f"{name.decode()}: {value.decode()}" if is_fixed else name.decode()


def _where(metric: Metric) -> str:
    if metric in LEFT_TO_VLLM:
        return "gateway"
    return "vLLM" if metric in DECODED else "both"


def _bytes(count: int) -> str:
    return f"{count // 1024**2} MiB" if count % 1024**2 == 0 else f"{count:,} bytes"


def _kib(count: int) -> str:
    return f"{count // 1024**2} MiB" if count >= 1024**2 else f"{count // 1024} KiB"


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
