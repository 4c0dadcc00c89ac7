"""Hooks where there is no vLLM: what the environment says, and that nothing is done in vain."""

import os
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from mediagate.vllm_plugin import hooks

OURS, THEIRS = hooks.ENABLED_ENV


@pytest.fixture(autouse=True)
def environ() -> Iterator[None]:
    """The environment as it was, and no line told yet."""
    hooks.tell.cache_clear()
    with patch.dict(os.environ):
        for name in (OURS, THEIRS, hooks.CONNECTOR_ENV, hooks.PLUGINS_ENV):
            os.environ.pop(name, None)
        yield


@pytest.mark.parametrize(
    ("ours", "theirs", "is_enabled"),
    [
        (None, None, False),
        ("1", None, True),
        ("TRUE", None, True),
        ("0", None, False),
        ("", None, False),
        (None, "1", True),
        (None, "false", False),
        ("0", "1", False),
        ("yes", "0", True),
    ],
)
def test_ours_counts_before_the_one_of_the_pull_request(
    ours: str | None, theirs: str | None, is_enabled: bool
) -> None:
    os.environ |= {
        name: value for name, value in {OURS: ours, THEIRS: theirs}.items() if value is not None
    }

    assert hooks.is_enabled_by_environment() is is_enabled


def test_connector_of_somebody_else_is_not_replaced() -> None:
    os.environ[hooks.CONNECTOR_ENV] = "theirs"

    with pytest.raises(hooks.JointError, match="VLLM_MEDIA_CONNECTOR=theirs"):
        hooks.enable()

    assert os.environ[hooks.CONNECTOR_ENV] == "theirs"


def test_what_cannot_be_joined_is_told_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A plugin that raises would stop a vLLM; here there is none at all."""
    os.environ[OURS] = "1"

    hooks.install()
    hooks.install()

    (line,) = caplog.messages
    assert line.startswith("mediagate: file uploads need vLLM 0.26.0 or later; ")
    assert "no vllm.plugins," in line
    assert hooks.CONNECTOR_ENV not in os.environ


def test_disabling_takes_back_our_connector_and_no_other() -> None:
    os.environ[hooks.CONNECTOR_ENV] = hooks.NAME
    hooks.disable()
    assert hooks.CONNECTOR_ENV not in os.environ

    os.environ[hooks.CONNECTOR_ENV] = "theirs"
    hooks.disable()
    assert os.environ[hooks.CONNECTOR_ENV] == "theirs"


CHILD = """
import multiprocessing
from mediagate.vllm_plugin import hooks

if __name__ == "__main__":
    hooks.tell("from the parent")
    child = multiprocessing.get_context("spawn").Process(target=hooks.tell, args=("from a child",))
    child.start()
    child.join()
"""


def test_one_process_speaks_for_all() -> None:
    told = subprocess.run(
        (sys.executable, "-c", CHILD), capture_output=True, text=True, check=True
    ).stderr

    assert told == "mediagate: from the parent\n"


def test_register_loads_nothing_where_uploads_are_off() -> None:
    """Whoever has it installed pays for it, in each of vLLM's processes."""
    code = (
        "import sys, mediagate.vllm_plugin as plugin\n"
        "for _ in range(3): plugin.register()\n"
        "print(*sorted(name for name in sys.modules if name.partition('.')[0] in sys.argv))"
    )
    ours = ("mediagate", "pydantic", "sqlalchemy", "vllm")

    loaded = subprocess.run(
        (sys.executable, "-c", code, *ours), capture_output=True, text=True, check=True
    ).stdout

    assert loaded.split() == ["mediagate", "mediagate.vllm_plugin", "mediagate.vllm_plugin.hooks"]
