"""What `--delivery` comes to with this engine, and what would be better."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mediagate.config import MIB, Config, DeliveryKind
from mediagate.core.engines import Engine
from mediagate.core.files import MediaKind
from mediagate.dialects import openai_chat
from mediagate.dialects.parts import Source
from mediagate.doctor.report import Check, Mark, Verdict
from mediagate.gateway.profiles import Profile
from mediagate.operations.deliver import url_sources
from mediagate.wiring import delivery_order

CHEAPEST_FIRST = (DeliveryKind.PATH, DeliveryKind.URL, DeliveryKind.INLINE)

_NOUNS = {MediaKind.IMAGE: "images", MediaKind.AUDIO: "audio", MediaKind.VIDEO: "videos"}

Tried = Mapping[DeliveryKind, Check]
"""How each delivery of a picture ended, of those that the engine has."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways in which an engine gets media.

    Attributes:
        config: The settings.
        profile: Of the engine.
        base: Where it would fetch from this server, without a path.
    """

    config: Config
    profile: Profile
    base: str

    @property
    def title(self) -> str:
        """Its name within a sentence."""
        title = self.profile.title
        return title[0].lower() + title[1:] if self.profile.engine is Engine.OPENAI else title

    def has(self, media: MediaKind, delivery: DeliveryKind) -> bool:
        """Whether the engine takes media of that kind so, if all is set up for it."""
        return any(source.way == delivery for source in self._taken(media))

    def source(self, media: MediaKind, delivery: DeliveryKind) -> Source | None:
        """What the engine is told of media of that kind; None: it does not take it so, or not from here."""
        fetched = url_sources(self.base)
        taken = (
            source
            for source in self._taken(media)
            if source.way == delivery and (source.way != "url" or source in fetched)
        )
        return next(taken, None)

    def delivery(self, media: MediaKind) -> DeliveryKind | None:
        """How `mediagate serve` gives it media of that kind; None: in no way."""
        order = delivery_order(self.config)
        return next((each for each in order if self.source(media, each) is not None), None)

    def takes(self, media: MediaKind) -> bool:
        """Whether it takes any."""
        return bool(self._taken(media))

    def _taken(self, media: MediaKind) -> Sequence[Source]:
        accepted = self.profile.accepted(openai_chat.find)
        sources = [source for part in accepted.parts.get(media, ()) for source in part.sources]
        return sources or list(accepted.others)

    def path_remedy(self) -> str:
        """What to start differently, so that it opens links."""
        config, title = self.config, self.title
        seen = str(config.upstream_lease_path or config.lease_path or "DIR")
        flag = self.profile.reads_paths.format(path=seen)
        start = f"start {title} with `{flag}`" if flag else f"let {title} see {seen}"
        if config.media_path is not None:
            return f"{start}, as a user who may read it: this one, or one of the group of --media-group"
        return (
            f"on the same disk nothing has to be sent: {start}, and mediagate with `--media-path DIR`, "
            "a directory of its own on the file system of --file-upload-dir"
        )

    def remedy(self, delivery: DeliveryKind) -> str:
        """What to do about a delivery that does not work; empty: nobody knows."""
        match delivery:
            case DeliveryKind.PATH:
                return self.path_remedy()
            case DeliveryKind.URL:
                return "--advertise-url is where it reaches this server, and --host where this server listens"
        return ""


def judge(ways: Ways, tried: Tried, *, is_text_only: bool) -> Verdict:
    """What it comes to.

    Args:
        ways: What the engine takes.
        tried: How each delivery ended.
        is_text_only: The engine said, at least once, that its model takes no pictures.
    """
    chosen = ways.delivery(MediaKind.IMAGE)
    works = chosen is not None and tried[chosen].mark is Mark.OK
    lines = [f"With these settings (--delivery {ways.config.delivery}), {ways.title} gets"]
    lines += [f"  {_NOUNS[media]:<7} {_fate(ways, media, tried)}" for media in MediaKind]
    if is_text_only and not works:
        lines.append(
            "Its model takes no pictures, and no delivery changes that. --model names another one."
        )
        return Verdict(works=False, lines=lines)
    if not works:
        lines.append(_failure(chosen, tried))
    lines += [f"Better: {text}." for text in _better(ways, tried, works=works)]
    return Verdict(works=works, lines=lines)


def _fate(ways: Ways, media: MediaKind, tried: Tried) -> str:
    delivery = ways.delivery(media)
    if delivery is None:
        return "in no way that is set up" if ways.takes(media) else "not at all: it takes none"
    mark = tried[delivery].mark if delivery in tried else Mark.NOT_TRIED
    known = {Mark.OK: "works", Mark.NO: "does not work", Mark.NOT_TRIED: "not tried"}[mark]
    if media is not MediaKind.IMAGE and mark is Mark.OK:
        # A model without ears is no fault of the delivery, and some engines then drop the sound without a word.
        known = "not tried; whether the model reads it, only a question can show"
    if media is not MediaKind.IMAGE and mark is Mark.NO:
        known = f"not tried, but with the picture it {known}"
    source = ways.source(media, delivery)
    return f"{delivery}, as {source}: {known}{_limit(ways.profile, delivery)}"


def _limit(profile: Profile, delivery: DeliveryKind) -> str:
    if delivery is DeliveryKind.INLINE and profile.max_body_bytes is not None:
        return f"; requests of up to {_mib(profile.max_body_bytes)}"
    if delivery is DeliveryKind.URL and profile.max_download_bytes is not None:
        return f"; files of up to {_mib(profile.max_download_bytes)}"
    return ""


def _mib(count: int) -> str:
    return f"{count / MIB:.3g} MiB"


def _failure(chosen: DeliveryKind | None, tried: Tried) -> str:
    if chosen is None:
        return "Chats that name a picture by id are refused."
    working = [kind for kind, check in tried.items() if check.mark is Mark.OK]
    if not working:
        return "Chats that name a picture by id fail: no delivery works."
    return f"Chats that name a picture by id fail; they would not with `--delivery {working[0]}`."


def _better(ways: Ways, tried: Tried, *, works: bool) -> Iterator[str]:
    """What to start differently; nothing where the cheapest way is taken and works."""
    chosen = ways.delivery(MediaKind.IMAGE)
    for kind, check in tried.items():
        if works and kind is chosen:
            return
        if kind is DeliveryKind.PATH and check.mark is not Mark.OK:
            yield ways.path_remedy()
        elif works and kind is DeliveryKind.URL and check.mark is Mark.OK:
            yield (
                f"with `--advertise-url {ways.base}` files go by url, and not as base64 in each request"
            )
