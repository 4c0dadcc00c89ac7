"""Stand-ins of the shapes that vLLM's decoders and their results have; the real ones need vLLM installed.

They copy what `mediagate.vllm_plugin` goes by, and nothing else: the names of types, and attributes.
"""

from dataclasses import dataclass
from typing import Any


class FrameLoader:
    """As in vLLM's registry of video loaders: no state."""

    @classmethod
    def load_bytes(cls, data: bytes, **options: object) -> object:
        return [data, options]


class OtherFrameLoader(FrameLoader):
    pass


class ImageDecoder:
    def __init__(self, image_mode: str | None = "RGB", **kwargs: object) -> None:
        self.image_mode = image_mode
        self.kwargs = kwargs
        self.rgba_background_color = (255, 255, 255)

    def load_bytes(self, data: bytes) -> object:
        return data


class VideoDecoder:
    def __init__(
        self,
        image_io: ImageDecoder | None = None,
        num_frames: object = 32,
        loader: type[FrameLoader] = FrameLoader,
        **kwargs: object,
    ) -> None:
        self.image_io = image_io or ImageDecoder()
        self.num_frames = num_frames
        self.kwargs = kwargs
        self.video_loader = loader()

    def load_bytes(self, data: bytes) -> object:
        return data


@dataclass
class MediaWithBytes:
    """Passes on what it does not know to the media in it, as the real one does."""

    media: Any
    original_bytes: bytes
    io_config: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.media, name)


class DType:
    def __init__(self, name: str, *, hasobject: bool = False) -> None:
        self.name = name
        self.hasobject = hasobject

    def __str__(self) -> str:
        return self.name


class ndarray:  # noqa: N801 - NumPy's name
    """An array of one axis over a `bytearray`."""

    def __init__(
        self,
        nbytes: int,
        *,
        dtype: str = "uint8",
        base: object = None,
        hasobject: bool = False,
    ) -> None:
        self.dtype = DType(dtype, hasobject=hasobject)
        self.nbytes = nbytes
        self.base = base
        self.data = bytearray(nbytes)

    def copy(self) -> "ndarray":
        new = ndarray(self.nbytes, dtype=str(self.dtype))
        new.data[:] = self.data
        return new


class Storage:
    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes

    def nbytes(self) -> int:
        return self._size_bytes

    def data_ptr(self) -> int:
        return id(self)


class Device:
    def __init__(self, kind: str) -> None:
        self.type = kind


class Tensor:
    def __init__(
        self,
        storage: Storage,
        *,
        dtype: str = "torch.uint8",
        device: str = "cpu",
        layout: str = "torch.strided",
    ) -> None:
        self.dtype = DType(dtype)
        self.device = Device(device)
        self.layout = layout
        self._storage = storage

    def untyped_storage(self) -> Storage:
        return self._storage

    def clone(self) -> "Tensor":
        return Tensor(Storage(self._storage.nbytes()), dtype=str(self.dtype))


ndarray.__module__ = "numpy"
Tensor.__module__ = "torch"
