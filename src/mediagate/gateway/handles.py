"""The media behind a handle, opened for the engine that lives in this process."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from mediagate.blobs.driver import BlobMissingError
from mediagate.blobs.store import BlobStore
from mediagate.core.files import FileObject
from mediagate.executor import Executor
from mediagate.gateway.inspector import OpenedMedia
from mediagate.operations.deliver import Handles
from mediagate.operations.files import file_not_found


class LocalMedia:
    """Files of this machine behind handles, for an engine that decodes them itself.

    Args:
        handles: What may be opened now.
        blobs: Where the bytes are.
    """

    def __init__(self, *, handles: Handles, blobs: BlobStore) -> None:
        self._handles = handles
        self._blobs = blobs

    def find(self, token: str) -> tuple[FileObject, Path]:
        """The file of `token`, and where its bytes are, to be read and nothing else. Any thread may ask.

        Raises:
            FileNotFound: There is none, or its bytes are not on this machine.
        """
        file = self._handles.find(token)
        path = None if file is None else self._blobs.local_path(file.blob)
        if file is None or path is None:
            raise file_not_found()
        return file, path


class HandleOpener:
    """Opens what `Handles` names, while its request runs.

    Args:
        handles: What may be opened now.
        blobs: Where the bytes are.
        executor: Runs what blocks.
        spool_dir: Where a blob that is no file on this machine lies, nameless, while it is open.
    """

    def __init__(
        self, *, handles: Handles, blobs: BlobStore, executor: Executor, spool_dir: Path
    ) -> None:
        self._handles = handles
        self._blobs = blobs
        self._executor = executor
        self._spool_dir = spool_dir

    @asynccontextmanager
    async def open(self, token: str) -> AsyncIterator[OpenedMedia]:
        """The file of `token`, while its request runs.

        Raises:
            FileNotFound: There is none, or its bytes are gone.
        """
        file = self._handles.find(token)
        if file is None:
            raise file_not_found()
        path = self._blobs.local_path(file.blob)
        if path is not None:
            yield _opened(file, path)
            return
        with tempfile.TemporaryFile(dir=self._spool_dir) as spool:
            await self._copy(file, spool)
            yield _opened(file, spool)

    async def _copy(self, file: FileObject, spool: BinaryIO) -> None:
        try:
            reader = await self._blobs.read(file.blob)
        except BlobMissingError:
            raise file_not_found() from None
        try:
            async for chunk in reader.chunks():
                await self._executor.run(spool.write, chunk)
            await self._executor.run(spool.flush)
        finally:
            await reader.close()


def _opened(file: FileObject, source: BinaryIO | Path) -> OpenedMedia:
    return OpenedMedia(source, file.filename, file.mime_type, file.size_bytes, file.digest)
