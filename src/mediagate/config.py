"""Every setting: its type, default, unit and text, in one table, which is the class `Config`.

A field `name` is the flag `--na-me`, the environment variable `MEDIAGATE_NA_ME` and the flat TOML key `na_me`. Later
sources win, one setting at a time: defaults < file < environment < flags. Help texts and the reference page are made
from this table. What operators write is in their units (MB and GB are MiB and GiB); the properties at the end of
`Config` give the rest of the program bytes, seconds and plain values.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from mediagate.core.engines import Engine
from mediagate.core.keys import is_key
from mediagate.core.media_hosts import MediaHosts

ENV_PREFIX = "MEDIAGATE_"
VLLM_ENV_PREFIX = "VLLM_"
CONFIG_ENV = "MEDIAGATE_CONFIG"
SERVER_ENV = "MEDIAGATE_SERVER"
"""Read by the client commands only; no setting of the server."""

MIB = 1024**2
GIB = 1024**3


class Group(StrEnum):
    """Where a setting stands in `--help`; the first group is what most people need."""

    MAIN = "most people need these"
    UPSTREAM = "upstream"
    TENANTS = "tenants"
    SERVER = "server"
    STORE = "store"
    RECEIVE = "receiving files"


class Program(StrEnum):
    """What reads settings."""

    SERVER = "mediagate serve"
    VLLM = "vllm serve"


_SERVER = frozenset({Program.SERVER})
_VLLM = frozenset({Program.VLLM})
_BOTH = _SERVER | _VLLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """How a setting looks from outside, where its type does not say it.

    Attributes:
        group: Its place in the help.
        metavar: What stands for the value in the help.
        unit: Of the value; None: it has none.
        unset: What happens when there is no value, for settings whose default is none.
        is_repeatable: The flag may be given several times; otherwise a list is written with commas.
        programs: Those that have it; the others leave it alone, so that they can share a file and an environment.
        default_in_vllm: Its default there, in place of the field's; None: the same.
    """

    group: Group
    metavar: str | None = None
    unit: str | None = None
    unset: str | None = None
    is_repeatable: bool = False
    programs: frozenset[Program] = _SERVER
    default_in_vllm: object = None


class DeliveryKind(StrEnum):
    """How the upstream gets the bytes of a file that a request names."""

    AUTO = "auto"
    PATH = "path"
    URL = "url"
    INLINE = "inline"


class OriginKind(StrEnum):
    """Sources, weakest first."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; `label` is what the operator wrote there."""

    kind: OriginKind
    label: str


class SettingError(Exception):
    """A setting is wrong. The message is one line, names the setting and its origin, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    outside: Outside
    text: str
    default: Any
    is_switch: bool
    is_list: bool
    is_secret: bool

    @property
    def flag(self) -> str:
        """As typed on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment twin."""
        return ENV_PREFIX + self.name.upper()

    @property
    def vllm_env(self) -> str | None:
        """The twin that vLLM pull request #39003 has, or would have; None: it is nothing of that kind."""
        is_of_uploads = self.name.startswith("file_upload_") or self.name == "enable_file_uploads"
        return VLLM_ENV_PREFIX + self.name.upper() if is_of_uploads else None

    def default_in(self, program: Program) -> Any:
        """Its value where nobody set one."""
        own = self.outside.default_in_vllm
        return own if program is Program.VLLM and own is not None else self.default

    def shown(self, value: object) -> str:
        """`value` for a person: secrets masked, numbers without noise."""
        if value is None or value == ():
            return self.outside.unset or "none"
        if self.is_secret:
            return ", ".join("********" for _ in (value if isinstance(value, tuple) else (value,)))
        if isinstance(value, tuple):
            return ", ".join(map(str, value))
        if isinstance(value, bool):
            return "on" if value else "off"
        return f"{value:.10g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration and where each of its values came from."""

    config: "Config"
    origins: Mapping[str, Origin]


def _upstream_url(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError("must be ASCII without spaces")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is no http:// or https:// URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a password; use upstream_api_key")
    if parts.query or parts.fragment:
        raise ValueError("must not carry a query or a fragment")
    _ = parts.port  # raises ValueError where the port is no number
    return text.rstrip("/")


def _ttl(seconds: float) -> float:
    if seconds != -1 and seconds <= 0:
        raise ValueError("must be above 0, or -1 for files that never expire")
    return seconds


def _api_key(key: SecretStr) -> SecretStr:
    if not is_key(key.get_secret_value()):
        raise ValueError("an API key is visible ASCII without spaces and commas, and not empty")
    return key


def _not_empty(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _mime_type(text: str) -> str:
    exact = text.strip().lower()
    if "*" in exact:
        raise ValueError(f"'{text}' is a pattern; name exact types, such as video/mp4")
    if not re.fullmatch(r"(image|audio|video)/[a-z0-9][a-z0-9.+_-]*", exact):
        raise ValueError(f"'{text}' is no image, audio or video MIME type")
    return exact


def _no_empty_path(value: object) -> object:
    # Path("") is the working directory: nobody who writes nothing means that.
    if value == "":
        raise ValueError("must not be empty")
    return value


def _media_path(text: str) -> str:
    own, *rest = text.split(":")
    if len(rest) > 1:
        raise ValueError("has more than one colon; write DIR or DIR:UPSTREAM_DIR")
    try:
        directory = Path(own).expanduser()
    except RuntimeError:
        raise ValueError(f"{own!r} is in the home of nobody known here") from None
    if not directory.is_absolute():
        raise ValueError(f"{own!r} is no absolute path")
    seen = rest[0] if rest else str(directory)
    if not PLAIN_PATH.fullmatch(seen) or {".", ".."} & set(seen.split("/")):
        raise ValueError(
            f"{seen!r} is no path that every engine reads alike: absolute, of letters, digits and any of ._~+@=,- "
            "(name another, as DIR:UPSTREAM_DIR, where the upstream has it mounted elsewhere)"
        )
    return text


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", name):
        raise ValueError("a header's name is letters, digits and hyphens")
    if name.lower() in _NOT_A_SCOPE:
        raise ValueError(f"'{name}' has a meaning of its own in HTTP")
    return name


def _network(text: str) -> str:
    try:
        return str(ip_network(text.strip()))
    except ValueError:
        raise ValueError(f"'{text}' is no address or network, such as 10.0.0.0/8") from None


def _media_host(text: str) -> str:
    entry = text.strip()
    MediaHosts((entry,))  # raises ValueError, which says what is wrong
    return entry


def _listing_status(status: int) -> int:
    if status not in {403, 404}:
        raise ValueError("must be 403 or 404")
    return status


_NOT_A_SCOPE = frozenset(
    {"authorization", "connection", "content-length", "content-type", "expect", "host", "te"}
    | {"transfer-encoding", "upgrade", "x-request-id"}
)

PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9._~+@=,-]+)+/?")
"""Means the same as it stands, in a `file:` URL and in JSON: some engines cut at `#` or `?`, or decode `%`."""

Finite = Annotated[PositiveFloat, Field(allow_inf_nan=False)]


class Config(BaseModel):
    """The settings of `mediagate serve`, and of the plugin inside `vllm serve`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    upstream: Annotated[
        Annotated[str, AfterValidator(_upstream_url)] | None,
        Outside(group=Group.MAIN, metavar="URL", unset="the built-in inspector answers"),
    ] = None
    """The OpenAI-compatible inference server behind the gateway, with or without `/v1`."""

    host: Annotated[
        str, AfterValidator(_not_empty), Outside(group=Group.MAIN, metavar="ADDRESS")
    ] = "127.0.0.1"
    """Address to listen on; loopback unless told otherwise."""

    port: Annotated[int, Field(ge=0, le=65535), Outside(group=Group.MAIN, metavar="PORT")] = 8080
    """Port to listen on; 0 takes a free one, which the ready line names."""

    api_key: Annotated[
        tuple[Annotated[SecretStr, AfterValidator(_api_key)], ...],
        Outside(
            group=Group.MAIN, metavar="KEY", unset="none: no key is asked for", is_repeatable=True
        ),
    ] = ()
    """A bearer key that clients must send; repeatable, and comma separated in the environment, where `ps` does not
    show it. With a key set, the client's `Authorization` is not passed to the upstream."""

    file_upload_dir: Annotated[
        Annotated[Path, BeforeValidator(_no_empty_path), AfterValidator(Path.expanduser)] | None,
        Outside(
            group=Group.MAIN,
            metavar="DIR",
            unset="a private temporary directory: files are gone at exit",
            programs=_BOTH,
        ),
    ] = None
    """Where files are kept. A directory given here survives restarts and may be shared by several processes."""

    files_only: Annotated[bool, Outside(group=Group.UPSTREAM)] = False
    """A side-car: answer for files only, and nothing else. A proxy in front sends `/v1/files` and `/v1/uploads` here
    and the rest to an engine that resolves ids itself, such as vLLM with this plugin on the same `file_upload_dir`."""

    upstream_api_key: Annotated[
        Annotated[SecretStr, AfterValidator(_api_key)] | None,
        Outside(group=Group.UPSTREAM, metavar="KEY", unset="none"),
    ] = None
    """The upstream's own bearer key."""

    engine: Annotated[Engine, Outside(group=Group.UPSTREAM, metavar="ENGINE")] = Engine.AUTO
    """What the upstream is, and so which media it takes, and how; `auto` asks it. `openai` stands for any other
    server that speaks like OpenAI's. With vLLM, each tenant's requests carry a `cache_salt`, so that prefix caching
    tells tenants nothing about each other; an upstream that does not say what it is, gets one too."""

    delivery: Annotated[DeliveryKind, Outside(group=Group.UPSTREAM, metavar="HOW")] = (
        DeliveryKind.AUTO
    )
    """How the upstream gets a file's bytes: `path` by a link on a disk that both have (`media_path`), `url` by a
    short-lived signed URL of this server, `inline` as base64 in the request. `auto` takes the first of these that is
    set up and that the engine takes; a URL comes before base64 only where `advertise_url` is set."""

    advertise_url: Annotated[
        Annotated[str, AfterValidator(_upstream_url)] | None,
        Outside(
            group=Group.UPSTREAM,
            metavar="URL",
            unset="the address and port that the request came in on",
        ),
    ] = None
    """Where the upstream reaches this server, for `url` delivery."""

    media_path: Annotated[
        Annotated[str, AfterValidator(_media_path)] | None,
        Outside(group=Group.UPSTREAM, metavar="DIR[:UPSTREAM_DIR]", unset="none"),
    ] = None
    """A directory of links for an upstream on the same disk, for `path` delivery: each file of a request has a link in
    it under a random name until the request is over. On the file system of `file_upload_dir`, of its own, and made if
    it is missing. `UPSTREAM_DIR` is what the upstream calls it, if it has it mounted elsewhere."""

    media_group: Annotated[
        Annotated[str, AfterValidator(_not_empty)] | None,
        Outside(group=Group.UPSTREAM, metavar="GROUP", unset="none: only this server's own user"),
    ] = None
    """The group, by name or number, that may read the links, for an upstream that runs as another user. The directory
    and the files it holds links to get that group, and the modes 0750 and 0640; nothing else of the store does."""

    allowed_media_domains: Annotated[
        tuple[Annotated[str, AfterValidator(_media_host)], ...],
        Outside(group=Group.UPSTREAM, metavar="HOSTS", unset="any public address"),
    ] = ()
    """Where http(s) media that clients name may come from, comma separated; with a list, from nowhere else. An entry is
    a host name, `*.example.com` for all names below it, an address or network, or `*` for any public address. Private
    addresses, and names that lead to one, pass only if they are listed; a name that is listed is not looked up."""

    api_key_file: Annotated[
        Annotated[Path, BeforeValidator(_no_empty_path), AfterValidator(Path.expanduser)] | None,
        Outside(group=Group.TENANTS, metavar="FILE", unset="none"),
    ] = None
    """A TOML file with a table `[scopes]`: the name of a tenant, and the list of its keys. A key opens the files of its
    tenant and no others. The file is read again when it changes; if it is wrong then, the keys stay what they were."""

    file_upload_scope_header: Annotated[
        Annotated[str, AfterValidator(_header_name)] | None,
        Outside(
            group=Group.TENANTS,
            metavar="NAME",
            unset="none: all callers share their files",
            programs=_BOTH,
        ),
    ] = None
    """The header in which a gateway in front names the tenant. Every request must carry it, unless its key has a
    tenant; inside vLLM, those about files, and those that name or bring one. It is for nobody behind."""

    trusted_proxy: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...],
        Outside(
            group=Group.TENANTS, metavar="CIDR", unset="any", is_repeatable=True, programs=_BOTH
        ),
    ] = ()
    """Who may set the scope header: addresses or networks; anybody else who does gets 403. Repeatable, and comma
    separated in the environment."""

    file_upload_scope_max_gb: Annotated[
        Finite | None,
        Outside(group=Group.TENANTS, metavar="GB", unit="GiB", unset="none", programs=_BOTH),
    ] = None
    """What one tenant may keep; beyond it, its own least recently used files are evicted. Without it one tenant may
    fill the store, and others then get 507: nobody's upload evicts another tenant's files."""

    file_upload_scope_max_files: Annotated[
        PositiveInt | None, Outside(group=Group.TENANTS, metavar="N", unset="none", programs=_BOTH)
    ] = None
    """How many files one tenant may keep; beyond it, its own least recently used files are evicted."""

    file_upload_disable_listing: Annotated[bool, Outside(group=Group.TENANTS, programs=_BOTH)] = (
        False
    )
    """Refuse `GET /v1/files`, so that only who knows an id finds a file."""

    file_upload_listing_status: Annotated[
        int,
        AfterValidator(_listing_status),
        Outside(group=Group.TENANTS, metavar="STATUS", programs=_BOTH),
    ] = 403
    """The status of that refusal: 403, or 404, which LiteLLM takes for "no Files API here"."""

    workers: Annotated[PositiveInt, Outside(group=Group.SERVER, metavar="N")] = 1
    """Worker processes; they share the store."""

    max_json_mb: Annotated[
        Finite, Outside(group=Group.SERVER, metavar="MB", unit="MiB", programs=_BOTH)
    ] = 64
    """Largest JSON body that is read for references; inside vLLM, the payload of a form. A larger one gets 413."""

    audit_log: Annotated[
        str,
        AfterValidator(_not_empty),
        Outside(group=Group.SERVER, metavar="WHERE", programs=_BOTH),
    ] = "stderr"
    """Where the audit log goes, one JSON line per operation: `stderr`, `off`, or a file, which is appended to."""

    enable_file_uploads: Annotated[
        bool, Outside(group=Group.STORE, programs=_BOTH, default_in_vllm=False)
    ] = True
    """Serve `/v1/files` and `/v1/uploads`, and resolve references; off: all that is left to the engine."""

    file_upload_clear_on_start: Annotated[bool, Outside(group=Group.STORE, programs=_BOTH)] = False
    """Begin with an empty `file_upload_dir`. Only a directory that mediagate made is cleared, and none that another
    process uses."""

    file_upload_ttl_seconds: Annotated[
        float,
        Field(allow_inf_nan=False),
        AfterValidator(_ttl),
        Outside(group=Group.STORE, metavar="SECONDS", unit="s", programs=_BOTH),
    ] = 3600
    """How long a file lives after its last use; -1: for ever, and `expires_at` is left out."""

    file_upload_max_ttl_seconds: Annotated[
        Finite, Outside(group=Group.STORE, metavar="SECONDS", unit="s", programs=_BOTH)
    ] = 2_592_000
    """Longest `expires_after` that is granted; a longer one is shortened, and the reply shows it."""

    file_upload_max_size_mb: Annotated[
        Finite, Outside(group=Group.STORE, metavar="MB", unit="MiB", programs=_BOTH)
    ] = 512
    """Largest single file; a larger one gets 413."""

    file_upload_max_total_gb: Annotated[
        Finite, Outside(group=Group.STORE, metavar="GB", unit="GiB", programs=_BOTH)
    ] = 5
    """Size of the whole store; the least recently used files are evicted to stay below it, each tenant's for its own
    needs only."""

    file_upload_decoded_cache_gb: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False),
        Outside(group=Group.STORE, metavar="GB", unit="GiB per API server", programs=_VLLM),
    ] = 1
    """Memory for decoded media, so that the next question about the same file neither reads nor decodes it again;
    0: nothing is kept."""

    file_upload_max_concurrent: Annotated[
        PositiveInt,
        Outside(
            group=Group.RECEIVE,
            metavar="N",
            unit="per process",
            programs=_BOTH,
            default_in_vllm=4,
        ),
    ] = 64
    """Files received at once by each worker, or API server of vLLM; the next one gets 503 with `Retry-After`. Where
    there are tenants, one of them may hold half of it."""

    file_upload_idle_timeout_seconds: Annotated[
        Finite, Outside(group=Group.RECEIVE, metavar="SECONDS", unit="s", programs=_BOTH)
    ] = 30
    """How long a body may stall before it is given up."""

    file_upload_min_rate_kbps: Annotated[
        Finite, Outside(group=Group.RECEIVE, metavar="KBPS", unit="kbit/s", programs=_BOTH)
    ] = 64
    """Slowest rate at which a body may come in."""

    file_upload_deadline_seconds: Annotated[
        Finite, Outside(group=Group.RECEIVE, metavar="SECONDS", unit="s", programs=_BOTH)
    ] = 3600
    """How long receiving one file may take in all."""

    file_upload_allowed_types: Annotated[
        tuple[Annotated[str, AfterValidator(_mime_type)], ...],
        Outside(
            group=Group.RECEIVE,
            metavar="TYPES",
            unset="every type of the built-in list",
            programs=_BOTH,
        ),
    ] = ()
    """Exact MIME types that are accepted, comma separated, never a pattern such as `image/*`."""

    file_upload_libmagic: Annotated[bool, Outside(group=Group.RECEIVE, programs=_BOTH)] = False
    """Ask libmagic for a second opinion: a contradiction refuses the file, and an allowed type that the built-in list
    does not know is admitted on libmagic's word. Needs the `libmagic` extra."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.files_only and self.upstream is not None:
            raise _contradiction("a side-car has no upstream", "files_only", "upstream")
        if self.files_only and not self.enable_file_uploads:
            raise _contradiction(
                "files only, and none of them", "files_only", "enable_file_uploads"
            )
        if self.files_only and self.file_upload_dir is None:
            raise _contradiction(
                "name the directory that the engine shares", "files_only", "file_upload_dir"
            )
        if self.upstream_api_key is not None and self.upstream is None:
            raise _contradiction(
                "a key for an upstream, and no upstream", "upstream_api_key", "upstream"
            )
        if self.delivers_urls and self.upstream is None:
            raise _contradiction("there is no upstream to fetch a URL", "delivery", "upstream")
        self._check_media_path()
        if self.trusted_proxy and self.file_upload_scope_header is None:
            raise _contradiction(
                "trusted to set a header, and none is named",
                "trusted_proxy",
                "file_upload_scope_header",
            )
        if self.file_upload_clear_on_start and self.file_upload_dir is None:
            raise _contradiction(
                "a temporary directory begins empty; name the one to clear",
                "file_upload_clear_on_start",
                "file_upload_dir",
            )
        if (self.max_scope_bytes or 0) > self.max_total_bytes:
            raise _contradiction(
                "one tenant may keep more than the whole store",
                "file_upload_scope_max_gb",
                "file_upload_max_total_gb",
            )
        if self.file_upload_allowed_types:
            self._check_allowed_types()
        return self

    def _check_media_path(self) -> None:
        if self.media_path is not None and self.upstream is None:
            raise _contradiction("there is no upstream to read links", "media_path", "upstream")
        if self.media_path is None and self.delivery is DeliveryKind.PATH:
            raise _contradiction(
                "name the directory that the upstream reads", "delivery", "media_path"
            )
        if self.media_path is None and self.media_group is not None:
            raise _contradiction(
                "a group that may read links, and no directory of them", "media_group", "media_path"
            )

    def _check_allowed_types(self) -> None:
        from mediagate.media.refused import REFUSED_TYPES  # late: few name types
        from mediagate.media.sniff import MEDIA_TYPES

        wanted = set(self.file_upload_allowed_types)
        if refused := sorted(wanted & REFUSED_TYPES):
            raise _contradiction(
                f"{', '.join(refused)} is never accepted", "file_upload_allowed_types"
            )
        unknown = sorted(wanted - MEDIA_TYPES)
        if unknown and not self.file_upload_libmagic:
            raise _contradiction(
                f"the built-in list does not know {', '.join(unknown)}, only libmagic may",
                "file_upload_allowed_types",
                "file_upload_libmagic",
            )

    @property
    def upstream_root(self) -> str | None:
        """The upstream's URL without a slash or `/v1` at its end; None: the inspector answers."""
        return None if self.upstream is None else self.upstream.removesuffix("/v1").rstrip("/")

    @property
    def delivers_urls(self) -> bool:
        """Whether the upstream fetches files from this server."""
        return self.delivery is DeliveryKind.URL

    @property
    def may_deliver_urls(self) -> bool:
        """Whether the upstream may be told to fetch files from this server."""
        return self.upstream is not None and self.delivery in {DeliveryKind.URL, DeliveryKind.AUTO}

    @property
    def lease_path(self) -> Path | None:
        """The directory of links; None: there is none."""
        return None if self.media_path is None else Path(self.media_path.split(":")[0]).expanduser()

    @property
    def upstream_lease_path(self) -> PurePosixPath | None:
        """What the upstream calls it; None: the same."""
        _, _, seen = (self.media_path or "").partition(":")
        return PurePosixPath(seen) if seen else None

    @property
    def advertise_root(self) -> str | None:
        """Where the upstream reaches this server, without a slash or `/v1` at its end; None: it was not said."""
        url = self.advertise_url
        return None if url is None else url.removesuffix("/v1").rstrip("/")

    @property
    def is_ephemeral(self) -> bool:
        """Whether files are gone at exit."""
        return self.file_upload_dir is None

    @property
    def max_json_bytes(self) -> int:
        """Largest JSON body that is read, in bytes."""
        return int(self.max_json_mb * MIB)

    @property
    def max_file_bytes(self) -> int:
        """Largest single file, in bytes."""
        return int(self.file_upload_max_size_mb * MIB)

    @property
    def max_total_bytes(self) -> int:
        """Size of the whole store, in bytes."""
        return int(self.file_upload_max_total_gb * GIB)

    @property
    def decoded_cache_bytes(self) -> int:
        """Memory for decoded media, in bytes."""
        return int(self.file_upload_decoded_cache_gb * GIB)

    @property
    def max_scope_bytes(self) -> int | None:
        """What one scope may keep, in bytes; None: no ceiling of its own."""
        gib = self.file_upload_scope_max_gb
        return None if gib is None else int(gib * GIB)

    @property
    def max_concurrent_per_scope(self) -> int | None:
        """Files received at once from one tenant: half of all, so that the others find a slot; None: no tenants."""
        return (self.file_upload_max_concurrent + 1) // 2 if self.has_tenants else None

    @property
    def ttl_s(self) -> float | None:
        """Seconds that a file lives after its last use; None: for ever."""
        return None if self.file_upload_ttl_seconds == -1 else self.file_upload_ttl_seconds

    @property
    def min_rate_bytes_per_s(self) -> float:
        """Slowest rate of a body."""
        return self.file_upload_min_rate_kbps * 1000 / 8

    @property
    def allowed_types(self) -> frozenset[str] | None:
        """Exact MIME types that are accepted; None: the built-in list."""
        return frozenset(self.file_upload_allowed_types) or None

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The client keys in clear, but for those of the key file."""
        return tuple(key.get_secret_value() for key in self.api_key)

    @property
    def listing_refused_by(self) -> int | None:
        """The status by which listing is refused; None: it is not."""
        return self.file_upload_listing_status if self.file_upload_disable_listing else None

    @property
    def has_keys(self) -> bool:
        """Whether clients need a key."""
        return bool(self.api_key) or self.api_key_file is not None

    @property
    def has_tenants(self) -> bool:
        """Whether callers may have different scopes."""
        return self.file_upload_scope_header is not None or self.api_key_file is not None


def settings(program: Program | None = None) -> tuple[Setting, ...]:
    """The table, in the order of `Config`; with `program`, what that one reads."""
    table = (_setting(name, field) for name, field in Config.model_fields.items())
    return tuple(
        setting for setting in table if program is None or program in setting.outside.programs
    )


def with_unit(setting: Setting, value: object) -> str:
    """`value` for a person, with its unit; secrets masked."""
    shown = setting.shown(value)
    has_unit = setting.outside.unit is not None and value is not None
    return f"{shown} {setting.outside.unit}" if has_unit else shown


def load(
    *,
    flags: Mapping[str, str | bool | Sequence[str]] | None = None,
    environ: Mapping[str, str],
    config_file: str | None = None,
    program: Program = Program.SERVER,
) -> Resolved:
    """Put the configuration together: defaults < file < environment < flags.

    What the program does not read keeps its default, whatever the file and the environment say.

    Args:
        flags: By name of the setting, only those that were given, as typed.
        environ: The environment; `MEDIAGATE_CONFIG` in it names the file, unless `config_file` does.
        config_file: A TOML file with flat keys.
        program: Who asks. Inside vLLM the pull request's environment twins count too, below our own.

    Raises:
        SettingError: A setting is unknown, malformed or contradicts another one; or the file cannot be read.
    """
    table = {setting.name: setting for setting in settings()}
    values = {name: setting.default_in(program) for name, setting in table.items()}
    origins = {name: Origin(OriginKind.DEFAULT, f"{name} (default)") for name in table}

    def take(name: str, value: object, origin: Origin) -> None:
        if program in table[name].outside.programs:
            values[name] = value
            origins[name] = origin

    path = environ.get(CONFIG_ENV) if config_file is None else config_file
    if path is not None:
        source = "--config" if config_file is not None else CONFIG_ENV
        for name, value in _read_toml(path, source).items():
            label = f"{name} in {path}"
            _check_file_value(table, name, value, label)
            take(name, value, Origin(OriginKind.FILE, label))
    for variable, setting, text in _from_environment(table, environ, program):
        take(setting.name, text, Origin(OriginKind.ENVIRONMENT, variable))
    for name, given in (flags or {}).items():
        take(name, _split(table[name], given), Origin(OriginKind.FLAG, table[name].flag))

    try:
        return Resolved(Config.model_validate(values), origins)
    except ValidationError as error:
        raise SettingError("; ".join(_explain(error, origins))) from None


def _setting(name: str, field: FieldInfo) -> Setting:
    outside = next(extra for extra in field.metadata if isinstance(extra, Outside))
    is_list = isinstance(field.default, tuple)
    leaf = get_args(field.annotation)[0] if get_args(field.annotation) else field.annotation
    return Setting(
        name=name,
        outside=outside,
        text=" ".join((field.description or "").split()),
        default=field.default,
        is_switch=field.annotation is bool,
        is_list=is_list,
        is_secret=SecretStr in (leaf, *get_args(leaf)),
    )


def _contradiction(message: str, *names: str) -> PydanticCustomError:
    return PydanticCustomError("contradiction", "{reason}", {"reason": message, "settings": names})


def _read_toml(path: str, source: str) -> dict[str, object]:
    try:
        with Path(path).expanduser().open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingError(f"{source}: {path!r}: {error.strerror}") from None
    except ValueError as error:
        raise SettingError(f"{source}: {path!r} is no TOML: {error}") from None


def _check_file_value(table: Mapping[str, Setting], name: str, value: object, label: str) -> None:
    if name not in table:
        raise SettingError(f"{label}: no such setting{_did_you_mean(name, table)}")
    # TOML has types of its own, and `port = true` would pass as 1.
    if isinstance(value, bool) is not table[name].is_switch:
        wanted = "true or false" if table[name].is_switch else "a value, not true or false"
        raise SettingError(f"{label}: must be {wanted}")


def _from_environment(
    table: Mapping[str, Setting], environ: Mapping[str, str], program: Program
) -> Iterable[tuple[str, Setting, object]]:
    by_env = {setting.env: setting for setting in table.values()}
    for variable in sorted(environ):
        is_ours = variable.startswith(ENV_PREFIX) and variable not in {CONFIG_ENV, SERVER_ENV}
        if is_ours and variable not in by_env:
            raise SettingError(
                f"{variable} (environment): no such setting{_did_you_mean(variable, by_env)}"
            )
    ours = by_env.keys()
    if program is Program.VLLM:
        of_vllm = {setting.vllm_env: setting for setting in table.values() if setting.vllm_env}
        by_env = {**of_vllm, **by_env}  # ours last: they win
    for variable, setting in by_env.items():
        if variable not in environ:
            continue
        text = environ[variable]
        if not text and variable not in ours:
            continue  # the pull request's way of saying none
        # An empty key would open the server: what was meant as a value must not pass for none.
        if not text.strip():
            raise SettingError(f"{variable} (environment): is empty; give a value or unset it")
        value = _split(setting, [text] if setting.is_list else text, commas=True)
        yield variable, setting, value


def _split(setting: Setting, given: str | bool | Sequence[str], *, commas: bool = False) -> object:
    if not setting.is_list or isinstance(given, bool):
        return given
    texts = [given] if isinstance(given, str) else list(given)
    if commas or not setting.outside.is_repeatable:
        texts = [item.strip() for text in texts for item in text.split(",")]
    return texts


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _explain(error: ValidationError, origins: Mapping[str, Origin]) -> Iterable[str]:
    """One phrase for each thing wrong, under the name that the operator used."""
    for item in error.errors(include_url=False, include_input=False):
        names = item.get("ctx", {}).get("settings") or [str(item["loc"][0])]
        labels = [_label(origins[name]) for name in names]
        reason = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
        yield f"{' and '.join(labels)}: {reason}"


def _label(origin: Origin) -> str:
    where = f" ({origin.kind})" if origin.kind is OriginKind.ENVIRONMENT else ""
    return origin.label + where


def environment() -> Mapping[str, str]:
    """The process's environment: the only place that reads it."""
    return os.environ
