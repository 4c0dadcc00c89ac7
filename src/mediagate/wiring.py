"""The composition root: a `Config` in, running parts out. Nothing else knows which drivers there are."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from mediagate.blobs.directory import StoreDirectory
from mediagate.blobs.driver import BlobMissingError, BlobReader
from mediagate.blobs.local import LocalBlobDriver
from mediagate.blobs.store import BlobStore
from mediagate.config import Config
from mediagate.core.events import ignore
from mediagate.core.expiry import Lifetime
from mediagate.core.files import FileObject
from mediagate.core.quotas import Quota
from mediagate.executor import Executor
from mediagate.gateway.app import Gateway
from mediagate.gateway.handles import HandleOpener
from mediagate.gateway.inspector import Inspector
from mediagate.gateway.proxy import Proxy
from mediagate.index.sql import SqlIndex
from mediagate.media.libmagic import LibmagicOpinion, decide
from mediagate.media.probe import Prober
from mediagate.media.sniff import MEDIA_TYPES, sniff
from mediagate.observe.logs import log_access
from mediagate.operations.claims import Claims
from mediagate.operations.deliver import Delivery, HandleDelivery, Handles, InlineDelivery
from mediagate.operations.files import Files, file_not_found
from mediagate.operations.receive import ReceiveLimits, Receiver, Sniff
from mediagate.operations.removal import Remover
from mediagate.operations.resolve import Resolver
from mediagate.operations.sweep import Sweeper
from mediagate.web.app import WebApp
from mediagate.web.asgi import ASGIApp, Receive, Scope, Send
from mediagate.web.auth import Authenticator
from mediagate.web.body import Patience
from mediagate.web.edge import Edge
from mediagate.web.files import FilesApi
from mediagate.web.health import Health
from mediagate.web.lifespan import serve_lifespan


class Application:
    """The whole of mediagate as one ASGI app.

    A server starts and stops it by lifespan events. An app that mounts it does so itself:

        async with application.running():
            ...

    Args:
        config: The settings.
        directory: The store's directory, where several processes share one; otherwise it is opened at the start.
    """

    def __init__(self, config: Config, *, directory: StoreDirectory | None = None) -> None:
        self._config = config
        self._directory = directory
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await serve_lifespan(self.running, receive, send)
            return
        if self._app is None:
            message = (
                "mediagate was not started: send it lifespan events, or use Application.running()"
            )
            raise RuntimeError(message)
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open the store, serve, close it again."""
        async with contextlib.AsyncExitStack() as stack:
            if self._directory is None:
                directory = open_directory(self._config)
                stack.callback(directory.close)
            else:
                directory = self._directory
            self._app = await _build(self._config, directory, stack)
            try:
                yield
            finally:
                self._app = None


def create_app(config: Config, *, directory: StoreDirectory | None = None) -> Application:
    """An ASGI app that does what `config` says."""
    return Application(config, directory=directory)


def open_directory(config: Config) -> StoreDirectory:
    """The directory of the store, locked until it is closed.

    Raises:
        DirectoryError: It cannot be used; the text is one line for the operator.
    """
    if config.file_upload_dir is None:
        return StoreDirectory.temporary()
    return StoreDirectory.given(config.file_upload_dir)


@dataclass(frozen=True, slots=True)
class _Store:
    """The parts that share one directory."""

    blobs: BlobStore
    claims: Claims
    files: Files
    receiver: Receiver

    async def open_blob(self, file: FileObject) -> BlobReader:
        """The bytes of a leased file."""
        try:
            return await self.blobs.read(file.blob)
        except BlobMissingError:
            raise file_not_found() from None


async def _build(
    config: Config, directory: StoreDirectory, stack: contextlib.AsyncExitStack
) -> ASGIApp:
    """Put the parts together and start them; `stack` stops them, the last one first."""
    patience = Patience(
        idle_timeout_s=config.file_upload_idle_timeout_seconds,
        min_bytes_per_s=config.min_rate_bytes_per_s,
        deadline_s=config.file_upload_deadline_seconds,
    )
    executor = Executor("mediagate", threads=2)
    stack.callback(executor.close)
    store = await _open_store(config, directory, executor, stack)
    handles = Handles()
    upstream: ASGIApp
    deliver: Callable[[], Delivery]
    if config.upstream_root is None:
        upstream = _inspector(config, directory, store, handles, executor)
        deliver = partial(HandleDelivery, handles=handles)
    else:
        upstream = await _proxy(config, config.upstream_root, stack)
        deliver = InlineDelivery
    routes = list(Health(files=store.files).routes())
    if config.enable_file_uploads:
        api = FilesApi(
            files=store.files,
            receiver=store.receiver,
            max_expires_after_s=config.file_upload_max_ttl_seconds,
        )
        routes += api.routes()
        upstream = Gateway(
            upstream=upstream,
            resolver=Resolver(holder=store.claims, deliver=deliver, executor=executor),
            open_blob=store.open_blob,
            max_json_bytes=config.max_json_bytes,
            patience=patience,
        )
    web = WebApp(
        routes=routes,
        authenticator=Authenticator(config.api_keys),
        patience=patience,
        otherwise=upstream,
    )
    return Edge(web, on_access=log_access)


async def _open_store(
    config: Config,
    directory: StoreDirectory,
    executor: Executor,
    stack: contextlib.AsyncExitStack,
) -> _Store:
    is_durable = not directory.is_temporary
    index = SqlIndex.sqlite(directory.index_path, durable=is_durable)
    await index.open()
    stack.push_async_callback(index.close)
    blobs = BlobStore(LocalBlobDriver(directory.path, durable=is_durable))
    await blobs.open()
    stack.push_async_callback(blobs.close)

    remover = Remover(index=index, blobs=blobs)
    claims = Claims(index=index, remover=remover)
    sweeper = Sweeper(index=index, blobs=blobs, remover=remover, observer=ignore)
    await stack.enter_async_context(_in_background(claims.keep(), sweeper.run()))
    files = Files(index=index, blobs=blobs, claims=claims, remover=remover, observer=ignore)
    allowed_types = config.allowed_types or MEDIA_TYPES
    receiver = Receiver(
        index=index,
        blobs=blobs,
        claims=claims,
        remover=remover,
        sniff=_sniffer(config, allowed_types, executor),
        limits=ReceiveLimits(
            max_file_bytes=config.max_file_bytes,
            max_concurrent=config.file_upload_max_concurrent,
            allowed_types=allowed_types,
            quota=Quota(store_bytes=config.max_total_bytes),
            lifetime=Lifetime(config.ttl_s, is_sliding=True),
        ),
        observer=ignore,
    )
    return _Store(blobs, claims, files, receiver)


def _sniffer(config: Config, allowed_types: Collection[str], executor: Executor) -> Sniff:
    """Our own judgement of a file's first bytes, with libmagic's beside it where the operator wants it."""

    async def sniff_alone(head: bytes, is_whole: bool) -> str:
        return sniff(head, is_whole=is_whole)

    if not config.file_upload_libmagic:
        return sniff_alone
    opinion = LibmagicOpinion()

    async def sniff_with_libmagic(head: bytes, is_whole: bool) -> str:
        own = sniff(head, is_whole=is_whole)
        return decide(own, await executor.run(opinion, head), allowed_types)

    return sniff_with_libmagic


def _inspector(
    config: Config,
    directory: StoreDirectory,
    store: _Store,
    handles: Handles,
    executor: Executor,
) -> Inspector:
    opener = HandleOpener(
        handles=handles, blobs=store.blobs, executor=executor, spool_dir=directory.path
    )
    return Inspector(
        prober=Prober(),
        open_media=opener.open,
        executor=executor,
        spool_dir=directory.path,
        clock=time.time,
        max_body_bytes=config.max_json_bytes,
    )


async def _proxy(config: Config, root: str, stack: contextlib.AsyncExitStack) -> Proxy:
    key = config.upstream_api_key
    proxy = Proxy(
        upstream=root,
        authorization=None if key is None else f"Bearer {key.get_secret_value()}",
        # Where we check keys, a client's key is for us, and no business of the upstream's.
        drop_authorization=bool(config.api_keys),
    )
    await proxy.start()
    stack.push_async_callback(proxy.close)
    return proxy


@contextlib.asynccontextmanager
async def _in_background(*coroutines: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run for as long as the context lasts."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
