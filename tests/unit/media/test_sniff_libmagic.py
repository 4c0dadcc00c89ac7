"""The second opinion refuses contradictions, admits what only the operator knows, and never overrules a structure."""

import sys

import pytest

from mediagate.media.libmagic import (
    ALIASES,
    FAMILIES,
    NO_OPINION,
    LibmagicMissing,
    LibmagicOpinion,
    decide,
)
from mediagate.media.refused import REFUSED_TYPES
from mediagate.media.sniff import MEDIA_TYPES, sniff

AIFF = b"FORM\0\0\0\x40AIFFCOMM\0\0\0\x12\0\1\0\0\0\0\0\x10\x40\x0e\xac\x44" + bytes(40)


@pytest.mark.parametrize("opinion", [None, *sorted(NO_OPINION)])
@pytest.mark.parametrize("own", ["video/mp4", "text/html", "application/octet-stream"])
def test_no_opinion_changes_nothing(own: str, opinion: str | None) -> None:
    assert decide(own, opinion, MEDIA_TYPES) == own


@pytest.mark.parametrize("own", sorted(MEDIA_TYPES))
def test_the_same_opinion_changes_nothing(own: str) -> None:
    assert decide(own, own, MEDIA_TYPES) == own


@pytest.mark.parametrize(("alias", "own"), ALIASES.items())
def test_an_alias_is_the_same_opinion(alias: str, own: str) -> None:
    assert own in MEDIA_TYPES
    assert decide(own, alias, MEDIA_TYPES) == own


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: min(family))
def test_within_a_family_ours_is_the_exact_one(family: frozenset[str]) -> None:
    assert family <= MEDIA_TYPES
    for own in family:
        for opinion in family:
            assert decide(own, opinion, MEDIA_TYPES) == own


@pytest.mark.parametrize(
    ("own", "opinion"),
    [
        ("video/mp4", "image/png"),
        ("video/mp4", "text/html"),
        ("video/x-msvideo", "audio/x-wav"),
        ("image/jpeg", "image/png"),
        ("image/png", "image/svg+xml"),
        ("audio/mpeg", "video/mpeg"),
        ("video/mp2t", "text/plain"),
    ],
)
@pytest.mark.parametrize("allow_opinion", [False, True])
def test_a_contradiction_is_allowed_by_no_list(own: str, opinion: str, allow_opinion: bool) -> None:
    allowed = MEDIA_TYPES | ({opinion} if allow_opinion else set())

    decided = decide(own, opinion, allowed)

    assert decided not in allowed
    assert own in decided
    assert opinion in decided


def test_a_type_that_only_the_operator_knows_is_admitted_exactly() -> None:
    own = sniff(AIFF)

    assert decide(own, "audio/x-aiff", MEDIA_TYPES | {"audio/x-aiff"}) == "audio/x-aiff"
    assert decide(own, "audio/x-aiff", MEDIA_TYPES | {"audio/aiff"}) == own
    assert decide(own, "audio/x-aiff", MEDIA_TYPES) == own


@pytest.mark.parametrize("opinion", ["audio/mpeg", "audio/x-wav", "video/mp4", "video/avi"])
def test_a_type_whose_structure_we_looked_for_is_not_admitted_on_libmagics_word(
    opinion: str,
) -> None:
    allowed = MEDIA_TYPES | {opinion}

    assert decide("application/octet-stream", opinion, allowed) == "application/octet-stream"


@pytest.mark.parametrize("own", sorted(REFUSED_TYPES))
def test_a_type_that_we_refuse_is_not_admitted_on_libmagics_word(own: str) -> None:
    assert decide(own, "audio/x-aiff", MEDIA_TYPES | {"audio/x-aiff"}) == own


@pytest.mark.parametrize("opinion", sorted(REFUSED_TYPES))
def test_libmagic_cannot_bring_a_refused_type_in(opinion: str) -> None:
    decided = decide("application/octet-stream", opinion, MEDIA_TYPES | {opinion})

    assert decided == "application/octet-stream"


def test_a_missing_library_is_told_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magic", None)

    with pytest.raises(LibmagicMissing, match=r"mediagate\[libmagic\]"):
        LibmagicOpinion()
