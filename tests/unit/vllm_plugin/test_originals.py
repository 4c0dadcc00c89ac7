"""What stands for encoded bytes in vLLM's caches."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from decoders import MediaWithBytes, VideoDecoder
from mediagate.core.files import (
    Digest,
    FileId,
    FileObject,
    Purpose,
    new_blob_key,
    new_file_id,
)
from mediagate.core.scopes import Scope
from mediagate.core.store_key import StoreKey
from mediagate.vllm_plugin.decoded import DecodedMedia, Settings, settings_of
from mediagate.vllm_plugin.originals import Originals, original_bytes_are_read

KEY = StoreKey(bytes(range(32)))
FILE = FileObject(
    id=new_file_id(),
    scope=Scope("tenant-a"),
    blob=new_blob_key(),
    filename="clip.mp4",
    purpose=Purpose.VISION,
    mime_type="video/mp4",
    size_bytes=1000,
    digest=Digest("blake3:" + "0" * 64),
    created_at=0,
    last_used_at=0.0,
    expires_at=None,
    ttl_s=None,
)
SETTINGS = Settings("a" * 64)


class Processor:
    """vLLM's, from which those of models derive."""


def loaded(path: Path, source: str) -> ModuleType:
    """A module of a model, as vLLM loads it."""
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__dict__["Processor"] = Processor
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("model_"):
            del sys.modules[name]


def test_stand_in_is_the_same_for_the_same_content_settings_and_scope_only() -> None:
    originals = Originals(key=KEY, bases=())
    again = Originals(key=StoreKey(bytes(range(32))), bases=())
    others = [
        originals(replace(FILE, scope=Scope("tenant-b")), SETTINGS),
        originals(replace(FILE, digest=Digest("blake3:" + "1" * 64)), SETTINGS),
        originals(FILE, Settings("b" * 64)),
        Originals(key=StoreKey(bytes(32)), bases=())(FILE, SETTINGS),
    ]

    stand_in = originals(FILE, SETTINGS)

    assert stand_in == again(replace(FILE, id=FileId("file-2"), filename="b.mp4"), SETTINGS)
    assert len({stand_in, *others}) == 5
    assert stand_in is not None
    assert len(stand_in) == 64


def test_bytes_stay_where_a_model_reads_them(models: Path) -> None:
    plain = loaded(models / "model_plain.py", "class Plain(Processor):\n    pass\n")
    assert not original_bytes_are_read([Processor])
    assert Originals(key=KEY, bases=[Processor])(FILE, SETTINGS) is not None

    reader = loaded(
        models / "model_reader.py",
        "class Base(Processor):\n    pass\n\n\ndef of(item):\n    return item.original_bytes\n",
    )

    assert original_bytes_are_read([Processor])
    assert Originals(key=KEY, bases=[Processor])(FILE, SETTINGS) is None
    assert not original_bytes_are_read([plain.Plain])
    assert not original_bytes_are_read([reader.Base])  # nothing derives from that


def test_bytes_stay_where_a_grandchild_reads_them(models: Path) -> None:
    class Family:
        pass

    child = loaded(models / "model_child.py", "class Child(Processor):\n    pass\n")
    child.Child.__bases__ = (Family,)
    assert not original_bytes_are_read([Family])
    grandchild = type("Grandchild", (child.Child,), {"__module__": "model_grandchild"})
    loaded(models / "model_grandchild.py", "ATTRIBUTE = 'original_bytes'\n")

    assert original_bytes_are_read([Family])
    assert grandchild.__mro__[2] is Family


def test_bytes_stay_where_the_source_cannot_be_read(models: Path) -> None:
    class Family:
        pass

    hidden = type("Hidden", (Family,), {"__module__": "model_without_source"})

    assert original_bytes_are_read([Family])
    assert hidden.__module__ not in sys.modules


async def test_stand_in_takes_the_place_of_the_bytes_the_first_time_and_ever_after() -> None:
    originals = Originals(key=KEY, bases=())
    decoded = DecodedMedia(max_bytes=10**6, original=originals)
    settings = settings_of(VideoDecoder())
    assert settings is not None
    encoded = b"x" * 100_000

    async def decode() -> MediaWithBytes:
        return MediaWithBytes((b"frames", {"fps": 30.0}), encoded)

    first = await decoded.decoded(FILE, settings, decode)
    second = await decoded.decoded(FILE, settings, decode)

    expected = MediaWithBytes((b"frames", {"fps": 30.0}), originals(FILE, settings) or b"")
    assert first == second == expected
    assert decoded.held_bytes < 10_000


async def test_true_bytes_stay_where_settings_cannot_be_told() -> None:
    decoded = DecodedMedia(max_bytes=10**6, original=Originals(key=KEY, bases=()))

    async def decode() -> MediaWithBytes:
        return MediaWithBytes(b"frames", b"encoded")

    assert (await decoded.decoded(FILE, None, decode)).original_bytes == b"encoded"
    kept: object = decoded.put(FILE, None, MediaWithBytes(b"frames", b"encoded"))
    assert kept == MediaWithBytes(b"frames", b"encoded")


async def test_stand_in_is_there_for_those_who_decode_for_themselves_too() -> None:
    """Else the same clip would have two keys in vLLM's caches."""
    decoded = DecodedMedia(max_bytes=10**6, original=Originals(key=KEY, bases=()))
    may_end = asyncio.Event()

    async def decode() -> MediaWithBytes:
        await may_end.wait()
        return MediaWithBytes(object(), b"encoded")

    tasks = [asyncio.create_task(decoded.decoded(FILE, SETTINGS, decode)) for _ in range(3)]
    may_end.set()

    media = await asyncio.gather(*tasks)
    assert len({id(of_one.media) for of_one in media}) == 3
    assert {of_one.original_bytes for of_one in media} == {
        Originals(key=KEY, bases=())(FILE, SETTINGS)
    }
