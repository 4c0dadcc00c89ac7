"""multipart/form-data as a stream of parts: text fields whole, a file's bytes as they come.

The scanner is python-multipart's push parser, through its callbacks; nothing of it stores or spools. What is ours are
the limits and the meaning (RFC 7578): a part with a filename is a file, any other is text.
Of the latter, those that may be long are asked for as files.
"""

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from mediagate.core.errors import MalformedBody
from mediagate.web.asgi import HeaderList, header_values

MAX_TEXTS = 100
"""Text fields in one form."""

MAX_TEXT_BYTES = 1024**2

FORM_OVERHEAD_BYTES = 1024**2
"""What a form may hold beside its files."""

_MAX_CONTENT_TYPE_BYTES = 1024  # its parser takes quadratic time
_MAX_HEADER_BYTES = 8 * 1024
_MAX_HEADERS = 16
_MAX_PARAMETERS = 16  # of a Content-Disposition: its parser takes quadratic time


@dataclass(frozen=True, slots=True)
class Text:
    """A text field, whole."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileBegin:
    """A part with a filename begins; its bytes follow as `FileChunk`s, then `FileEnd`.

    Attributes:
        name: Of the field.
        filename: Empty for a text field that was asked for as a file.
    """

    name: str
    filename: str


@dataclass(frozen=True, slots=True)
class FileChunk:
    """Bytes of the file that began."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file's last byte has come."""


Event = Text | FileBegin | FileChunk | FileEnd


def is_form(headers: HeaderList) -> bool:
    """Whether the body is declared as multipart/form-data."""
    return _content_type(headers).partition(b";")[0].strip().lower() == b"multipart/form-data"


def form_boundary(headers: HeaderList) -> bytes:
    """The boundary of a body that is declared as a form.

    Raises:
        MalformedBody: There is no usable one, or the declaration is excessively long.
    """
    content_type = _content_type(headers)
    if len(content_type) > _MAX_CONTENT_TYPE_BYTES:
        raise MalformedBody("The Content-Type is too long.", param="content-type")
    return boundary_of(content_type)


def boundary_of(content_type: bytes) -> bytes:
    """The boundary parameter of a multipart content type.

    Raises:
        MalformedBody: There is none, or it is not one to seventy characters (RFC 2046 §5.1.1).
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        message = "The multipart Content-Type has no usable boundary. Let the client library set the header."
        raise MalformedBody(message)
    return boundary


class FormParser:
    """Push bytes in, take events out. Every split of the same bytes gives the same parts.

    Args:
        boundary: See `boundary_of`.
        as_file: Name of a field that is handed over as a file, though it may come as text.
    """

    def __init__(self, boundary: bytes, *, as_file: str | None = None) -> None:
        self._as_file = as_file
        self._events: list[Event] = []
        self._texts = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._text: bytearray | None = None
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=_MAX_HEADERS,
            max_header_size=_MAX_HEADER_BYTES,
        )

    def feed(self, chunk: bytes) -> list[Event]:
        """Parse the next bytes; the events' buffers point into `chunk`.

        Raises:
            MalformedBody: This is no multipart/form-data, it has too many fields, or a text field is too long.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise MalformedBody("The body is not well-formed multipart/form-data.") from exc
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """The body has ended.

        Raises:
            MalformedBody: The final boundary has not come: something is missing.
        """
        if not self._is_complete:
            message = (
                "The multipart body ends before its final boundary: it was cut off. Send it again."
            )
            raise MalformedBody(message)

    def _on_part_begin(self) -> None:
        self._headers.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        name = bytes(self._header_name).lower()
        if name in self._headers:
            raise MalformedBody("A part of the form has the same header twice.")
        self._headers[name] = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").strip().lower()
        if encoding not in {b"binary", b"8bit", b"7bit"}:
            message = "Content-Transfer-Encoding is not supported in forms (RFC 7578 §4.7). Send the bytes as they are."
            raise MalformedBody(message)
        disposition = self._headers.get(b"content-disposition", b"")
        if disposition.count(b";") > _MAX_PARAMETERS:
            raise MalformedBody("A Content-Disposition of the form has too many parameters.")
        kind, options = parse_options_header(disposition)
        if kind != b"form-data" or b"name" not in options:
            message = "A part of the form has no 'Content-Disposition: form-data; name=…' header."
            raise MalformedBody(message)
        self._name = _decode(options[b"name"])
        filename = options.get(b"filename")
        if filename is None and self._name != self._as_file:
            self._texts += 1
            if self._texts > MAX_TEXTS:
                raise MalformedBody(f"The form has more than {MAX_TEXTS} text fields.")
            self._text = bytearray()
        else:
            self._events.append(FileBegin(self._name, _decode(filename or b"")))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._text is None:
            self._events.append(FileChunk(memoryview(data)[start:end]))
            return
        if len(self._text) + end - start > MAX_TEXT_BYTES:
            raise MalformedBody("A text field of the form is longer than 1 MiB.")
        self._text += data[start:end]

    def _on_part_end(self) -> None:
        if self._text is None:
            self._events.append(FileEnd())
        else:
            self._events.append(Text(self._name, _decode(bytes(self._text))))
            self._text = None

    def _on_end(self) -> None:
        self._is_complete = True


def _content_type(headers: HeaderList) -> bytes:
    return b"".join(header_values(headers, b"content-type")[:1])


def _decode(raw: bytes) -> str:
    """Text of a form: UTF-8 as all clients send it; what is not is kept visible, never an error."""
    return raw.decode("utf-8", errors="replace")
