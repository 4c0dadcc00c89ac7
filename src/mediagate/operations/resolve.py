"""A request body that names files → a body that the upstream understands; the rest of it is not touched.

    find what names media → lease all files at once → check kinds → choose how the engine is told of each → splice

Whatever fails, fails before the upstream hears of the request, and nothing stays leased.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from mediagate.core.errors import BodyTooLarge, NotTakenByEngine
from mediagate.core.events import FileResolved, Observer, ignore
from mediagate.core.files import FileId, FileObject
from mediagate.core.scopes import Principal, Scope
from mediagate.dialects.fields import Dialect, Judge, MediaField
from mediagate.dialects.parts import ANYTHING, Accepted, Source, Spelling, spellings
from mediagate.executor import Executor, complete
from mediagate.operations.deliver import Base64Of, Delivery, Leased, Piece, content_length
from mediagate.operations.files import file_not_found
from mediagate.operations.media_hosts import HostLookup
from mediagate.operations.rewrite import (
    NOUNS,
    CacheNames,
    NamedFile,
    Plan,
    find,
    mismatch,
    plan,
    splice,
    written,
)

PARSED_IN_PLACE_BYTES = 256 * 1024
"""Larger bodies are parsed off the event loop."""

_AROUND_BYTES = 1024
"""More than what is written around a file that is sent inline."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def _anything() -> Accepted:
    return ANYTHING


class HeldFiles(Leased, Protocol):
    """Those of the files that exist for the caller, kept leased in the background until `release`."""

    async def release(self) -> None:
        """End the lease. Safe to call more than once."""


class Holder(Protocol):
    """Leases files."""

    async def hold(self, file_ids: Collection[FileId], *, scope: Scope) -> HeldFiles:
        """Lease those of `file_ids` that exist for `scope`, in one step; it is a use of them."""

    async def exists(self, file_id: FileId) -> bool:
        """Whether there is such a file, whoever owns it: for what the operator is told, and for nothing else."""


@dataclass(slots=True)
class Resolved:
    """A body for the upstream; its files stay readable until `close`.

    Attributes:
        pieces: The body; `operations.deliver.stream` sends it.
        files: The files that it names, each once.
    """

    pieces: Sequence[Piece]
    files: Sequence[FileObject] = ()
    _hold: HeldFiles | None = None
    _delivery: Delivery | None = None

    @property
    def content_length(self) -> int:
        """Exact length of the body, in bytes."""
        return content_length(self.pieces)

    async def close(self) -> None:
        """The answer has ended or failed: end the lease. Safe to call more than once."""
        try:
            if self._delivery is not None:
                await complete(self._delivery.close())
        finally:
            if self._hold is not None:
                await self._hold.release()


class Resolver:
    """Resolves references in request bodies.

    Args:
        holder: Leases the files.
        deliver: Makes the delivery of one request, out of its lease and the URL at which it came in, if that is known.
        executor: Where large bodies are parsed.
        lookup: Judges the hosts of URLs; None: the engine fetches from nowhere, or judges itself.
        observer: Told of each file that is resolved.
    """

    def __init__(
        self,
        *,
        holder: Holder,
        deliver: Callable[[HeldFiles, str | None], Delivery],
        executor: Executor,
        lookup: HostLookup | None = None,
        observer: Observer = ignore,
    ) -> None:
        self._holder = holder
        self._deliver = deliver
        self._executor = executor
        self._lookup = lookup
        self._observer = observer

    async def resolve(
        self,
        raw: bytes,
        *,
        dialect: Dialect,
        principal: Principal,
        names: CacheNames | None = None,
        came_in_at: str | None = None,
        judge: Judge = Judge.WALL,
        accepts: Callable[[], Awaitable[Accepted]] = _anything,
    ) -> Resolved:
        """Judge `raw`, lease what it names, and rewrite it; without references and names it stays as it is.

        The caller closes the result, whatever becomes of the request.

        Args:
            raw: The body.
            dialect: Finds its media fields.
            principal: Whose files it may name.
            names: Makes the body's `cache_salt` and each `uuid`; None: they are left alone.
            came_in_at: The URL at which the request reached this server, without a path.
            judge: Who judges what is no file of ours.
            accepts: Tells what the engine takes; asked only where that makes a difference.

        Raises:
            MalformedBody: Not the one JSON object that it should be.
            InvalidReference: A malformed reference, or one where none is taken.
            SourceNotAllowed: A media field names what no client may name.
            MediaKindMismatch: A file, or inline base64, is of another kind than its place takes.
            FileNotFound: A file is unknown, expired, deleted or foreign.
            InvalidScope: It names files, and the principal does not say whose.
            NotTakenByEngine: The engine takes no such media, or would leave it out without a word.
            BodyTooLarge: With the files in it, it is longer than the engine takes.
            InvalidValue: The body's shape, its `cache_salt`, or too many references.
        """
        run = self._run if len(raw) > PARSED_IN_PLACE_BYTES else _at_once
        hosts = None if self._lookup is None else self._lookup.hosts
        found = await run(find, raw, dialect, names, judge, hosts)
        if self._lookup is not None and found.to_look_up:
            await self._lookup.check(found.to_look_up)
        accepted = await accepts() if found.has_media else None
        planned = await run(plan, raw, found, names, accepted)
        if not planned.named:
            return Resolved(splice(raw, planned.changes) if planned.changes else (raw,))
        ids = dict.fromkeys(named.file_id for named in planned.named)
        hold = await self._holder.hold(ids, scope=principal.scope)
        delivery = self._deliver(hold, came_in_at)
        try:
            telling = _Telling(planned, delivery, sent_bytes=len(raw))
            for named in planned.named:
                file = await self._fitting(named.field, named.file_id, hold)
                await telling.tell(named, file)
            files = tuple(hold.files[file_id] for file_id in ids)
            resolved = Resolved(splice(raw, planned.changes), files, hold, delivery)
        except BaseException:
            await Resolved((), (), hold, delivery).close()
            raise
        for file in files:
            self._observer(
                FileResolved(scope=file.scope, file_id=file.id, size_bytes=file.size_bytes)
            )
        return resolved

    async def _run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await self._executor.run(function, *args, **kwargs)

    async def _fitting(self, field: MediaField, file_id: FileId, hold: HeldFiles) -> FileObject:
        file = hold.files.get(file_id)
        if file is None:
            # Asked after every miss, so that the time it takes tells nothing.
            is_foreign = await self._holder.exists(file_id)
            raise file_not_found(param=field.param, file_id=file_id, is_foreign=is_foreign)
        if field.kind not in {None, file.kind}:
            raise mismatch(field, file.kind)
        return file


async def _at_once(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    return function(*args, **kwargs)


class _Telling:
    """Tells the engine of files, each in the best way that both sides know."""

    def __init__(self, plan: Plan, delivery: Delivery, *, sent_bytes: int) -> None:
        self._plan = plan
        self._delivery = delivery
        self._sent_bytes = sent_bytes

    async def tell(self, named: NamedFile, file: FileObject) -> None:
        """Add the changes that name `file`.

        Raises:
            NotTakenByEngine: There is no way.
            BodyTooLarge: There is, and the request would be longer than the engine takes.
        """
        source, spelling = self._choose(named, file)
        pieces = await self._delivery.pieces(file, source)
        if source.way == "inline":
            self._sent_bytes += content_length(pieces)
        edits, where = spelling.edits(), self._plan.where
        self._plan.changes.extend(written(edits, file.mime_type, pieces, where))

    def _choose(self, named: NamedFile, file: FileObject) -> tuple[Source, Spelling]:
        accepted = self._plan.accepted
        ways = [
            (source, spelling)
            for spelling in spellings(accepted, named.field, named.site, file.kind)
            for source in self._delivery.sources
            if source in spelling.sources
        ]
        # The client's own spelling is the first of those that cost the same.
        ways.sort(key=lambda way: self._cost(way[0]))
        if not ways:
            raise _undeliverable(named.field, file, accepted)
        taken = [(source, way) for source, way in ways if _takes_type(way, source, file.mime_type)]
        if not taken:
            raise _other_types(named.field, ways[0][1], accepted)
        for source, way in taken:
            if self._has_room(source, file):
                return source, way
        raise BodyTooLarge(
            f"{accepted.engine} takes no request as long as this one becomes with the file in it, "
            f"and cannot get it in another way. {accepted.remedies}".rstrip(),
            param=named.field.param,
        )

    def _cost(self, source: Source) -> int:
        order = self._delivery.sources
        return min(i for i, each in enumerate(order) if each.way == source.way)

    def _has_room(self, source: Source, file: FileObject) -> bool:
        accepted = self._plan.accepted
        if source.way == "inline":
            inline = content_length((Base64Of(file),)) + _AROUND_BYTES
            fits = accepted.max_inline_bytes is None or inline <= accepted.max_inline_bytes
            whole = self._sent_bytes + inline
            return fits and (accepted.max_body_bytes is None or whole <= accepted.max_body_bytes)
        if source.way == "url" and accepted.max_download_bytes is not None:
            return file.size_bytes <= accepted.max_download_bytes
        return True


def _undeliverable(field: MediaField, file: FileObject, accepted: Accepted) -> NotTakenByEngine:
    message = (
        f"This server is not set up for any way in which {accepted.engine} takes {NOUNS[file.kind]}. "
        f"{accepted.remedies}"
    )
    return NotTakenByEngine(message.rstrip(), param=field.param)


def _other_types(field: MediaField, way: Spelling, accepted: Accepted) -> NotTakenByEngine:
    known = ", ".join(sorted(way.mime_types or ()))
    return NotTakenByEngine(f"{accepted.engine} takes {known} here.", param=field.param)


def _takes_type(way: Spelling, source: Source, mime_type: str) -> bool:
    return way.mime_types is None or source.way != "inline" or mime_type in way.mime_types
