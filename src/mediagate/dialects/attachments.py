"""Files that came in the same request, written into its JSON by their ids.

    attachment://clip.mp4       becomes the id of the file that was sent under that name
    a file that nothing names   becomes a content part behind those of the last user message

What is written is what a client that had uploaded the file before would have written; all else stays byte for byte.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediagate.core.errors import InvalidReference, InvalidValue
from mediagate.core.files import FileId, MediaKind
from mediagate.core.references import AttachmentReference
from mediagate.dialects.fields import Dialect, Judge
from mediagate.dialects.strict_json import Path, Span, json_path, parse_object, spans


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file of the request.

    Attributes:
        file_id: Its id in the store.
        kind: What it is.
        names: What it may be called: the name of its field, its filename.
    """

    file_id: FileId
    kind: MediaKind
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Opening:
    """Where content parts can be added: around the value at `path`, or instead of it.

    Attributes:
        path: To a value that is there.
        before: Written in front of it.
        between: Written between it and the parts.
        after: Written behind the parts.
        is_kept: Whether the value stays.
    """

    path: Path
    before: bytes = b""
    between: bytes = b""
    after: bytes = b""
    is_kept: bool = True

    def changes(self, span: Span, parts: bytes) -> Iterator["_Change"]:
        """What adds `parts`, where the value stands at `span`."""
        if self.is_kept:
            yield _Change(span.start, span.start, self.before)
            yield _Change(span.stop, span.stop, self.between + parts + self.after)
        else:
            yield _Change(span.start, span.stop, self.before + parts + self.after)


@dataclass(frozen=True, slots=True)
class Conversation:
    """How one request format takes files that it does not name.

    Attributes:
        key: Where its messages are.
        text: Type of a content part that is text.
        wraps_text: Whether the messages may be one text, which is the user's.
        part: The content part for a file.
    """

    key: str
    text: bytes
    wraps_text: bool
    part: Callable[[FileId, MediaKind], bytes]

    def opening(self, body: Mapping[str, Any]) -> Opening | None:
        """Where the last user message takes more parts; None: there is none, or it takes no parts."""
        messages = body.get(self.key)
        if isinstance(messages, str) and self.wraps_text:
            opening = self._around_text((self.key,))
            before, after = b'[{"role":"user","content":' + opening.before, opening.after + b"}]"
            return Opening(opening.path, before, opening.between, after)
        if not isinstance(messages, list):
            return None
        for i in reversed(range(len(messages))):
            message = messages[i]
            if isinstance(message, dict) and message.get("role") == "user":
                return self._of_content(message.get("content"), (self.key, i, "content"))
        return None

    def _of_content(self, content: object, path: Path) -> Opening | None:
        match content:
            case str():
                return self._around_text(path)
            case []:
                return Opening(path, b"[", b"", b"]", is_kept=False)
            case list():
                return Opening((*path, len(content) - 1), between=b",")
        return None

    def _around_text(self, path: Path) -> Opening:
        before = b'[{"type":"%b","text":' % self.text
        return Opening(path, before, b"},", b"]")


def _chat_part(file_id: FileId, _kind: MediaKind) -> bytes:
    return b'{"type":"file","file":{"file_id":"%b"}}' % file_id.encode()


def _responses_part(file_id: FileId, kind: MediaKind) -> bytes:
    if kind is MediaKind.IMAGE:  # vLLM, SGLang and LMDeploy take none without a detail
        return b'{"type":"input_image","file_id":"%b","detail":"auto"}' % file_id.encode()
    return b'{"type":"input_file","file_id":"%b"}' % file_id.encode()


CHAT = Conversation("messages", b"text", wraps_text=False, part=_chat_part)
RESPONSES = Conversation("input", b"input_text", wraps_text=True, part=_responses_part)


@dataclass(frozen=True, slots=True)
class _Change:
    start: int
    stop: int
    new: bytes


class Payload:
    """The JSON of a request that files came with. Reading it judges it, before any file has come.

    Args:
        raw: As the client sent it.
        dialect: Finds what it names.
        conversation: Takes what it does not name.
        judge: Who judges what is named and is no file of ours.

    Raises:
        InvalidRequest: As `parse_object` and `dialect`.
    """

    def __init__(
        self,
        raw: bytes,
        *,
        dialect: Dialect,
        conversation: Conversation,
        judge: Judge = Judge.WALL,
    ) -> None:
        body = parse_object(raw)
        self._raw = raw
        self._conversation = conversation
        self._named = [
            (field.path, field.reference.name)
            for field in dialect(body, judge=judge)
            if isinstance(field.reference, AttachmentReference)
        ]
        self._opening = conversation.opening(body)

    @property
    def size_bytes(self) -> int:
        """Of the JSON, as it was sent."""
        return len(self._raw)

    def with_ids(self, attachments: Sequence[Attachment]) -> bytes:
        """The JSON with all of `attachments` in it, by their ids.

        Raises:
            InvalidReference: A name is that of no file, or of several.
            InvalidValue: There is no user message for a file that nothing names.
        """
        by_name: dict[str, list[FileId]] = {}
        for each in attachments:
            for name in each.names:
                by_name.setdefault(name, []).append(each.file_id)
        ids = {path: _one(by_name.get(name, ()), path) for path, name in self._named}
        named = set(ids.values())
        unnamed = [each for each in attachments if each.file_id not in named]
        where = spans(self._raw, [*ids, *([self._opening.path] if self._opening else ())])
        changes = [
            _Change(where[path].start, where[path].stop, b'"%b"' % file_id.encode())
            for path, file_id in ids.items()
        ]
        if unnamed:
            changes += self._added(unnamed, where)
        return _splice(self._raw, changes)

    def _added(
        self, unnamed: Sequence[Attachment], where: Mapping[Path, Span]
    ) -> Iterator[_Change]:
        if self._opening is None:
            key = self._conversation.key
            message = (
                f"No user message in '{key}' can take the files. Add one with a text or an array of "
                "parts as its content, or name each file as attachment://<name> where it belongs."
            )
            raise InvalidValue(message, param=key)
        parts = [self._conversation.part(each.file_id, each.kind) for each in unnamed]
        return self._opening.changes(where[self._opening.path], b",".join(parts))


def _one(found: Sequence[FileId], path: Path) -> FileId:
    if len(found) == 1:
        return found[0]
    message = (
        "Several files of the form have this name. Give their fields different names."
        if found
        else "No file of the form has this name. attachment:// takes the name of a file's field, or its filename."
    )
    raise InvalidReference(message, param=json_path(path))


def _splice(raw: bytes, changes: Sequence[_Change]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for change in sorted(changes, key=lambda change: (change.start, change.stop)):
        pieces += (raw[at : change.start], change.new)
        at = change.stop
    return b"".join((*pieces, raw[at:]))
