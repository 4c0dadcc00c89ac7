"""The documentation says what is there, all of it, and nothing else."""

import argparse
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mediagate.cli.main import build_parser
from mediagate.config import CONFIG_ENV, ENV_PREFIX, SERVER_ENV, settings
from mediagate.core.errors import MediagateError
from mediagate.gateway.media_endpoints import DIALECTS
from mediagate.gateway.profiles import PROFILES
from mediagate.observe.audit import FIELDS, OPERATIONS, REMOVED
from mediagate.observe.metrics import COUNTED, DECODED, STORE
from mediagate.observe.reasons import reasons
from mediagate.web.errors import STATUS
from mediagate.web.openapi_operations import OPERATIONS as DESCRIBED

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
BY_HAND = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
PAGES = sorted([*(ROOT / name for name in BY_HAND), *(ROOT / "docs").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]

each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


def reference(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def leaves(base: type[MediagateError]) -> Iterator[type[MediagateError]]:
    if "code" in vars(base):
        yield base
    for child in base.__subclasses__():
        yield from leaves(child)


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for child in group.choices.values():
            yield from commands(child)


# what there is, is documented ------------------------------------------------------------------------------


def test_every_endpoint_that_is_read_is_documented() -> None:
    text = reference("http.md")
    table = text[text.index("## Endpoints that are read") : text.index("## Chat completions")]

    assert set(DIALECTS) == {
        name
        for row in re.findall(r"^\|.*?\|(.*?)\|", table, re.M)
        for name in re.findall("`(.*?)`", row)
    }


def test_generated_text_is_current() -> None:
    stale = [path.name for path, text in generator().generated() if path.read_text() != text]

    assert not stale, f"{stale}: run python docs/generate.py"


def test_every_operation_that_is_described_is_in_the_table_of_routes() -> None:
    rows = re.findall(r"^\| ((?:`[A-Z]+`(?:, )?)+) \| `(/\S+)` \|", reference("http.md"), re.M)

    assert set(DESCRIBED) == {
        (method, path.replace("{id}", "{}"))
        for methods, path in rows
        for method in re.findall("`([A-Z]+)`", methods)
    }


def test_configuration_for_litellm_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "how-to" / "put-litellm-in-front.md").read_text(encoding="utf-8")
    example = (ROOT / "examples" / "litellm.yaml").read_text(encoding="utf-8")

    (shown,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    assert example.endswith(f"\n\n{shown}")


def test_guide_says_what_each_engine_is_started_with() -> None:
    page = (ROOT / "docs/how-to/put-it-in-front-of-your-engine.md").read_text(encoding="utf-8")
    known = [profile for profile in PROFILES.values() if profile.chat is not None]

    started = [
        profile.reads_paths.format(path="/srv/mediagate/leases").partition(" in ")[0]
        for profile in known
    ]

    assert not [profile.title for profile in known if profile.title.split("'")[0] not in page]
    assert not [what for what in started if what not in page]


def test_every_setting_is_documented_under_all_its_names() -> None:
    page = reference("settings.md")

    sections = {part.split("`", 1)[0]: part for part in page.split("\n### `")[1:]}
    missing = [
        f"{setting.name}: {said}"
        for setting in settings()
        for said in (
            f"- Flag: `{setting.flag}`",
            f"- Environment: `{setting.env}`",
            *(f"`{program}`" for program in setting.outside.programs),
            *((f"`{setting.vllm_env}`",) if setting.vllm_env else ()),
        )
        if said not in sections[setting.name]
    ]

    assert not missing


def test_settings_page_says_what_differs_inside_vllm() -> None:
    lines = reference("settings.md").splitlines()

    differs = {line.partition("; inside vLLM ")[2] for line in lines if "- Default: " in line}

    assert differs == {"", "off", "4"}  # enable_file_uploads, file_upload_max_concurrent


def test_every_command_and_every_flag_is_documented() -> None:
    page = reference("cli.md") + reference("settings.md")

    missing = [
        name
        for parser in commands(build_parser())
        for name in (
            f"## {parser.prog}",
            *(flag for action in parser._actions for flag in action.option_strings),
        )
        if name not in page and name not in {"-h", "--help"}
    ]

    assert not missing


def test_every_error_code_is_documented_with_its_status() -> None:
    rows = set(re.findall(r"^\| (\d+) \| `(\w+)` \|", reference("errors.md"), flags=re.M))

    for error in leaves(MediagateError):
        status = next(STATUS[cls] for cls in error.__mro__ if cls in STATUS)
        assert (str(status), error.code) in rows
    assert {int(status) for status, _ in rows} == set(STATUS.values())


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"

    listed = {target.resolve() for target, _ in links(index)}

    pages = {page for page in (ROOT / "docs").rglob("*.md") if page != index}
    assert pages <= listed, f"not in docs/README.md: {sorted(p.name for p in pages - listed)}"


def test_architecture_lists_the_layers_that_the_import_contract_holds() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    held = next(c["layers"] for c in contracts["contracts"] if c["type"] == "layers")
    block = re.search(r"```text\n(.*?)```", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.S)
    assert block is not None

    drawn: list[str] = []
    for line in block[1].splitlines():
        sibling, name = re.match(r"(\| )?(\w+) ", line).groups()  # type: ignore[union-attr]  # fails the test
        if sibling:
            drawn[-1] += f" | mediagate.{name}"
        else:
            drawn.append(f"mediagate.{name}")

    assert drawn == held


# what is documented, there is ------------------------------------------------------------------------------


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        f"{target.relative_to(ROOT)}#{anchor}" if anchor else str(target)
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]

    assert not broken


@each_page
def test_named_flags_and_variables_exist(page: Path) -> None:
    ours = {flag for p in commands(build_parser()) for a in p._actions for flag in a.option_strings}
    ours |= {setting.flag for setting in settings()}
    known = {setting.env for setting in settings()} | {CONFIG_ENV, SERVER_ENV}
    twins = {setting.vllm_env for setting in settings()}
    text = page.read_text(encoding="utf-8")
    # A flag is ours where it is quoted alone, or stands on a line that calls us.
    quoted = re.findall(r"`(--[a-z][a-z-]+)[^`]*`", prose(page))
    called = [
        flag
        for line in re.findall(r"^(?:mediagate|vllm serve) .*$", text, flags=re.M)
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", line)
    ]

    unknown = {flag for flag in (*quoted, *called) if flag not in ours | FLAGS_OF_OTHERS}
    unknown |= set(re.findall(rf"\b{ENV_PREFIX}[A-Z_]+\b", text)) - known - VARIABLES_OF_OTHERS
    unknown |= set(re.findall(r"\bVLLM_\w*FILE_UPLOAD\w*[A-Z]\b", text)) - twins

    assert not unknown


FLAGS_OF_OTHERS = {
    "--allowed-local-media-path",  # vLLM
    "--allowed-media-domains",  # vLLM
    "--allowed-origins",  # vLLM
    "--api-server-count",  # vLLM
    "--disable-access-log-for-endpoints",  # vLLM
    "--disable-uvicorn-access-log",  # vLLM
    "--enable-log-requests",  # vLLM
    "--enable-request-id-headers",  # vLLM
    "--enable-scale-out",  # vLLM
    "--fail-on-environ-validation",  # vLLM
    "--grpc",  # vLLM
    "--headless",  # vLLM
    "--max-model-len",  # vLLM
    "--middleware",  # vLLM
    "--mm-processor-cache-gb",  # vLLM
    "--ssl-certfile",  # vLLM
    "--trust-remote-code",  # vLLM
    "--check",  # docs/generate.py
    "--all",  # our tests
    "--set-xauthrequest",  # oauth2-proxy
    "--skip-jwt-bearer-tokens",  # oauth2-proxy
    "--upstream-timeout",  # oauth2-proxy
}
VARIABLES_OF_OTHERS = {"MEDIAGATE_SERVICE_HOST"}  # Kubernetes


@each_page
def test_named_error_codes_exist(page: Path) -> None:
    codes = {error.code for error in leaves(MediagateError)}

    named = re.findall(r"\b[45]\d\d `(\w+)`", page.read_text(encoding="utf-8"))

    assert set(named) <= codes


def test_every_metric_operation_and_reason_is_documented() -> None:
    """H97, H98."""
    page = reference("observability.md")

    rows = set(re.findall(r"^\| `([\w.]+)` \|", page, flags=re.M))
    told = set(re.findall(r"^\| `file\.\w+` \| `(\w+)` \|", page, flags=re.M))

    assert {metric.name for metric in (*STORE, *COUNTED, *DECODED)} <= rows
    assert {*OPERATIONS.values(), *FIELDS} <= rows
    assert told == {*reasons(), *REMOVED.values()}


@each_page
def test_named_metrics_exist(page: Path) -> None:
    """H98."""
    known = {metric.name for metric in (*STORE, *COUNTED, *DECODED)}

    named = re.findall(r"\bmediagate_\w+[a-z]\b", page.read_text(encoding="utf-8"))

    assert set(named) - known <= {"mediagate_store"}  # what several begin with


@each_page
def test_named_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))

    named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.M)

    assert set(named) <= targets


@each_page
def test_named_files_of_ours_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:src|tests|docs|benchmarks|examples|typing_tests)/[\w./-]+)`", prose(page)
    )

    assert not [name for name in named if not (ROOT / name).exists()]


# what must not be written ----------------------------------------------------------------------------------


def test_no_tracked_text_names_a_registry_or_a_place_on_a_developers_machine() -> None:
    # Put together here, or this file would be the first that names them.
    registries = [
        "pypi." + "org",
        "pypi." + "io",
        "python" + "hosted.org",
        "npmjs." + "org",
        "crates." + "io",
    ]
    places = re.compile(
        # `/root/v1` is a path of a URL, with ASGI's root_path in front.
        rf"(?<![\w.])(?:{re.escape(str(ROOT))}|/(?:work|root(?!/v1)|Users/\w+|home/\w+))/[\w.]"
    )

    found = [
        f"{path.relative_to(ROOT)}: {line.strip()[:80]}"
        for path, text in tracked_texts()
        for line in text.splitlines()
        if any(host in line for host in registries) or places.search(line)
    ]

    assert not found


# ------------------------------------------------------------------------------------------------------------


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The relative links of a page: the file, and the anchor in it."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        yield (page.parent / name).resolve() if name else page, anchor


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and most renderers make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def tracked_texts() -> Iterator[tuple[Path, str]]:
    """What git knows or would add; everything below us where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        paths = [path for name in ("src", "tests", "docs") for path in (ROOT / name).rglob("*")]
    for path in paths:
        if path.is_file() and "__pycache__" not in path.parts:
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
