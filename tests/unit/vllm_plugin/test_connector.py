"""The connector and the endpoint plugin, with next to nothing in place of vLLM."""

import asyncio
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import patch

import pytest

from mediagate import vllm_plugin
from mediagate.config import Program, load
from mediagate.executor import Executor
from mediagate.operations.deliver import HANDLE_SCHEME
from mediagate.vllm_plugin import hooks
from mediagate.vllm_plugin.decoded import DecodedMedia, settings_of
from mediagate.web.keys import Keys

PATH = Path("/store/secret")


class Decoder:
    """Has no settings that could be told, so nobody shares what it decodes."""

    paths: ClassVar[list[Path]] = []

    def __init__(self, *failures: BaseException) -> None:
        self.failures = failures

    def load_file(self, path: Path) -> object:
        self.paths.append(path)
        for failure in self.failures:
            raise failure
        return object()


class SharedDecoder(Decoder):
    """Has."""

    def load_bytes(self, data: bytes) -> object:
        raise AssertionError(data)


def stand_ins() -> Iterator[ModuleType]:
    """As much of vLLM as is imported."""
    exceptions = ModuleType("vllm.exceptions")
    for name in ("VLLMNotFoundError", "VLLMValidationError"):
        setattr(exceptions, name, type(name, (ValueError,), {}))
    media = ModuleType("vllm.multimodal.media.connector")
    vars(media).update(MEDIA_CONNECTOR_REGISTRY=None, MediaConnector=object)
    yield from (exceptions, media)
    parse, processing = (
        ModuleType("vllm.multimodal.parse"),
        ModuleType("vllm.multimodal.processing"),
    )
    vars(parse).update(MultiModalDataParser=Decoder)
    vars(processing).update(BaseMultiModalProcessor=Decoder, BaseProcessingInfo=Decoder)
    yield from (parse, processing)


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment as it was, and modules loaded with stand-ins gone."""
    monkeypatch.setattr(vllm_plugin, "endpoint", vllm_plugin.endpoint)
    for module in stand_ins():
        monkeypatch.setitem(sys.modules, module.__name__, module)
    Decoder.paths.clear()
    with patch.dict(os.environ):
        yield
    for name in ("connector", "endpoint"):
        sys.modules.pop(f"{vllm_plugin.__name__}.{name}", None)
    vars(vllm_plugin).pop("connector", None)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets go what holds a thread; set in the end, whatever a test has found."""
    event = threading.Event()
    yield event
    event.set()


def loaded(name: str) -> Any:
    return importlib.import_module(f"{vllm_plugin.__name__}.{name}")


def refusal(failure: BaseException) -> Sequence[str]:
    """What a client hears when a decoder fails so."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 # of a type that is made at run time
        loaded("connector")._decode(PATH, Decoder(failure))
    return type(caught.value).__name__, str(caught.value)


def test_a_decoder_that_is_not_installed_is_a_refusal_in_our_words() -> None:
    """The request may have named it, in `media_io_kwargs`; vLLM would answer 500 with the words of a library."""
    kind, text = refusal(ImportError("torchcodec is missing, see /usr/lib"))

    assert kind == "VLLMValidationError"
    assert text == (
        "The decoder that this needs, or that the request asks for, is not installed on this server."
    )


@pytest.mark.parametrize("said", ["broken", "Audio of 26 MiB exceeds 25 MiB", "longer than 600 s"])
def test_what_is_said_of_a_failed_decoding_is_true_of_a_limit_too(said: str) -> None:
    kind, text = refusal(ValueError(said))

    assert kind == "VLLMValidationError"
    assert text == (
        "The file cannot be decoded: it may be damaged, of a codec that this server lacks, "
        "or larger or longer than this server decodes."
    )


def test_want_of_memory_is_no_fault_of_the_request() -> None:
    with pytest.raises(MemoryError):
        loaded("connector")._decode(PATH, Decoder(MemoryError()))


@pytest.mark.parametrize("decoder", [Decoder(), SharedDecoder()])
async def test_what_nobody_waits_for_any_more_is_not_decoded(
    decoder: Decoder, release: threading.Event
) -> None:
    """Eight who ask and leave cost no more than the decoding that has begun."""
    assert (settings_of(decoder) is not None) == isinstance(decoder, SharedDecoder)
    connector = loaded("connector")
    media = SimpleNamespace(find=lambda token: (SimpleNamespace(id=token, scope="s"), Path(token)))
    executor = Executor("t", threads=1)
    decoded = DecodedMedia(max_bytes=0)
    connector.serve_from(connector.Source(media=media, decoded=decoded, executor=executor))
    busy = asyncio.create_task(executor.run(release.wait))
    tasks = [
        asyncio.create_task(
            connector.FileConnector().load_from_url_async(f"{HANDLE_SCHEME}{number:032x}", decoder)
        )
        for number in range(8)
    ]
    while executor._pool._work_queue.qsize() < 8:
        await asyncio.sleep(0)

    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=1)

    release.set()
    await busy
    executor.close()
    assert all(task.cancelled() for task in tasks)
    assert decoder.paths == []


async def test_a_shutdown_drops_the_decodings_that_wait(release: threading.Event) -> None:
    """And meanwhile the event loop has its turn."""
    connector, is_busy = loaded("connector"), threading.Event()
    rescue = threading.Timer(10, release.set)
    calls: list[int] = []

    def hold() -> None:
        is_busy.set()
        release.wait()

    async def end() -> None:
        async with running():
            compute = connector._source.executor.compute
            tasks.append(asyncio.create_task(compute(hold)))
            tasks.extend(asyncio.create_task(compute(calls.append, number)) for number in range(8))
            await asyncio.to_thread(is_busy.wait)
            rescue.start()  # lets a loop go that is blocked all the same

    tasks: list[asyncio.Task[None]] = []
    os.environ["VLLM_MEDIA_LOADING_THREAD_COUNT"] = "1"
    ending = asyncio.create_task(end())
    while len(tasks) < 9:
        await asyncio.sleep(0)
    await asyncio.wait(tasks[1:])

    assert not release.is_set()
    release.set()
    await ending
    rescue.cancel()
    assert calls == []


@pytest.mark.parametrize(("said", "threads"), [(None, 4), ("1", 1), ("16", 16)])
async def test_as_many_threads_decode_as_vllm_is_told(said: str | None, threads: int) -> None:
    os.environ.pop("VLLM_MEDIA_LOADING_THREAD_COUNT", None)
    if said is not None:
        os.environ["VLLM_MEDIA_LOADING_THREAD_COUNT"] = said

    async with running():
        assert loaded("connector")._source.executor._pool._max_workers == threads


def running() -> Any:
    """Our stack in front of an app of which nothing is asked; it waits for no disk."""
    config = load(flags={"enable_file_uploads": True}, environ={}, program=Program.VLLM).config
    uploads = loaded("endpoint").Uploads(
        None, config=config, keys=Keys(()), are_named_outside=False
    )
    return uploads._running()


def test_a_uvicorn_that_does_not_say_who_connects_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn.middleware.proxy_headers", None)
    monkeypatch.setattr(hooks, "enable", lambda: None)
    os.environ |= {
        "MEDIAGATE_ENABLE_FILE_UPLOADS": "1",
        "MEDIAGATE_FILE_UPLOAD_SCOPE_HEADER": "x-tenant",
        "MEDIAGATE_TRUSTED_PROXY": "192.0.2.1",
    }

    with pytest.raises(RuntimeError, match=r"^mediagate: this uvicorn .* --trusted-proxy "):
        loaded("endpoint").FileUploads().attach_router(SimpleNamespace())
