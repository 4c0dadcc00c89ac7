"""`transformers serve` on a CPU, for tests.

    PYTHONPATH=tests python -m engines.install_transformers

A layer of packages in the cache, on top of that of the newest vLLM, which has everything else: torch for a CPU, what
decodes media, a web server. No environment is made: the two are on `PYTHONPATH` of what runs on them.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from engines import cache
from engines.install_vllm import make_layer

VERSION = "5.23.0"
VLLM = "0.32.0"

_PACKAGES = Path(__file__).with_name(f"transformers-{VERSION}.txt")
LAYER = cache.path(
    f"transformers-{VERSION}-py{sys.version_info[0]}{sys.version_info[1]}",
    Path(__file__),
    _PACKAGES,
)


def install() -> None:
    """Make both layers, if they are not there, which takes minutes.

    Raises:
        subprocess.CalledProcessError: pip failed, and said why.
    """
    make_layer(VLLM)
    cache.fill(LAYER, _install)


def _install(target: Path) -> None:
    # The list is whole together with the layer below: nothing beside it is installed.
    subprocess.run(
        (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
         "--target", str(target), "-r", str(_PACKAGES)),
        env=os.environ | {"TMPDIR": str(target.parent)},
        check=True,
    )  # fmt: skip


def command(script: Path, *arguments: str) -> tuple[str, ...]:
    """The command line that runs a script on the layers; `environment` goes with it."""
    # Nothing of the environment that runs the tests, and not what lies beside the script.
    return (sys.executable, "-S", "-P", str(script), *arguments)


def environment() -> Mapping[str, str]:
    """What such a script finds in its environment; both layers must be there."""
    return {
        "PYTHONPATH": os.pathsep.join((str(LAYER), str(make_layer(VLLM)))),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


if __name__ == "__main__":
    install()
