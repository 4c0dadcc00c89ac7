"""Real vLLM, without our plugin, behind the gateway: with a shared disk and without."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import engine_matrix
import engine_questions
import servers
import vllm_servers
from corpus import Media
from engine_matrix import CELLS, DELIVERIES, WORKS, Bench

pytestmark = pytest.mark.vllm

IN_WORDS = {"ignore_eos": True}
"""A random model may have nothing to say."""


def directly(media: Media) -> dict[str, object]:
    kind = media.mime_type.partition("/")[0]
    return engine_questions.part(kind, engine_questions.data_uri(media))


@pytest.fixture(scope="module", params=[vllm_servers.PICTURES, vllm_servers.SOUND])
def bench(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    media_path = tmp_path_factory.mktemp("vllm") / "media"
    media_path.mkdir(mode=0o700)
    kinds = ("audio",) if request.param == vllm_servers.SOUND else ("image", "video")
    with (
        vllm_servers.serving(
            "--allowed-local-media-path", str(media_path), model=request.param
        ) as engine,
        engine_matrix.gateways(engine.url, "auto", media_path) as gateways,
    ):
        yield Bench("vLLM", engine, kinds, directly, IN_WORDS, gateways)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_by_id_vllm_says_what_it_says_of_the_medium_itself(
    bench: Bench, delivery: str, record_cell: Callable[..., None]
) -> None:
    """H74, H75: in every form, the same text and the same number of tokens; another medium, another text."""
    for kind, form in CELLS:
        if kind not in bench.kinds:
            continue
        found = engine_matrix.outcome(bench, delivery, kind, form)
        assert found == WORKS, (kind, form)
        record_cell(bench.name, kind, form, delivery, found)


def test_nothing_is_left_of_the_links(bench: Bench, tmp_path: Path) -> None:
    """P5: they live as long as their requests."""
    kind = next(iter(bench.kinds))
    engine_matrix.asked(bench, "path", kind, "`file` part")
    gateway = bench.gateways["path"]
    media_path = gateway.store.parent / "media"

    # Both end after the last byte of the answer.
    servers.until(lambda: gateway.leases() == 0)
    servers.until(lambda: [each.name for each in media_path.iterdir()] == [".mediagate-leases"])
