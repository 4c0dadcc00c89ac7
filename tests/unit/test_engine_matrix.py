"""The table of engines says of each what its cells are, and nothing of endpoints that it has not."""

import pytest

import engine_matrix
import vllm_servers
from engine_matrix import WORKS
from engines import imitations, install_llama_server, install_loaders, install_transformers
from mediagate.core.engines import Engine
from mediagate.gateway.profiles import PROFILES


def cell(engine: Engine, outcome: str) -> dict[str, str]:
    name = engine_matrix.NAMES[engine]
    cell = {"engine": name, "kind": "image", "form": "bare id", "delivery": "url"}
    return cell | {"outcome": outcome}


def test_engine_that_answered_was_run() -> None:
    made = engine_matrix.table([cell(Engine.VLLM, WORKS)])

    assert f"### vLLM\n\nRun: vLLM {vllm_servers.NEWEST}.\n\n| media |" in made
    assert "| image | bare id | not run | works | not run |" in made


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (Engine.SGLANG, "the loaders of its wheel 0.5.23 open"),
        (Engine.OLLAMA, "an imitation reads it"),
        (Engine.LOCALAI, "Nothing reads it"),
        (Engine.OPENAI, "what mediagate sends where it knows nothing of the engine"),
    ],
)
def test_engine_that_was_only_sent_something_was_not(engine: Engine, said: str) -> None:
    made = engine_matrix.table([cell(engine, "sent: `data:…`")])

    _, _, line, *_ = made.splitlines()
    assert line.startswith("Recorded")
    assert said in line


def test_what_is_said_to_be_tried_is() -> None:
    for engine, version in install_loaders.VERSIONS.items():
        assert PROFILES[Engine(engine)].version == version
    for engine in engine_matrix.IMITATED:
        assert hasattr(imitations, f"{engine.value.title()}Upstream")
    assert install_llama_server.VERSION in PROFILES[Engine.LLAMA_SERVER].version
    assert PROFILES[Engine.TRANSFORMERS].version == install_transformers.VERSION


@pytest.mark.parametrize("form", ["Responses", "Messages"])
def test_what_is_sent_is_not_shown_where_there_is_no_endpoint(form: str) -> None:
    assert not engine_matrix.is_shown(Engine.TGI, form)
    assert not engine_matrix.is_shown(Engine.LLAMA_CPP_PYTHON, form)
    assert engine_matrix.is_shown(Engine.TGI, "bare id")
    assert engine_matrix.is_shown(Engine.LMDEPLOY, form)
    assert engine_matrix.is_shown(Engine.OPENAI, form)
