"""What vLLM's decoders return: how large it is, and a form of it that can be given away.

Nothing here imports vLLM, NumPy, torch or Pillow: what a value is shows in the name of its type and in its attributes.
A value of any other kind than these has no size and no second form.

In a form to give away, all is copied that somebody might write to: metadata (processors set `fps`, loaders append to
`frames_indices`), images, and arrays of floats (feature extractors add dither, in place, to what `torch.from_numpy`
shares with the array). One thing is shared: arrays of 8-bit numbers, which is what video frames are, 190 MiB for 32 of
full HD. In vLLM 0.26 and 0.32 and in Transformers 5 nothing writes to the frames as vLLM hands them over (time, height,
width, channels): normalising takes floats, so it makes an array of its own; the one processor that draws on frames,
Ernie 4.5 VL's, draws on the contiguous copy that it made to put channels first. Were one to write, the next question
about the same file would show it, and no other file's.
"""

import numbers
import sys
from enum import Enum, auto
from typing import Any, TypeVar

_T = TypeVar("_T")


class UnknownValueError(Exception):
    """A value is of no known kind."""


ORIGINAL_BYTES = "original_bytes"
"""The attribute of vLLM's wrapper."""

_OBJECT_BYTES = 128
"""What a small object takes, about."""

_MAX_DEPTH = 12

_NDARRAY = ("numpy", "ndarray")
_TENSOR = ("torch", "Tensor")
_BOOLS = {("numpy", "bool"), ("numpy", "bool_")}
"""Alone among NumPy's scalars these are no `Number`."""


class _Kind(Enum):
    ATOM = auto()
    """Cannot be changed."""
    SEQUENCE = auto()
    MAPPING = auto()
    WRAPPER = auto()
    """vLLM's `MediaWithBytes`."""
    ARRAY = auto()
    """NumPy's, of numbers."""
    TENSOR = auto()
    """Torch's, in main memory and dense; one on a GPU is of no known kind: that memory is budgeted by vLLM."""
    IMAGE = auto()
    """Pillow's."""


def size_of(media: object) -> int | None:
    """The bytes of memory that `media` take; None: something in them is of no known kind.

    An array counts with the whole buffer that it keeps alive, be it a view of a part; a buffer counts once. An image
    counts with what Pillow allocates, which for RGB is 4 bytes a pixel.
    """
    try:
        return _sized(media, set(), 0)
    except UnknownValueError:
        return None


def _sized(value: Any, counted: set[int], depth: int) -> int:
    match kind := _kind_of(value, depth):
        case _Kind.SEQUENCE:
            return sys.getsizeof(value) + sum(_sized(item, counted, depth + 1) for item in value)
        case _Kind.MAPPING:
            items = (item for pair in value.items() for item in pair)
            return sys.getsizeof(value) + sum(_sized(item, counted, depth + 1) for item in items)
        case _Kind.WRAPPER:
            return _OBJECT_BYTES + _sized(vars(value), counted, depth + 1)
        case _:
            owner, size_bytes = _buffer(kind, value)
    if owner in counted:
        return 0
    counted.add(owner)
    return size_bytes


def _buffer(kind: _Kind, value: Any) -> tuple[int, int]:
    """The identity and the size in bytes of what holds the data of `value`."""
    match kind:
        case _Kind.ARRAY:
            return _array_buffer(value)
        case _Kind.TENSOR:
            return _tensor_buffer(value)
        case _Kind.IMAGE:
            return id(value), _OBJECT_BYTES + _image_bytes(value)
        case _:
            return id(value), sys.getsizeof(value)


def own(value: Any) -> Any:
    """A form of `value` in which nothing that somebody might write to is shared with it.

    Raises:
        UnknownValueError: Something in it is of no known kind.
    """
    return _own(value, 0)


def _own(value: Any, depth: int) -> Any:
    match _kind_of(value, depth):
        case _Kind.SEQUENCE:
            return type(value)(_own(item, depth + 1) for item in value)
        case _Kind.MAPPING:
            return {key: _own(item, depth + 1) for key, item in value.items()}
        case _Kind.WRAPPER:
            return rewrapped(value, _own(vars(value), depth + 1))
        case _Kind.ARRAY:
            return value if str(value.dtype) == "uint8" else value.copy()
        case _Kind.TENSOR:
            return value if str(value.dtype) == "torch.uint8" else value.clone()
        case _Kind.IMAGE:
            return value.copy()
        case _Kind.ATOM:
            return value


def _kind_of(value: Any, depth: int) -> _Kind:
    if depth > _MAX_DEPTH:
        raise UnknownValueError
    kind = type(value)
    name = _name_of(value)
    if kind in (list, tuple):
        return _Kind.SEQUENCE
    if kind is dict:
        return _Kind.MAPPING
    if name == _NDARRAY and not value.dtype.hasobject:
        return _Kind.ARRAY
    if name == _TENSOR and value.device.type == "cpu" and str(value.layout) == "torch.strided":
        return _Kind.TENSOR
    if name[0] == "PIL" and callable(getattr(kind, "getbands", None)):
        return _Kind.IMAGE
    if is_wrapper(value):
        return _Kind.WRAPPER
    if value is None or kind in (str, bytes) or isinstance(value, numbers.Number) or name in _BOOLS:
        return _Kind.ATOM
    raise UnknownValueError


def is_wrapper(value: object) -> bool:
    """Whether `value` is media beside the bytes that they were decoded from."""
    # Not `hasattr`: a wrapper passes on what it is asked for to the media in it.
    attributes = getattr(value, "__dict__", None)
    return isinstance(attributes, dict) and {"media", ORIGINAL_BYTES} <= attributes.keys()


def rewrapped(wrapper: _T, attributes: dict[str, object]) -> _T:
    """A wrapper of the same class with other attributes."""
    new = object.__new__(type(wrapper))
    vars(new).update(attributes)
    return new


def _array_buffer(array: Any) -> tuple[int, int]:
    while _name_of(array.base) == _NDARRAY:
        array = array.base
    base = array.base
    if isinstance(base, (bytes, bytearray)):
        return id(base), sys.getsizeof(base)
    if _name_of(base) == _TENSOR:
        return _tensor_buffer(base)
    return id(array), _OBJECT_BYTES + array.nbytes


def _tensor_buffer(tensor: Any) -> tuple[int, int]:
    storage = tensor.untyped_storage()
    return storage.data_ptr(), _OBJECT_BYTES + storage.nbytes()


def _name_of(value: object) -> tuple[str, str]:
    kind = type(value)
    return kind.__module__.partition(".")[0], kind.__name__


def _image_bytes(image: Any) -> int:
    """Of the lines, which Pillow aligns to 4 bytes and points to one by one, and of what came with the image."""
    width: int
    height: int
    width, height = image.size
    line_bytes = -(-width * _pixel_bytes(image) // 4) * 4
    return height * (line_bytes + 8) + sum(map(sys.getsizeof, image.info.values()))


def _pixel_bytes(image: Any) -> int:
    """Several bands take 4 bytes a pixel, however many they are."""
    if image.mode in {"1", "L", "P"}:
        return 1
    return 2 if image.mode.startswith("I;16") else 4
