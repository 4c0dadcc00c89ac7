"""vLLM's media connector: opens the handles that stand for files; whatever else is named is vLLM's business.

A handle means something in this process and while its request runs, and no client can name one. What looks like a
reference of ours and got here unresolved came by a way that nobody read: it is refused, never guessed at.
"""

import asyncio
import re
from pathlib import Path
from typing import Any

from vllm.exceptions import VLLMNotFoundError, VLLMValidationError
from vllm.multimodal.media.connector import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from mediagate.core.errors import FileNotFound
from mediagate.core.files import FileObject
from mediagate.core.references import looks_like_reference
from mediagate.executor import Executor
from mediagate.gateway.handles import LocalMedia
from mediagate.operations.deliver import HANDLE_SCHEME
from mediagate.vllm_plugin.decoded import DecodedMedia, settings_of
from mediagate.vllm_plugin.hooks import NAME
from mediagate.vllm_plugin.media_values import is_wrapper

_HANDLE = re.compile(rf"(?:data:[^,]*,)?{HANDLE_SCHEME}([0-9a-f]{{32}})")
"""As vLLM puts it: as a URL, or, where a request takes bare base64, behind the head of a `data:` URI of its making."""


class Source:
    """Where media of this process come from.

    Args:
        media: What handles stand for.
        decoded: Keeps what was decoded.
        executor: Where files are read and decoded.
    """

    def __init__(self, *, media: LocalMedia, decoded: DecodedMedia, executor: Executor) -> None:
        self.media = media
        self.decoded = decoded
        self.executor = executor


_source: Source | None = None


def serve_from(source: Source | None) -> None:
    """Open handles from `source` from now on; None: from nowhere."""
    global _source
    _source = source


class FileConnector(MediaConnector):  # type: ignore[misc] # vLLM is not typed for others
    """Stock `MediaConnector`, which opens handles too."""

    def load_from_url(self, url: str, media_io: Any, **options: Any) -> Any:
        """The media of `url`, decoded by `media_io`; blocks.

        Raises:
            VLLMValidationError: It cannot be decoded, or names a file where none can be named.
            VLLMNotFoundError: The file is gone.
        """
        token = _token_of(url)
        if token is None:
            return super().load_from_url(url, media_io, **options)
        source, file, path = _open(token)
        settings = settings_of(media_io)
        known = source.decoded.get(file, settings)
        if known is not None:
            return known
        return source.decoded.put(file, settings, _decode(path, media_io))

    async def load_from_url_async(self, url: str, media_io: Any, **options: Any) -> Any:
        """The same, off the event loop; who asks for the same at once waits for one decoding.

        Raises:
            VLLMValidationError: It cannot be decoded, or names a file where none can be named.
            VLLMNotFoundError: The file is gone.
        """
        token = _token_of(url)
        if token is None:
            return await super().load_from_url_async(url, media_io, **options)
        source, file, path = _open(token)

        async def decode() -> Any:
            return await source.executor.compute(_decode, path, media_io)

        return await source.decoded.decoded(file, settings_of(media_io), decode)


def readers_of_originals() -> tuple[type, ...]:
    """The classes from which those of a model derive that get the encoded bytes beside decoded media."""
    from vllm.multimodal.parse import MultiModalDataParser
    from vllm.multimodal.processing import BaseMultiModalProcessor, BaseProcessingInfo

    return BaseMultiModalProcessor, BaseProcessingInfo, MultiModalDataParser


def install() -> None:
    """Make the connector known to vLLM. Idempotent."""
    MEDIA_CONNECTOR_REGISTRY.register(NAME)(FileConnector)


def _token_of(url: str) -> str | None:
    """The token of a handle; None: this is no business of ours."""
    handle = _HANDLE.fullmatch(url)
    if handle is not None:
        return handle[1]
    if looks_like_reference(url):
        if _source is None:
            raise VLLMValidationError(
                "File ids name files that were uploaded to a server, and there is none in this process. "
                "Give a URL, a data: URI, or the media itself."
            )
        raise VLLMValidationError("File ids are not taken here.")
    return None


def _open(token: str) -> tuple[Source, FileObject, Path]:
    source = _source
    if source is None:
        raise VLLMNotFoundError("The file is gone.")
    try:
        file, path = source.media.find(token)
    except FileNotFound:
        raise VLLMNotFoundError("The file is gone.") from None
    return source, file, path


def _decode(path: Path, media_io: Any) -> Any:
    try:
        media = media_io.load_file(path)
    except FileNotFoundError:
        raise VLLMNotFoundError("The file is gone.") from None
    except ImportError as error:
        # Which decoder it is may be the choice of the request: `media_io_kwargs`.
        raise VLLMValidationError(
            "The decoder that this needs, or that the request asks for, is not installed on this server."
        ) from error
    except (MemoryError, asyncio.CancelledError):
        raise  # nothing that the client could mend
    except Exception as error:
        # What decoders say names paths of ours, or worse.
        raise _undecodable() from error
    if _is_empty(media):
        raise _undecodable()
    return media


def _is_empty(media: Any) -> bool:
    """Whether a decoder went through a whole clip or sound and found nothing; vLLM takes that for its own mistake."""
    bare = media.media if is_wrapper(media) else media
    return isinstance(bare, tuple) and len(bare[0]) == 0


def _undecodable() -> Exception:
    error: Exception = VLLMValidationError(
        "The file cannot be decoded: it may be damaged, of a codec that this server lacks, "
        "or larger or longer than this server decodes."
    )
    return error
