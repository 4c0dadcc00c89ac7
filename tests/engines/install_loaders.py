"""The media loaders of engines that want a GPU, for tests: the functions that open what a request names.

    PYTHONPATH=tests python -m engines.install_loaders

For each engine a layer of packages in the cache, on top of that of the newest vLLM: its wheel as released, and the few
packages that the modules of its loaders import and the layer below lacks. The engine itself could not start on these.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from engines import cache
from engines.install_transformers import VLLM, command
from engines.install_vllm import make_layer

VERSIONS = {"sglang": "0.5.23", "lmdeploy": "0.18.0"}
"""The engines, by their names for `--engine`."""

_SCRIPT = Path(__file__).with_name("load_media.py")


def layer(engine: str) -> Path:
    """The directory of the packages of one of `VERSIONS`."""
    python = f"py{sys.version_info[0]}{sys.version_info[1]}"
    name = f"{engine}-loaders-{VERSIONS[engine]}-{python}"
    return cache.path(name, Path(__file__), _packages(engine))


def install() -> None:
    """Make all layers, if they are not there, which takes a minute or two.

    Raises:
        subprocess.CalledProcessError: pip failed, and said why.
    """
    make_layer(VLLM)
    for engine in VERSIONS:
        cache.fill(layer(engine), partial(_install, packages=_packages(engine)))


def script(engine: str) -> tuple[str, ...]:
    """The command line of `load_media` for that engine; `environment` goes with it."""
    return command(_SCRIPT, engine)


def environment(engine: str) -> Mapping[str, str]:
    """What it finds in its environment; the layers must be there."""
    return {
        "PYTHONPATH": os.pathsep.join((str(layer(engine)), str(make_layer(VLLM)))),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _packages(engine: str) -> Path:
    return Path(__file__).with_name(f"{engine}-loaders.txt")


def _install(target: Path, *, packages: Path) -> None:
    # The list is whole together with the layer below: nothing beside it is installed.
    subprocess.run(
        (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
         "--target", str(target), "-r", str(packages)),
        env=os.environ | {"TMPDIR": str(target.parent)},
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    install()
