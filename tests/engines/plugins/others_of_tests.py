"""Plugins of somebody else, for tests: each notes that it was loaded, and in which process.

A distribution made by hand: with this directory on `PYTHONPATH`, vLLM finds it as if it were installed. One name stands
in two groups, as ours does. The notes are lines of JSON, added to the file that `OTHERS_NOTES` names.
"""

import json
import multiprocessing
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Coroutine
from typing import Any


def note(what: str, name: str) -> None:
    """Add a line: what happened, and where."""
    line = {"what": what, "name": name, "in": multiprocessing.current_process().name}
    descriptor = os.open(os.environ["OTHERS_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps(line).encode() + b"\n")
    os.close(descriptor)


class Watch:
    """First in `sys.meta_path`: notes who is imported, finds nobody."""

    def find_spec(self, name: str, *_: object) -> None:
        """Called for whatever is imported from now on."""
        if name.partition(".")[0] in {"mediagate", "sqlalchemy"}:
            note("import", name)


def platform() -> None:
    """A platform plugin: says that this machine has none of its hardware."""
    note("plugin", "platform their_platform")


def general() -> None:
    """A general plugin; watches what is imported after it."""
    note("plugin", "general their_general")
    if not any(isinstance(finder, Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, Watch())


def general_of_two() -> None:
    """A general plugin whose name an endpoint plugin has too."""
    note("plugin", "general theirs")


Handler = Callable[[], Coroutine[Any, Any, dict[str, str]]]


class Endpoint:
    """An endpoint plugin.

    Args:
        name: Its own.
        paths: Where it answers GET and POST, with its name.
    """

    required_tasks: tuple[str, ...] | None = None

    def __init__(self, name: str, *paths: str) -> None:
        note("plugin", f"endpoint {name}")
        self.name = name
        self._paths = paths

    def attach_router(self, app: Any) -> None:
        """Add routes."""
        for path in self._paths:
            app.add_api_route(path, self._answer(path), methods=["GET", "POST"])

    def _answer(self, path: str) -> Handler:
        async def answer() -> dict[str, str]:
            return {"answered": path, "by": self.name}

        return answer

    async def init_state(self, _engine_client: object, _state: object, _args: Namespace) -> None:
        """Nothing to do."""


def endpoint_of_two() -> Endpoint:
    """An endpoint plugin whose name a general plugin has too."""
    return Endpoint("theirs", "/theirs")


def batches() -> Endpoint:
    """Routes of a batch API, as vLLM pull request #44445 has them."""
    return Endpoint("their_batches", "/v1/files", "/v1/files/{file_id}", "/v1/batches")
