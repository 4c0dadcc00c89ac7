"""The composition root: a `Config` in, running parts out. Nothing else knows which drivers there are."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from pathlib import Path

from mediagate.blobs.directory import StoreDirectory
from mediagate.blobs.driver import BlobMissingError, BlobReader
from mediagate.blobs.lease_directory import LeaseDirectory
from mediagate.blobs.lease_findings import Finding
from mediagate.blobs.local import LocalBlobDriver
from mediagate.blobs.store import BlobStore
from mediagate.config import Config, DeliveryKind
from mediagate.core.engines import Engine
from mediagate.core.events import Observer, each
from mediagate.core.expiry import Lifetime
from mediagate.core.files import FileId, FileObject
from mediagate.core.media_hosts import MediaHosts
from mediagate.core.quotas import Quota
from mediagate.core.store_key import StoreKey
from mediagate.dialects.fields import Dialect, Judge
from mediagate.dialects.parts import ANYTHING, Accepted
from mediagate.executor import Executor, in_background
from mediagate.gateway.app import ENDLESS, Gateway
from mediagate.gateway.cache_salts import CacheSalts
from mediagate.gateway.detection import Detection
from mediagate.gateway.handles import HandleOpener, LocalMedia
from mediagate.gateway.inspector import Inspector
from mediagate.gateway.multipart_request import MultipartRequests
from mediagate.gateway.profiles import PROFILES
from mediagate.gateway.proxy import Proxy
from mediagate.index.sql import SqlIndex
from mediagate.media.libmagic import LibmagicOpinion, decide
from mediagate.media.probe import Prober
from mediagate.media.sniff import MEDIA_TYPES, sniff
from mediagate.observe.audit import AuditLog, LineFile
from mediagate.observe.logs import log_access
from mediagate.observe.metrics import Board, Metrics
from mediagate.observe.stderr import write_to_stderr
from mediagate.operations.claims import Claims
from mediagate.operations.deliver import (
    Deliveries,
    Delivery,
    HandleDelivery,
    Handles,
    InlineDelivery,
    Leased,
    LeasedMedia,
    PathDelivery,
    UrlDelivery,
)
from mediagate.operations.files import Files, file_not_found
from mediagate.operations.lease_links import LeaseLinks
from mediagate.operations.media_hosts import HostLookup
from mediagate.operations.receive import ReceiveLimits, Receiver, Sniff
from mediagate.operations.removal import Remover
from mediagate.operations.resolve import Resolver
from mediagate.operations.sweep import Sweeper
from mediagate.operations.uploads import Uploads
from mediagate.web.app import WebApp
from mediagate.web.asgi import ASGIApp, Receive, Scope, Send
from mediagate.web.auth import Authenticator
from mediagate.web.body import Patience
from mediagate.web.edge import Edge
from mediagate.web.files import FilesApi
from mediagate.web.files_only import refuse_the_rest
from mediagate.web.foreign import ForeignDialects
from mediagate.web.health import Health
from mediagate.web.keys import Keys
from mediagate.web.lifespan import serve_lifespan
from mediagate.web.media import MediaApi
from mediagate.web.metrics import MetricsApi
from mediagate.web.openapi import OpenApi
from mediagate.web.openapi_operations import Answered, inspector_answers, upstream_answers
from mediagate.web.routing import Guard, Route
from mediagate.web.scope_header import ScopeHeader
from mediagate.web.uploads import UploadsApi


class Application:
    """The whole of mediagate as one ASGI app.

    A server starts and stops it by lifespan events. An app that mounts it does so itself:

        async with application.running():
            ...

    Args:
        config: The settings.
        directory: The store's directory, where several processes share one; otherwise it is opened at the start.
        keys: Who may come in, where that is known already; otherwise it is read at the start.
        metrics: What counts, where several workers count together.
    """

    def __init__(
        self,
        config: Config,
        *,
        directory: StoreDirectory | None = None,
        keys: Keys | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._config = config
        self._directory = directory
        self._keys = keys
        self._metrics = Metrics(board=Board()) if metrics is None else metrics
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
            keys = open_keys(self._config) if self._keys is None else self._keys
            self._app = await _build(self._config, directory, keys, self._metrics, stack)
            try:
                yield
            finally:
                self._app = None


def create_app(
    config: Config,
    *,
    directory: StoreDirectory | None = None,
    keys: Keys | None = None,
    metrics: Metrics | None = None,
) -> Application:
    """An ASGI app that does what `config` says."""
    return Application(config, directory=directory, keys=keys, metrics=metrics)


_Deliver = Callable[[Leased, str | None], Delivery]
"""The lease of a request's files, where the request came in → how the upstream gets the files."""


async def _anything(_dialect: Dialect) -> Accepted:
    return ANYTHING


@dataclass(frozen=True, slots=True)
class Inside:
    """What an engine gets that mediagate lives in.

    Attributes:
        app: Answers what is about files, and hands the rest on to the engine, with handles in place of references.
        media: Opens the handles.
        files: Tells what is kept.
        exists: Whether there is such a file now, whoever owns it.
        key: The store's.
    """

    app: ASGIApp
    media: LocalMedia
    files: Files
    exists: Callable[[FileId], Awaitable[bool]]
    key: StoreKey


@contextlib.asynccontextmanager
async def inside(
    engine: ASGIApp,
    config: Config,
    *,
    directory: StoreDirectory,
    keys: Keys,
    observers: Sequence[Observer],
) -> AsyncIterator[Inside]:
    """Mediagate as a layer around an engine that runs in this process and guards itself.

    Args:
        engine: Answers.
        config: The settings.
        directory: Where files are kept; still the caller's to close.
        keys: The engine's; it may not ask for them everywhere, but whoever names files needs one.
        observers: Told of what happens.
    """
    async with contextlib.AsyncExitStack() as stack:
        executor = Executor("mediagate", threads=2)
        stack.callback(executor.close)
        store = await _open_store(config, directory, executor, observers, stack)
        handles = Handles()
        patience = _patience(config)
        salts = (
            CacheSalts(key=store.key, is_wanted=_always)
            if config.file_upload_scope_header is not None
            else None
        )
        reading = _reading(
            config, engine, store, executor, patience,
            deliver=_by_handle(handles), accepts=_vllm_by_handle, salts=salts, judge=Judge.ENGINE,
        )  # fmt: skip
        web = WebApp(
            guard=Guard.TENANT_OF_FILES,
            routes=tuple(_files_routes(config, store, executor)),
            authenticator=Authenticator(keys=keys, scope_header=_scope_header(config)),
            patience=patience,
            otherwise=reading,
        )
        yield Inside(
            Edge(ForeignDialects(web), observer=store.observer),
            LocalMedia(handles=handles, blobs=store.blobs),
            store.files,
            store.claims.exists,
            store.key,
        )


def open_directory(config: Config) -> StoreDirectory:
    """The directory of the store, locked until it is closed.

    Raises:
        DirectoryError: It cannot be used; the text is one line for the operator.
    """
    if config.file_upload_dir is None:
        return StoreDirectory.temporary()
    return StoreDirectory.given(
        config.file_upload_dir, is_cleared=config.file_upload_clear_on_start
    )


async def check_lease_directory(config: Config, directory: StoreDirectory) -> None:
    """See whether the directory of links can be used, if one was named.

    Raises:
        DirectoryError: It cannot; the text is one line for the operator.
    """
    blobs = BlobStore(LocalBlobDriver(directory.path, durable=not directory.is_temporary))
    async with contextlib.AsyncExitStack() as stack:
        await blobs.open()
        stack.push_async_callback(blobs.close)
        links = _lease_directory(config, blobs)
        if links is not None:
            stack.push_async_callback(links.close)
            links.open()


def open_keys(config: Config) -> Keys:
    """The API keys, those of the key file among them.

    Raises:
        KeyFileError: The key file is wrong; the text is one line for the operator.
    """
    return Keys(config.api_keys, file=config.api_key_file)


def open_audit_log(config: Config) -> LineFile | None:
    """The file of the audit log, if it goes to one.

    Raises:
        OSError: It cannot be written.
    """
    if config.audit_log in {"stderr", "off"}:
        return None
    return LineFile(Path(config.audit_log).expanduser())


@dataclass(frozen=True, slots=True)
class _Store:
    """The parts that share one directory."""

    index: SqlIndex
    key: StoreKey
    blobs: BlobStore
    claims: Claims
    files: Files
    receiver: Receiver
    uploads: Uploads
    observer: Observer

    async def open_blob(self, file: FileObject) -> BlobReader:
        """The bytes of a leased file."""
        try:
            return await self.blobs.read(file.blob)
        except BlobMissingError:
            raise file_not_found() from None


async def _build(
    config: Config,
    directory: StoreDirectory,
    keys: Keys,
    metrics: Metrics,
    stack: contextlib.AsyncExitStack,
) -> ASGIApp:
    """Put the parts together and start them; `stack` stops them, the last one first."""
    patience = _patience(config)
    executor = Executor("mediagate", threads=2)
    stack.callback(executor.close)
    store = await _open_store(config, directory, executor, (metrics, log_access), stack)
    handles = Handles()
    proxy = None
    if config.upstream_root is not None:
        proxy = await _proxy(config, config.upstream_root, store.observer, stack)
    upstream: ASGIApp = (
        refuse_the_rest
        if config.files_only
        else proxy or _inspector(config, directory, store, handles, executor)
    )
    routes = [
        *Health(files=store.files).routes(),
        *MetricsApi(
            files=store.files, metrics=metrics, quota_bytes=config.max_total_bytes
        ).routes(),
    ]
    if config.enable_file_uploads:
        routes += _files_routes(config, store, executor)
        routes += _openapi(config, routes).routes()
    if config.enable_file_uploads and not config.files_only:
        reading = partial(_reading, config, upstream, store, executor, patience)
        if proxy is None:
            upstream = reading(deliver=_by_handle(handles))
        else:
            engine = _engine(config, proxy)
            upstream = reading(
                deliver=await _deliveries(config, store, stack),
                accepts=_accepts(engine),
                lookup=_lookup(config, stack),
                salts=CacheSalts(key=store.key, is_wanted=_may_be_vllm(engine)),
            )
    web: ASGIApp = WebApp(
        routes=routes,
        authenticator=Authenticator(keys=keys, scope_header=_scope_header(config)),
        patience=patience,
        otherwise=upstream,
    )
    if config.enable_file_uploads:
        web = ForeignDialects(web)
    return Edge(web, observer=store.observer)


def _patience(config: Config) -> Patience:
    return Patience(
        idle_timeout_s=config.file_upload_idle_timeout_seconds,
        min_bytes_per_s=config.min_rate_bytes_per_s,
        deadline_s=config.file_upload_deadline_seconds,
    )


def _files_routes(config: Config, store: _Store, executor: Executor) -> Iterator[Route]:
    """What is answered about files."""
    longest_s = config.file_upload_max_ttl_seconds
    yield from FilesApi(
        files=store.files,
        receiver=store.receiver,
        max_expires_after_s=longest_s,
        listing_refused_by=config.listing_refused_by,
    ).routes()
    yield from UploadsApi(
        uploads=store.uploads, executor=executor, max_expires_after_s=longest_s
    ).routes()
    if config.may_deliver_urls:
        media = LeasedMedia(index=store.index, open_blob=store.open_blob, key=store.key)
        yield from MediaApi(media=media).routes()


def _openapi(config: Config, routes: Sequence[Route]) -> OpenApi:
    return OpenApi(
        routes=routes,
        answered=_answered(config),
        has_keys=config.has_keys,
        scope_header=config.file_upload_scope_header,
        keys_have_scopes=config.api_key_file is not None,
    )


def _answered(config: Config) -> Sequence[Answered]:
    """What is answered behind our own routes."""
    if config.files_only:
        return ()
    return inspector_answers() if config.upstream_root is None else upstream_answers()


def _reading(
    config: Config,
    upstream: ASGIApp,
    store: _Store,
    executor: Executor,
    patience: Patience,
    *,
    deliver: _Deliver,
    accepts: Callable[[Dialect], Awaitable[Accepted]] = _anything,
    lookup: HostLookup | None = None,
    salts: CacheSalts | None = None,
    judge: Judge = Judge.WALL,
) -> ASGIApp:
    """What reads requests on their way to `upstream`."""
    gateway = Gateway(
        upstream=upstream,
        resolver=Resolver(
            holder=store.claims,
            deliver=deliver,
            executor=executor,
            lookup=lookup,
            observer=store.observer,
        ),
        open_blob=store.open_blob,
        # What an engine in this process would read, and wait for, it has to go on reading.
        max_json_bytes=config.max_json_bytes if judge is Judge.WALL else None,
        patience=patience if judge is Judge.WALL else ENDLESS,
        salts=salts,
        judge=judge,
        accepts=accepts,
    )
    return MultipartRequests(
        gateway,
        receiver=store.receiver,
        files=store.files,
        holder=store.claims,
        executor=executor,
        max_payload_bytes=config.max_json_bytes,
        max_lifetime_s=config.file_upload_max_ttl_seconds,
        patience=patience,
        judge=judge,
    )


async def _open_store(
    config: Config,
    directory: StoreDirectory,
    executor: Executor,
    observers: Sequence[Observer],
    stack: contextlib.AsyncExitStack,
) -> _Store:
    is_durable = not directory.is_temporary
    index = SqlIndex.sqlite(directory.index_path, durable=is_durable)
    await index.open()
    stack.push_async_callback(index.close)
    key = await index.key()
    observer = each(*_audit(config, key, stack), *observers)
    blobs = BlobStore(LocalBlobDriver(directory.path, durable=is_durable))
    await blobs.open()
    stack.push_async_callback(blobs.close)

    remover = Remover(index=index, blobs=blobs)
    claims = Claims(index=index, remover=remover)
    sweeper = Sweeper(index=index, blobs=blobs, remover=remover, observer=observer)
    await stack.enter_async_context(in_background(claims.keep(), sweeper.run()))
    files = Files(index=index, blobs=blobs, claims=claims, remover=remover, observer=observer)
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
            quota=Quota(
                store_bytes=config.max_total_bytes,
                scope_bytes=config.max_scope_bytes,
                scope_files=config.file_upload_scope_max_files,
            ),
            lifetime=Lifetime(config.ttl_s, is_sliding=True),
            max_concurrent_per_scope=config.max_concurrent_per_scope,
        ),
        observer=observer,
    )
    uploads = Uploads(receiver=receiver, remover=remover, executor=executor)
    return _Store(index, key, blobs, claims, files, receiver, uploads, observer)


def _audit(config: Config, key: StoreKey, stack: contextlib.AsyncExitStack) -> Iterator[AuditLog]:
    """The audit log, unless there is none."""
    if config.audit_log == "off":
        return
    file = open_audit_log(config)
    if file is not None:
        stack.callback(file.close)
    yield AuditLog(key=key, write=write_to_stderr if file is None else file.write)


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


def _by_handle(handles: Handles) -> _Deliver:
    """For an engine in this process."""

    def deliver(_leased: Leased, _came_in_at: str | None) -> Delivery:
        return HandleDelivery(handles=handles)

    return deliver


def delivery_order(config: Config) -> Sequence[DeliveryKind]:
    """The ways to give the upstream a file that these settings allow, the best one first."""
    wanted = config.delivery
    is_auto = wanted is DeliveryKind.AUTO
    # Base64 always arrives; that the upstream reaches us is certain only where somebody said so.
    is_url_first = wanted is DeliveryKind.URL or (is_auto and config.advertise_root is not None)
    is_path = config.lease_path is not None and (is_auto or wanted is DeliveryKind.PATH)
    order = (
        (DeliveryKind.PATH, is_path),
        (DeliveryKind.URL, is_url_first),
        (DeliveryKind.INLINE, True),
        (DeliveryKind.URL, is_auto and not is_url_first),
    )
    return [kind for kind, is_wanted in order if is_wanted]


async def lease_findings(config: Config, directory: StoreDirectory) -> Sequence[Finding]:
    """What there is to say of the directory of links; nothing is changed, and without one there is nothing to say.

    Raises:
        OSError: The store cannot be opened.
    """
    async with contextlib.AsyncExitStack() as stack:
        blobs = BlobStore(LocalBlobDriver(directory.path, durable=False))
        await blobs.open()
        stack.push_async_callback(blobs.close)
        links = _lease_directory(config, blobs)
        if links is None:
            return ()
        stack.push_async_callback(links.close)
        return await asyncio.to_thread(links.findings)


async def _deliveries(config: Config, store: _Store, stack: contextlib.AsyncExitStack) -> _Deliver:
    """What is set up of the ways to give the upstream a file, the best one first."""
    order = delivery_order(config)
    links = None
    directory = _lease_directory(config, store.blobs)
    if directory is not None and DeliveryKind.PATH in order:
        stack.push_async_callback(directory.close)
        directory.open()
        links = LeaseLinks(directory=directory, index=store.index)
        await stack.enter_async_context(in_background(links.run()))

    def deliver(leased: Leased, came_in_at: str | None) -> Delivery:
        ways: dict[DeliveryKind, Delivery] = {DeliveryKind.INLINE: InlineDelivery()}
        if directory is not None and links is not None:
            ways[DeliveryKind.PATH] = PathDelivery(
                leased, links=links, seen_by_upstream=directory.seen_by_upstream
            )
        if (base := config.advertise_root or came_in_at) is not None:
            ways[DeliveryKind.URL] = UrlDelivery(leased, base=base, key=store.key)
        return Deliveries(*(ways[kind] for kind in order if kind in ways))

    return deliver


def _lease_directory(config: Config, blobs: BlobStore) -> LeaseDirectory | None:
    if config.lease_path is None:
        return None
    return LeaseDirectory(
        config.lease_path,
        blobs=blobs,
        upstream_path=config.upstream_lease_path,
        group=config.media_group,
    )


def _lookup(config: Config, stack: contextlib.AsyncExitStack) -> HostLookup:
    """What judges the hosts that clients would have the upstream fetch from."""
    lookup = HostLookup(MediaHosts(config.allowed_media_domains))
    stack.callback(lookup.close)
    return lookup


_Asked = Callable[[], Awaitable[Engine | None]]


def _engine(config: Config, proxy: Proxy) -> _Asked:
    """What the upstream is, as far as is known when somebody asks."""
    if config.engine is Engine.AUTO:
        return Detection(upstream=proxy, clock=time.monotonic).engine

    async def told() -> Engine:
        return config.engine

    return told


async def _vllm_by_handle(dialect: Dialect) -> Accepted:
    return PROFILES[Engine.VLLM].accepted_by_handle(dialect)


def _accepts(engine: _Asked) -> Callable[[Dialect], Awaitable[Accepted]]:
    async def accepts(dialect: Dialect) -> Accepted:
        return PROFILES[await engine() or Engine.OPENAI].accepted(dialect)

    return accepts


def _may_be_vllm(engine: _Asked) -> Callable[[], Awaitable[bool]]:
    async def may_be_vllm() -> bool:
        return await engine() in {Engine.VLLM, None}

    return may_be_vllm


async def _always() -> bool:
    return True


def _scope_header(config: Config) -> ScopeHeader | None:
    if config.file_upload_scope_header is None:
        return None
    trusted = [ip_network(network) for network in config.trusted_proxy]
    return ScopeHeader(name=config.file_upload_scope_header, trusted=trusted)


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


async def _proxy(
    config: Config, root: str, observer: Observer, stack: contextlib.AsyncExitStack
) -> Proxy:
    key = config.upstream_api_key
    proxy = Proxy(
        upstream=root,
        authorization=None if key is None else f"Bearer {key.get_secret_value()}",
        # Where we check keys, a client's key is for us, and no business of the upstream's.
        drop_authorization=config.has_keys,
        observer=observer,
    )
    await proxy.start()
    stack.push_async_callback(proxy.close)
    return proxy
