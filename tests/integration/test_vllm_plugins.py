"""Inside vLLM: other people's plugins keep their state, whatever is on; and where uploads are off there is nothing.

Most is asked of processes that have imported vLLM and load plugins as its own do; one real server shows the same.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import servers
import vllm_servers
from engines.install_vllm import ROOT
from store_locks import held_by
from vllm_servers import NEWEST, OLDEST, VllmServer

pytestmark = pytest.mark.vllm

OTHERS = {"PYTHONPATH": f"{ROOT}/tests/engines:{ROOT}/tests/engines/plugins"}
RESOLVED = {"VLLM_LORA_RESOLVER_HF_REPO_LIST": "somebody/adapters"}
"""With it, a resolver that downloads what clients name is there if `VLLM_PLUGINS` names it, and only then."""

ALLOWING_US = (None, "mediagate", "mediagate,theirs", "theirs,their_platform,mediagate")
NOT_ALLOWING_US = ("", "theirs", "their_batches,their_platform")
PATHS = (
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("DELETE", "/v1/files/file-0"),
    ("POST", "/v1/uploads"),
    ("GET", "/v1/batches"),
)

FACTS = f"""
from vllm_children import *

RESOLVED, PATHS = {RESOLVED!r}, {PATHS!r}
TWINS = {{"MEDIAGATE_ENABLE_FILE_UPLOADS": "1", "VLLM_MEDIA_CONNECTOR": "mediagate"}}


def stripped():
    return [refusal("--enable-file-uploads")[0], refusal("--enable-file-uploads")[1].splitlines()[-1]]


facts = {{"allowed": [], "not_allowed": [], "off": [], "theirs": []}}
for plugins in {ALLOWING_US!r}:
    facts["allowed"].append([
        ask(lambda: loaded("--enable-file-uploads"), plugins=plugins, env=RESOLVED),
        ask(loaded, plugins=plugins, env=RESOLVED, is_installed=False),
    ])
for plugins in {NOT_ALLOWING_US!r}:
    facts["not_allowed"].append([
        ask(loaded, plugins=plugins, env=RESOLVED),
        ask(loaded, plugins=plugins, env=RESOLVED, is_installed=False),
        ask(stripped, plugins=plugins),
    ])
facts["named"] = ask(loaded, plugins="mediagate,lora_hf_hub_resolver", env=RESOLVED)["resolvers"]
for plugins in (None, "mediagate"):
    facts["off"].append([
        ask(lambda: answers(app(), *PATHS), plugins=plugins),
        ask(lambda: answers(app(), *PATHS), plugins=plugins, is_installed=False),
    ])
for plugins in ("their_batches", "their_batches,mediagate"):
    facts["theirs"].append([
        ask(lambda: answers(app(), *PATHS), plugins=plugins),
        ask(lambda: answers(app(), *PATHS), plugins=plugins, is_installed=False),
    ])
facts["engine_off"] = [ask(engine), ask(engine, plugins="mediagate")]
facts["twins"] = [
    ask(twins, plugins="mediagate", env=TWINS),
    ask(twins, env={{"MEDIAGATE_ENABLE_FILE_UPLOADS": "1"}}),
    ask(twins, env={{"VLLM_ENABLE_FILE_UPLOADS": "1"}}),
    ask(twins, plugins="mediagate"),
]
facts["often"] = [ask(often), ask(often, plugins="mediagate")]


def forked():
    parse("--enable-file-uploads")
    return ask(lambda: loaded())


facts["forked"] = ask(forked)
children = ask(lambda: handed_on("--enable-file-uploads"))
facts["spawned"] = ask(loaded, env=children)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module", params=[NEWEST, OLDEST])
def facts(request: pytest.FixtureRequest) -> dict[str, Any]:
    """All answers of one version."""
    found: dict[str, Any] = vllm_servers.run(FACTS, version=request.param, env=OTHERS)
    return found


def test_with_uploads_the_same_plugins_are_loaded_as_without_us_and_ours(
    facts: dict[str, Any],
) -> None:
    """Whatever `VLLM_PLUGINS` says: hardware, endpoints, and names that stand in two groups."""
    for with_us, without_us in facts["allowed"]:
        assert with_us["endpoints"] == sorted([*without_us["endpoints"], "mediagate"])
        assert {**with_us, "endpoints": []} == {**without_us, "endpoints": []}
    assert facts["allowed"][3][0]["others"] == [
        "endpoint theirs",
        "general theirs",
        "platform their_platform",
    ]


def test_a_list_without_us_leaves_us_out(facts: dict[str, Any]) -> None:
    """It is the operator's: nothing is loaded but what it names, and vLLM knows no flag of ours."""
    for with_us, without_us, (status, told) in facts["not_allowed"]:
        assert with_us == without_us
        assert status == 2
        assert told == "vllm serve: error: unrecognized arguments: --enable-file-uploads"


def test_the_resolver_that_downloads_is_enabled_by_its_own_name_only(facts: dict[str, Any]) -> None:
    assert facts["named"] == ["Hf Hub Resolver"]
    for with_us, _ in facts["allowed"]:
        assert with_us["resolvers"] == []


def test_without_the_flag_every_answer_is_that_of_a_vllm_without_us(facts: dict[str, Any]) -> None:
    """Byte for byte, and where `VLLM_PLUGINS` names us too."""
    for with_us, without_us in facts["off"]:
        assert with_us == without_us
        assert [answer[0] for answer in with_us] == [404] * len(PATHS)


def test_without_the_flag_batch_routes_of_vllm_are_untouched(facts: dict[str, Any]) -> None:
    """H101."""
    for with_us, without_us in facts["theirs"]:
        assert with_us == without_us
        assert json.loads(with_us[1][2]) == {"answered": "/v1/files", "by": "their_batches"}


def test_without_the_flag_an_engine_has_imported_next_to_nothing(facts: dict[str, Any]) -> None:
    assert (
        facts["engine_off"]
        == [["mediagate", "mediagate.vllm_plugin", "mediagate.vllm_plugin.hooks"]] * 2
    )


def test_environment_twins_need_no_endpoint_hook(facts: dict[str, Any]) -> None:
    """With all three, vLLM loads the endpoint plugin itself; with one, it is brought; with none nothing happens."""
    by_three, by_ours, by_theirs, by_none = facts["twins"]

    assert by_three == {"wrapped": ["add_cli_args"], "in_front": 1, "connector": "mediagate"}
    for enabled in (by_ours, by_theirs):
        assert enabled["wrapped"] == ["load_endpoint_plugins", "add_cli_args"]
        assert enabled["in_front"] == 1
        assert enabled["connector"] == "mediagate"
    assert by_none == {"wrapped": ["add_cli_args"], "in_front": 0, "connector": None}


def test_loading_us_often_is_loading_us_once(facts: dict[str, Any]) -> None:
    brought, named = facts["often"]

    assert brought == [1, 1, ["mediagate"]]
    assert named == [0, 1, ["mediagate"]]


def test_children_have_us_whether_forked_or_spawned(facts: dict[str, Any]) -> None:
    assert facts["forked"]["endpoints"] == ["mediagate"]
    assert facts["spawned"]["endpoints"] == ["mediagate"]


# a real server ---------------------------------------------------------------------------------------------

ALL = "mediagate,their_platform,their_general,theirs,their_batches"


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the others note."""
    return tmp_path_factory.mktemp("others") / "notes"


@pytest.fixture(scope="module")
def server(notes: Path) -> Iterator[VllmServer]:
    """Two API servers, no directory named, and plugins of others, which answer `/v1/files` too."""
    env = OTHERS | {"OTHERS_NOTES": str(notes), "VLLM_PLUGINS": ALL}
    flags = ("--enable-file-uploads", "--api-server-count", "2")
    with vllm_servers.serving(*flags, env=env) as running:
        yield running


def noted(notes: Path, what: str) -> dict[str, set[str]]:
    """Names by kind of process: parent, API server, engine."""
    found: dict[str, set[str]] = {}
    for line in notes.read_text().splitlines():
        entry = json.loads(line)
        if entry["what"] == what:
            kind = entry["in"].rstrip("0123456789").rstrip("_").removesuffix("_DP")
            found.setdefault(kind, set()).add(entry["name"])
    return found


def test_each_process_has_loaded_what_the_list_names(server: VllmServer, notes: Path) -> None:
    """Hardware and general plugins everywhere, endpoints where HTTP is answered."""
    everywhere = {"platform their_platform", "general their_general", "general theirs"}
    loaded = noted(notes, "plugin")

    endpoints = {"endpoint theirs", "endpoint their_batches"}
    assert loaded.pop("ApiServer") == everywhere | endpoints
    assert "EngineCore" in loaded
    assert all(names == everywhere for names in loaded.values())


def test_only_api_servers_open_the_store(server: VllmServer, notes: Path) -> None:
    """No engine and no worker has imported what reads rows."""
    imported = noted(notes, "import")

    assert "sqlalchemy" in imported["ApiServer"]
    assert all("sqlalchemy" not in names for kind, names in imported.items() if kind != "ApiServer")


def test_routes_of_others_are_theirs(server: VllmServer) -> None:
    for path, name in (("/theirs", "theirs"), ("/v1/batches", "their_batches")):
        answer = servers.get(server, path)
        assert answer.status == 200
        assert answer.json() == {"answered": path, "by": name}


def test_batch_input_is_refused_with_the_reason(server: VllmServer) -> None:
    """H101: whoever comes for vLLM's own batch routes learns what hides them, and so does the operator."""
    answer = servers.put_file(server, b"{}", filename="batch.jsonl", purpose="batch")

    assert answer.status == 400
    assert answer.error["param"] == "purpose"
    assert "batch API" in answer.error["message"]
    assert "--enable-file-uploads" in answer.error["message"]
    assert "this vLLM answers /v1/files itself" in server.log()


def test_a_directory_of_the_server_goes_with_it(server: VllmServer) -> None:
    """API servers and parent hold it, the engine does not; SIGTERM removes it. Last here: it ends the server."""
    (directory,) = {path for pid in server.pids for path in held_by(pid)}
    holders = {process.title for process in server.processes() if directory in held_by(process.pid)}

    server.stop()

    assert len(holders) == 3
    assert not any("Engine" in title or "Worker" in title for title in holders)
    assert not directory.exists()
