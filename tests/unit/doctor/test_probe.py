"""What an answer proves, and what of it is shown."""

import io
import json

import httpx2
import pytest
from PIL import Image

from mediagate.doctor import probe
from mediagate.doctor.report import Mark
from mediagate.media.sniff import sniff


def answer(body: object, status: int = 200) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx2.Response(status, content=content)


def test_picture_is_a_png_that_every_decoder_takes() -> None:
    picture = probe.picture()

    with Image.open(io.BytesIO(picture)) as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 64))
        assert len(image.getcolors() or ()) == 64
    assert sniff(picture, is_whole=True) == "image/png"


def test_questions_differ_in_the_picture_and_in_nothing_else() -> None:
    without, with_it = probe.question("m"), probe.question("m", "file-1")

    part = with_it["messages"][0]["content"].pop(probe.PLACE)

    assert part == {"type": "image_url", "image_url": {"url": "file-1"}}
    assert with_it == without
    assert without["max_tokens"] == 1


@pytest.mark.parametrize(
    ("with_picture", "without", "mark", "words"),
    [
        (70, 6, Mark.OK, "64 more prompt tokens"),
        (6, 6, Mark.NO, "as if there were no picture"),
        (5, 6, Mark.NO, "as if there were no picture"),
        (None, 6, Mark.OK, "does not tell whether it looked"),
        (70, None, Mark.OK, "does not tell whether it looked"),
    ],
)
def test_only_a_longer_prompt_proves_that_the_picture_was_seen(
    with_picture: int | None, without: int | None, mark: Mark, words: str
) -> None:
    found, text = probe.evidence(with_picture, without)

    assert found is mark
    assert words in text


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"usage": {"prompt_tokens": 12}}, 12),
        ({"usage": {"prompt_tokens": 0}}, None),
        ({"usage": {"prompt_tokens": "12"}}, None),
        ({"usage": None}, None),
        ({}, None),
        ([], None),
        (b"no JSON", None),
    ],
)
def test_prompt_tokens_are_a_number_above_zero_or_unknown(body: object, count: int | None) -> None:
    assert probe.prompt_tokens(answer(body)) == count


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (answer({"error": {"message": "No such\n model."}}, 404), "404 No such model"),
        (answer({"error": "bad key k-123", "message": "later"}, 401), "401 bad key ********"),
        (answer({"message": "An image"}, 500), "500 An image"),
        (answer({"detail": [{"msg": "x"}]}, 422), '422 {"detail": [{"msg": "x"}]}'),
        (answer(b"<html>", 502), "502 <html>"),
        (answer(b"", 403), "403 Forbidden"),
        (answer({"detail": "x" * 1000}, 400), f"400 {'x' * probe.MAX_WORDS}…"),
    ],
)
def test_words_are_short_in_one_line_and_without_keys(
    response: httpx2.Response, words: str
) -> None:
    assert probe.words(response, secrets=["k-123"]) == words


def test_key_at_the_place_where_words_are_cut_is_not_shown_in_part() -> None:
    text = "x" * (probe.MAX_WORDS - 4) + " key-of-the-engine"

    shown = probe.words(answer({"detail": text}, 400), secrets=["key-of-the-engine"])

    assert "key" not in shown


@pytest.mark.parametrize(
    ("response", "is_one"),
    [
        (answer({"choices": [{}]}), True),
        (answer({"choices": []}), False),
        (answer({"error": {"message": "in a 200"}}), False),
        (answer({"choices": [{}]}, 500), False),
    ],
)
def test_answer_is_a_200_in_which_a_model_speaks(response: httpx2.Response, is_one: bool) -> None:
    assert probe.is_answer(response) is is_one
