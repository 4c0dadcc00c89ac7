"""Each engine gets media in its own words, in the cheapest form that both sides have, and nothing else changes."""

import base64
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.engines import Engine
from mediagate.core.errors import (
    BodyTooLarge,
    InvalidReference,
    InvalidValue,
    MediagateError,
    MediaKindMismatch,
    NotTakenByEngine,
    SourceNotAllowed,
)
from mediagate.core.files import FileId, FileObject
from mediagate.core.leases import LeaseId
from mediagate.core.store_key import StoreKey
from mediagate.dialects import anthropic_messages, openai_chat, openai_responses
from mediagate.dialects.fields import Dialect, Judge
from mediagate.dialects.parts import Source
from mediagate.dialects.strict_json import parse_object
from mediagate.executor import Executor
from mediagate.gateway.media_endpoints import media_dialect
from mediagate.gateway.profiles import MIB, PROFILES, Profile
from mediagate.operations.deliver import (
    Deliveries,
    Delivery,
    HandleDelivery,
    Handles,
    InlineDelivery,
    Leased,
    PathDelivery,
    UrlDelivery,
    positions,
)
from mediagate.operations.rewrite import MAX_REFERENCES
from resolving import (
    GIF,
    IMAGE,
    M4A,
    MP3,
    VIDEO,
    WAV,
    Bench,
    Store,
    a_file,
    bare,
    chat,
    data_uri,
    png,
    wav,
)

PRIVATE, PUBLIC = "http://10.0.0.7:8080", "https://files.example.com"
LINKS = PurePosixPath("/srv/links")

FILES = {"image": IMAGE, "audio": WAV, "video": VIDEO}

TOLD = """
    engine            kind   path   url     inline
    vllm              image  file   any     data
    vllm              audio  file   any     data,base64
    vllm              video  file   any     data
    sglang            image  file   any     data
    sglang            audio  file   any     data,base64
    sglang            video  file   any     data
    lmdeploy          image  file   public  data
    lmdeploy          audio  file   public  data
    lmdeploy          video  file   public  data
    llama-server      image  below  any     data
    llama-server      audio  below  any     base64
    llama-server      video  below  any     data
    llama-cpp-python  image  file   any     data
    transformers      image  bare   any     data
    transformers      audio  bare   any     data,base64
    transformers      video  bare   any     -
    ollama            image  -      -       data
    ollama            audio  -      -       base64
    mistral.rs        image  -      public  data
    mistral.rs        audio  -      public  data
    mistral.rs        video  -      public  data
    tgi               image  -      any     data
    localai           image  -      public  data
    localai           audio  -      public  data,base64
    localai           video  -      public  data
    dynamo            image  -      public  data
    dynamo            audio  file   public  data
    dynamo            video  file   public  data
"""
"""What the engines' sources, and they themselves, say: not what the table of the program says.

`data` goes into `<kind>_url`, `base64` into `input_audio`, where llama-server takes all else too.
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One line of `TOLD`; `-` and what is not there: in no way."""

    path: str = "-"
    url: str = "-"
    inline: Sequence[str] = ()


ROWS = {
    (Engine(engine), kind): Told(path, url, () if inline == "-" else inline.split(","))
    for engine, kind, path, url, inline in (line.split() for line in TOLD.strip().splitlines()[1:])
}
ENGINES = [engine for engine in PROFILES if engine is not Engine.OPENAI]
CASES = [(engine, kind) for engine in ENGINES for kind in FILES]

SETUPS = {
    "all": ("path", "url", "inline"),
    "path": ("path", "inline"),
    "public url": ("public", "inline"),
    "private url": ("url", "inline"),
    "inline": ("inline",),
}


KEY = StoreKey(bytes(32))


class Names:
    """Links that are nowhere, with names that say whose they are."""

    async def add(self, lease_id: LeaseId, position: int, file: FileObject) -> str:
        return f"{position:036x}"

    async def drop(self, names: Collection[str]) -> None:
        pass


def delivering(setup: str, leased: Leased) -> Delivery:
    ways: dict[str, Delivery] = {
        "path": PathDelivery(leased, links=Names(), seen_by_upstream=LINKS.joinpath),
        "url": UrlDelivery(leased, base=PRIVATE, key=KEY),
        "public": UrlDelivery(leased, base=PUBLIC, key=KEY),
        "inline": InlineDelivery(),
    }
    return Deliveries(*(ways[way] for way in SETUPS[setup]))


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    executor = Executor("parse", threads=1)
    yield executor
    executor.close()


def bench_of(
    executor: Executor,
    engine: Engine,
    setup: str = "inline",
    dialect: Dialect = openai_chat.find,
) -> Bench:
    return Bench(
        executor,
        dialect,
        deliver=lambda leased, _came_in_at: delivering(setup, leased),
        accepted=PROFILES[engine].accepted(dialect),
    )


async def media_of(name: FileId, source: str, setup: str) -> str:
    """What stands for a file, alone in its request, in the words of `TOLD`."""
    leased = await Store().hold([name], scope=a_file(name).scope)
    assert positions(leased) == {name: 0}
    sources = {
        "file": Source.FILE_URL,
        "bare": Source.PATH,
        "below": Source.MEDIA_DIR_URL,
        "public": Source.PUBLIC_URL,
        "any": Source.HTTP_URL,
    }
    match source:
        case "data":
            return data_uri(name)
        case "base64":
            return bare(name)
        case "file":
            return f"file://{LINKS}/{'0' * 36}"
        case "bare":
            return f"{LINKS}/{'0' * 36}"
        case "below":
            return f"file://{'0' * 36}"
    (piece,) = await delivering(setup, leased).pieces(a_file(name), sources[source])
    assert isinstance(piece, bytes)
    base = PUBLIC if setup == "public url" else PRIVATE
    assert piece.startswith(base.encode() + b"/v1/media/")
    return piece.decode()


def chosen(told: Told, setup: str, *, prefers_base64: bool) -> str | None:
    """How a file goes, of what is set up; None: it cannot."""
    for way in SETUPS[setup]:
        match way:
            case "path" if told.path != "-":
                return told.path
            case "url" if told.url == "any":
                return "any"
            case "public" if told.url != "-":
                return told.url
            case "inline" if told.inline:
                return told.inline[-1] if prefers_base64 else told.inline[0]
    return None


# by id ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """How a client names a file by its id, and how that reads where the engine has it.

    Attributes:
        kinds: Of what.
        client: The part; `@` is the id, `K` the kind.
        as_url: The same as `K_url`; `@` is what it names.
        as_audio: The same as `input_audio`, of a wav.
        param: Where the id stands within the part.
    """

    kinds: str
    client: str
    as_url: str
    as_audio: str
    param: str


FORMS = {
    "url": Form(
        "image audio video",
        '{"uuid":"u", "type" : "K_url","K_url":{ "detail":1.0,"url" : "@" }}',
        '{"uuid":"u", "type" : "K_url","K_url":{ "detail":1.0,"url" : "@" }}',
        '{"uuid":"u", "type" : "input_audio","input_audio":{ "detail":1.0,"data" : "@","format":"wav" }}',
        "K_url.url",
    ),
    "bare string": Form(
        "image audio video",
        '{"K_url" : "@" , "type":"K_url","é":"\\u00e9"}',
        '{"K_url" : {"url":"@"} , "type":"K_url","é":"\\u00e9"}',
        '{"input_audio" : {"data":"@","format":"wav"} , "type":"input_audio","é":"\\u00e9"}',
        "K_url",
    ),
    "file": Form(
        "image audio video",
        '{"file":{"filename":"é\\/","file_id":"@"} ,"type":"file"}',
        '{"K_url":{"filename":"é\\/","url":"@"} ,"type":"K_url"}',
        '{"input_audio":{"filename":"é\\/","data":"@","format":"wav"} ,"type":"input_audio"}',
        "file.file_id",
    ),
    "input_image": Form(
        "image",
        '{"type":"input_image", "file_id" :"@","detail":"low"}',
        '{"type":"image_url", "image_url" :{"url":"@"},"detail":"low"}',
        "",
        "file_id",
    ),
    "input_audio": Form(
        "audio",
        '{"type":"input_audio","input_audio":{"format" : "ogg","data":"@"}}',
        '{"type":"audio_url","audio_url":{"format" : "ogg","url":"@"}}',
        '{"type":"input_audio","input_audio":{"format" : "wav","data":"@"}}',
        "input_audio.data",
    ),
    "input_audio without format": Form(
        "audio",
        '{"type":"input_audio","input_audio":{"data":"@"}}',
        '{"type":"audio_url","audio_url":{"url":"@"}}',
        '{"type":"input_audio","input_audio":{"data":"@","format":"wav"}}',
        "input_audio.data",
    ),
    "input_video": Form(
        "video",
        '{"type":"input_video","input_video":{"fps":2e0,"data":"@"}}',
        '{"type":"video_url","video_url":{"fps":2e0,"url":"@"}}',
        "",
        "input_video.data",
    ),
    "input_video by url": Form(
        "video",
        '{"type":"input_video","input_video":{"url":"@"}}',
        '{"type":"video_url","video_url":{"url":"@"}}',
        "",
        "input_video.url",
    ),
}

BY_ID = [
    (engine, kind, name, setup)
    for engine, kind in CASES
    for name, form in FORMS.items()
    if kind in form.kinds.split()
    for setup in SETUPS
]


def around(part: str) -> bytes:
    """A request with odd blanks and numbers that no parser gives back as they were."""
    text = '{ "temperature":1.0,"seed" : 12345678901234567890,\n\t"messages":[ {"content":[{"type":"text",'
    return f'{text}"text":"{VIDEO} \\u00e9"}} , {part} ],"role":"user"}}],"stop":[] }}\r\n'.encode()


@pytest.mark.parametrize(("engine", "kind", "name", "setup"), BY_ID)
async def test_file_by_id_reads_as_the_engine_wants_it(
    executor: Executor, engine: Engine, kind: str, name: str, setup: str
) -> None:
    """H81."""
    form, told = FORMS[name], ROWS.get((engine, kind))
    raw = around(form.client.replace("K", kind).replace("@", FILES[kind]))
    bench = bench_of(executor, engine, setup)
    source = chosen(told, setup, prefers_base64="input_audio" in name) if told else None

    if source is None:
        error = await bench.refusal(raw)
        assert isinstance(error, NotTakenByEngine)
        assert error.param == f"messages[0].content[1].{form.param.replace('K', kind)}"
        assert PROFILES[engine].title in error.message
        return

    is_audio = source == "base64" or (engine, kind) == (Engine.LLAMA_SERVER, "audio")
    part = (form.as_audio if is_audio else form.as_url).replace("K", kind)
    media = await media_of(FILES[kind], source, setup)
    assert await bench.body(raw) == around(part.replace("@", media))


def test_every_engine_is_told_something() -> None:
    assert {engine for engine, _ in ROWS} == set(ENGINES)
    assert {*PROFILES, Engine.AUTO} == set(Engine)


async def test_engine_that_nobody_knows_gets_it_as_the_client_wrote_it(executor: Executor) -> None:
    form = FORMS["input_video"]
    raw = around(form.client.replace("@", VIDEO))

    body = await bench_of(executor, Engine.OPENAI).body(raw)

    assert body == raw.replace(f'data":"{VIDEO}'.encode(), f'data":"{bare(VIDEO)}'.encode())


# what the client itself sent --------------------------------------------------------------------------------

SOUND, PICTURE = base64.b64encode(wav()).decode(), base64.b64encode(png()).decode()
CLIP = base64.b64encode(b"\0\0\0\x18ftypisom\0\0\2\0isommp42\0\0\0\x10mdat" + bytes(8)).decode()
BASE64 = {"image": PICTURE, "audio": SOUND, "video": CLIP}
MIME_TYPES = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}
URL = "https://media.example.com/a?b=c&d=%20e"
OWN = {
    "data": {kind: f"data:{MIME_TYPES[kind]};base64,{text}" for kind, text in BASE64.items()},
    "any": dict.fromkeys(FILES, URL),
    "base64": BASE64,
}

SENT = [
    (engine, kind, name, source)
    for engine, kind in CASES
    for name, form in FORMS.items()
    if kind in form.kinds.split() and "@" in form.client and "file" not in form.client
    for source in OWN
    if source != "base64" or name in {"input_audio", "input_video"}
]


@pytest.mark.parametrize(("engine", "kind", "name", "source"), SENT)
async def test_media_that_the_client_sent_reads_as_the_engine_wants_it(
    executor: Executor, engine: Engine, kind: str, name: str, source: str
) -> None:
    form, told = FORMS[name], ROWS.get((engine, kind), Told())
    has = {*told.inline, "any" if told.url != "-" else ""}
    own = OWN[source][kind]
    raw = around(form.client.replace("K", kind).replace("@", own))
    bench = bench_of(executor, engine)

    if source == "any":
        source_told = "any" if "any" in has else None
    else:
        other = {"data": "base64", "base64": "data"}[source]
        source_told = source if source in has else other if other in has else None
    if source_told is None:
        error = await bench.refusal(raw)
        assert isinstance(error, NotTakenByEngine)
        assert error.param == f"messages[0].content[1].{form.param.replace('K', kind)}"
        assert PROFILES[engine].title in error.message
        return

    is_audio = source_told == "base64" or (engine, kind) == (Engine.LLAMA_SERVER, "audio")
    part = (form.as_audio if is_audio else form.as_url).replace("K", kind)
    if is_audio and "input_audio" in name and source_told == source:
        part = form.client  # as it is, with the format that the client says
    elif is_audio and source == "any":
        part = part.replace('"wav"', '""')  # nobody knows
    expected = around(part.replace("@", OWN[source_told][kind]))
    assert await bench.body(raw) == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["url", "bare string"])
async def test_images_that_any_of_them_takes_are_never_touched(
    executor: Executor, engine: Engine, name: str
) -> None:
    """But for a bare string, which some refuse and LocalAI leaves out: it becomes an object."""
    form = FORMS[name]
    raw = around(form.client.replace("K", "image").replace("@", OWN["data"]["image"]))
    expected = around(form.as_url.replace("K", "image").replace("@", OWN["data"]["image"]))

    assert await bench_of(executor, engine).body(raw) == expected


async def test_base64_with_line_breaks_arrives_without_them(executor: Executor) -> None:
    """Not every decoder reads over them."""
    data = f"data:audio/wav;base64,{SOUND[:8]}\r\n\t{SOUND[8:]}"
    raw = chat({"type": "audio_url", "audio_url": {"url": data}})

    body = await bench_of(executor, Engine.OLLAMA).body(raw)

    (part,) = parse_object(body)["messages"][0]["content"]
    assert part["input_audio"] == {"data": SOUND, "format": "wav"}


@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.LLAMA_SERVER])
@pytest.mark.parametrize("key", ["audio_url", "input_audio"])
@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("audio/wav;base64,/etc/passwd", SourceNotAllowed),
        ("audio/wav;base64,etc/", SourceNotAllowed),
        (f"audio/wav;base64,{MP3}", SourceNotAllowed),
        (f"audio/wav;base64,{SOUND},{SOUND}", SourceNotAllowed),
        (f"audio/wav;base64,{PICTURE}", MediaKindMismatch),
    ],
)
async def test_bare_base64_is_judged_whatever_it_came_as(
    executor: Executor, engine: Engine, key: str, data: str, error: type[MediagateError]
) -> None:
    """A `data:` URI names nothing but itself; what is left of it without its head may be a path."""
    raw = chat({"type": key, key: {"url": f"data:{data}"}})

    refusal = await bench_of(executor, engine).refusal(raw)

    assert isinstance(refusal, error)
    assert refusal.param == f"messages[0].content[0].{key}.url"


@pytest.mark.parametrize("said", ["", "audio/x-wav", "video/mp4"])
async def test_format_is_that_of_the_bytes_and_not_what_a_data_uri_says(
    executor: Executor, said: str
) -> None:
    part = {"type": "audio_url", "audio_url": {"url": f"data:{said};base64,{SOUND}"}}

    (told,) = parse_object(await bench_of(executor, Engine.OLLAMA).body(chat(part)))["messages"][0][
        "content"
    ]

    assert told["input_audio"] == {"data": SOUND, "format": "wav"}


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (
            {"type": "image", "source": {"type": "base64", "media_type": "x", "data": PICTURE}},
            {
                "type": "image_url",
                "image_url": {
                    "type": "base64",
                    "media_type": "x",
                    "url": OWN["data"]["image"],
                },
            },
        ),
        (
            {"type": "image", "source": {"type": "url", "url": URL}},
            {"type": "image_url", "image_url": {"type": "url", "url": URL}},
        ),
        (
            {"type": "image_url", "url": URL},
            {"type": "image_url", "image_url": {"url": URL}},
        ),
        (
            {"type": "image_url", "IMAGE_URL": {"url": URL}},
            {"type": "image_url", "image_url": {"url": URL}},
        ),
        ({"image_url": {"url": URL}}, {"image_url": {"url": URL}}),
        ({"image_url": URL}, {"image_url": {"url": URL}}),
        ({"type": None, "image_url": URL}, {"type": "image_url", "image_url": {"url": URL}}),
        (
            {"type": "video_url", "image_url": {"url": URL}},
            {"type": "image_url", "image_url": {"url": URL}},
        ),
    ],
)
async def test_parts_of_other_formats_become_those_of_chat(
    executor: Executor, part: dict[str, Any], told: dict[str, Any]
) -> None:
    body = await bench_of(executor, Engine.TGI).body(chat(part))

    assert json.loads(body) == json.loads(chat(told))


# more than one ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (
            {
                "type": "input_video",
                "input_video": {"data": VIDEO},
                "input_audio": {"data": WAV},
            },
            "input_audio.data",
        ),
        (
            {"type": "image_url", "image_url": {"url": IMAGE}, "video_url": {"url": VIDEO}},
            "video_url.url",
        ),
        (
            {"type": "image_url", "image_url": {"url": URL}, "video_url": {"url": VIDEO}},
            "video_url.url",
        ),
        ({"type": "input_audio", "input_audio": {"data": WAV, "url": URL}}, "input_audio.url"),
        ({"type": "input_video", "input_video": {"data": VIDEO, "URL": URL}}, "input_video.URL"),
        ({"type": "input_audio", "input_audio": {"data": WAV}, "AUDIO_URL": {}}, "AUDIO_URL"),
        ({"type": "file", "file": {"file_id": WAV, "URL": URL}}, "file.URL"),
        ({"type": "file", "file": {"file_id": IMAGE}, "image_url": {"url": URL}}, "image_url"),
        ({"type": "input_image", "file_id": IMAGE, "Image_Url": URL}, "Image_Url"),
    ],
)
async def test_part_that_would_name_media_twice_is_refused(
    executor: Executor, part: dict[str, Any], param: str
) -> None:
    error = await bench_of(executor, Engine.LMDEPLOY).refusal(chat(part))

    assert isinstance(error, InvalidReference)
    assert error.param == f"messages[0].content[0].{param}"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "file", "file": {"file_id": WAV, "Data": SOUND}}, "file.Data"),
        ({"type": "file", "file": {"file_id": WAV}, "Input_Audio": {}}, "Input_Audio"),
    ],
)
async def test_key_that_would_be_written_next_to_is_refused(
    executor: Executor, part: dict[str, Any], param: str
) -> None:
    error = await bench_of(executor, Engine.LLAMA_SERVER).refusal(chat(part))

    assert isinstance(error, InvalidReference)
    assert error.param == f"messages[0].content[0].{param}"


# what would be left out -------------------------------------------------------------------------------------

MESSAGES, RESPONSES = anthropic_messages.find, openai_responses.find
DOCUMENT = {"type": "document", "source": {"type": "text", "data": "…"}}
INLINE = {"type": "image", "source": {"type": "base64", "data": PICTURE}}


@pytest.mark.parametrize("engine", [Engine.TRANSFORMERS, Engine.LOCALAI])
@pytest.mark.parametrize(
    "part",
    [{"type": "nonsense"}, {"type": "input_file"}, {"type": ["text"]}, {"type": {}}, {"a": 1}],
)
async def test_part_that_would_be_left_out_of_a_chat_is_refused(
    executor: Executor, engine: Engine, part: dict[str, Any]
) -> None:
    error = await bench_of(executor, engine).refusal(chat({"type": "text", "text": "?"}, part))

    assert isinstance(error, NotTakenByEngine)
    assert error.param == "messages[0].content[1].type"
    assert "image_url" in error.message


@pytest.mark.parametrize("engine", [*PROFILES])
@pytest.mark.parametrize("type_", [["image_url"], {"a": 1}, 7, None])
async def test_type_that_is_no_string_breaks_nothing(
    executor: Executor, engine: Engine, type_: object
) -> None:
    raw = chat({"type": type_, "text": "?"})

    if PROFILES[engine].chat_types is None:
        assert await bench_of(executor, engine).body(raw) == raw
    else:
        assert isinstance(await bench_of(executor, engine).refusal(raw), NotTakenByEngine)


@pytest.mark.parametrize("engine", [Engine.TRANSFORMERS, Engine.LOCALAI])
async def test_part_without_a_type_would_be_left_out_with_its_file(
    executor: Executor, engine: Engine
) -> None:
    error = await bench_of(executor, engine).refusal(chat({"image_url": {"url": IMAGE}}))

    assert isinstance(error, NotTakenByEngine)
    assert error.param == "messages[0].content[0].type"


@pytest.mark.parametrize("engine", [Engine.TRANSFORMERS, Engine.LOCALAI])
async def test_parts_that_become_others_are_not_left_out(
    executor: Executor, engine: Engine
) -> None:
    raw = chat({"type": "file", "file": {"file_id": IMAGE}}, {"type": "image", "image_url": URL})

    (first, second) = json.loads(await bench_of(executor, engine).body(raw))["messages"][0][
        "content"
    ]

    assert first == {"type": "image_url", "image_url": {"url": data_uri(IMAGE)}}
    assert second == {"type": "image_url", "image_url": {"url": URL}}


def result(*blocks: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": [*blocks]}


LEFT_OUT_OF_MESSAGES = [
    (engine, DOCUMENT, "type") for engine in (Engine.LLAMA_SERVER, Engine.OLLAMA, Engine.LOCALAI)
] + [
    (engine, result({"type": "text", "text": "?"}, DOCUMENT), "content[1].type")
    for engine in (
        *(Engine.VLLM, Engine.SGLANG, Engine.LMDEPLOY, Engine.LLAMA_SERVER, Engine.OLLAMA),
        Engine.LOCALAI,
    )
] + [
    (engine, result(image), "content[0].type")
    for engine in (Engine.LOCALAI, Engine.MISTRAL_RS)
    for image in (INLINE, {"type": "image", "source": {"type": "file", "file_id": IMAGE}})
]  # fmt: skip


@pytest.mark.parametrize(("engine", "block", "param"), LEFT_OUT_OF_MESSAGES)
async def test_block_that_would_be_left_out_of_messages_is_refused(
    executor: Executor, engine: Engine, block: dict[str, Any], param: str
) -> None:
    error = await bench_of(executor, engine, dialect=MESSAGES).refusal(chat(block))

    assert isinstance(error, NotTakenByEngine)
    assert error.param == f"messages[0].content[0].{param}"


def sourced(source: object) -> dict[str, Any]:
    return {"type": "image", "source": source}


BY_URL = sourced({"type": "url", "url": URL})
WITHOUT_MEDIA = [
    {"type": "image"},
    *map(sourced, (None, {}, {"type": "base64"}, {"type": "url"}, {"type": "url", "url": None})),
    sourced({"type": "bytes", "data": PICTURE}),
]
DROPPERS = (Engine.SGLANG, Engine.LMDEPLOY, Engine.LLAMA_SERVER, Engine.LOCALAI)


@pytest.mark.parametrize(
    ("engine", "image"),
    [(Engine.LOCALAI, BY_URL)] + [(engine, each) for engine in DROPPERS for each in WITHOUT_MEDIA],
)
async def test_image_of_messages_that_would_be_left_out_for_its_source_is_refused(
    executor: Executor, engine: Engine, image: dict[str, Any]
) -> None:
    error = await bench_of(executor, engine, dialect=MESSAGES).refusal(chat(image))

    assert isinstance(error, NotTakenByEngine)
    assert error.param == "messages[0].content[0].source"


@pytest.mark.parametrize(
    ("engine", "image"),
    [(engine, BY_URL) for engine in sorted({*DROPPERS, Engine.VLLM} - {Engine.LOCALAI})]
    + [(engine, INLINE) for engine in DROPPERS]
    + [(Engine.VLLM, each) for each in WITHOUT_MEDIA[:1]],
)
async def test_image_of_messages_that_its_engine_reads_or_refuses_itself_stays_as_it_is(
    executor: Executor, engine: Engine, image: dict[str, Any]
) -> None:
    body = await bench_of(executor, engine, dialect=MESSAGES).body(chat(image))

    assert body == chat(image)


# places where an engine does not look -----------------------------------------------------------------------


def output(*parts: Mapping[str, Any], type_: str = "function_call_output") -> bytes:
    item = {"type": type_, "call_id": "c", "output": [{"type": "input_text", "text": "?"}, *parts]}
    return json.dumps({"input": [{"role": "user", "content": "?"}, item]}).encode()


def flat(*parts: Mapping[str, Any]) -> bytes:
    return json.dumps({"input": [{"type": "input_text", "text": "?"}, *parts]}).encode()


IMAGE_BY_ID = {"type": "input_image", "file_id": IMAGE, "detail": "auto"}
IMAGE_BY_FILE = {"type": "input_file", "file_id": IMAGE}
IMAGE_WITH_DATA = {"type": "input_image", "image_url": data_uri(IMAGE)}
FILE_WITH_DATA = {"type": "input_file", "file_data": data_uri(IMAGE)}


@pytest.mark.parametrize(
    ("engine", "raw"),
    [
        *((Engine.SGLANG, output(part)) for part in (IMAGE_BY_ID, IMAGE_BY_FILE, IMAGE_WITH_DATA)),
        (Engine.SGLANG, output(IMAGE_BY_ID, type_="custom_tool_call_output")),
        *((Engine.LOCALAI, output(part)) for part in (IMAGE_BY_ID, IMAGE_BY_FILE, IMAGE_WITH_DATA)),
        (Engine.TRANSFORMERS, output(FILE_WITH_DATA)),
    ],
)
async def test_what_would_be_left_out_of_the_output_of_a_tool_is_refused(
    executor: Executor, engine: Engine, raw: bytes
) -> None:
    error = await bench_of(executor, engine, dialect=RESPONSES).refusal(raw)

    assert isinstance(error, NotTakenByEngine)
    assert str(error.param).startswith("input[1].output[1].")


@pytest.mark.parametrize(
    ("engine", "source"),
    [
        *((Engine.VLLM, "file"), (Engine.LLAMA_SERVER, "below"), (Engine.TRANSFORMERS, "bare")),
        *((Engine.OLLAMA, "data"), (Engine.DYNAMO, "data")),
    ],
)
@pytest.mark.parametrize("part", [IMAGE_BY_ID, IMAGE_BY_FILE])
async def test_image_in_the_output_of_a_tool_is_told_to_who_looks_there(
    executor: Executor, engine: Engine, source: str, part: dict[str, Any]
) -> None:
    body = await bench_of(executor, engine, "all", RESPONSES).body(output(part))

    told = json.loads(body)["input"][1]["output"][1]
    media = await media_of(IMAGE, source, "all")
    assert told == {"type": "input_image", "image_url": media, "detail": "auto"}


@pytest.mark.parametrize(
    ("engine", "raw", "param"),
    [
        (Engine.TRANSFORMERS, flat(FILE_WITH_DATA), "input[1].type"),
        (Engine.TRANSFORMERS, flat({"type": "nonsense"}), "input[1].type"),
        (Engine.LOCALAI, flat(IMAGE_BY_ID), "input[0].type"),
    ],
)
async def test_part_in_the_input_itself_that_would_be_left_out_is_refused(
    executor: Executor, engine: Engine, raw: bytes, param: str
) -> None:
    error = await bench_of(executor, engine, dialect=RESPONSES).refusal(raw)

    assert isinstance(error, NotTakenByEngine)
    assert error.param == param


@pytest.mark.parametrize("part", [IMAGE_BY_ID, IMAGE_BY_FILE])
async def test_image_in_the_input_itself_is_told_to_who_looks_there(
    executor: Executor, part: dict[str, Any]
) -> None:
    body = await bench_of(executor, Engine.TRANSFORMERS, "all", RESPONSES).body(flat(part))

    told = json.loads(body)["input"][1]
    media = await media_of(IMAGE, "bare", "all")
    assert told == {"type": "input_image", "image_url": media, "detail": "auto"}


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "user", "content": "?"},
        {"role": "user", "content": "?"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "?"},
        {"type": "reasoning", "summary": []},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "?"}]},
        {"type": "item_reference", "id": "i"},
        {"type": "web_search_call", "id": "i", "status": "completed"},
    ],
)
@pytest.mark.parametrize("engine", [Engine.LOCALAI, Engine.TRANSFORMERS])
async def test_items_of_an_earlier_answer_are_no_parts(
    executor: Executor, engine: Engine, item: dict[str, Any]
) -> None:
    raw = json.dumps({"input": [{"role": "user", "content": "?"}, item]}).encode()

    assert await bench_of(executor, engine, dialect=RESPONSES).body(raw) == raw


def said_by(role: str | None, *parts: Mapping[str, Any], key: str = "messages") -> bytes:
    message = {"content": [*parts]} | ({} if role is None else {"role": role})
    return json.dumps({key: [message]}).encode()


PICTURES = (
    {"type": "image_url", "image_url": {"url": IMAGE}},
    {"type": "image_url", "image_url": {"url": data_uri(IMAGE)}},
    {"type": "file", "file": {"file_id": IMAGE}},
)


@pytest.mark.parametrize("part", PICTURES)
@pytest.mark.parametrize("role", ["assistant", "system", "developer"])
async def test_media_in_a_message_whose_role_the_engine_passes_over_is_refused(
    executor: Executor, role: str, part: dict[str, Any]
) -> None:
    error = await bench_of(executor, Engine.LMDEPLOY).refusal(
        said_by(role, {"type": "text", "text": "?"}, part)
    )

    assert isinstance(error, NotTakenByEngine)
    assert error.param == "messages[0].content[1]"


@pytest.mark.parametrize(
    ("engine", "role"), [(Engine.LMDEPLOY, "tool"), (Engine.VLLM, "assistant")]
)
async def test_media_in_a_message_of_another_role_passes(
    executor: Executor, engine: Engine, role: str
) -> None:
    body = await bench_of(executor, engine).body(said_by(role, PICTURES[0]))

    assert json.loads(body)["messages"][0]["content"][0]["image_url"]["url"] == data_uri(IMAGE)


async def test_text_of_any_role_passes(executor: Executor) -> None:
    raw = said_by("assistant", {"type": "text", "text": "?"})

    assert await bench_of(executor, Engine.LMDEPLOY).body(raw) == raw


async def test_image_of_the_assistant_in_responses_is_refused_where_only_its_text_is_read(
    executor: Executor,
) -> None:
    raw = said_by("assistant", {"type": "output_text", "text": "?"}, IMAGE_BY_ID, key="input")

    error = await bench_of(executor, Engine.VLLM, dialect=RESPONSES).refusal(raw)

    assert isinstance(error, NotTakenByEngine)
    assert error.param == "input[0].content[1]"


MEDIA_BESIDE = [
    *({f"{kind}_data": name} for kind, name in (("image", IMAGE), ("video", VIDEO))),
    {"image_data": [IMAGE]},
    {"image_url": IMAGE},
    {"image_url": {"url": IMAGE}},
]


@pytest.mark.parametrize("beside", MEDIA_BESIDE)
@pytest.mark.parametrize("engine", sorted(set(Engine) - {Engine.AUTO, Engine.OPENAI}))
async def test_media_beside_the_messages_is_refused_by_whoever_reads_only_those(
    executor: Executor, engine: Engine, beside: dict[str, Any]
) -> None:
    message = {"role": "user", "content": "?"}

    for body in ({"messages": [message], **beside}, {"messages": [message | beside]}):
        error = await bench_of(executor, engine).refusal(json.dumps(body).encode())
        assert isinstance(error, NotTakenByEngine)
        assert "content part" in error.message


@pytest.mark.parametrize(
    ("engine", "read"),
    [(Engine.SGLANG, {"image_data", "video_data"}), (Engine.LMDEPLOY, {"image_data"})]
    + [(engine, set[str]()) for engine in (Engine.VLLM, Engine.LLAMA_SERVER, Engine.OLLAMA)],
)
async def test_media_beside_a_prompt_is_for_those_who_look_there(
    executor: Executor, engine: Engine, read: set[str]
) -> None:
    for key, name in (("image_data", IMAGE), ("video_data", VIDEO), ("image_url", IMAGE)):
        bench, raw = bench_of(executor, engine), json.dumps({"text": "?", key: name}).encode()
        if key in read:
            assert json.loads(await bench.body(raw))[key] == data_uri(name)
        else:
            assert isinstance(await bench.refusal(raw), NotTakenByEngine)


@pytest.mark.parametrize(
    ("base", "told"), [("http://8.8.8.8:8080", "data:"), (PUBLIC, f"{PUBLIC}/v1/media/")]
)
async def test_engine_that_fetches_by_https_only_gets_no_other_url(
    executor: Executor, base: str, told: str
) -> None:
    def deliver(leased: Leased, _came_in_at: object) -> Delivery:
        return Deliveries(UrlDelivery(leased, base=base, key=KEY), InlineDelivery())

    accepted = PROFILES[Engine.DYNAMO].accepted(openai_chat.find)
    bench = Bench(executor, deliver=deliver, accepted=accepted)

    body = await bench.body(chat({"type": "video_url", "video_url": {"url": VIDEO}}))

    assert json.loads(body)["messages"][0]["content"][0]["video_url"]["url"].startswith(told)


def said(role: str, *parts: Mapping[str, Any], key: str = "messages") -> dict[str, Any]:
    return {key: [{"role": role, "content": [*parts]}]}


def picture(source: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "image", "source": source}


FILE_SOURCE = picture({"type": "file", "file_id": IMAGE})
INLINE_PICTURE = picture({"type": "base64", "media_type": "image/png", "data": PICTURE})
ANSWER = {"type": "output_text", "text": "?"}

NOT_READ_BY_VLLM = [
    # dialect, what names a file where vLLM does not look, the same without a file
    *(
        (openai_chat.find, {"prompt": "?"} | named, {"prompt": "?"} | plain)
        for named, plain in (
            ({"image_url": {"url": IMAGE}}, {"image_url": {"url": URL}}),
            ({"image_url": IMAGE}, {"image_url": URL}),
            ({"image": IMAGE}, {"image": URL}),
            ({"image_data": [IMAGE]}, {"image_data": [URL]}),
        )
    ),
    (
        openai_chat.find,
        {"messages": [{"role": "user", "content": "?", "image_url": IMAGE}]},
        {"messages": [{"role": "user", "content": "?", "image_url": URL}]},
    ),
    (
        openai_chat.find,
        said("user", {"type": "text", "text": "?", "image_url": {"url": IMAGE}}),
        said("user", {"type": "text", "text": "?", "image_url": {"url": URL}}),
    ),
    (
        openai_chat.find,
        said("user", {"type": "video_url", "image_url": {"url": IMAGE}, "video_url": {"url": URL}}),
        said("user", {"type": "image_url", "image_url": {"url": URL}, "video_url": {"url": URL}}),
    ),
    (RESPONSES, {"input": "?", "image_url": IMAGE}, {"input": "?", "image_url": URL}),
    (
        RESPONSES,
        said("assistant", ANSWER, IMAGE_BY_ID, key="input"),
        said("assistant", ANSWER, IMAGE_WITH_DATA, key="input"),
    ),
    (MESSAGES, {"system": [FILE_SOURCE]}, {"system": [INLINE_PICTURE]}),
    (MESSAGES, said("system", FILE_SOURCE), said("system", INLINE_PICTURE)),
    (MESSAGES, said("assistant", result(FILE_SOURCE)), said("assistant", result(INLINE_PICTURE))),
]


@pytest.mark.parametrize(("dialect", "named", "plain"), NOT_READ_BY_VLLM)
async def test_file_is_refused_where_vllm_does_not_look_and_all_else_is_its_own_business(
    executor: Executor, dialect: Dialect, named: dict[str, Any], plain: dict[str, Any]
) -> None:
    """Inside vLLM, and in front of it."""
    vllm = PROFILES[Engine.VLLM]
    within = Bench(
        executor,
        dialect,
        deliver=lambda *_: HandleDelivery(handles=Handles()),
        accepted=vllm.accepted_by_handle(dialect),
    )
    raw = json.dumps(plain).encode()

    error = await within.refusal(json.dumps(named).encode(), judge=Judge.ENGINE)

    assert isinstance(error, NotTakenByEngine | InvalidReference)
    assert await within.body(raw, judge=Judge.ENGINE) == raw
    in_front = await bench_of(executor, Engine.VLLM, dialect=dialect).refusal(
        json.dumps(named).encode()
    )
    assert isinstance(in_front, NotTakenByEngine | InvalidReference)


@pytest.mark.parametrize("engine", [Engine.VLLM, Engine.SGLANG, Engine.LMDEPLOY, Engine.OLLAMA])
async def test_picture_in_the_system_prompt_of_messages_is_refused(
    executor: Executor, engine: Engine
) -> None:
    text = {"type": "text", "text": "?"}
    bench = bench_of(executor, engine, dialect=MESSAGES)

    error = await bench.refusal(json.dumps({"system": [text, INLINE_PICTURE]}).encode())

    assert isinstance(error, NotTakenByEngine)
    assert error.param == "system[1].type"
    raw = json.dumps({"system": [text], **said("user", INLINE_PICTURE)}).encode()
    assert await bench.body(raw) == raw


OF_MESSAGES = {
    *(Engine.VLLM, Engine.SGLANG, Engine.LMDEPLOY, Engine.LLAMA_SERVER, Engine.OLLAMA),
    *(Engine.MISTRAL_RS, Engine.LOCALAI, Engine.DYNAMO),
}


@pytest.mark.parametrize(
    ("engine", "is_result"),
    [(engine, False) for engine in sorted(OF_MESSAGES)]
    + [(engine, True) for engine in sorted(OF_MESSAGES - {Engine.LOCALAI, Engine.MISTRAL_RS})],
)
async def test_image_of_messages_goes_as_base64(
    executor: Executor, engine: Engine, is_result: bool
) -> None:
    """H76: whatever is set up; in what a tool returned too, unless that is text to the engine."""
    image = {"type": "image", "source": {"type": "file", "file_id": IMAGE}}
    told = {"type": "base64", "data": bare(IMAGE), "media_type": "image/png"}
    block = {"type": "image", "source": told}
    raw, expected = (chat(result(b) if is_result else b) for b in (image, block))

    body = await bench_of(executor, engine, "all", MESSAGES).body(raw)

    assert json.loads(body) == json.loads(expected)


@pytest.mark.parametrize(
    ("engine", "type_"),
    [
        (Engine.TRANSFORMERS, "input_file"),
        (Engine.LOCALAI, "input_audio"),
        (Engine.LOCALAI, "image_url"),
    ],
)
async def test_part_that_would_be_left_out_of_responses_is_refused(
    executor: Executor, engine: Engine, type_: str
) -> None:
    raw = json.dumps({"input": [{"role": "user", "content": [{"type": type_}]}]}).encode()

    error = await bench_of(executor, engine, dialect=RESPONSES).refusal(raw)

    assert isinstance(error, NotTakenByEngine)
    assert error.param == "input[0].content[0].type"


RESPONSES_TOLD = {
    Engine.VLLM: "file",
    Engine.SGLANG: "file",
    Engine.LLAMA_SERVER: "below",
    Engine.TRANSFORMERS: "bare",
    Engine.OLLAMA: "data",
    Engine.MISTRAL_RS: "data",
    Engine.LOCALAI: "data",
    Engine.DYNAMO: "data",
    Engine.LMDEPLOY: None,
}


@pytest.mark.parametrize(("engine", "source"), RESPONSES_TOLD.items())
@pytest.mark.parametrize("type_", ["input_image", "input_file"])
async def test_image_of_responses_is_told_as_its_engine_wants_it(
    executor: Executor, engine: Engine, source: str | None, type_: str
) -> None:
    """H75: an `input_file` becomes an `input_image`, also where one that stays would be left out."""
    part = {"type": type_, "file_id": IMAGE, "detail": "low"}
    raw = json.dumps({"input": [{"role": "user", "content": [part]}]}).encode()
    bench = bench_of(executor, engine, "all", RESPONSES)

    if source is None:
        error = await bench.refusal(raw)
        assert isinstance(error, NotTakenByEngine)
        assert "only text" in error.message
        return
    (told,) = json.loads(await bench.body(raw))["input"][0]["content"]

    media = await media_of(IMAGE, source, "all")
    assert told == {"type": "input_image", "image_url": media, "detail": "low"}


async def test_file_of_a_kind_that_the_place_does_not_take_is_the_clients_mistake(
    executor: Executor,
) -> None:
    error = await bench_of(executor, Engine.TGI).refusal(
        chat({"type": "image_url", "image_url": {"url": VIDEO}})
    )

    assert isinstance(error, MediaKindMismatch)


# beside the messages ----------------------------------------------------------------------------------------


async def test_images_beside_the_messages_are_told_in_their_place(executor: Executor) -> None:
    raw = f'{{"text":"?", "image_data" : ["{IMAGE}" ],"video_data":"{VIDEO}"}}'.encode()

    body = await bench_of(executor, Engine.SGLANG, "path").body(raw)

    first, second = (f"file://{LINKS}/{n:036x}".encode() for n in (1, 0))
    assert body == raw.replace(IMAGE.encode(), first).replace(VIDEO.encode(), second)


# limits -----------------------------------------------------------------------------------------------------


def with_picture_of(bench: Bench, size_bytes: int) -> Bench:
    """Only its length is ever looked at."""
    bench.store.files[IMAGE] = replace(a_file(IMAGE), size_bytes=size_bytes)
    return bench


ONE = chat({"type": "image_url", "image_url": {"url": IMAGE}})
TWO = chat(*[{"type": "image_url", "image_url": {"url": IMAGE}}] * 2)


async def told_of(bench: Bench, raw: bytes) -> list[str]:
    """How each URL begins, without any file being read."""
    resolved = await bench.resolve(raw)
    pieces = b"".join(piece if isinstance(piece, bytes) else b"..." for piece in resolved.pieces)
    await resolved.close()
    parts = json.loads(pieces)["messages"][0]["content"]
    return [part["image_url"]["url"].partition(":")[0] for part in parts]


@pytest.mark.parametrize(
    ("engine", "most"),
    [
        (Engine.LLAMA_SERVER, 100 * MIB),
        (Engine.MISTRAL_RS, 50 * MIB),
        (Engine.TGI, 2_000_000),
        (Engine.LOCALAI, 15_000_000),
        (Engine.DYNAMO, 16 * MIB),
    ],
)
async def test_file_that_makes_the_request_longer_than_the_engine_takes_is_refused(
    executor: Executor, engine: Engine, most: int
) -> None:
    bench = bench_of(executor, engine)

    below = await told_of(with_picture_of(bench, most // 4 * 3 - 2048), ONE)
    error = await with_picture_of(bench, most // 4 * 3).refusal(ONE)

    assert below == ["data"]

    assert isinstance(error, BodyTooLarge)
    assert error.param == "messages[0].content[0].image_url.url"
    assert PROFILES[engine].title in error.message


async def test_files_of_one_request_are_counted_together(executor: Executor) -> None:
    bench = with_picture_of(bench_of(executor, Engine.TGI), 900_000)

    one, error = await told_of(bench, ONE), await bench.refusal(TWO)

    assert one == ["data"]
    assert isinstance(error, BodyTooLarge)
    assert error.param == "messages[0].content[1].image_url.url"


async def test_only_so_many_media_are_written_anew(executor: Executor) -> None:
    """Each of them costs more than it cost to send it."""
    bench = bench_of(executor, Engine.TGI)
    parts = [{"type": "image_url", "image_url": "https://a.com/x"}] * (MAX_REFERENCES + 1)

    error = await bench.refusal(chat(*parts))

    assert isinstance(error, InvalidValue)
    assert error.param == f"messages[0].content[{MAX_REFERENCES}].image_url"
    assert b'{"url":"https://a.com/x"}' in await bench.body(chat(*parts[1:]))


async def test_first_file_fits_and_the_next_goes_by_url(executor: Executor) -> None:
    """With the gateway at a private address `inline` comes first; what has no room any more is fetched."""
    bench = Bench(
        executor,
        deliver=lambda leased, _: Deliveries(
            InlineDelivery(), UrlDelivery(leased, base=PRIVATE, key=KEY)
        ),
        accepted=PROFILES[Engine.TGI].accepted(openai_chat.find),
    )

    assert await told_of(with_picture_of(bench, 900_000), TWO) == ["data", "http"]


@pytest.mark.parametrize(
    ("engine", "most"),
    [
        (Engine.VLLM, 256 * MIB),
        (Engine.SGLANG, 64 * MIB),
        (Engine.LLAMA_SERVER, 10 * MIB),
        (Engine.MISTRAL_RS, 64 * MIB),
        (Engine.TGI, 1024 * MIB),
        (Engine.DYNAMO, 64 * MIB),
    ],
)
async def test_file_that_is_larger_than_the_engine_fetches_goes_another_way(
    executor: Executor, engine: Engine, most: int
) -> None:
    bench = bench_of(executor, engine, "public url")

    assert await told_of(with_picture_of(bench, most), ONE) == ["https"]

    with_picture_of(bench, most + 1)
    if (PROFILES[engine].max_body_bytes or most * 2) < most * 4 // 3:
        assert isinstance(await bench.refusal(ONE), BodyTooLarge)
    else:
        assert await told_of(bench, ONE) == ["data"]


@pytest.mark.parametrize(
    "engine",
    [engine for engine, kind in ROWS if kind == "image" and ROWS[engine, kind].path != "-"],
)
async def test_file_of_any_size_goes_by_its_path(executor: Executor, engine: Engine) -> None:
    bench = with_picture_of(bench_of(executor, engine, "all"), 1 << 40)

    (start,) = await told_of(bench, ONE)

    assert start in {"file", f"{LINKS}/{'0' * 36}"}


@pytest.mark.parametrize("engine", [Engine.OLLAMA, Engine.DYNAMO])
async def test_image_of_a_type_that_the_engine_does_not_decode_is_refused(
    executor: Executor, engine: Engine
) -> None:
    part = {"type": "file", "file": {"file_id": GIF}}

    error = await bench_of(executor, engine).refusal(chat(part))

    assert isinstance(error, NotTakenByEngine)
    assert "image/png" in error.message
    assert error.param == "messages[0].content[0].file.file_id"


async def test_sound_that_openais_part_has_no_name_for_goes_by_url(executor: Executor) -> None:
    parts = [{"type": "input_audio", "input_audio": {"data": name}} for name in (MP3, M4A)]

    body = await bench_of(executor, Engine.SGLANG).body(chat(*parts))

    assert json.loads(body)["messages"][0]["content"] == [
        {"type": "input_audio", "input_audio": {"data": bare(MP3), "format": "mp3"}},
        {"type": "audio_url", "audio_url": {"url": data_uri(M4A)}},
    ]


# the table --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "endpoint"),
    [(engine, path) for engine, profile in PROFILES.items() for path in profile.endpoints],
)
def test_every_endpoint_that_reads_media_is_read_here(engine: Engine, endpoint: str) -> None:
    for path in (endpoint, f"/root{endpoint}" if endpoint != "/" else "//", endpoint.upper()):
        assert media_dialect("POST", path.encode()) is not None


def _remedies(profile: Profile) -> tuple[bool, bool]:
    said = profile.accepted(openai_chat.find).remedies
    return "--media-path" in said, "--advertise-url" in said


@pytest.mark.parametrize("engine", PROFILES)
def test_operator_is_told_only_of_what_would_help(engine: Engine) -> None:
    rows = [told for (each, _), told in ROWS.items() if each is engine]

    by_path = any(told.path != "-" for told in rows)
    by_url = any(told.url != "-" for told in rows) or engine is Engine.OPENAI
    assert _remedies(PROFILES[engine]) == (by_path, by_url)


# whatever is asked ------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=5) | st.sampled_from(['"', "\\", "é", VIDEO])
ASKED = st.sampled_from(
    [(kind, name) for kind in FILES for name, form in FORMS.items() if kind in form.kinds.split()]
)


@given(
    st.sampled_from(ENGINES),
    st.sampled_from(sorted(SETUPS)),
    st.lists(st.tuples(ASKED, TEXTS), max_size=4),
    st.sampled_from([None, 1]),
    st.booleans(),
)
async def test_whatever_is_translated_is_one_strict_object_that_says_the_same(
    engine: Engine,
    setup: str,
    asked: list[tuple[tuple[str, str], str]],
    indent: int | None,
    ascii_only: bool,
) -> None:
    asked = [
        ((kind, name), text)
        for (kind, name), text in asked
        if chosen(ROWS.get((engine, kind), Told()), setup, prefers_base64="input_audio" in name)
    ]
    content: list[Any] = []
    expected: list[Any] = []
    ids = sorted({FILES[kind] for (kind, _), _ in asked})
    for (kind, name), text in asked:
        form, told = FORMS[name], ROWS[engine, kind]
        source = chosen(told, setup, prefers_base64="input_audio" in name)
        assert source
        media = await media_of(FILES[kind], source, setup)
        is_audio = source == "base64" or (engine, kind) == (Engine.LLAMA_SERVER, "audio")
        written = form.as_audio if is_audio else form.as_url
        for parts, template, value in (
            (content, form.client, FILES[kind]),
            (expected, written, _nth(media, ids.index(FILES[kind]))),
        ):
            part = json.loads(template.replace("K", kind).replace("@", value))
            parts.append(part | {"said": text})
    text = json.dumps({"messages": [{"content": content}]}, indent=indent, ensure_ascii=ascii_only)
    executor = Executor("parse", threads=1)

    body = await bench_of(executor, engine, setup).body(text.encode())

    executor.close()
    (message,) = parse_object(body)["messages"]
    for got, wanted in zip(message["content"], expected, strict=True):
        assert _unsigned(got) == _unsigned(wanted)


def _nth(media: str, n: int) -> str:
    """What names the file that is the n-th of its lease, where that can be seen."""
    return media.removesuffix("0" * 36) + f"{n:036x}" if media.endswith("0" * 36) else media


def _unsigned(part: dict[str, Any]) -> str:
    """A URL's token says where a file stands in its lease, and is signed: what is before it is looked at."""
    text = json.dumps(part, sort_keys=True)
    head, found, tail = text.partition("/v1/media/")
    return head + found + tail[100:]
