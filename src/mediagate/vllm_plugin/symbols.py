"""Every name of vLLM that is touched, and why: the whole of what a new version of vLLM can break.

The reference page is made from these tables, and a test asserts for each supported version that all of it is there.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

OLDEST = "0.26.0"
"""The oldest version of vLLM with endpoint plugins."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """One name that can be imported.

    Attributes:
        module: Where it is.
        name: What it is called there; attributes behind dots.
        use: What becomes of it: called, subclassed, wrapped, set.
        why: What would be missing without it.
        is_needed: Without it there are no uploads; otherwise less is lost, and `why` says what.
    """

    module: str
    name: str
    use: str
    why: str
    is_needed: bool = True

    @property
    def path(self) -> str:
        """In full."""
        return f"{self.module}.{self.name}"

    def missing(self) -> str | None:
        """What the installed vLLM has not: the name, or the whole module; None: it is there.

        What a class only declares is there.
        """
        try:
            found: object = importlib.import_module(self.module)
        except ImportError:
            return self.module
        for part in self.name.split("."):
            if not hasattr(found, part):
                return None if part in getattr(found, "__annotations__", {}) else self.path
            found = getattr(found, part)
        return None


@dataclass(frozen=True, slots=True)
class Other:
    """A name that is no Python name.

    Attributes:
        name: As vLLM writes it.
        use: What becomes of it.
        why: What would be missing without it.
    """

    name: str
    use: str
    why: str


SYMBOLS = (
    Symbol(
        "vllm.plugins",
        "load_endpoint_plugins",
        "wrapped at run time",
        "yields our endpoint plugin beside those that `VLLM_PLUGINS` names; untouched where that names mediagate",
    ),
    Symbol(
        "vllm.plugins.endpoint_plugins.interface",
        "EndpointPlugin.name",
        "fulfilled",
        "by which vLLM knows an endpoint plugin",
    ),
    Symbol(
        "vllm.plugins.endpoint_plugins.interface",
        "EndpointPlugin.required_tasks",
        "fulfilled",
        "says that any model will do",
    ),
    Symbol(
        "vllm.plugins.endpoint_plugins.interface",
        "EndpointPlugin.attach_router",
        "fulfilled",
        "adds one ASGI middleware, inside vLLM's authentication, and looks whether vLLM has routes on `/v1/files`",
    ),
    Symbol(
        "vllm.plugins.endpoint_plugins.interface",
        "EndpointPlugin.init_state",
        "fulfilled",
        "refuses to start where several API servers would each have files of their own",
    ),
    Symbol(
        "vllm.engine.arg_utils",
        "EngineArgs.add_cli_args",
        "wrapped at run time",
        "our flags in `vllm serve --help`; without it the environment is the way",
        is_needed=False,
    ),
    Symbol(
        "vllm.engine.arg_utils",
        "AsyncEngineArgs.add_cli_args",
        "relied upon",
        "loads general plugins, then calls the one above; without that the environment is the way",
        is_needed=False,
    ),
    Symbol(
        "vllm.envs",
        "VLLM_MEDIA_CONNECTOR",
        "set in the environment",
        "vLLM makes the media connector of that name",
    ),
    Symbol(
        "vllm.envs",
        "VLLM_PLUGINS",
        "read in the environment",
        "where it names mediagate, vLLM loads the endpoint plugin itself",
    ),
    Symbol(
        "vllm.envs",
        "VLLM_API_KEY",
        "read in the environment",
        "vLLM asks for its key at some paths only; whoever names a file needs it at all",
        is_needed=False,
    ),
    Symbol(
        "vllm.envs",
        "VLLM_MEDIA_LOADING_THREAD_COUNT",
        "read in the environment",
        "where it is set, as many threads decode files; otherwise four do",
        is_needed=False,
    ),
    Symbol(
        "vllm.envs",
        "VLLM_USE_RUST_FRONTEND",
        "read in the environment",
        "that frontend runs no Python plugins: the start is refused",
        is_needed=False,
    ),
    Symbol(
        "vllm.multimodal.media.connector",
        "MEDIA_CONNECTOR_REGISTRY.register",
        "called",
        "makes our media connector known by its name",
    ),
    Symbol(
        "vllm.multimodal.media.connector",
        "MediaConnector.load_from_url",
        "overridden",
        "opens the handle that stands for a file",
    ),
    Symbol(
        "vllm.multimodal.media.connector",
        "MediaConnector.load_from_url_async",
        "overridden",
        "the same, off the event loop",
    ),
    Symbol(
        "vllm.multimodal.media.base",
        "MediaIO.load_file",
        "called",
        "decodes a file with vLLM's own settings and libraries",
    ),
    Symbol(
        "vllm.multimodal.media.base",
        "MediaIO.load_bytes",
        "looked at",
        "what has it decodes: its attributes are the settings by which decoded media are kept",
    ),
    Symbol(
        "vllm.multimodal.media.base",
        "MediaWithBytes.media",
        "read and copied",
        "the decoded media, where vLLM keeps the encoded bytes beside them",
    ),
    Symbol(
        "vllm.multimodal.media.base",
        "MediaWithBytes.original_bytes",
        "replaced in copies",
        "a short tag takes the place of the encoded bytes, which vLLM would hash for each question",
    ),
    Symbol(
        "vllm.multimodal.processing",
        "BaseMultiModalProcessor",
        "looked at",
        "its subclasses tell whether the model reads the encoded bytes; then they stay",
    ),
    Symbol("vllm.multimodal.processing", "BaseProcessingInfo", "looked at", "the same"),
    Symbol("vllm.multimodal.parse", "MultiModalDataParser", "looked at", "the same"),
    Symbol(
        "vllm.exceptions",
        "VLLMValidationError",
        "raised",
        "a 400 for media that cannot be decoded, and for references that came by an unread way",
    ),
    Symbol(
        "vllm.exceptions",
        "VLLMNotFoundError",
        "raised",
        "a 404 for a file whose bytes are gone",
    ),
    Symbol(
        "uvicorn.middleware.proxy_headers",
        "ProxyHeadersMiddleware.__call__",
        "wrapped at run time, with `--trusted-proxy` only",
        "notes who connects before `X-Forwarded-For` replaces it; without that nobody can be trusted",
        is_needed=False,
    ),
    Symbol(
        "vllm", "__version__", "read", "for the line that says that something is missing", False
    ),
)

FLAGS = (
    Other(
        "--middleware",
        "looked for",
        "a command that has it answers HTTP, and gets our flags; `vllm bench` does not",
    ),
    Other("--headless", "read", "this node answers no HTTP: nothing is opened"),
    Other("--api-key", "read", "the same as `VLLM_API_KEY`, which counts where this was not given"),
    Other("--api-server-count", "read", "several API servers need one directory"),
    Other("--grpc", "read", "that server runs no plugins: the start is refused"),
    Other(
        "--enable-request-id-headers",
        "read",
        "so that an answer carries one request id, vLLM's or ours",
    ),
)
"""Flags of `vllm serve`."""

LOGGERS = (
    Other(
        "vllm",
        "filtered, and made the parent of ours",
        "what vLLM writes down of requests holds ids of files; what we have to say appears in its log",
    ),
    Other("uvicorn.access", "filtered", "paths hold ids of files"),
    Other("uvicorn.error", "filtered", "so do those of WebSockets"),
    Other("uvicorn.asgi", "filtered", "and those at level `trace`"),
    Other("python_multipart", "silenced", "it repeats what a client sent, filenames too"),
)
"""Of the standard library's `logging`."""


def missing() -> Sequence[str]:
    """What is needed and the installed vLLM has not, each once."""
    lacking = (symbol.missing() for symbol in SYMBOLS if symbol.is_needed)
    return tuple(dict.fromkeys(name for name in lacking if name is not None))
