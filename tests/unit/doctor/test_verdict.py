"""What the doctor concludes from what was tried."""

import pytest

from mediagate.config import Config, DeliveryKind
from mediagate.core.engines import Engine
from mediagate.core.files import MediaKind
from mediagate.doctor.report import Check, Mark, Verdict
from mediagate.doctor.verdict import Ways, judge
from mediagate.gateway.profiles import PROFILES

BASE = "http://127.0.0.1:8080"
PATH, URL, INLINE = DeliveryKind.PATH, DeliveryKind.URL, DeliveryKind.INLINE
OK, NO, NOT_TRIED = Mark.OK, Mark.NO, Mark.NOT_TRIED


def ways(engine: Engine, base: str = BASE, **settings: object) -> Ways:
    config = Config.model_validate({"upstream": "http://gpu:8000", **settings})
    return Ways(config, PROFILES[engine], base)


def verdict(found: Ways, *, is_text_only: bool = False, **marks: Mark) -> Verdict:
    tried = {
        kind: Check(marks[kind], kind, "")
        for kind in (PATH, URL, INLINE)
        if found.has(MediaKind.IMAGE, kind)
    }
    return judge(found, tried, is_text_only=is_text_only)


def test_what_auto_takes_is_what_decides() -> None:
    with_links = ways(Engine.VLLM, media_path="/srv/links")

    assert verdict(with_links, path=OK, url=NO, inline=NO).works
    assert not verdict(with_links, path=NO, url=OK, inline=OK).works
    assert verdict(ways(Engine.VLLM), path=NOT_TRIED, url=NO, inline=OK).works
    assert not verdict(ways(Engine.VLLM, delivery="url"), path=NOT_TRIED, url=NO, inline=OK).works
    assert not verdict(
        ways(Engine.VLLM, advertise_url="http://me:8080"), path=NOT_TRIED, url=NO, inline=OK
    ).works


def test_each_kind_of_media_has_a_way_of_its_own() -> None:
    lines = verdict(ways(Engine.TRANSFORMERS), path=NOT_TRIED, url=NO, inline=OK).lines

    assert lines[0] == "With these settings (--delivery auto), transformers serve gets"
    assert lines[1] == "  images  inline, as data:…: works"
    assert (
        lines[2]
        == "  audio   inline, as data:…: not tried; whether the model reads it, only a question can show"
    )
    assert (
        lines[3] == "  videos  url, as http://…: not tried, but with the picture it does not work"
    )


def test_media_that_an_engine_does_not_take_is_named() -> None:
    lines = verdict(ways(Engine.TGI), url=OK, inline=OK).lines

    assert lines[2] == "  audio   not at all: it takes none"
    assert lines[3] == "  videos  not at all: it takes none"


def test_limits_stand_beside_the_delivery_that_has_them() -> None:
    inline = verdict(ways(Engine.LLAMA_SERVER), path=NOT_TRIED, url=OK, inline=OK).lines
    by_url = verdict(
        ways(Engine.LLAMA_SERVER, advertise_url="http://me"), path=NOT_TRIED, url=OK, inline=OK
    ).lines

    assert inline[1].endswith("; requests of up to 100 MiB")
    assert by_url[1].endswith("; files of up to 10 MiB")


@pytest.mark.parametrize(
    ("engine", "media_path", "said"),
    [
        (Engine.VLLM, None, "start vLLM with `--allowed-local-media-path DIR`, and mediagate with"),
        (
            Engine.VLLM,
            "/srv/links",
            "start vLLM with `--allowed-local-media-path /srv/links`, as a user",
        ),
        (
            Engine.VLLM,
            "/srv/links:/media",
            "start vLLM with `--allowed-local-media-path /media`, as a",
        ),
        (
            Engine.LLAMA_SERVER,
            "/srv/links",
            "start llama-server with `--media-path /srv/links`, as a",
        ),
        (Engine.SGLANG, "/srv/links:/media", "let SGLang see /media, as a user"),
    ],
)
def test_better_way_names_the_flag_and_the_directory_as_the_engine_sees_it(
    engine: Engine, media_path: str | None, said: str
) -> None:
    found = ways(engine, media_path=media_path)

    lines = verdict(found, path=NO if media_path else NOT_TRIED, url=NO, inline=OK).lines

    assert [line for line in lines if line.startswith("Better: ") and said in line]


def test_nothing_is_better_than_the_cheapest_way() -> None:
    lines = verdict(ways(Engine.VLLM, media_path="/srv/links"), path=OK, url=OK, inline=OK).lines

    assert len(lines) == 4


def test_url_that_works_is_proposed_in_place_of_base64() -> None:
    lines = verdict(ways(Engine.TGI), url=OK, inline=OK).lines

    assert lines[-1].startswith(f"Better: with `--advertise-url {BASE}` files go by url")
    assert len(verdict(ways(Engine.TGI), url=NO, inline=OK).lines) == 4


def test_delivery_that_works_is_named_where_the_chosen_one_does_not() -> None:
    lines = verdict(ways(Engine.VLLM, delivery="url"), path=NOT_TRIED, url=NO, inline=OK).lines

    assert lines[4].endswith("they would not with `--delivery inline`.")


def test_nothing_works() -> None:
    found = verdict(ways(Engine.TGI), url=NO, inline=NO)

    assert not found.works
    assert found.lines[4] == "Chats that name a picture by id fail: no delivery works."


def test_text_only_model_is_no_fault_of_delivery() -> None:
    found = verdict(ways(Engine.VLLM), is_text_only=True, path=NOT_TRIED, url=NO, inline=NO)

    assert not found.works
    assert found.lines[-1].startswith("Its model takes no pictures")


def test_engine_that_fetches_from_public_hosts_alone_gets_no_url_of_a_private_one() -> None:
    private = ways(Engine.MISTRAL_RS, delivery="auto", advertise_url=BASE)
    public = ways(
        Engine.MISTRAL_RS, "https://files.example.com", advertise_url="https://files.example.com"
    )

    assert private.has(MediaKind.IMAGE, URL)
    assert private.source(MediaKind.IMAGE, URL) is None
    assert private.delivery(MediaKind.IMAGE) is INLINE
    assert public.delivery(MediaKind.IMAGE) is URL
