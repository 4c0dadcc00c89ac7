"""What each engine takes: one row an engine. Adding an engine is adding a row here, a signal in `detection`, and tests.

Read in the sources of the version that a row names, or run. `docs/reference/engines.md` is made from this table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mediagate.core.engines import Engine
from mediagate.core.files import MediaKind
from mediagate.dialects import anthropic_messages, openai_responses
from mediagate.dialects.fields import Dialect
from mediagate.dialects.parts import ANYTHING, Accepted, Part, Source

MIB = 1024**2

Parts = Mapping[MediaKind, Sequence[Part]]

_IMAGE, _AUDIO, _VIDEO = MediaKind.IMAGE, MediaKind.AUDIO, MediaKind.VIDEO
_FILE, _PATH, _BELOW = Source.FILE_URL, Source.PATH, Source.MEDIA_DIR_URL
_HTTP, _PUBLIC, _HTTPS = Source.HTTP_URL, Source.PUBLIC_URL, Source.PUBLIC_HTTPS_URL
_DATA, _BASE64 = Source.DATA_URI, Source.BASE64

_OPENAI_SOUNDS = frozenset({"audio/wav", "audio/mpeg"})
"""`input_audio.format` of OpenAI's: wav and mp3."""

_JPEG_PNG_WEBP = frozenset({"image/jpeg", "image/png", "image/webp"})
_TEXT = frozenset({"text"})
_TEXT_IMAGE = frozenset({"text", "image"})
_BASE64_URL = frozenset({"base64", "url"})
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_TRANSFORMERS_TYPES = frozenset(
    {"image_url", "input_image", "audio_url", "input_audio", "video_url"} | _TEXT_PARTS
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One engine.

    Attributes:
        engine: Its name for `--engine`.
        title: Its name for people.
        version: The one that was looked at.
        chat: Its parts of chat completions, and what it takes them as, cheapest first; None: nobody knows.
        responses: What it takes in `input_image.image_url` of Responses.
        reads_chat_parts: Whether it reads the parts of chats in Responses too.
        messages: What it takes in `source` of Messages.
        chat_types: Types of the parts that it reads, where it leaves out all others without a word.
        responses_types: The same for those of Responses.
        messages_types: The same for the blocks of Messages.
        result_types: The same for the blocks of what a tool returned (Messages).
        output_types: The same for the parts of what a tool returned (Responses).
        flat_types: The same for parts that stand in `input` itself (Responses).
        source_types: The same for the `source` of an image (Messages).
        chat_roles: Roles of the messages of chats in which it looks for media; None: in all.
        responses_roles: The same for Responses.
        messages_roles: The same for Messages.
        beside: Keys beside the prompt where it looks for media, if there are no messages.
        max_body_bytes: Longest request that it reads.
        max_inline_bytes: Longest `data:` URI, or base64.
        max_download_bytes: Largest media that it fetches.
        download_s: How long it fetches, in seconds, by kind or for all.
        endpoints: Where it reads media.
        reads_paths: What it has to be started with, so that it opens our links; `{path}`: their directory, as it
            sees that.
        fetches: What it opens or fetches by itself, and we cannot see.
        quirks: What else is worth knowing.
    """

    engine: Engine
    title: str
    version: str = ""
    chat: Parts | None = None
    responses: Sequence[Source] | None = None
    reads_chat_parts: bool = False
    messages: Sequence[Source] | None = None
    chat_types: frozenset[str] | None = None
    responses_types: frozenset[str] | None = None
    messages_types: frozenset[str] | None = None
    result_types: frozenset[str] | None = None
    output_types: frozenset[str] | None = None
    flat_types: frozenset[str] | None = None
    source_types: frozenset[str] | None = None
    chat_roles: frozenset[str] | None = None
    responses_roles: frozenset[str] | None = None
    messages_roles: frozenset[str] | None = None
    beside: frozenset[str] = frozenset()
    max_body_bytes: int | None = None
    max_inline_bytes: int | None = None
    max_download_bytes: int | None = None
    download_s: str = ""
    endpoints: Sequence[str] = ("/v1/chat/completions",)
    reads_paths: str = ""
    fetches: str = ""
    quirks: Sequence[str] = field(default=())

    def accepted(self, dialect: Dialect) -> Accepted:
        """What it takes in requests of `dialect`."""
        if dialect is openai_responses.find:
            parts = _only_images(self.responses)
            if self.reads_chat_parts:
                parts = {**(self.chat or {}), **(parts or {})}
            return replace(
                self._accepted(parts, has_parts=False, types=self.responses_types),
                result_types=self.output_types,
                flat_types=self.flat_types,
                media_roles=self.responses_roles,
            )
        if dialect is anthropic_messages.find:
            accepted = self._accepted(
                _only_images(self.messages), has_parts=False, types=self.messages_types
            )
            return replace(
                accepted,
                result_types=self.result_types,
                system_types=_TEXT if self.messages else None,
                source_types=self.source_types,
                media_roles=self.messages_roles,
            )
        accepted = self._accepted(self.chat, has_parts=True, types=self.chat_types)
        return replace(accepted, media_roles=self.chat_roles)

    def accepted_by_handle(self, dialect: Dialect) -> Accepted:
        """The same where it runs in this process: it gets any file by its handle, and guards itself."""
        return replace(
            self.accepted(dialect),
            parts={},
            others=(Source.HANDLE,),
            max_body_bytes=None,
            max_inline_bytes=None,
            max_download_bytes=None,
            remedies="",
            guards_itself=True,
        )

    def _accepted(
        self,
        parts: Parts | None,
        *,
        has_parts: bool,
        types: frozenset[str] | None,
    ) -> Accepted:
        return Accepted(
            engine=self.title,
            parts=parts or {},
            others=ANYTHING.others if parts is None else (),
            types=types,
            beside=None if self.chat is None else self.beside,
            max_body_bytes=self.max_body_bytes,
            max_inline_bytes=self.max_inline_bytes,
            max_download_bytes=self.max_download_bytes,
            has_parts=has_parts,
            remedies=self._remedies(),
        )

    def _remedies(self) -> str:
        ways = [
            *(["let it read the file with --media-path"] if self.opens_paths else []),
            *(["let it fetch the file with --advertise-url"] if self.fetches_urls else []),
        ]
        return f"The operator can {' or '.join(ways)}." if ways else ""

    @property
    def sources(self) -> frozenset[Source]:
        """All that it takes in chats."""
        parts = (part for parts in (self.chat or {}).values() for part in parts)
        return frozenset(source for part in parts for source in part.sources)

    @property
    def opens_paths(self) -> bool:
        """Whether it opens files of its own machine."""
        return any(source.way == "path" for source in self.sources)

    @property
    def fetches_urls(self) -> bool:
        """Whether it fetches media."""
        return self.chat is None or bool(self.sources & {_HTTP, _PUBLIC, _HTTPS})


def _only_images(sources: Sequence[Source] | None) -> Parts | None:
    if sources is None:
        return None
    return {_IMAGE: (Part("image", sources),)} if sources else {}


def _urls(*sources: Source, kinds: Sequence[MediaKind] = (_IMAGE, _AUDIO, _VIDEO)) -> Parts:
    """`image_url`, `audio_url`, `video_url`, all of which take the same."""
    return {kind: (Part(f"{kind}_url", sources),) for kind in kinds}


_INPUT_AUDIO = Part("input_audio", (_BASE64,), _OPENAI_SOUNDS)

_ROWS = (
    Profile(
        engine=Engine.VLLM,
        title="vLLM",
        version="0.32.0",
        chat={
            **_urls(_FILE, _HTTP, _DATA, kinds=(_IMAGE, _VIDEO)),
            _AUDIO: (Part("audio_url", (_FILE, _HTTP, _DATA)), Part("input_audio", (_BASE64,))),
        },
        responses=(_FILE, _HTTP, _DATA),
        messages=(_BASE64,),
        result_types=_TEXT_IMAGE | {"tool_reference"},
        responses_roles=frozenset({"user", "system", "developer", "tool"}),
        messages_roles=frozenset({"user"}),
        max_download_bytes=256 * MIB,
        download_s="images 5, audio 10, videos 30",
        endpoints=(
            *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/chat/completions/render"),
            *("/cohere/v2/chat", "/cohere/v2/chat/render", "/v1/responses", "/v1/responses/render"),
            *("/v1/messages", "/v1/messages/count_tokens", "/v1/messages/render", "/tokenize"),
            *("/v1/embeddings", "/v2/embed", "/pooling", "/classify", "/score", "/v1/score"),
            *("/rerank", "/v1/rerank", "/v2/rerank", "/v1/systemone", "/invocations"),
            "/inference/v1/generate",
        ),
        reads_paths="--allowed-local-media-path {path}",
        fetches="http(s) of any host, private ones too, unless `--allowed-media-domains` names the hosts; it does not "
        "ask that list where a redirect leads.",
        quirks=(
            "With tenants, a keyed `cache_salt` goes into each request.",
            "Sounds are at most 25 MiB and ten minutes, however they come.",
        ),
    ),
    Profile(
        engine=Engine.SGLANG,
        title="SGLang",
        version="0.5.23",
        chat={
            **_urls(_FILE, _HTTP, _DATA, kinds=(_IMAGE, _VIDEO)),
            _AUDIO: (Part("audio_url", (_FILE, _HTTP, _DATA)), _INPUT_AUDIO),
        },
        responses=(_FILE, _HTTP, _DATA),
        messages=(_BASE64,),
        result_types=_TEXT_IMAGE | {"tool_reference", "search_result"},
        output_types=_TEXT_PARTS,
        source_types=_BASE64_URL,
        beside=frozenset({"image_data", "video_data", "audio_data"}),
        max_download_bytes=64 * MIB,
        download_s="images 3, audio 5, videos 10",
        endpoints=(
            *("/v1/chat/completions", "/v1/responses", "/v1/messages", "/invocations"),
            *("/generate", "/vertex_generate", "/encode", "/classify", "/v1/embeddings"),
            *("/v1/rerank", "/v1/decisions", "/v1/systemone"),
        ),
        fetches="http(s), and where redirects lead, unless `--allowed-media-domains` names the hosts. It opens any "
        "path that it is given, without a flag.",
        quirks=(
            "Media that its model cannot read is left out, and the answer is a 200; as are the `images` of "
            "`/api/chat` and `/api/generate`.",
        ),
    ),
    Profile(
        engine=Engine.LMDEPLOY,
        title="LMDeploy",
        version="0.18.0",
        chat=_urls(_FILE, _PUBLIC, _DATA),
        chat_types=frozenset(
            {"text", "image_url", "image", "video_url", "video", "audio_url", "audio"}
            | {"time_series", "time_series_url"}
        ),
        responses=(),
        messages=(_BASE64,),
        result_types=_TEXT_IMAGE,
        source_types=_BASE64_URL,
        chat_roles=frozenset({"user", "tool"}),
        beside=frozenset({"image_data"}),
        endpoints=("/v1/chat/completions", "/v1/completions", "/v1/messages", "/generate"),
        fetches="http(s) from public addresses, at most 3 redirects, each judged again. It opens any path that it is "
        "given, without a flag.",
        quirks=("A `data:` URI with parameters is refused.",),
    ),
    Profile(
        engine=Engine.LLAMA_SERVER,
        title="llama-server",
        version="of llama-cpp-python 0.3.36",
        chat={
            **_urls(_BELOW, _HTTP, _DATA, kinds=(_IMAGE, _VIDEO)),
            # Whatever stands in `data` is read as what stands in a `url`.
            _AUDIO: (Part("input_audio", (_BELOW, _HTTP, _BASE64)),),
        },
        responses=(_BELOW, _HTTP, _DATA),
        messages=(_BASE64,),
        messages_types=frozenset({"text", "image", "tool_use", "tool_result", "thinking"}),
        result_types=_TEXT_IMAGE,
        source_types=_BASE64_URL,
        max_body_bytes=100 * MIB,
        max_download_bytes=10 * MIB,
        download_s="10",
        endpoints=(
            *("/v1/chat/completions", "/v1/chat/completions/input_tokens"),
            *("/chat/completions", "/chat/completions/input_tokens"),
            *("/v1/responses", "/v1/responses/input_tokens", "/responses"),
            *("/responses/input_tokens", "/v1/messages", "/v1/messages/count_tokens"),
            *("/apply-template", "/completion", "/completions"),
            *("/embedding", "/embeddings", "/v1/embeddings"),
        ),
        reads_paths="--media-path {path}",
        fetches="http(s) of any host, private ones too, and where redirects lead.",
        quirks=(
            "Videos and WebP need `ffmpeg` on its PATH.",
            "A path is always below its one media directory, so it has to be the lease directory itself.",
        ),
    ),
    Profile(
        engine=Engine.LLAMA_CPP_PYTHON,
        title="llama-cpp-python's server",
        version="0.3.36",
        chat=_urls(_FILE, _HTTP, _DATA, kinds=(_IMAGE,)),
        fetches="Whatever Python's `urlopen` takes, without a limit of time or size, private addresses and `file:` "
        "too: only the wall stands before it.",
    ),
    Profile(
        engine=Engine.TRANSFORMERS,
        title="transformers serve",
        version="5.23.0",
        chat={
            _IMAGE: (Part("image_url", (_PATH, _HTTP, _DATA)),),
            _AUDIO: (Part("audio_url", (_PATH, _HTTP, _DATA)), Part("input_audio", (_BASE64,))),
            _VIDEO: (Part("video_url", (_PATH, _HTTP)),),
        },
        responses=(_PATH, _HTTP, _DATA),
        responses_types=_TRANSFORMERS_TYPES,
        output_types=_TRANSFORMERS_TYPES,
        flat_types=_TRANSFORMERS_TYPES,
        reads_chat_parts=True,
        chat_types=_TRANSFORMERS_TYPES,
        endpoints=("/v1/chat/completions", "/v1/responses", "/v1/systemone"),
        fetches="http(s) of any host, and where redirects lead, without a limit of size; media that is missing is "
        "asked for again for some 14 s. It opens any path that it is given, without a flag; started without a model, "
        "it loads whatever `model` names.",
        quirks=(
            "Bad media is a bare 500.",
            "Media that its model cannot read is left out, and the answer is a 200; as is what stands in the content "
            "of a message that has `tool_calls`.",
            "Clips shorter than 32 frames are a 500, unless `chat_template_kwargs.num_frames` asks for fewer.",
        ),
    ),
    Profile(
        engine=Engine.OLLAMA,
        title="Ollama",
        version="0.33.0",
        chat={
            _IMAGE: (Part("image_url", (_DATA,), _JPEG_PNG_WEBP),),
            _AUDIO: (Part("input_audio", (_BASE64,)),),
        },
        responses=(_DATA,),
        messages=(_BASE64,),
        messages_types=frozenset(
            {"text", "image", "tool_use", "tool_result", "thinking"}
            | {"server_tool_use", "web_search_tool_result"}
        ),
        result_types=_TEXT_IMAGE,
        endpoints=(
            *("/v1/chat/completions", "/v1/responses", "/v1/messages"),
            *("/api/chat", "/api/generate"),
        ),
        fetches="Nothing for media. Its own tools search the web, a model named `…:cloud` sends the whole request to "
        "ollama.com, and `/api/pull`, `/api/create` and `/api/experimental/web_fetch` fetch what they are told, "
        "without a key.",
        quirks=(
            "A request with a browser's `Origin` of another host gets an empty 403 until `OLLAMA_ORIGINS` names it.",
            "An `input_image` with only a `file_id` that mediagate does not know would be left out; it is a 404 here.",
        ),
    ),
    Profile(
        engine=Engine.MISTRAL_RS,
        title="mistral.rs",
        version="0.9.2",
        chat=_urls(_PUBLIC, _DATA),
        responses=(_PUBLIC, _DATA),
        messages=(_BASE64,),
        # An image there becomes the text `[image]`; what is neither, the text of its JSON.
        result_types=_TEXT | {"search_result", "document"},
        max_body_bytes=50 * MIB,
        max_download_bytes=64 * MIB,
        download_s="30",
        endpoints=("/v1/chat/completions", "/v1/responses", "/v1/messages"),
        fetches="http(s) from public addresses, at most 3 redirects, each judged again. With its UI, which is on by "
        "default, files uploaded there are opened by `mistralrs-upload:` URLs, which no client can name here.",
        quirks=(
            "Bad media is a 500 with the reason.",
            "Its own `/v1/files` is hidden.",
        ),
    ),
    Profile(
        engine=Engine.TGI,
        title="TGI",
        version="3.3.7",
        chat=_urls(_HTTP, _DATA, kinds=(_IMAGE,)),
        max_body_bytes=2_000_000,
        max_download_bytes=1024 * MIB,
        download_s="30",
        endpoints=(
            *("/v1/chat/completions", "/v1/completions", "/generate", "/generate_stream"),
            *("/invocations", "/tokenize", "/chat_tokenize", "/vertex", "/"),
        ),
        fetches="http(s) of any host, private ones too, and redirects to anywhere; and not only what an `image_url` "
        "names: it fetches each `![](URL)` that stands in any text of a request to a multimodal model. Text is not "
        "judged here, so keep its network closed.",
        quirks=(
            "Bad media is a 422.",
            "2,000,000 bytes of body unless `PAYLOAD_LIMIT` says otherwise.",
        ),
    ),
    Profile(
        engine=Engine.LOCALAI,
        title="LocalAI",
        version="4.9.0",
        chat={
            **_urls(_PUBLIC, _DATA, kinds=(_IMAGE, _VIDEO)),
            _AUDIO: (Part("audio_url", (_PUBLIC, _DATA)), Part("input_audio", (_BASE64,))),
        },
        responses=(_PUBLIC, _DATA),
        messages=(_BASE64,),
        # It leaves out `output_text` too; refusing what it said itself would end each conversation.
        responses_types=frozenset(
            {"input_text", "output_text", "input_image", "input_file", "input_video"}
        ),
        chat_types=frozenset(
            {
                "text",
                "image_url",
                "image",
                "video_url",
                "video",
                "audio_url",
                "audio",
                "input_audio",
            }
        ),
        messages_types=frozenset({"text", "image", "tool_use", "tool_result", "thinking"}),
        result_types=_TEXT,
        # A list there becomes the text of its JSON.
        output_types=_TEXT_PARTS,
        flat_types=frozenset(),
        source_types=frozenset({"base64"}),
        max_body_bytes=15_000_000,
        download_s="30",
        endpoints=("/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"),
        fetches="http(s) without a limit of size. It judges the first address only: redirects lead anywhere. "
        "`/video`, `/v1/detection`, `/v1/face/…`, `/api/cors-proxy` and `/models/apply` fetch what they are told; "
        "they pass unread.",
        quirks=("Media that it cannot fetch or decode is left out, and the answer is a 200.",),
    ),
    Profile(
        engine=Engine.DYNAMO,
        title="Dynamo",
        version="1.6.1",
        chat={
            _IMAGE: (Part("image_url", (_HTTPS, _DATA), _JPEG_PNG_WEBP),),
            # `input_audio` is left out without a word.
            **_urls(_FILE, _HTTPS, _DATA, kinds=(_AUDIO, _VIDEO)),
        },
        responses=(_HTTPS, _DATA),
        messages=(_BASE64,),
        max_body_bytes=45 * MIB,
        max_inline_bytes=16 * MIB,
        max_download_bytes=64 * MIB,
        download_s="images and audio 30, videos 60",
        endpoints=(
            *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
            *("/v1/embeddings", "/pooling"),
        ),
        reads_paths="DYN_MM_LOCAL_PATH={path} in its workers' environment",
        fetches="https from public addresses, at most 3 redirects, each judged again; `http:` and private addresses "
        "with `DYN_MM_ALLOW_INTERNAL=1`. With TensorRT-LLM an `image_url` may name a file of embeddings, which no "
        "client can here. `/v1/videos` and `/v1/images/…` pass unread.",
        quirks=("Without a worker for the model, chat is an empty 404.",),
    ),
    Profile(engine=Engine.OPENAI, title="The inference server"),
)

PROFILES: Mapping[Engine, Profile] = {row.engine: row for row in _ROWS}
"""By name; `auto` has none of its own."""
