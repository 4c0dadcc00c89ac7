"""One visit, from the disk to the engine's answer.

    store → uploads → upstream → engine → models → text chat → lease directory → path, url, inline → verdict

Each check is told as soon as it is done. What cannot work because of an earlier one is told as not tried.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import httpx2

from mediagate.blobs.directory import DirectoryError, StoreDirectory
from mediagate.blobs.lease_findings import Aspect
from mediagate.config import GIB, Config, DeliveryKind
from mediagate.core.engines import Engine
from mediagate.core.files import MediaKind
from mediagate.doctor import probe
from mediagate.doctor.report import Check, Mark, Tell, Verdict
from mediagate.doctor.stack import (
    Client,
    Stack,
    free_bytes,
    listen,
    opened_store,
    own_url,
    without_new_links,
)
from mediagate.doctor.upstream import ANSWER_S, Unreachable, Upstream, listed, wants_key
from mediagate.doctor.verdict import CHEAPEST_FIRST, Ways, judge
from mediagate.doctor.witness import answers_for_us
from mediagate.gateway.inspector_request import MODEL
from mediagate.gateway.profiles import PROFILES, Profile
from mediagate.wiring import lease_findings

_TEXT_ONLY = (
    "not a multimodal model",
    "image input is not supported",
    "does not support image",
    "not support multimodal",
    "at most 0 image",
    "mmproj",
)
"""What engines say of pictures, in lower case, when it is the model that takes none."""


async def examine(
    config: Config, *, model: str | None, tell: Tell, answer_s: float = ANSWER_S
) -> Verdict:
    """Look at everything, and leave nothing behind.

    Args:
        config: The operator's settings.
        model: Who is asked; None: the first that the upstream lists.
        tell: Is told of each check.
        answer_s: How long any one answer may take, in seconds.
    """
    with without_new_links(config), contextlib.ExitStack() as store:
        try:
            directory, text = store.enter_context(opened_store(config))
        except DirectoryError as error:
            tell(Check(Mark.NO, "store", str(error)))
            return Verdict(works=False, lines=["No file can be kept, so no chat can name one."])
        stack = Stack(config, directory, answer_s=answer_s)
        return await _Examination(config, model, tell, answer_s, directory, stack, config.port).run(
            text
        )


@dataclass(slots=True)
class _Examination:
    """What a visit knows so far."""

    config: Config
    model: str | None
    tell: Tell
    answer_s: float
    directory: StoreDirectory
    stack: Stack
    port: int
    prompt_tokens: int | None = None
    is_text_only: bool = False
    file_id: str | None = None
    profile: Profile = field(default_factory=lambda: PROFILES[Engine.OPENAI])

    async def run(self, place: str) -> Verdict:
        async with self.stack.files() as files:
            await self._store(files, place)
            async with self._uploaded(files):
                if self.config.files_only:
                    return self._side_car()
                if self.config.upstream_root is None:
                    return await self._inspector()
                return await self._engine()

    def _say(self, mark: Mark, subject: str, text: str) -> Check:
        check = Check(mark, subject, text)
        self.tell(check)
        return check

    async def _store(self, files: Client, place: str) -> None:
        free, most = free_bytes(self.directory), self.config.max_total_bytes
        used = await files.metric("mediagate_store_used_bytes") or 0
        text = f"{place}; {free / GIB:.3g} GiB free"
        if used + free < most:
            text += (
                f", and the store may grow from {used / GIB:.3g} to {most / GIB:.3g} GiB: uploads end with 507 before; "
                "lower --file-upload-max-total-gb"
            )
        self._say(Mark.OK, "store", text)

    @contextlib.asynccontextmanager
    async def _uploaded(self, files: Client) -> AsyncIterator[None]:
        """With the probe in the store, if that works."""
        if not self.config.enable_file_uploads:
            self._say(Mark.NO, "uploads", "they are off: leave --no-enable-file-uploads out")
            yield
            return
        response = await files.upload(probe.picture())
        if response.status_code != 200:
            self._say(Mark.NO, "uploads", self._words(response))
            yield
            return
        self.file_id = str(response.json()["id"])
        try:
            self._say(Mark.OK, "uploads", f"a picture of {len(probe.picture())} bytes was taken")
            yield
        finally:
            await files.delete(self.file_id)

    def _side_car(self) -> Verdict:
        self._say(
            Mark.NOT_TRIED,
            "chat by id",
            "a side-car answers for files only: ask the engine that shares them",
        )
        return Verdict(
            works=self.file_id is not None,
            lines=["A side-car: it takes files, and its engine resolves ids."],
        )

    async def _inspector(self) -> Verdict:
        self._say(Mark.NOT_TRIED, "upstream", "there is none: name one with --upstream")
        lines = ["The built-in inspector answers. It measures media, and is no language model."]
        if self.file_id is None:
            return Verdict(works=False, lines=lines)
        async with self.stack.inspector() as client:
            response = await self._chat(client, MODEL)
        if isinstance(response, str):
            self._say(Mark.NO, "chat by id", response)
            return Verdict(works=False, lines=lines)
        has_looked = f"{probe.SIDE} x {probe.SIDE}" in response.text
        text = (
            "the inspector measured the picture"
            if has_looked
            else "the inspector did not measure the picture"
        )
        self._say(Mark.OK if has_looked else Mark.NO, "chat by id", text)
        return Verdict(works=has_looked, lines=lines)

    async def _engine(self) -> Verdict:
        root, key = self.config.upstream_root, self.config.upstream_api_key
        assert root is not None  # noqa: S101 - `run` asked
        secret = None if key is None else key.get_secret_value()
        async with Upstream(root, key=secret, answer_s=self.answer_s) as upstream:
            reason = await self._reach(upstream) or await self._talk(upstream)
        kinds = [kind for kind in CHEAPEST_FIRST if self.ways.has(MediaKind.IMAGE, kind)]
        if reason is None and self.file_id is None:
            reason = "there is no file to ask about"
        if reason is not None:
            tried = {kind: self._say(Mark.NOT_TRIED, kind, reason) for kind in kinds}
            return Verdict(works=False, lines=[f"No chat can name a file: {reason}."])
        tried = {kind: await self._deliver(kind) for kind in kinds}
        return judge(self.ways, tried, is_text_only=self.is_text_only)

    @property
    def ways(self) -> Ways:
        base = self.config.advertise_root or own_url(self.config, self.port)
        return Ways(self.config, self.profile, base)

    async def _reach(self, upstream: Upstream) -> str | None:
        """Find the engine; why nothing more can be asked of it."""
        try:
            response = await upstream.models()
        except Unreachable as error:
            text = f"{upstream.root}: {error}; is it started, and is that its address?"
            self._say(Mark.NO, "upstream", text)
            return "the upstream cannot be reached"
        if wants_key(response):
            self._say(
                Mark.NO,
                "upstream",
                f"{upstream.root}: {upstream.words(response)}; {self._key_remedy()}",
            )
            return "the upstream wants a key"
        self._say(Mark.OK, "upstream", f"{upstream.root} answers")
        await self._recognise(upstream)
        models = listed(response)
        self._choose_model(models)
        return None if self.model is not None else "it is not known which model to ask"

    def _key_remedy(self) -> str:
        if self.config.upstream_api_key is not None:
            return "it does not take the key of --upstream-api-key"
        return "it wants a key: give it with --upstream-api-key, or let each client bring it"

    async def _recognise(self, upstream: Upstream) -> None:
        found, path = await upstream.engine()
        told = self.config.engine
        engine = (found or Engine.OPENAI) if told is Engine.AUTO else told
        self.profile = PROFILES[engine]
        known = None if found is Engine.OPENAI else found
        if told is not Engine.AUTO and known is not None and known is not told:
            text = f"--engine says {told}, and by GET {path} it is {PROFILES[known].title}: leave --engine out"
            self._say(Mark.NO, "engine", text)
        elif told is not Engine.AUTO:
            self._say(Mark.OK, "engine", f"{self.profile.title}, as --engine says")
        elif known is not None:
            self._say(Mark.OK, "engine", f"{self.profile.title}, by its answer to GET {path}")
        else:
            text = "none that is known, so it gets files in the ways that any other takes; --engine names one"
            self._say(Mark.OK, "engine", text)

    def _choose_model(self, models: Sequence[str]) -> None:
        shown = ", ".join(models[:_SHOWN]) + (
            f" and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
        )
        if self.model is None and not models:
            self._say(Mark.NO, "models", "it lists none: name one with --model")
            return
        asked = self.model or models[0]
        if self.model is not None and models and self.model not in models:
            self._say(Mark.NO, "models", f"{shown}; {self.model} is not among them")
        else:
            self._say(Mark.OK, "models", f"{shown or 'it lists none'}; {asked} is asked")
        self.model = asked

    async def _talk(self, upstream: Upstream) -> str | None:
        assert self.model is not None  # noqa: S101 - `_reach` saw to it
        try:
            response = await upstream.chat(self.model)
        except Unreachable as error:
            self._say(Mark.NO, "text chat", str(error))
            return "it does not answer without files either"
        if wants_key(response):
            self._say(Mark.NO, "text chat", f"{upstream.words(response)}; {self._key_remedy()}")
            return "the upstream wants a key"
        if not probe.is_answer(response):
            self._say(Mark.NO, "text chat", f"{self.model}: {upstream.words(response)}")
            return "it does not answer without files either"
        self.prompt_tokens = probe.prompt_tokens(response)
        self._say(Mark.OK, "text chat", f"{self.model} answers")
        return None

    async def _deliver(self, kind: DeliveryKind) -> Check:
        match kind:
            case DeliveryKind.PATH:
                return await self._by_path()
            case DeliveryKind.URL:
                return await self._by_url()
        async with self.stack.delivering(kind, self.profile.engine) as client:
            return self._say(*await self._ask(client, kind))

    async def _by_path(self) -> Check:
        kind = DeliveryKind.PATH
        if self.config.media_path is None:
            return self._say(Mark.NOT_TRIED, kind, "there is no --media-path")
        try:
            async with self.stack.delivering(kind, self.profile.engine) as client:
                findings = await lease_findings(self.config, self.directory)
                self._say(
                    Mark.OK,
                    "lease directory",
                    "; ".join(each.text for each in findings if each.aspect in _TOLD),
                )
                return self._say(*await self._ask(client, kind))
        except DirectoryError as error:
            self._say(Mark.NO, "lease directory", str(error))
            return self._say(Mark.NOT_TRIED, kind, "the lease directory cannot be used")

    async def _by_url(self) -> Check:
        kind, address = DeliveryKind.URL, f"{self.config.host} port {self.config.port}"
        assert self.file_id is not None  # noqa: S101 - `_engine` saw to it
        if self.ways.source(MediaKind.IMAGE, kind) is None:
            text = "it fetches from public addresses only: with --advertise-url naming one it would"
            return self._say(Mark.NOT_TRIED, kind, text)
        try:
            sock = listen(self.config)
        except OSError as error:
            return self._say(
                Mark.NO, kind, f"cannot listen on {address}: {error.strerror or error}"
            )
        if sock is None and not await answers_for_us(self.stack, self.config, self.file_id):
            text = f"another program listens on {address}, and has not this store: stop it, or try another --port"
            return self._say(Mark.NOT_TRIED, kind, text)
        if sock is not None:
            self.port = sock.getsockname()[1]
        base = self.ways.base
        async with self.stack.delivering(kind, self.profile.engine, sock=sock, base=base) as client:
            mark, subject, text = await self._ask(client, kind)
        by_whom = " (from the gateway that runs there)" if sock is None else ""
        return self._say(mark, subject, f"{text}; from {base}{by_whom}")

    async def _ask(self, client: Client, kind: DeliveryKind) -> tuple[Mark, str, str]:
        """Ask about the picture; what the answer proves."""
        source = self.ways.source(MediaKind.IMAGE, kind)
        assert self.model is not None  # noqa: S101 - `_reach` saw to it
        response = await self._chat(client, self.model)
        if isinstance(response, str):
            mark, text = Mark.NO, response
        else:
            mark, text = probe.evidence(probe.prompt_tokens(response), self.prompt_tokens)
        text = f"as {source}: {text}"
        todo = self.ways.remedy(kind) if mark is Mark.NO else ""
        return mark, kind, f"{text}; {todo}" if todo and not self.is_text_only else text

    async def _chat(self, client: Client, model: str) -> httpx2.Response | str:
        """The answer, or what is wrong with it."""
        try:
            response = await client.chat(probe.question(model, self.file_id))
        except TimeoutError:
            return f"no answer within {self.answer_s:g} s"
        if probe.is_answer(response):
            return response
        said = self._words(response)
        if any(words in said.lower() for words in _TEXT_ONLY):
            self.is_text_only = True
        return said

    def _words(self, response: httpx2.Response) -> str:
        keys = [*self.config.api_key, *filter(None, (self.config.upstream_api_key,))]
        return probe.words(response, secrets=[key.get_secret_value() for key in keys])


_SHOWN = 5
_TOLD = frozenset({Aspect.KIND, Aspect.OWNER, Aspect.GROUP, Aspect.MODE, Aspect.MOUNT})
