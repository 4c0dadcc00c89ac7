"""What users of the library and authors of drivers rely on, checked by mypy and never run."""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, assert_type

from mediagate import Application, Config, create_app
from mediagate.blobs.driver import BlobDriver, BlobReader, BlobWriter, HasLocalPath
from mediagate.blobs.local import LocalBlobDriver, LocalBlobReader, LocalBlobWriter
from mediagate.blobs.memory import MemoryBlobDriver
from mediagate.core.files import FileId, FileObject, parse_file_id
from mediagate.index.driver import Index
from mediagate.index.memory import MemoryIndex
from mediagate.index.sql import SqlIndex
from mediagate.operations.claims import Claims, Hold
from mediagate.operations.deliver import Delivery, HandleDelivery, InlineDelivery
from mediagate.operations.resolve import HeldFiles, Holder

AsgiScope = MutableMapping[str, Any]
AsgiReceive = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiSend = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[AsgiScope, AsgiReceive, AsgiSend], Awaitable[None]]
"""As the ASGI specification, and frameworks that mount us, write it."""


def an_application_is_an_asgi_app_to_mount_and_to_run(config: Config) -> None:
    """The library's front door."""
    app = create_app(config)
    assert_type(app, Application)
    mounted: AsgiApp = app
    running: AbstractAsyncContextManager[None] = app.running()
    _ = mounted, running


def settings_are_typed_and_take_keywords() -> None:
    """A `Config` can be written in Python, too."""
    config = Config(upstream="http://127.0.0.1:8000", file_upload_dir=Path("store"))
    assert_type(config.max_file_bytes, int)
    assert_type(config.ttl_s, float | None)
    assert_type(config.allowed_types, frozenset[str] | None)
    Config(prot=1)  # type: ignore[call-arg]  # no such setting


def our_drivers_are_drivers(
    directory: Path, local: LocalBlobDriver, memory: MemoryBlobDriver, rows: MemoryIndex
) -> None:
    """Each keeps its protocol to the letter."""
    blobs: list[BlobDriver] = [local, memory]
    with_paths: HasLocalPath = local
    indexes: list[Index] = [SqlIndex.sqlite(directory / "index.sqlite3"), rows]
    _ = blobs, with_paths, indexes


def what_drivers_hand_out_keeps_its_protocol_too(
    writer: LocalBlobWriter, reader: LocalBlobReader
) -> None:
    """One blob being written, one being read."""
    written: BlobWriter = writer
    read: BlobReader = reader
    _ = written, read


def seams_between_layers_fit(
    claims: Claims, hold: Hold, inline: InlineDelivery, handles: HandleDelivery
) -> None:
    """Layers meet in protocols; the composition root joins them."""
    holder: Holder = claims
    held: HeldFiles = hold
    deliveries: list[Delivery] = [inline, handles]
    _ = holder, held, deliveries


def ids_cannot_be_swapped_with_other_strings(file: FileObject) -> None:
    """`NewType`s keep them apart."""
    assert_type(file.id, FileId)
    assert_type(parse_file_id("file-0"), FileId | None)
    swapped: FileId = file.blob  # type: ignore[assignment]  # a blob's key is no id
    _ = swapped
