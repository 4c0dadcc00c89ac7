"""Where vLLM is held: two functions of it are wrapped at run time, and both can be done without.

`EngineArgs.add_cli_args` gets our flags. Without that hook the environment twins are the way.
`load_endpoint_plugins` yields our plugin too. Where `VLLM_PLUGINS` names mediagate, vLLM does so itself and nothing is
wrapped. Setting that variable would be the other way, but it is an allow list for the plugins of everybody, in all
groups: whatever it was set to, others would be loaded that were not, or not be loaded that were.
"""

import functools
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

NAME = "mediagate"
"""Of both plugins and of the media connector."""

CONNECTOR_ENV = "VLLM_MEDIA_CONNECTOR"
PLUGINS_ENV = "VLLM_PLUGINS"
ENABLED_ENV = ("MEDIAGATE_ENABLE_FILE_UPLOADS", "VLLM_ENABLE_FILE_UPLOADS")
"""The first of them that is set counts."""

_STOCK_CONNECTOR = "http"
_ON = frozenset({"1", "true", "on", "yes", "t", "y"})

logger = logging.getLogger(__name__)


class JointError(Exception):
    """This vLLM cannot be joined; the text is one line for the operator."""


def install() -> None:
    """Bring the flags to the command line; if uploads are enabled already, make ready for them. Idempotent."""
    # A library that vLLM's servers load silences the root logger up to errors; vLLM's own is the operator's to set.
    logging.getLogger("mediagate").parent = logging.getLogger("vllm")
    _bring_flags()
    try:
        if is_enabled_by_environment():
            enable()
        elif os.environ.get(CONNECTOR_ENV) == NAME:
            # Whoever names it must find it; without uploads it refuses references, and is vLLM's own in all else.
            bring_connector()
    except JointError as error:
        # Some of vLLM's processes need none of it; the one that reads the command line says so and stops.
        tell(str(error))


def is_enabled_by_environment() -> bool:
    """Whether the environment says so: the operator's, or that of a parent that was told by a flag."""
    said = next((os.environ[name] for name in ENABLED_ENV if name in os.environ), "")
    return said.strip().lower() in _ON


def enable() -> None:
    """Make this process and those to come ready: the connector is there, our endpoint plugin will be. Idempotent.

    Raises:
        JointError: Not with this vLLM, or not with these settings of it.
    """
    theirs = os.environ.get(CONNECTOR_ENV, _STOCK_CONNECTOR)
    if theirs not in {_STOCK_CONNECTOR, NAME}:
        raise JointError(
            f"{CONNECTOR_ENV}={theirs} and file uploads exclude each other: vLLM has one media connector"
        )
    bring_connector()
    os.environ[CONNECTOR_ENV] = NAME
    if NAME not in os.environ.get(PLUGINS_ENV, "").split(","):
        _bring_endpoint()


def disable() -> None:
    """Leave media to vLLM's own connector in the processes to come, whatever was enabled before. Idempotent."""
    if os.environ.get(CONNECTOR_ENV) == NAME:
        del os.environ[CONNECTOR_ENV]


def bring_connector() -> None:
    """Make the media connector known to this process. Idempotent.

    Raises:
        JointError: This vLLM lacks what we need.
    """
    _check_version()
    from mediagate.vllm_plugin import connector

    connector.install()


@functools.cache
def tell(line: str) -> None:
    """One line for the operator, however many times and in however many processes there is reason to say it."""
    if multiprocessing.parent_process() is None:
        logger.warning("mediagate: %s", line)


def _check_version() -> None:
    from mediagate.vllm_plugin import symbols

    lacking = symbols.missing()
    if lacking:
        version = getattr(sys.modules.get("vllm"), "__version__", "this one")
        raise JointError(
            f"file uploads need vLLM {symbols.OLDEST} or later; {version} has no {', no '.join(lacking)}: "
            "put the gateway in front of it instead, mediagate serve --upstream URL"
        )


def _bring_flags() -> None:
    # Whoever parses a command line has loaded it; the other processes are spared it.
    module = sys.modules.get("vllm.engine.arg_utils")
    if module is None:
        return
    arguments: Any = getattr(module, "EngineArgs", None)
    original = getattr(arguments, "add_cli_args", None)
    if original is None:
        if not is_enabled_by_environment():
            tell(
                "this vLLM takes no flags from plugins; instead of --enable-file-uploads set "
                f"{ENABLED_ENV[0]}=1 {PLUGINS_ENV}={NAME} {CONNECTOR_ENV}={NAME} in the environment"
            )
        return
    if _is_ours(original):
        return

    def add_cli_args(parser: Any) -> Any:
        parser = original(parser)
        from mediagate.vllm_plugin import flags

        flags.add(parser)
        return parser

    arguments.add_cli_args = staticmethod(_ours(add_cli_args, original))


def _bring_endpoint() -> None:
    import vllm.plugins

    original = vllm.plugins.load_endpoint_plugins
    if _is_ours(original):
        return

    def load_endpoint_plugins(*args: Any, **kwargs: Any) -> list[Any]:
        from mediagate.vllm_plugin import endpoint

        # Where nobody is allowed, vLLM warns of all that are installed: not of us, who are loaded after all.
        theirs = original(*args, **kwargs) if _are_others_meant() else []
        return [*theirs, endpoint()]

    vllm.plugins.load_endpoint_plugins = _ours(load_endpoint_plugins, original)


def _are_others_meant() -> bool:
    from importlib.metadata import entry_points

    installed = {entry.name for entry in entry_points(group="vllm.endpoint_plugins")}
    return PLUGINS_ENV in os.environ or bool(installed - {NAME})


def _ours(wrapper: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    wrapped = functools.wraps(original)(wrapper)
    wrapped.is_of_mediagate = True  # type: ignore[attr-defined]
    return wrapped


def _is_ours(function: object) -> bool:
    return getattr(function, "is_of_mediagate", False)
