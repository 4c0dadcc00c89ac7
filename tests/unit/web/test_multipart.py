"""The streaming form parser: limits, meaning, and that the split of the stream does not matter."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediagate.core.errors import MalformedBody
from mediagate.web.multipart import (
    MAX_TEXT_BYTES,
    MAX_TEXTS,
    FileBegin,
    FileChunk,
    FileEnd,
    FormParser,
    Text,
    boundary_of,
    form_boundary,
    is_form,
)

BOUNDARY = b"XboundaryX"


def text_part(name: str, value: bytes) -> bytes:
    head = f'--XboundaryX\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
    return head.encode() + value + b"\r\n"


def file_part(name: str, filename: str, data: bytes, *extra: str) -> bytes:
    lines = [f'Content-Disposition: form-data; name="{name}"; filename="{filename}"', *extra]
    head = "--XboundaryX\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    return head.encode() + data + b"\r\n"


END = b"--XboundaryX--\r\n"


def parse(body: bytes, sizes: list[int] | None = None) -> list[object]:
    """Feed `body` in pieces; file chunks are joined, so that results can be compared."""
    parser = FormParser(BOUNDARY)
    found: list[object] = []
    data = b""
    position = 0
    sizes = sizes or [len(body)]
    index = 0
    while position < len(body):
        size = sizes[index % len(sizes)]
        index += 1
        for event in parser.feed(body[position : position + size]):
            if isinstance(event, FileChunk):
                data += bytes(event.data)
            elif isinstance(event, FileEnd):
                found += [data, event]
                data = b""
            else:
                found.append(event)
        position += size
    parser.finish()
    return found


def test_text_and_file_come_in_order() -> None:
    body = text_part("purpose", b"vision") + file_part("file", "a.mp4", b"\x00\r\n--X\xff") + END

    assert parse(body) == [
        Text("purpose", "vision"),
        FileBegin("file", "a.mp4"),
        b"\x00\r\n--X\xff",
        FileEnd(),
    ]


@settings(max_examples=60)
@given(
    data=st.one_of(
        st.binary(max_size=400),
        # Whatever looks like the beginning of a boundary is where parsers go wrong.
        st.lists(
            st.sampled_from([b"\r", b"\n", b"-", b"--", b"\r\n--Xbound", b"X"]), max_size=60
        ).map(b"".join),
    ),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
)
def test_every_split_of_the_stream_gives_the_same_parts(data: bytes, sizes: list[int]) -> None:
    body = text_part("a", b"b") + file_part("file", "ü.bin", data) + text_part("z", b"") + END
    if b"\r\n--XboundaryX" in b"\r\n" + data:
        return

    assert (
        parse(body, sizes)
        == parse(body)
        == [
            Text("a", "b"),
            FileBegin("file", "ü.bin"),
            data,
            FileEnd(),
            Text("z", ""),
        ]
    )


@pytest.mark.parametrize("filename", [None, "request.json"])
def test_field_that_is_asked_for_as_a_file_comes_as_one_however_it_was_sent(
    filename: str | None,
) -> None:
    value = b"x" * (MAX_TEXT_BYTES + 1)
    body = (text_part("p", value) if filename is None else file_part("p", filename, value)) + END
    parser = FormParser(BOUNDARY, as_file="p")

    begin, *chunks, end = parser.feed(body)

    assert begin == FileBegin("p", filename or "")
    assert b"".join(bytes(chunk.data) for chunk in chunks if isinstance(chunk, FileChunk)) == value
    assert end == FileEnd()


def test_every_truncation_is_told() -> None:
    body = text_part("purpose", b"vision") + file_part("file", "a.mp4", b"data") + b"--XboundaryX--"

    for length in range(len(body)):
        with pytest.raises(MalformedBody):
            parse(body[:length] or b" ")


@pytest.mark.parametrize(
    "body",
    [
        b"no form at all",
        b"--XboundaryX\r\n\r\nno headers\r\n--XboundaryX--\r\n",
        b'--XboundaryX\r\nContent-Disposition: attachment; name="file"\r\n\r\nx\r\n--XboundaryX--\r\n',
        b"--XboundaryX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XboundaryX--\r\n",
        b"--XboundaryX\r\nBad Header: x\r\n\r\nx\r\n--XboundaryX--\r\n",
        b"--XboundaryX\r\n" + b"A: b\r\n" * 2 + b"\r\nx\r\n--XboundaryX--\r\n",
        b"--XboundaryX\r\nA: " + b"x" * 10_000 + b"\r\n\r\nx\r\n--XboundaryX--\r\n",
        b"--XboundaryX\r\n"
        + b"".join(b"A%d: b\r\n" % n for n in range(40))
        + b"\r\nx\r\n--XboundaryX--",
        file_part("file", "a", b"eA==", "Content-Transfer-Encoding: base64") + END,
    ],
)
def test_what_is_no_form_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse(body)


def test_a_long_text_field_is_refused_before_it_is_whole() -> None:
    parser = FormParser(BOUNDARY)
    parser.feed(text_part("x", b"")[:-2])

    with pytest.raises(MalformedBody, match="1 MiB"):
        for _ in range(MAX_TEXT_BYTES // 65536 + 1):
            parser.feed(bytes(65536))


def test_a_hundred_thousand_tiny_parts_are_refused_early() -> None:
    parser = FormParser(BOUNDARY)
    fed = 0

    with pytest.raises(MalformedBody, match="fields"):
        for _ in range(100_000):
            parser.feed(text_part("x", b"y"))
            fed += 1

    assert fed == MAX_TEXTS


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("clip.mp4", "clip.mp4"),
        ("日本語 ü.mp4", "日本語 ü.mp4"),
        ('say \\"hi\\".mp4', 'say "hi".mp4'),
        ("a;b=c.mp4", "a;b=c.mp4"),
        ("", ""),
    ],
)
def test_filenames_are_read_as_clients_write_them(written: str, meant: str) -> None:
    begin = parse(file_part("file", written, b"x") + END)[0]

    assert begin == FileBegin("file", meant)


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=" + b"x" * 71,
    ],
)
def test_a_form_without_a_usable_boundary_is_refused(content_type: bytes) -> None:
    with pytest.raises(MalformedBody):
        boundary_of(content_type)


@pytest.mark.parametrize(
    ("content_type", "is_one"),
    [
        (b"multipart/form-data; boundary=x", True),
        (b" Multipart/Form-Data ;boundary=x", True),
        (b"multipart/form-data-x; boundary=x", False),
        (b"multipart/mixed; boundary=x", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_form_is_told_by_its_declared_type(content_type: bytes, is_one: bool) -> None:
    assert is_form([(b"Content-Type", content_type), (b"content-type", b"x")]) is is_one


def test_very_long_declaration_is_refused_unparsed() -> None:
    """Its parser takes quadratic time too."""
    content_type = b"multipart/form-data; boundary=x" + b";" * 2000

    with pytest.raises(MalformedBody, match="too long"):
        form_boundary([(b"content-type", content_type)])


def test_the_boundary_may_be_quoted() -> None:
    assert boundary_of(b'Multipart/Form-Data; charset=x; boundary="a b"') == b"a b"


def test_disposition_with_very_many_parameters_is_refused() -> None:
    """Its parser takes quadratic time: a hundred of them would stop the server for seconds."""
    with pytest.raises(MalformedBody):
        parse(text_part('a";' + ";" * 4000, b"") + END)
