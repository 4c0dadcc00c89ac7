"""The real thing for the time of a visit: the operator's store and settings, and an application for each delivery.

Any number of processes share a store, so a gateway that runs meanwhile is not disturbed, as long as the doctor does
nothing to the store that one of them would not: it clears nothing, leaves no files, and evicts none.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from mediagate.blobs.directory import DirectoryError, StoreDirectory
from mediagate.blobs.lease_findings import MARKER
from mediagate.config import Config, DeliveryKind
from mediagate.core.engines import Engine
from mediagate.operations.deliver import MEDIA_PATH
from mediagate.web import server
from mediagate.web.asgi import ASGIApp, Receive, Scope, Send
from mediagate.web.lifespan import serve_lifespan
from mediagate.wiring import create_app

PROBE_NAME = "mediagate-doctor.png"

_LIFETIME_S = 3600  # should the doctor be killed: the shortest that a client may ask for
_ROOM_GB = 1 / 1024  # so that the probe evicts nobody's file from a full store

_FOR_A_VISIT: Mapping[str, object] = {
    # Who is asked is the engine, so nobody's keys and tenants matter, and nothing that happens is a client's doing.
    "api_key": (),
    "api_key_file": None,
    "file_upload_scope_header": None,
    "file_upload_scope_max_gb": None,
    "file_upload_scope_max_files": None,
    "trusted_proxy": (),
    "audit_log": "off",
    "file_upload_clear_on_start": False,
    "file_upload_allowed_types": (),
}


@contextlib.contextmanager
def opened_store(config: Config) -> Iterator[tuple[StoreDirectory, str]]:
    """The store's directory, and what there is to say of it.

    One that is not there yet has another in its place, beside where it will be, which is removed at the end.

    Raises:
        DirectoryError: It cannot be used; the text is one line for the operator.
    """
    path = config.file_upload_dir
    if path is None:
        directory = StoreDirectory.temporary()
        text = f"a temporary directory in {directory.path.parent}"
    elif path.exists():
        _check_access(path)
        directory, text = StoreDirectory.given(path), str(path)
    else:
        directory = _stand_in(path)
        text = f"{path} is not there yet, and can be made in {directory.path.parent}"
    with contextlib.closing(directory):
        yield directory, text


def _check_access(path: Path) -> None:
    """What another user makes in it would lock the gateway out of its own store."""
    uid, own = path.stat().st_uid, os.geteuid()
    if uid != own:
        message = f"{path} belongs to uid {uid}, and this is uid {own}: run this as the user of `mediagate serve`"
        raise DirectoryError(message)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise DirectoryError(f"{path} cannot be written: chmod 700 {path}, or name another")


def _stand_in(path: Path) -> StoreDirectory:
    parent = next(each for each in path.absolute().parents if each.exists())
    try:
        made = tempfile.mkdtemp(prefix="mediagate-", dir=parent)
    except OSError as error:
        raise DirectoryError(f"{path} cannot be made in {parent}: {error.strerror}") from None
    return StoreDirectory(Path(made), is_temporary=True)


@contextlib.contextmanager
def without_new_links(config: Config) -> Iterator[None]:
    """Take from the lease directory at the end what was not there at the beginning, itself if need be."""
    path = config.lease_path
    if path is None or (path / MARKER).exists():
        yield
        return
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        yield
    finally:
        if _is_unused(path):
            (path / MARKER).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for each in missing:
                    each.rmdir()


def _is_unused(path: Path) -> bool:
    """Whether no gateway has begun to use the lease directory meanwhile."""
    try:
        fd = os.open(path / MARKER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def free_bytes(directory: StoreDirectory) -> int:
    """What the file system has left, in bytes."""
    return shutil.disk_usage(directory.path).free


class Stack:
    """Mediagate as `mediagate serve` would run it, but for who may come in; and nobody can, but for the engine.

    Args:
        config: The operator's settings.
        directory: The store.
        answer_s: How long an answer may take, in seconds.
    """

    def __init__(self, config: Config, directory: StoreDirectory, *, answer_s: float) -> None:
        self._config = config
        self._directory = directory
        self._answer_s = answer_s

    @contextlib.asynccontextmanager
    async def files(self) -> AsyncIterator["Client"]:
        """For files alone."""
        own = {
            "files_only": True,
            "upstream": None,
            "delivery": DeliveryKind.AUTO,
            "media_path": None,
        }
        async with self._running(own) as (_, client):
            yield client

    @contextlib.asynccontextmanager
    async def inspector(self) -> AsyncIterator["Client"]:
        """With the built-in inspector behind."""
        async with self._running({}) as (_, client):
            yield client

    @contextlib.asynccontextmanager
    async def delivering(
        self,
        kind: DeliveryKind,
        engine: Engine,
        *,
        sock: socket.socket | None = None,
        base: str | None = None,
        upstream: str | None = None,
    ) -> AsyncIterator["Client"]:
        """In front of the engine, with one delivery.

        Args:
            kind: The delivery.
            engine: What the upstream is.
            sock: Where the upstream fetches what is leased; None: from nowhere, or from another process.
            base: The URL of that, without a path.
            upstream: Stands for the engine; None: it is the operator's.

        Raises:
            DirectoryError: The lease directory cannot be used; the text is one line for the operator.
        """
        own: dict[str, Any] = {"delivery": kind, "engine": engine}
        if kind is not DeliveryKind.PATH:
            own |= {"media_path": None, "media_group": None}
        if base is not None:
            own["advertise_url"] = base
        if upstream is not None:
            own |= {"upstream": upstream, "upstream_api_key": None}
        async with self._running(own) as (application, client):
            if sock is None:
                yield client
            else:
                async with serving(_LeasedOnly(application), sock):
                    yield client

    @contextlib.asynccontextmanager
    async def _running(self, own: Mapping[str, object]) -> AsyncIterator[tuple[ASGIApp, "Client"]]:
        room = {"file_upload_max_total_gb": self._config.file_upload_max_total_gb + _ROOM_GB}
        # Not validated again: what is written over was valid, and is taken back rather than set.
        config = self._config.model_copy(update={**_FOR_A_VISIT, **room, **own})
        application = create_app(config, directory=self._directory)
        transport = httpx2.ASGITransport(app=application)
        async with (
            application.running(),
            httpx2.AsyncClient(
                transport=transport, base_url="http://mediagate", timeout=None
            ) as http,
        ):
            yield application, Client(http, answer_s=self._answer_s)


class Client:
    """Requests to the application, in this process.

    Args:
        http: Carries them.
        answer_s: How long an answer may take, in seconds.
    """

    def __init__(self, http: httpx2.AsyncClient, *, answer_s: float) -> None:
        self._http = http
        self._answer_s = answer_s

    async def upload(self, data: bytes) -> httpx2.Response:
        """The answer to an upload of the probe, which is gone in an hour at the latest."""
        query = {
            "filename": PROBE_NAME,
            "purpose": "vision",
            "expires_after[anchor]": "created_at",
            "expires_after[seconds]": str(_LIFETIME_S),
        }
        headers = {"content-type": "application/octet-stream"}
        return await self._ask("PUT", "/v1/files", params=query, headers=headers, content=data)

    async def delete(self, file_id: str) -> httpx2.Response:
        """The answer to its removal."""
        return await self._ask("DELETE", f"/v1/files/{file_id}")

    async def chat(self, body: Mapping[str, Any]) -> httpx2.Response:
        """The answer to a question.

        Raises:
            TimeoutError: There was none in time.
        """
        return await self._ask("POST", "/v1/chat/completions", json=body)

    async def metric(self, name: str) -> int | None:
        """A metric without labels."""
        lines = (await self._ask("GET", "/metrics")).text.splitlines()
        values = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
        return int(float(values[0])) if values else None

    async def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        async with asyncio.timeout(self._answer_s):
            return await self._http.request(method, path, **options)


class _LeasedOnly:
    """What an engine fetches, and nothing else: a client that comes by is told to come again."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(contextlib.nullcontext, receive, send)
        elif scope["path"].startswith(MEDIA_PATH):
            await self._application(scope, receive, send)
        else:
            await respond(send, 503, b"mediagate doctor is at work here")


async def respond(send: Send, status: int, body: bytes) -> None:
    """A whole answer."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, sock: socket.socket) -> AsyncIterator[None]:
    """Answer on `sock`, which is closed at the end."""
    started = asyncio.Event()
    running = server.Server(app, grace_s=1.0, on_started=started.set, handles_signals=False)
    task = asyncio.create_task(running.serve(sockets=[sock]))
    try:
        await started.wait()
        yield
    finally:
        running.stop()
        await task


def listen(config: Config) -> socket.socket | None:
    """Where `mediagate serve` would listen; None: somebody listens there already.

    Raises:
        OSError: Nobody can.
    """
    try:
        return server.bind(config.host, config.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise


def own_url(config: Config, port: int) -> str:
    """Where the upstream finds what listens on `config.host`, as far as can be told from here."""
    host = config.host
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - asked for, not bound
        host = _address_towards(config.upstream_root or "") or host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _address_towards(url: str) -> str | None:
    """This machine's address on the way to a server; nothing is sent."""
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as sock:
            sock.connect(address)
            return str(sock.getsockname()[0])
    except OSError:
        return None
