"""What an engine takes, and how a part becomes one that it understands: whichever engine that is."""

import base64
import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediagate.core.engines import Engine
from mediagate.core.errors import InvalidReference, NotTakenByEngine
from mediagate.core.files import MediaKind
from mediagate.dialects import openai_chat
from mediagate.dialects.fields import Form
from mediagate.dialects.parts import (
    ANYTHING,
    Accepted,
    Part,
    Site,
    Source,
    content_parts,
    refuse_dropped,
    refuse_mistyped,
    refuse_unread,
    site_of,
    spellings,
    type_of,
)
from mediagate.dialects.strict_json import Path, parse_object
from mediagate.executor import Executor
from resolving import IMAGE, VIDEO, WAV, Bench, chat, data_uri, png, wav

IMAGES, SOUNDS = MediaKind.IMAGE, MediaKind.AUDIO
SOUND = base64.b64encode(wav()).decode()
PICTURE = base64.b64encode(png()).decode()


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    executor = Executor("parse", threads=1)
    yield executor
    executor.close()


def accepted(**parts: Sequence[Part]) -> Accepted:
    return Accepted(engine="It", parts={MediaKind(kind): each for kind, each in parts.items()})


# sources ----------------------------------------------------------------------------------------------------


def test_ways_are_what_the_setting_calls_them() -> None:
    ways: dict[str, set[Source]] = {}
    for source in Source:
        ways.setdefault(source.way, set()).add(source)

    assert ways == {
        "handle": {Source.HANDLE},
        "path": {Source.FILE_URL, Source.PATH, Source.MEDIA_DIR_URL},
        "url": {Source.PUBLIC_HTTPS_URL, Source.PUBLIC_URL, Source.HTTP_URL},
        "inline": {Source.DATA_URI, Source.BASE64},
    }


@pytest.mark.parametrize("source", Source)
def test_only_base64_fits_where_base64_is_taken(source: Source) -> None:
    assert source.fits(Form.BASE64) is (source in {Source.BASE64, Source.HANDLE})
    assert source.fits(Form.URI) is (source is not Source.BASE64)


def test_names_of_engines_are_what_a_user_would_type() -> None:
    assert all(engine.value == engine.value.lower().replace(" ", "-") for engine in Engine)


# where a part is --------------------------------------------------------------------------------------------


def part_at(*path: str | int) -> tuple[dict[str, Any], Path]:
    """A body in which a part stands at that path, and the path of its URL."""
    value: Any = {"type": "image_url", "image_url": {"url": "u"}}
    for step in reversed(path):
        value = [value] if isinstance(step, int) else {step: value}
    return value, (*path, "image_url", "url")


@pytest.mark.parametrize("key", ["content", "CONTENT", "input", "output", "prompt", "system"])
def test_part_is_in_what_holds_parts(key: str) -> None:
    body, path = part_at("messages", 0, key, 0)

    site = site_of(body, path)

    assert site is not None
    assert (site.name, site.path, site.value) == ("image_url", path[:-2], path)
    assert site.media == {"url": "u"}


@pytest.mark.parametrize("path", [("image_data",), ("image_data", 0), ("messages", 0), ("x", 0)])
def test_media_beside_the_parts_is_in_none(path: Sequence[str | int]) -> None:
    body, at = part_at(*path)

    assert site_of(body, at) is None


@pytest.mark.parametrize(
    ("part", "value", "name"),
    [
        ({"type": "image_url", "image_url": "u"}, ("image_url",), "image_url"),
        ({"type": "input_image", "file_id": "u"}, ("file_id",), "file_id"),
        ({"type": "image_url", "url": "u"}, ("url",), "url"),
        ({"type": "file", "file": {"file_id": "u"}}, ("file", "file_id"), "file"),
    ],
)
def test_part_is_found_from_whatever_names_the_media(
    part: dict[str, Any], value: Path, name: str
) -> None:
    here: Path = ("messages", 0, "content", 0)

    site = site_of({"messages": [{"content": [part]}]}, (*here, *value))

    assert site is not None
    assert (site.name, site.path) == (name, here)
    assert site.part is part


def test_value_that_is_deeper_than_a_part_has_it_is_in_none() -> None:
    body = {"messages": [{"content": [{"image_url": {"url": {"url": "u"}}}]}]}

    assert site_of(body, ("messages", 0, "content", 0, "image_url", "url", "url")) is None


# what can be said -------------------------------------------------------------------------------------------


def test_own_spelling_comes_first_wherever_it_is_in_the_list() -> None:
    takes = accepted(
        audio=[Part("audio_url", [Source.DATA_URI]), Part("input_audio", [Source.BASE64])]
    )
    body = json.loads(chat({"type": "input_audio", "input_audio": {"data": WAV}}))
    (field,) = openai_chat.find(body)

    first, second = spellings(takes, field, site_of(body, field.path), SOUNDS)

    assert (first.sources, first.is_own) == ([Source.BASE64], True)
    assert (second.sources, second.is_own) == ([Source.DATA_URI], False)
    assert first.edits() == field.edits


def test_what_nobody_knows_of_is_said_as_the_client_says_it() -> None:
    body = json.loads(chat({"type": "input_audio", "input_audio": {"data": WAV}}))
    (field,) = openai_chat.find(body)

    (only,) = spellings(ANYTHING, field, site_of(body, field.path), SOUNDS)

    assert only.is_own
    assert only.sources == [Source.HANDLE, Source.BASE64]


def test_beside_the_parts_only_what_fits_its_form_can_be_said() -> None:
    takes = accepted(image=[Part("image_url", [Source.FILE_URL, Source.DATA_URI, Source.BASE64])])
    body = {"image_data": IMAGE}
    (field,) = openai_chat.find(body)

    (only,) = spellings(takes, field, None, IMAGES)
    (anything,) = spellings(ANYTHING, field, None, IMAGES)

    assert only.sources == [Source.FILE_URL, Source.DATA_URI]
    assert Source.BASE64 not in anything.sources


@pytest.mark.parametrize(
    ("takes", "known"),
    [
        (accepted(), "only text"),
        (accepted(image=[Part("image_url", [Source.DATA_URI])]), "only images"),
        (
            accepted(
                image=[Part("image_url", [Source.DATA_URI])],
                audio=[Part("audio_url", [Source.DATA_URI])],
            ),
            "only images and audio",
        ),
    ],
)
async def test_kind_that_is_not_taken_is_refused_with_those_that_are(
    executor: Executor, takes: Accepted, known: str
) -> None:
    for part in (
        {"type": "video_url", "video_url": {"url": VIDEO}},
        {"type": "file", "file": {"file_id": VIDEO}},
        {"type": "video_url", "video_url": {"url": data_uri(VIDEO)}},
        {"type": "video_url", "video_url": "https://example.com/a.mp4"},
    ):
        error = await Bench(executor, accepted=takes).refusal(chat(part))

        assert isinstance(error, NotTakenByEngine)
        assert error.message == f"It takes no videos here, {known}."
        assert str(error.param).startswith("messages[0].content[0].")


async def test_source_that_is_not_taken_is_refused_with_what_to_do(executor: Executor) -> None:
    takes = accepted(image=[Part("image_url", [Source.FILE_URL])])
    part = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}

    error = await Bench(executor, accepted=takes).refusal(chat(part))

    assert isinstance(error, NotTakenByEngine)
    assert "POST /v1/files" in error.message
    assert error.param == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize("given_format", [{}, {"format": "ogg"}])
async def test_uri_where_base64_is_taken_loses_its_head(
    executor: Executor, given_format: dict[str, str]
) -> None:
    takes = accepted(audio=[Part("input_audio", [Source.BASE64])])
    sound = {"data": f"data:audio/wav;base64,{SOUND}", **given_format}

    body = await Bench(executor, accepted=takes).body(
        chat({"type": "input_audio", "input_audio": sound})
    )

    told = {"data": SOUND, "format": "wav"}
    assert json.loads(body) == json.loads(chat({"type": "input_audio", "input_audio": told}))


# what would be left out -------------------------------------------------------------------------------------


def test_parts_are_found_in_messages_items_and_results() -> None:
    one, two, three = {"type": "a"}, {"type": "b"}, {"type": "c"}
    body = {
        "messages": ["?", {"content": "text"}, {"content": [one, "x", {"content": [two]}]}],
        "input": [{"content": [three]}],
        "prompt": [{"content": [{"type": "d"}]}],
    }

    assert [part for _, part in content_parts(body)] == [one, {"content": [two]}, two, three]
    assert [path for path, _ in content_parts(body)][2] == (
        *("messages", 2, "content", 2, "content", 0),
    )


@pytest.mark.parametrize(
    ("part", "expected"),
    [({"type": "text"}, "text"), ({}, ""), ({"type": None}, ""), ({"type": ["text"]}, "")],
)
def test_type_is_a_string_or_none(part: Mapping[str, Any], expected: str) -> None:
    assert type_of(part) == expected


def test_nothing_is_left_out_by_an_engine_that_refuses_itself() -> None:
    body = json.loads(chat({"type": "nonsense"}, {"type": "tool_result", "content": [{}]}))

    refuse_dropped(body, ANYTHING, {})


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "nonsense"}, "messages[0].content[0].type"),
        (
            {"type": "text", "content": [{"type": "text"}, {"type": "image"}]},
            "messages[0].content[0].content[1].type",
        ),
    ],
)
def test_part_that_would_be_left_out_is_refused_with_its_place(
    part: dict[str, Any], param: str
) -> None:
    takes = Accepted(
        engine="It",
        parts={},
        types=frozenset({"text", "image"}),
        result_types=frozenset({"text"}),
    )

    with pytest.raises(NotTakenByEngine) as caught:
        refuse_dropped(json.loads(chat(part)), takes, {})

    assert caught.value.param == param


def test_results_are_judged_where_messages_are_not() -> None:
    result = {"type": "tool_result", "content": [{"type": "document"}]}
    takes = Accepted(engine="It", parts={}, result_types=frozenset({"text"}))

    refuse_dropped(json.loads(chat({"type": "document"})), takes, {})
    with pytest.raises(NotTakenByEngine):
        refuse_dropped(json.loads(chat(result)), takes, {})


@pytest.mark.parametrize("becomes", ["image_url", None])
def test_part_that_becomes_another_is_not_left_out(becomes: str | None) -> None:
    takes = Accepted(engine="It", parts={}, types=frozenset({"image_url"}))
    written: dict[Path, str | None] = {("messages", 0, "content", 0): becomes}

    refuse_dropped(json.loads(chat({"type": "file"})), takes, written)


def responses(*items: object) -> dict[str, Any]:
    return {"input": list(items)}


taking = partial(Accepted, engine="It", parts={})
TEXT = frozenset({"input_text"})
OUTPUT = {"type": "function_call_output", "output": [{"type": "input_text"}, {"type": "image"}]}


@pytest.mark.parametrize(
    ("takes", "body", "param"),
    [
        (taking(result_types=TEXT), responses(OUTPUT), "input[0].output[1].type"),
        (taking(flat_types=TEXT), responses({"type": "image"}), "input[0].type"),
        (taking(flat_types=frozenset()), responses("?", {"type": "input_text"}), "input[1].type"),
    ],
)
def test_part_of_responses_is_judged_where_it_stands(
    takes: Accepted, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(NotTakenByEngine) as caught:
        refuse_dropped(body, takes, {})

    assert caught.value.param == param


def test_what_is_no_part_of_responses_is_left_alone() -> None:
    takes = Accepted(engine="It", parts={}, types=frozenset(), flat_types=frozenset())
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text"}]}
    items = [{"role": "user", "content": "?"}, {"type": "function_call"}, thought]

    refuse_dropped(responses(*items, {"type": "function_call_output", "output": "?"}), takes, {})


@pytest.mark.parametrize(
    ("source", "is_read"),
    [
        ({"type": "url", "url": "https://a.com/x"}, True),
        ({"type": "file", "file_id": "file-1"}, True),
        ({"type": "url", "data": "x"}, False),
        ({"type": "base64", "data": "x"}, False),
        (None, False),
    ],
)
def test_image_whose_source_is_not_read_is_refused(source: object, is_read: bool) -> None:
    takes = Accepted(engine="It", parts={}, source_types=frozenset({"url"}))
    body = json.loads(chat({"type": "image", "source": source}))

    if is_read:
        refuse_dropped(body, takes, {})
        return
    with pytest.raises(NotTakenByEngine) as caught:
        refuse_dropped(body, takes, {})
    assert caught.value.param == "messages[0].content[0].source"
    assert '{"type": "url", "url": "…"}' in caught.value.message


@pytest.mark.parametrize(
    ("role", "is_read"), [("user", True), ("assistant", False), (None, True), (7, True)]
)
def test_media_is_refused_in_messages_where_it_is_not_looked_for(
    role: object, is_read: bool
) -> None:
    takes = Accepted(engine="It", parts={}, media_roles=frozenset({"user"}))
    content = [{"type": "text"}, {"type": "image_url"}]
    body = {"messages": [{"role": role, "content": content}], "input": [OUTPUT]}

    if is_read:
        refuse_dropped(body, takes, {})
        return
    with pytest.raises(NotTakenByEngine) as caught:
        refuse_dropped(body, takes, {})
    assert caught.value.param == "messages[0].content[1]"


@pytest.mark.parametrize(
    ("path", "is_read"),
    [
        (("image_data",), True),
        (("image_data", 0), True),
        (("image_url", "url"), False),
        (("messages", 0, "image_data"), False),
        (("messages", 0, "content", 0, "file_id"), True),
        (("messages", 0, "content", 0, "url"), True),
        (("documents", 0, "image"), True),
    ],
)
def test_media_beside_the_prompt_is_refused_where_it_is_not_looked_for(
    path: Path, is_read: bool
) -> None:
    takes = Accepted(engine="It", parts={}, beside=frozenset({"image_data"}))

    refuse_unread({}, ANYTHING, path)
    if is_read:
        refuse_unread({}, takes, path)
        return
    with pytest.raises(NotTakenByEngine):
        refuse_unread({}, takes, path)


def test_media_beside_messages_is_looked_for_nowhere() -> None:
    takes = Accepted(engine="It", parts={}, beside=frozenset({"image_data"}))

    with pytest.raises(NotTakenByEngine):
        refuse_unread({"messages": []}, takes, ("image_data",))


def test_block_of_the_system_prompt_is_judged_by_itself() -> None:
    takes = Accepted(engine="It", parts={}, system_types=frozenset({"text"}))

    refuse_dropped({"system": [{"type": "text"}]}, takes, {})
    with pytest.raises(NotTakenByEngine) as caught:
        refuse_dropped({"system": [{"type": "text"}, {"type": "image"}]}, takes, {})

    assert caught.value.param == "system[1].type"


def test_engine_that_guards_itself_is_spared_only_what_names_files() -> None:
    takes = Accepted(engine="It", parts={}, types=frozenset(), guards_itself=True)
    body = json.loads(chat({"type": "image_url"}, {"type": "image_url"}))

    refuse_dropped(body, takes, {})
    with pytest.raises(NotTakenByEngine) as caught:
        refuse_dropped(body, takes, {}, [("messages", 0, "content", 1, "image_url", "url")])

    assert caught.value.param == "messages[0].content[1].type"


def test_text_that_names_a_file_is_refused_whoever_reads_it() -> None:
    body = json.loads(chat({"type": "text", "image_url": IMAGE}))

    refuse_dropped(body, ANYTHING, {})
    with pytest.raises(InvalidReference) as caught:
        refuse_dropped(body, ANYTHING, {}, [("messages", 0, "content", 0, "image_url")])

    assert caught.value.param == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("type_", "kind", "is_refused"),
    [
        ("image_url", MediaKind.IMAGE, False),
        ("input_image", MediaKind.IMAGE, False),
        ("video_url", MediaKind.IMAGE, True),
        ("file", MediaKind.IMAGE, False),
        ("video_url", None, False),
    ],
)
def test_part_whose_type_is_of_other_media_is_refused(
    type_: str, kind: MediaKind | None, is_refused: bool
) -> None:
    path: Path = ("messages", 0, "content", 0)
    site = Site(path, {"type": type_, "image_url": IMAGE}, "image_url", (*path, "image_url"))

    if not is_refused:
        refuse_mistyped(site, kind)
        return
    with pytest.raises(InvalidReference) as caught:
        refuse_mistyped(site, kind)
    assert caught.value.param == "messages[0].content[0].image_url"


def test_part_that_becomes_one_that_is_left_out_is_refused() -> None:
    takes = Accepted(engine="It", parts={}, types=frozenset({"file"}))
    written: dict[Path, str | None] = {("messages", 0, "content", 0): "image_url"}

    with pytest.raises(NotTakenByEngine):
        refuse_dropped(json.loads(chat({"type": "file"})), takes, written)


# two in one part --------------------------------------------------------------------------------------------


TAKES_URLS = accepted(
    **{kind: [Part(f"{kind}_url", [Source.DATA_URI])] for kind in ("image", "audio", "video")}
)


async def test_part_that_names_two_media_is_refused_where_one_would_be_written_over(
    executor: Executor,
) -> None:
    part = {"input_audio": {"data": WAV}, "input_video": {"data": VIDEO}, "type": "x"}

    error = await Bench(executor, accepted=TAKES_URLS).refusal(chat(part))

    assert isinstance(error, InvalidReference)
    assert error.param == "messages[0].content[0].input_video.data"


async def test_name_in_the_engines_cache_is_no_second_medium(executor: Executor) -> None:
    part = {"type": "image_url", "image_url": IMAGE, "uuid": "u"}

    body = await Bench(executor, accepted=TAKES_URLS).body(chat(part))

    assert json.loads(body) == json.loads(
        chat({"type": "image_url", "image_url": {"url": data_uri(IMAGE)}, "uuid": "u"})
    )


# whichever engine, whatever it is asked ---------------------------------------------------------------------

FILES = {"image": IMAGE, "audio": WAV, "video": VIDEO}
KINDS = st.sampled_from(sorted(FILES))
TEXTS = st.text(max_size=4) | st.sampled_from(['"', "\\", "é", "url", VIDEO])


@st.composite
def engines(draw: st.DrawFn) -> dict[str, list[str]]:
    """By kind, the names of the parts that it takes: `K_url` with `data:`, `input_audio` with base64."""
    return {
        kind: draw(
            st.lists(
                st.sampled_from([f"{kind}_url", "input_audio"][: 2 if kind == "audio" else 1]),
                min_size=1,
                unique=True,
            )
        )
        for kind in FILES
    }


@st.composite
def parts(draw: st.DrawFn) -> tuple[str, dict[str, Any], str, str, bool]:
    """Its kind, the part, the key of its media, the key within, whether they are the client's own."""
    kind = draw(KINDS)
    inner = draw(st.sampled_from(["url", "data", "file_id", ""]))
    is_own = inner in {"url", ""} and kind != "video" and draw(st.booleans())
    name = {
        "url": f"{kind}_url",
        "": f"{kind}_url",
        "data": "input_video" if kind == "video" else "input_audio",
        "file_id": "file",
    }[inner]
    if inner == "data" and kind == "image":
        inner, name = "file_id", "file"
    value = _sent(kind) if is_own else FILES[kind]
    media: Any = value
    if inner:
        members = {inner: value, **draw(st.dictionaries(st.sampled_from(["detail", "é"]), TEXTS))}
        media = {key: members[key] for key in draw(st.permutations(sorted(members)))}
    has_type = name == "file" or draw(st.booleans())
    whole = {name: media, "said": draw(TEXTS)} | ({"type": name} if has_type else {})
    part = {key: whole[key] for key in draw(st.permutations(sorted(whole)))}
    return kind, part, name, inner, is_own


def _sent(kind: str) -> str:
    return (
        f"data:image/png;base64,{PICTURE}" if kind == "image" else f"data:audio/wav;base64,{SOUND}"
    )


def translated(
    part: dict[str, Any], kind: str, name: str, inner: str, target: str, media: str
) -> dict[str, Any]:
    """The same on the parsed part, in another way than the program goes."""
    part = copy.deepcopy(part)
    old = part.pop(name)
    members = dict(old) if isinstance(old, dict) else {}
    members.pop(inner, None)
    members["data" if target == "input_audio" else "url"] = media
    if target == "input_audio":
        members["format"] = "wav"
    part[target] = members
    if "type" in part:
        part["type"] = target
    return part


@settings(max_examples=300)
@given(
    engines(),
    st.lists(parts(), max_size=4),
    st.sampled_from([None, 1]),
    st.booleans(),
)
async def test_translation_is_one_strict_object_that_says_the_same(
    takes: dict[str, list[str]],
    asked: list[tuple[str, dict[str, Any], str, str, bool]],
    indent: int | None,
    ascii_only: bool,
) -> None:
    expected = []
    for kind, part, name, inner, is_own in asked:
        names = takes[kind]
        is_written = name in names and inner in {"url", "data"}
        meant = f"{kind}_url" if name == "file" else name
        target = meant if meant in names else names[0]
        if is_own:  # `data:` where that is taken
            target = f"{kind}_url" if f"{kind}_url" in names else "input_audio"
            if is_written and target == name:
                expected.append(part)
                continue
        text = _sent(kind) if is_own else data_uri(FILES[kind])
        media = text.partition(",")[2] if target == "input_audio" else text
        expected.append(translated(part, kind, name, inner, target, media))
    body = {"messages": [{"content": [part for _, part, *_ in asked]}]}
    raw = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()
    executor = Executor("parse", threads=1)
    engine = accepted(
        **{
            kind: [
                Part(name, [Source.BASE64 if name == "input_audio" else Source.DATA_URI])
                for name in names
            ]
            for kind, names in takes.items()
        }
    )

    got = await Bench(executor, accepted=engine).body(raw)

    executor.close()
    assert parse_object(got) == {"messages": [{"content": expected}]}
    if expected == [part for _, part, *_ in asked]:
        assert got == raw
