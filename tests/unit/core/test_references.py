import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediagate.core.errors import InvalidReference, SourceNotAllowed
from mediagate.core.files import FileId
from mediagate.core.references import (
    AttachmentReference,
    Base64Reference,
    DataReference,
    FileReference,
    UrlReference,
    looks_like_reference,
    names_a_file,
    names_a_handle,
    parse_data_reference,
    parse_file_reference,
    parse_media_reference,
    parse_stored_reference,
)

ID = "file-0123456789abcdef0123456789abcdef"
PARAM = "messages[0].content[1].image_url.url"

PATHS_AND_SCHEMES = [
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:///etc/passwd",
    "File://localhost/etc/passwd",
    "file:/etc/passwd",
    " file:///etc/passwd",
    "\tfile:///etc/passwd",
    "\nfile:///etc/passwd",
    "\x00file:///etc/passwd",
    "\ufefffile:///etc/passwd",
    "ﬁle:///etc/passwd",
    "\uff46\uff49\uff4c\uff45:///etc/passwd",
    "/etc/passwd",
    "etc/passwd",
    "./clip.mp4",
    "../../etc/passwd",
    "~/clip.mp4",
    "C:\\clip.mp4",
    "\\\\host\\share\\clip.mp4",
    "//host/clip.mp4",
    "ftp://host/clip.mp4",
    "s3://bucket/clip.mp4",
    "gs://bucket/clip.mp4",
    "hf://model/clip.mp4",
    "rtsp://host/stream",
    "concat:/etc/passwd|/etc/shadow",
    "file%3A///etc/passwd",
    "file:%2F%2F%2Fetc%2Fpasswd",
    "%66ile:///x",
    "%66%69%6C%65%3a///x",
    "%2566ile:///x",
    "%2Fetc%2Fpasswd",
    "..%2f..%2fetc",
    "%2e%2e/etc/passwd",
    "data%3Aimage/png;base64,AAAA",
    "https%3A//host/clip.mp4",
    "pipe:0",
    "javascript:alert(1)",
    "blob:https://host/x",
    "jar:file:///x!/y",
    "url:file:///etc/passwd",
    "view-source:http://host/",
    "mediagate-media:00112233445566778899aabbccddeeff",
    "",
    " ",
    "iVBORw0KGgo=",
]

FOREIGN_URLS = [
    "http:/\\host",
    "http:\\\\host",
    "http:/host/clip.mp4",
    "http:host",
    "http://",
    "http:///etc/passwd",
    "http://?x",
    "http://#x",
    "http://host\\@evil/",
    "http://host/a\\b",
    "http://host/a b",
    " http://host/",
    "http://host/ ",
    "http://host/\n",
    "\nhttp://host/",
    "http://host/\x00",
    "http://host/\x7f",
    "http://host/\u0085x",
    "http://host/\u2028x",
    "http://host\uff0fevil/",
    "http://h<ost/",
    'http://h"ost/',
    "HTTP://host/clip.mp4",
    "Https://host/clip.mp4",
    "http\u017f://host/clip.mp4",
    "https//host/clip.mp4",
    "https://user:word@host/clip.mp4",
    "https://host?x",
]

FOREIGN_DATA = [
    "data:",
    "data:image/png",
    "data:image/png;base64",
    "data:image/png,abc",
    "data:,abc",
    "DATA:image/png;base64,AAAA",
    " data:image/png;base64,AAAA",
    "data:image/png;BASE64,AAAA",
    "data:image/../png;base64,AAAA",
    "data:../../etc/passwd;base64,AAAA",
    "data:/../../etc/passwd;base64,",
    "data:image/png;base64,/../../etc/passwd",
    "data:image/png;base64,AA%2e%2e",
    "data:image/png;x=/../;base64,AAAA",
    "data:image/png;base64,AAAA\x00",
    "data:image/png;base64,\uff21\uff21\uff21\uff21",
    "data:image/png;base64,AAAA\ud800",
    "data:image\u017f/png;base64,AAAA",
]

MALFORMED_IDS = [
    "file-",
    "file-abc",
    ID[:-1],
    ID + "0",
    ID.upper(),
    "file-" + "A" * 32,
    "file-" + "\u0660" * 32,
    "file-" + "0" * 31 + "\uff10",
    ID + "\n",
    " " + ID,
    "\t" + ID,
    "vllm-file://",
    "vllm-file:",
    "vllm-file:/" + ID,
    "vllm-file:" + ID,
    "vllm-file:///" + ID,
    "vllm-file://../x",
    "vllm-file://" + ID + "/../x",
    "vllm-file://" + ID + "?x",
    "vllm-file://" + ID[5:],
    "vllm-file://vllm-file://" + ID,
    "VLLM-FILE://" + ID,
    "Vllm-File://" + ID,
    "vllm-ﬁle://" + ID,
    "vllm-file://" + ID.upper(),
    "vllm-file://file-%30" + ID[6:],
    "vllm-file:///etc/passwd",
    "attachment://",
    "attachment:",
    "attachment:/clip.mp4",
    "attachment:clip.mp4",
    " attachment://clip.mp4",
    "Attachment://clip.mp4",
    "ATTACHMENT://clip.mp4",
    "attach\nment://clip.mp4",
]


@pytest.mark.parametrize("value", [ID, "vllm-file://" + ID])
def test_a_file_is_named_by_its_id_with_or_without_the_scheme(value: str) -> None:
    assert parse_media_reference(value, param=PARAM) == FileReference(FileId(ID))
    assert parse_data_reference(value, param=PARAM) == FileReference(FileId(ID))
    assert parse_stored_reference(value, param=PARAM) == FileReference(FileId(ID))
    assert parse_file_reference(value, param=PARAM) == ID


@pytest.mark.parametrize("name", ["clip.mp4", "file", "a b é.png", "../x", "/etc/passwd", "://"])
def test_a_file_of_the_request_is_named_by_its_name_whatever_that_is(name: str) -> None:
    value = f"attachment://{name}"

    assert looks_like_reference(value)
    assert names_a_file(value)
    for parse in (parse_media_reference, parse_data_reference, parse_stored_reference):
        assert parse(value, param=PARAM) == AttachmentReference(name)


@pytest.mark.parametrize(
    "value",
    [
        "http://host",
        "https://host:8080/clip.mp4?x=1&y=a/b#t=10",
        "http://[::1]:80/clip.mp4",
        "https://host/фильм.mp4",
        "https://host/?x",
        "https://host/a%20b;c='d'(e)",
    ],
)
def test_an_http_url_passes_unchanged(value: str) -> None:
    assert parse_media_reference(value, param=PARAM) == UrlReference(value)


@pytest.mark.parametrize(
    "value",
    [
        "data:image/png;base64,iVBORw0KGgo=",
        "data:;base64,AAAA",
        "data:image/svg+xml;charset=utf-8;base64,AAAA",
        'data:audio/ogg;codecs="opus";base64,AAAA',
        "data:video/jpeg;base64,/9j/AAAA,/9j/BBBB",
        "data:image/png;base64,",
        "data:image/png;base64,AA-_\r\n AAAA",
        "data:application/vnd.x.y;base64,AAAA",
    ],
)
def test_inline_data_passes_unchanged(value: str) -> None:
    assert parse_media_reference(value, param=PARAM) == DataReference(value)


@pytest.mark.parametrize("value", PATHS_AND_SCHEMES + FOREIGN_URLS + FOREIGN_DATA)
def test_nothing_else_passes(value: str) -> None:
    with pytest.raises((SourceNotAllowed, InvalidReference)) as refusal:
        parse_media_reference(value, param=PARAM)

    assert refusal.value.param == PARAM
    assert len(value) < 8 or value not in refusal.value.message


@pytest.mark.parametrize("value", FOREIGN_URLS[:-3])
def test_a_url_that_is_not_plainly_spelt_is_told_so(value: str) -> None:
    with pytest.raises(SourceNotAllowed, match=r"plain http\(s\) URL"):
        parse_media_reference(value, param=PARAM)


@pytest.mark.parametrize("value", MALFORMED_IDS)
def test_what_only_looks_like_a_file_id_is_no_reference(value: str) -> None:
    assert looks_like_reference(value)
    parsers = (parse_media_reference, parse_data_reference, parse_file_reference)
    for parse in (*parsers, parse_stored_reference):
        with pytest.raises(InvalidReference) as refusal:
            parse(value, param=PARAM)
        assert refusal.value.param == PARAM


@pytest.mark.parametrize("value", ["UklGRg==", "AAA=", "AAAA", "/etc/passwd0", "A" * 300_000])
def test_bare_base64_is_left_to_be_judged_by_its_bytes(value: str) -> None:
    assert parse_data_reference(value, param=PARAM) == Base64Reference(value)


@pytest.mark.parametrize(
    "value",
    [
        "A",
        "AAAAA",
        "A===",
        "====A",
        "AA=A",
        "AAA\n",
        "AA-_",
        "\uff21\uff21\uff21\uff21",
        "AAA.",
        "AAAA" * 20_000 + "AA A",
        *PATHS_AND_SCHEMES[:-2],
    ],
)
def test_other_text_is_no_base64(value: str) -> None:
    with pytest.raises((SourceNotAllowed, InvalidReference)):
        parse_data_reference(value, param=PARAM)


@pytest.mark.parametrize("value", ["http://host/x.wav", "data:audio/wav;base64,AAAA"])
def test_a_field_for_base64_takes_urls_too(value: str) -> None:
    assert parse_data_reference(value, param=PARAM) == parse_media_reference(value, param=PARAM)


@pytest.mark.parametrize(
    "value",
    [
        "file:///x",
        " FILE:x",
        "\nvllm-file://x",
        "vllm-FILE:",
        " " * 100 + "file:///x",
        "\x00\x1ffile:///x",
        "fi\tl\ne:///x",
    ],
)
def test_a_string_of_unknown_meaning_may_name_a_file(value: str) -> None:
    assert names_a_file(value)


@pytest.mark.parametrize("value", [ID, "profile: x", "see file:///x", "", "x" * 100 + "file:"])
def test_a_string_of_unknown_meaning_may_be_a_word(value: str) -> None:
    assert not names_a_file(value)


@pytest.mark.parametrize(
    "value",
    [
        "mediagate-media:",
        "mediagate-media:0123",
        " \n\x00mediagate-media:",
        "MediaGate-Media:x",
        "mediagate-\nmedia:x",
        "data:audio/wav;base64,mediagate-media:0123",
        "x" * 100_000 + "mediagate-media:",
    ],
)
def test_a_handle_is_known_wherever_it_stands(value: str) -> None:
    assert names_a_handle(value)


@pytest.mark.parametrize("value", ["", "mediagate-media", "media:x", "gate-media:x", ID, "A" * 999])
def test_other_strings_are_no_handles(value: str) -> None:
    assert not names_a_handle(value)


@given(st.text())
def test_any_text_is_either_named_or_refused_in_our_words(value: str) -> None:
    for parse in (parse_media_reference, parse_data_reference):
        try:
            reference = parse(value, param=PARAM)
        except (SourceNotAllowed, InvalidReference):
            continue
        match reference:
            case FileReference(file_id):
                assert value.removeprefix("vllm-file://") == file_id
            case AttachmentReference(name):
                assert value == f"attachment://{name}"
            case UrlReference(text) | DataReference(text) | Base64Reference(text):
                assert text == value


@given(st.text("./datimgepnbs64:;,=ABC", max_size=40).map("data:image/png;base64,".__add__))
def test_inline_data_that_passes_leads_nowhere_when_taken_for_a_path(value: str) -> None:
    try:
        parse_media_reference(value, param=PARAM)
    except SourceNotAllowed:
        return

    assert not {".", ".."} & set(value.split("/"))
