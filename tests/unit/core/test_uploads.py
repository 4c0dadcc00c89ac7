"""What an Upload is made of, and when it takes no more."""

import re
from dataclasses import replace

import pytest

from mediagate.core.errors import InvalidValue, UploadNotPending
from mediagate.core.files import BlobKey, FileId, Purpose, new_blob_key, new_file_id, parse_file_id
from mediagate.core.scopes import DEFAULT_SCOPE
from mediagate.core.uploads import (
    Part,
    PartId,
    Upload,
    UploadStatus,
    check_pending,
    in_order,
    is_trunk,
    new_part_id,
    new_upload_id,
    order_of,
    parse_upload_id,
)

NOW = 1_800_000_000
TRUNK, OTHER = new_blob_key(), new_blob_key()


def upload(**changes: object) -> Upload:
    plain = Upload(
        id=new_upload_id(),
        scope=DEFAULT_SCOPE,
        file_id=new_file_id(),
        blob=TRUNK,
        size_bytes=30,
        filename="clip.mp4",
        purpose=Purpose.USER_DATA,
        fixed_s=None,
        created_at=NOW,
        expires_at=NOW + 3600,
    )
    return replace(plain, **changes)  # type: ignore[arg-type] # by name, for brevity


def part(name: str, size_bytes: int, *, blob: BlobKey = OTHER, start: int = 0) -> Part:
    return Part(
        id=PartId(FileId(name)),
        upload_id=new_upload_id(),
        blob=blob,
        start=start,
        size_bytes=size_bytes,
        created_at=NOW,
    )


def test_ids_are_unguessable_and_of_their_own_kind() -> None:
    uploads = {new_upload_id() for _ in range(1000)}
    parts = {new_part_id() for _ in range(1000)}

    assert len(uploads) == len(parts) == 1000
    assert all(re.fullmatch(r"upload_[0-9a-f]{32}", each) for each in uploads)
    assert all(re.fullmatch(r"part_[0-9a-f]{32}", each) for each in parts)
    # They share a table with files: none may ever be asked for as one.
    assert not any(parse_file_id(each) for each in uploads | parts)


@pytest.mark.parametrize(
    "text", ["", "upload_", "upload_" + "0" * 31, "upload_" + "A" * 32, "file-" + "0" * 32]
)
def test_what_is_no_upload_id_is_none(text: str) -> None:
    assert parse_upload_id(text) is None
    assert parse_upload_id(text + "\n") is None


def test_an_upload_id_is_itself() -> None:
    upload_id = new_upload_id()

    assert parse_upload_id(upload_id) == upload_id


def test_a_pending_upload_expires_by_the_clock_and_an_ended_one_does_not() -> None:
    assert upload().status_at(NOW + 3599) is UploadStatus.PENDING
    assert upload().status_at(NOW + 3600) is UploadStatus.EXPIRED
    for status in (UploadStatus.COMPLETED, UploadStatus.CANCELLED):
        assert upload(status=status).status_at(NOW + 9999) is status


def test_an_upload_that_has_ended_says_how() -> None:
    check_pending(upload(), NOW)

    with pytest.raises(UploadNotPending, match="is expired"):
        check_pending(upload(), NOW + 3600)
    with pytest.raises(UploadNotPending, match="is cancelled"):
        check_pending(upload(status=UploadStatus.CANCELLED), NOW)
    with pytest.raises(UploadNotPending, match="is completed"):
        check_pending(upload(status=UploadStatus.COMPLETED), NOW)


def test_parts_are_taken_in_the_order_that_is_asked_for() -> None:
    """H88."""
    parts = [part("a", 10), part("b", 20), part("c", 30)]

    chosen = in_order(upload(), parts, ["b", "a"])

    assert [each.id for each in chosen] == ["b", "a"]


@pytest.mark.parametrize(
    ("part_ids", "message"),
    [
        (["a", "x"], r"part_ids\[1\] is not"),
        (["a", "b", "a"], "twice"),
        (["a"], "10 bytes; the Upload was created for 30"),
        (["a", "b", "c"], "60 bytes"),
    ],
)
def test_unknown_doubled_and_miscounted_parts_are_refused(
    part_ids: list[str], message: str
) -> None:
    """H88."""
    parts = [part("a", 10), part("b", 20), part("c", 30)]

    with pytest.raises(InvalidValue, match=message) as caught:
        in_order(upload(), parts, part_ids)

    assert caught.value.param == "part_ids"


def test_the_trunk_is_all_of_its_parts_in_their_order_and_nothing_else() -> None:
    first, second = part("a", 10, blob=TRUNK), part("b", 20, blob=TRUNK, start=10)
    whole = upload(trunk_bytes=30)

    assert is_trunk(whole, [first, second])
    assert not is_trunk(whole, [second, first])
    assert not is_trunk(whole, [first])
    assert not is_trunk(whole, [second])
    assert not is_trunk(whole, [first, part("c", 20, start=10)])


def test_the_order_of_parts_is_known_again() -> None:
    assert order_of(["a", "b"]) == order_of(("a", "b"))
    different = ("a", "b"), ("b", "a"), ("ab",), ("a",), (), ("a\nb",), ("\ud800",)
    assert len({order_of(ids) for ids in different}) == len(different)
