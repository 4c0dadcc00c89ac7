"""With this directory on `PYTHONPATH`, vLLM is one that renamed `EngineArgs.add_cli_args`.

Its sources are read with the other name; nothing is written. So a plugin finds no such function to wrap.
"""

import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType


class Renaming(SourceFileLoader):
    """Loads one module, and its compiled form from nowhere."""

    def get_code(self, fullname: str) -> object:  # type: ignore[override] # typeshed: CodeType | None
        """Compile what the file would say."""
        path = self.get_filename(fullname)
        source = self.get_data(path).decode()
        return compile(renamed(source), path, "exec", dont_inherit=True)


def renamed(source: str) -> str:
    """The definition in `EngineArgs`, which is the first one, and all calls."""
    called = re.sub(r"(?<!Async)EngineArgs\.add_cli_args", "EngineArgs.add_engine_args", source)
    head, definition, rest = called.partition("\nclass EngineArgs:")
    return head + definition + rest.replace("def add_cli_args(", "def add_engine_args(", 1)


class RenamingFinder:
    """First in `sys.meta_path`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Modules of vLLM that speak of `EngineArgs`."""
        if not name.startswith(("vllm.engine.", "vllm.benchmarks.", "vllm.entrypoints.")):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        if "EngineArgs.add_cli_args" not in spec.loader.get_data(str(spec.origin)).decode():
            return None
        spec.loader = Renaming(spec.loader.name, spec.loader.path)
        return spec


sys.meta_path.insert(0, RenamingFinder())
