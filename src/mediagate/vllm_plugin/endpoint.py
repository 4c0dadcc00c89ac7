"""The endpoint plugin: our whole stack as one ASGI middleware of vLLM's app, inside its authentication.

It takes what is about files and what may name media; in the latter references have become handles when vLLM sees it.
Everything else goes to vLLM untouched. The stack starts and stops with the lifespan of the app.
"""

import argparse
import contextlib
import logging
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.routing import Match

from mediagate.blobs.directory import DirectoryError
from mediagate.config import Config, SettingError
from mediagate.executor import Executor, in_background
from mediagate.gateway.media_endpoints import is_files_api, media_dialect
from mediagate.observe.request import REQUEST_ID
from mediagate.vllm_plugin import connector, flags, hooks
from mediagate.vllm_plugin.access_log import mask_access_log
from mediagate.vllm_plugin.decoded import DecodedMedia
from mediagate.vllm_plugin.metrics import VllmMetrics
from mediagate.vllm_plugin.originals import Originals
from mediagate.vllm_plugin.peers import note_peers, peer_of
from mediagate.web.asgi import (
    ASGIApp,
    HeaderList,
    Headers,
    Message,
    Receive,
    Scope,
    Send,
    path_below_root,
)
from mediagate.web.keys import Keys
from mediagate.wiring import inside

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

DECODING_THREADS = 4

THREADS_ENV = "VLLM_MEDIA_LOADING_THREAD_COUNT"
"""vLLM's own, for its threads that decode: where it is set, it counts. With a wrong value vLLM cannot be imported."""

KEY_ENV = "VLLM_API_KEY"
"""vLLM's own: it counts where there is no `--api-key`."""

_PASSAGE = "mediagate.passage"
"""Key of a request's scope, on its way through our layers."""


class FileUploads:
    """What vLLM calls an endpoint plugin.

    Attributes:
        name: By which `VLLM_PLUGINS` names it.
        required_tasks: None: whatever the model does.
    """

    name = hooks.NAME
    required_tasks: tuple[str, ...] | None = None

    def attach_router(self, app: "FastAPI") -> None:
        """Stand in front of `app`, if uploads are wanted.

        Raises:
            RuntimeError: They are, and cannot be; the text is one line for the operator.
        """
        try:
            config = flags.judge({})
            if config is None or not config.enable_file_uploads:
                return
            hooks.enable()
            if config.trusted_proxy:
                _note_peers()
        except (SettingError, hooks.JointError) as error:
            raise RuntimeError(f"mediagate: {error}") from None
        if _has_files(app):
            logger.warning(
                "this vLLM answers /v1/files itself; with file uploads enabled mediagate does so in its place, "
                "and files of purpose 'batch' are refused"
            )
        arguments = getattr(app.state, "args", None)
        asked_for = getattr(arguments, "api_key", None) or [os.environ.get(KEY_ENV)]
        app.add_middleware(
            Uploads,
            config=config,
            keys=Keys(key for key in asked_for if key),
            are_named_outside=getattr(arguments, "enable_request_id_headers", False),
        )

    async def init_state(
        self, engine_client: object, state: object, args: argparse.Namespace
    ) -> None:
        """See to it that API servers who share nothing do not pretend to.

        Raises:
            RuntimeError: There are several, and each would make a directory of its own.
        """
        config = flags.judge({})
        is_alone = (getattr(args, "api_server_count", None) or 1) == 1
        if config is None or not config.enable_file_uploads or is_alone:
            return
        if not flags.is_shared(config):
            raise RuntimeError(
                "mediagate: several API servers need one directory: name it with MEDIAGATE_FILE_UPLOAD_DIR"
            )


class _RaisedByEngine(BaseException):
    """An exception of vLLM's on its way through our layers: they handle every `Exception`, and it is none of theirs."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Passage:
    """One request that our layers read: vLLM sees of it, and the client of vLLM's answer, what they see without us.

    Args:
        scope: As it came to us.
        send: As well.
        is_named_outside: Whether a layer of vLLM's around us adds a request id to whatever is answered.
    """

    def __init__(self, scope: Scope, send: Send, *, is_named_outside: bool) -> None:
        self._raw_path = scope["raw_path"]
        self._client = scope.get("client")
        self._ids = [line for line in scope["headers"] if line[0].lower() == REQUEST_ID]
        self._send = send
        self._is_unnamed = is_named_outside

    def for_vllm(self, scope: Scope) -> Scope:
        headers = [*_without_ids(scope["headers"]), *self._ids]
        return {**scope, "raw_path": self._raw_path, "client": self._client, "headers": headers}

    def of_vllm(self, send: Send) -> Send:
        async def answer(message: Message) -> None:
            self._is_unnamed = True
            await send(message)

        return answer

    async def send(self, message: Message) -> None:
        if self._is_unnamed and message["type"] == "http.response.start":
            message = {**message, "headers": _without_ids(message["headers"])}
        await self._send(message)


def _without_ids(headers: HeaderList) -> Headers:
    return [line for line in headers if line[0].lower() != REQUEST_ID]


class Uploads:
    """The middleware.

    Args:
        app: vLLM's.
        config: The settings.
        keys: vLLM's, which it asks for at some paths only.
        are_named_outside: Whether vLLM gives every answer, ours too, a request id (`--enable-request-id-headers`).
    """

    def __init__(
        self, app: ASGIApp, *, config: Config, keys: Keys, are_named_outside: bool = False
    ) -> None:
        self._vllm = app
        self._config = config
        self._keys = keys
        self._are_named_outside = are_named_outside
        self._inside: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._inside is not None and _concerns_files(scope):
            passage = _Passage(scope, send, is_named_outside=self._are_named_outside)
            ours = {
                **scope,
                "raw_path": path_below_root(scope),
                "client": peer_of(scope),
                _PASSAGE: passage,
            }
            try:
                await self._inside(ours, receive, passage.send)
            except _RaisedByEngine as raised:
                raise raised.error from None
        else:
            await self._vllm(scope, receive, send)

    async def _engine(self, scope: Scope, receive: Receive, send: Send) -> None:
        passage: _Passage = scope[_PASSAGE]
        try:
            await self._vllm(passage.for_vllm(scope), receive, passage.of_vllm(send))
        except Exception as error:
            raise _RaisedByEngine(error) from None

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.AsyncExitStack() as stack:

            async def send_when_closed(message: Message) -> None:
                if message["type"].startswith("lifespan.shutdown."):
                    # Behind it the process ends, and waits for nothing any more.
                    await stack.aclose()
                await send(message)

            try:
                await stack.enter_async_context(self._running())
            except Exception as error:
                if not isinstance(error, DirectoryError):
                    logger.exception("file uploads could not be started")
                await receive()
                await send({"type": "lifespan.startup.failed", "message": f"mediagate: {error}"})
                return
            await self._vllm(scope, receive, send_when_closed)

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        mask_access_log()
        async with contextlib.AsyncExitStack() as stack:
            directory = stack.enter_context(contextlib.closing(flags.open_handed_on(self._config)))
            threads = int(os.environ.get(THREADS_ENV, DECODING_THREADS))
            executor = Executor("mediagate-decode", threads=threads)
            stack.push_async_callback(executor.stop)
            metrics = VllmMetrics()
            decoded = DecodedMedia(
                max_bytes=self._config.decoded_cache_bytes,
                original=lambda file, settings: originals(file, settings),
                observer=metrics,
            )
            parts = await stack.enter_async_context(
                inside(
                    self._engine,
                    self._config,
                    directory=directory,
                    keys=self._keys,
                    observers=(metrics, decoded.heed),
                )
            )
            originals = Originals(key=parts.key, bases=connector.readers_of_originals())
            await stack.enter_async_context(
                in_background(
                    metrics.keep_current(parts.files, quota_bytes=self._config.max_total_bytes),
                    decoded.run(parts.exists),
                )
            )
            source = connector.Source(media=parts.media, decoded=decoded, executor=executor)
            connector.serve_from(source)
            self._inside = parts.app
            try:
                yield
            finally:
                self._inside = None
                connector.serve_from(None)


def _concerns_files(scope: Scope) -> bool:
    if scope["type"] != "http":
        return False
    path = path_below_root(scope)
    if is_files_api(path):
        return True
    # What vLLM has no route for would be read here, whole, only to be told so by vLLM.
    return media_dialect(scope["method"], path) is not None and any(
        route.matches(scope)[0] is Match.FULL for route in scope["app"].routes
    )


def _note_peers() -> None:
    try:
        note_peers()
    except ImportError:
        raise hooks.JointError(
            "this uvicorn does not let us see who connects, so --trusted-proxy cannot be enforced"
        ) from None


def _has_files(app: Any) -> bool:
    return any(getattr(route, "path", None) == "/v1/files" for route in app.routes)
