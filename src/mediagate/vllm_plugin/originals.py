"""What stands for the encoded bytes of a file in vLLM's hands.

vLLM 0.32 keeps the whole encoded file beside the frames (0.26: beside images only), for one purpose: the key of its
caches of processed media and of encoder output. For each question it hashes those bytes, or the frames where they are
smaller: 48 ms per 200 MiB with BLAKE3 on AVX-512, 117 ms with SHA-256, in the one thread that prepares the media of all
requests. So a keyed tag of the scope, the file's digest and the decode settings takes the place of those bytes before
vLLM sees them. That leaves half of what a large clip takes in memory and nothing to hash; it is the same in every
process of a store, whichever decodes; and as nobody can compute the tag of another scope, it keeps tenants apart in
those caches, where a hash of plain content tells by its speed that somebody else has asked about the same picture.
Sound, and video in 0.26, is hashed as it was decoded: there tenants share.

One model of 0.32, Dots3 Note, decodes these bytes itself. Then they stay.
"""

import inspect
import sys
from collections.abc import Collection, Iterable, Iterator

from mediagate.core.files import FileObject
from mediagate.core.store_key import StoreKey, Use
from mediagate.vllm_plugin.decoded import Settings
from mediagate.vllm_plugin.media_values import ORIGINAL_BYTES


class Originals:
    """What stands for a file's encoded bytes, where the model has no use for the bytes themselves.

    Whether it has shows in its code: they can reach nothing but the model's own processor, its processing info
    and its parser, all of which derive from classes of vLLM's and are loaded before the first file is. If the source
    of a module that defines one names `original_bytes`, or cannot be read, the bytes stay. A model that reads them by
    way of some other module gets what no decoder takes, and fails the request: loudly, and never on the wrong media.

    Args:
        key: The store's.
        bases: vLLM's `BaseMultiModalProcessor`, `BaseProcessingInfo` and `MultiModalDataParser`.
    """

    def __init__(self, *, key: StoreKey, bases: Collection[type]) -> None:
        self._key = key
        self._bases = bases
        self._are_read: bool | None = None

    def __call__(self, file: FileObject, settings: Settings) -> bytes | None:
        """64 bytes for this content, decoded in this way, in this scope; None: the bytes must stay."""
        if self._are_read is None:
            self._are_read = original_bytes_are_read(self._bases)
        if self._are_read:
            return None
        return self._key.tag(Use.DECODED, file.scope, file.digest, settings).encode()


def original_bytes_are_read(bases: Iterable[type]) -> bool:
    """Whether a module that defines a class derived from one of `bases` names `original_bytes`, or hides its source."""
    modules = {derived.__module__ for base in bases for derived in _derived(base)}
    return any(_names_original_bytes(module) for module in modules)


def _derived(base: type) -> Iterator[type]:
    derived_classes: list[type] = base.__subclasses__()
    for derived in derived_classes:
        yield derived
        yield from _derived(derived)


def _names_original_bytes(module: str) -> bool:
    try:
        return ORIGINAL_BYTES in inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return True
