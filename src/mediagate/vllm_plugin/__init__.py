"""mediagate inside stock vLLM: `vllm serve MODEL --enable-file-uploads`.

vLLM finds these two by entry points of the distribution (`vllm.general_plugins`, `vllm.endpoint_plugins`). It loads the
first in each of its processes, so whoever has mediagate installed pays for importing this module: it imports nothing.

    command line ─▶ flags, settled in the parent ─▶ environment ─▶ each API server: middleware and media connector
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mediagate.vllm_plugin.endpoint import FileUploads


def register() -> None:
    """The general plugin: brings our flags to vLLM's command line, and is ready if they were given.

    Safe to call more than once in a process, and in every process.
    """
    from mediagate.vllm_plugin import hooks

    hooks.install()


def endpoint() -> "FileUploads":
    """The endpoint plugin: a factory, as vLLM wants it."""
    from mediagate.vllm_plugin.endpoint import FileUploads

    return FileUploads()
