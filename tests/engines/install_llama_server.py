"""`llama-server` for a CPU, for tests.

    PYTHONPATH=tests python -m engines.install_llama_server

Built from the source archive of llama-cpp-python, which holds all of llama.cpp; wants cmake, ninja and a C++ compiler,
takes minutes, and happens once: the program stays in the cache.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

from engines import cache

VERSION = "0.3.36"
"""llama-cpp-python's."""

_OPTIONS = {
    "LLAMA_BUILD_COMMON": True,
    "LLAMA_BUILD_TOOLS": True,
    "LLAMA_BUILD_SERVER": True,
    "LLAMA_BUILD_TESTS": False,
    "LLAMA_BUILD_EXAMPLES": False,
    "LLAMA_BUILD_APP": False,
    "LLAMA_BUILD_UI": False,
    "LLAMA_USE_PREBUILT_UI": False,
    "LLAMA_OPENSSL": False,
    "LLAMA_SUBPROCESS": True,
    "LLAMA_ALL_WARNINGS": False,
    "BUILD_SHARED_LIBS": False,
    "GGML_NATIVE": False,
    "GGML_OPENMP": False,
    "GGML_LLAMAFILE": False,
    "GGML_CPU_REPACK": False,
    "GGML_CCACHE": False,
    "GGML_ALL_WARNINGS": False,
}

# Many sources at once spare the compiler half of its work, where their macros do not clash. The library of model
# architectures is most of the rest, and how fast it is matters to no test; what receives media, decodes it or
# computes is optimised.
_PROJECT = """
cmake_minimum_required(VERSION 3.18)
project(server C CXX)
add_subdirectory("${SOURCE}" llama.cpp)
set_target_properties(
  ggml-base ggml-cpu llama llama-common mtmd cpp-httplib server-context llama-server-impl
  PROPERTIES UNITY_BUILD ON)
set_source_files_properties(
  "${SOURCE}/common/json.cpp" "${SOURCE}/tools/mtmd/mtmd-helper.cpp" "${SOURCE}/tools/mtmd/mtmd-helper-gen.cpp"
  TARGET_DIRECTORY llama-common mtmd PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
target_compile_options(llama PRIVATE -O0)
"""

_DIRECTORY = cache.path(f"llama-server-{VERSION}", Path(__file__))
PROGRAM = _DIRECTORY / "llama-server"


def install() -> None:
    """Build `PROGRAM`, if it is not there.

    Raises:
        subprocess.CalledProcessError: pip, cmake or ninja failed, and said why.
    """
    cache.fill(_DIRECTORY, _build)


def _build(target: Path) -> None:
    work = target.parent
    _run(
        sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check",
        "--no-deps", "--no-binary=llama-cpp-python", "-d", str(work), f"llama-cpp-python=={VERSION}",
    )  # fmt: skip
    (archive,) = work.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(work, filter="data")
    (source,) = work.glob("*/vendor/llama.cpp")
    (work / "CMakeLists.txt").write_text(_PROJECT)
    build = work / "build"
    _run(
        "cmake", "-G", "Ninja", "-S", str(work), "-B", str(build), f"-DSOURCE={source}",
        "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_C_FLAGS_RELEASE=-O1", "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
        *(f"-D{name}={'ON' if is_on else 'OFF'}" for name, is_on in _OPTIONS.items()),
    )  # fmt: skip
    _run("ninja", "-C", str(build), "llama-server")
    (found,) = build.glob("**/bin/llama-server")
    _run("strip", str(found))
    target.mkdir()
    found.rename(target / found.name)


def _run(*command: str) -> None:
    """Run to the end; what it says is shown only if it fails."""
    ended = subprocess.run(command, capture_output=True, check=False)
    if ended.returncode:
        sys.stderr.buffer.write(ended.stdout + ended.stderr)
        ended.check_returncode()


if __name__ == "__main__":
    install()
