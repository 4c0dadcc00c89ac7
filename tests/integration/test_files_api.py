"""`/v1/files` of a real server, item by item of the contract's part H (cited as H1, H2 …)."""

import http.client
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import corpus
import servers
from servers import Server

pytestmark = pytest.mark.media

MIB = 1024**2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.serving(store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server) -> Iterator[Server]:
    """An empty store; whatever a test leaves must go without a trace when its files are deleted."""
    yield shared
    servers.empty(shared)


@pytest.fixture(scope="module")
def clip() -> corpus.Media:
    return corpus.encode_clip(container="mp4", seconds=0.5)


PNG = corpus.png_pixel()


def large(size_bytes: int) -> bytes:
    """A valid head, then bytes that differ from place to place."""
    pattern = b"".join(n.to_bytes(4, "big") for n in range(16_384))
    data = PNG + pattern * (size_bytes // len(pattern) + 1)
    return data[:size_bytes]


# upload ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", ["user_data", "vision"])
def test_upload_returns_the_whole_file_object(
    gateway: Server, clip: corpus.Media, purpose: str
) -> None:
    """H1, H2, H32."""
    before = int(time.time())

    answer = servers.post_file(gateway, clip.data, filename=clip.filename, purpose=purpose)

    assert answer.status == 200
    file = answer.json()
    file_id, created_at = file.pop("id"), file.pop("created_at")
    assert file_id.startswith("file-")
    assert len(file_id) == 37
    assert set(file_id[5:]) <= set("0123456789abcdef")
    assert before <= created_at <= time.time()
    assert file == {
        "object": "file",
        "bytes": len(clip.data),
        "filename": "clip.mp4",
        "purpose": purpose,
        "status": "processed",
        "mime_type": "video/mp4",
        "expires_at": created_at + 3600,
    }


def test_missing_purpose_means_user_data(gateway: Server) -> None:
    """H6."""
    assert servers.upload(gateway, PNG)["purpose"] == "user_data"


def test_fields_may_follow_the_file(gateway: Server) -> None:
    """H7: curl sends parts in the order typed."""
    body = servers.form(
        servers.part("file", PNG, "a.png"),
        servers.part("purpose", b"vision"),
        servers.part("expires_after[anchor]", b"created_at"),
        servers.part("expires_after[seconds]", b"7200"),
    )

    file = servers.post_form(gateway, body).json()

    assert file["purpose"] == "vision"
    assert file["expires_at"] == file["created_at"] + 7200


@pytest.mark.parametrize("order", ["before", "after"])
def test_unknown_purpose_is_refused_with_the_allowed_ones(gateway: Server, order: str) -> None:
    """H5."""
    parts = [servers.part("purpose", b"answers"), servers.part("file", PNG, "a.png")]

    answer = servers.post_form(
        gateway, servers.form(*(parts if order == "before" else reversed(parts)))
    )

    assert answer.code == (400, "invalid_value")
    assert answer.error["param"] == "purpose"
    assert "user_data" in answer.error["message"]
    assert "vision" in answer.error["message"]
    assert gateway.is_clean()


def test_missing_file_is_named(gateway: Server) -> None:
    """H3."""
    answer = servers.post_form(gateway, servers.form(servers.part("purpose", b"vision")))

    assert answer.code == (400, "invalid_value")
    assert answer.error["param"] == "file"


def test_file_as_text_is_refused(gateway: Server) -> None:
    """H4."""
    answer = servers.post_form(gateway, servers.form(servers.part("file", PNG)))

    assert answer.code == (400, "invalid_value")
    assert answer.error["param"] == "file"
    assert "not text" in answer.error["message"]


@pytest.mark.parametrize("how", ["form", "raw"])
def test_empty_file_is_refused(gateway: Server, how: str) -> None:
    """H13."""
    post = servers.post_file if how == "form" else servers.put_file

    assert post(gateway, b"").code == (400, "empty_file")


def test_fields_that_nobody_knows_are_ignored(gateway: Server) -> None:
    """H29: `extra_body` of the official clients."""
    file = servers.upload(gateway, PNG, ttl="60", tags__="a", meta__k="v")

    assert file["bytes"] == len(PNG)


def test_equal_bytes_get_different_ids_and_blobs(gateway: Server) -> None:
    """H30."""
    first, second = (servers.upload(gateway, PNG) for _ in range(2))

    assert first["id"] != second["id"]
    assert len(gateway.on_disk()) == 2


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("content_type", ["application/octet-stream", "video/mp4", ""])
def test_raw_body_gives_the_same_as_a_form(
    gateway: Server, clip: corpus.Media, method: str, content_type: str
) -> None:
    """The issue's part 4: `curl -T`."""
    query = "filename=my%20clip.mp4&purpose=vision&expires_after[anchor]=created_at&expires_after[seconds]=3600"
    headers = {"content-type": content_type} if content_type else {}

    raw = servers.request(gateway, method, f"/v1/files?{query}", clip.data, headers=headers).json()

    formed = servers.upload(
        gateway,
        clip.data,
        filename="my clip.mp4",
        purpose="vision",
        expires_after__anchor="created_at",
        expires_after__seconds="3600",
    )
    variable = {"id", "created_at", "expires_at"}
    assert {k: v for k, v in raw.items() if k not in variable} == {
        k: v for k, v in formed.items() if k not in variable
    }
    assert raw["expires_at"] - raw["created_at"] == 3600
    digests = gateway.rows("SELECT DISTINCT digest FROM files")
    assert len(digests) == 1


def test_raw_body_of_another_type_is_refused(gateway: Server) -> None:
    answer = servers.request(
        gateway, "POST", "/v1/files", b"{}", headers={"content-type": "application/json"}
    )

    assert (answer.status, answer.error["param"]) == (400, "content-type")


# type --------------------------------------------------------------------------------------------------

KINDS = [*corpus.CLIPS, *corpus.SOUNDS, *corpus.IMAGES]


@pytest.mark.parametrize("container", KINDS)
def test_type_comes_from_the_bytes_whatever_the_client_says(
    gateway: Server, container: str
) -> None:
    """H15, H17, H48: wrong extension, wrong declared type."""
    if container in corpus.CLIPS:
        media = corpus.encode_clip(container=container, seconds=0.2)
    elif container in corpus.SOUNDS:
        media = corpus.encode_sound(container=container, seconds=0.3)
    else:
        media = corpus.encode_image(container=container)
    wrong = "x.wav" if media.mime_type.startswith("image/") else "x.jpeg"

    file = servers.upload(gateway, media.data, filename=wrong)

    assert file["mime_type"] == media.mime_type
    assert file["filename"] == wrong
    content = servers.get(gateway, f"/v1/files/{file['id']}/content")
    assert content.header("content-type") == media.mime_type
    assert content.body == media.data


@pytest.mark.parametrize(
    ("brand", "mime_type"),
    [
        (b"heic", "image/heic"),
        (b"avif", "image/avif"),
        (b"M4A ", "audio/mp4"),
        (b"qt  ", "video/quicktime"),
        (b"isom", "video/mp4"),
    ],
)
def test_brands_of_one_container_are_told_apart(
    gateway: Server, brand: bytes, mime_type: str
) -> None:
    """H17."""
    data = b"\0\0\0\x14ftyp" + brand + b"\0\0\0\0" + brand + b"\0\0\x10\0mdat" + bytes(4088)

    assert servers.upload(gateway, data)["mime_type"] == mime_type


# filename ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/x.mp4", "x.mp4"),
        ("C:\\a\\b.mp4", "b.mp4"),
        ("/etc/passwd", "passwd"),
        ("..", "upload.bin"),
        ("", "upload.bin"),
        ("   ", "upload.bin"),
        ("a\u202egpj.mp4", "agpj.mp4"),
        ("\u200fa\u200b.mp4", "a.mp4"),
        ("日本語 ü 🎬.mp4", "日本語 ü 🎬.mp4"),
        ("a%2F..%2Fb.mp4", "a%2F..%2Fb.mp4"),
    ],
)
@pytest.mark.parametrize("how", ["form", "raw"])
def test_filename_is_a_sanitised_base_name(gateway: Server, sent: str, kept: str, how: str) -> None:
    """H18, H19, H20: and the name on disk has nothing of it."""
    if how == "form":
        answer = servers.post_file(gateway, PNG, filename=sent.replace("\\", "\\\\"))
    else:
        answer = servers.put_file(gateway, PNG, filename=sent)

    file = answer.json()
    assert file["filename"] == kept
    assert servers.get(gateway, f"/v1/files/{file['id']}").json()["filename"] == kept
    (name,) = gateway.on_disk()
    assert len(name) == 32
    assert set(name) <= set("0123456789abcdef")
    assert name not in file["id"]


@pytest.mark.parametrize("bad", ["\0", "\r", "\n", "\r\n", "\x1b[2J", "\x7f", "\x85", "\u2028"])
def test_control_characters_never_survive_in_a_filename(gateway: Server, bad: str) -> None:
    """H18: NUL, CR/LF and what steers a terminal, through the query, where they can be sent."""
    file = servers.put_file(gateway, PNG, filename=f"a{bad}b.mp4").json()

    kept = file["filename"]
    assert kept.startswith("a")
    assert kept.endswith("b.mp4")
    assert kept.isprintable()
    content = servers.get(gateway, f"/v1/files/{file['id']}/content")
    assert content.body == PNG


@pytest.mark.parametrize("bad", [b"\0", b"\x01", b"\x7f"])
def test_control_characters_in_a_part_header_are_refused_or_removed(
    gateway: Server, bad: bytes
) -> None:
    """H18: in the form itself."""
    answer = servers.post_file(gateway, PNG, filename=b"a" + bad + b"b.mp4")

    if answer.status == 200:
        assert answer.json()["filename"] == "ab.mp4"
    else:
        assert answer.code == (400, "malformed_body")
        assert gateway.is_clean()


@pytest.mark.parametrize("bad", [b"\r\n", b"\n", b"\r"])
def test_line_breaks_in_a_part_header_cannot_smuggle_one(gateway: Server, bad: bytes) -> None:
    """H18."""
    answer = servers.post_file(
        gateway, PNG, filename=b'a"' + bad + b'Content-Disposition: form-data; name="purpose'
    )

    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert gateway.is_clean()


@pytest.mark.parametrize(
    ("char", "how_many", "kept"),
    [("ü", 150, 127), ("日", 100, 85), ("🎬", 75, 63), ("x", 300, 255)],
)
@pytest.mark.parametrize("how", ["form", "raw"])
def test_long_filename_is_cut_on_a_code_point(
    gateway: Server, char: str, how_many: int, kept: int, how: str
) -> None:
    """H19: 300 bytes of UTF-8."""
    assert len((char * how_many).encode()) == 300
    post = servers.post_file if how == "form" else servers.put_file

    file = post(gateway, PNG, filename=char * how_many).json()

    assert file["filename"] == char * kept


def test_raw_bytes_of_a_filename_that_is_no_utf8_stay_visible(gateway: Server) -> None:
    file = servers.upload(gateway, PNG, filename=b"caf\xe9.png")

    assert file["filename"] == "caf\ufffd.png"


# permissions -------------------------------------------------------------------------------------------


def test_files_are_private_on_disk(gateway: Server) -> None:
    """H21."""
    servers.upload(gateway, PNG)

    for path in (gateway.store, *gateway.store.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


# expires_after -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3600, 2_592_000])
def test_expires_after_counts_from_the_creation(gateway: Server, seconds: int) -> None:
    """H25."""
    file = servers.upload(
        gateway, PNG, expires_after__anchor="created_at", expires_after__seconds=str(seconds)
    )

    assert file["expires_at"] == file["created_at"] + seconds


@pytest.mark.parametrize(
    ("anchor", "seconds"),
    [
        ("created_at", "3599"),
        ("created_at", "2592001"),
        ("created_at", "1e4"),
        ("created_at", "-3600"),
        ("created_at", "3600.5"),
        ("created_at", "٣٦٠٠"),
        ("created_at", " 3600"),
        ("created_at", ""),
        ("created_at", "9" * 5000),
        ("last_active_at", "3600"),
        ("", "3600"),
        ("created_at", None),
        (None, "3600"),
    ],
)
@pytest.mark.parametrize("where", ["before", "after"])
def test_bad_expires_after_is_refused(
    gateway: Server, anchor: str | None, seconds: str | None, where: str
) -> None:
    """H26."""
    halves = {"expires_after[anchor]": anchor, "expires_after[seconds]": seconds}
    fields = [servers.part(k, v.encode()) for k, v in halves.items() if v is not None]
    file = servers.part("file", PNG, "a.png")
    parts = [*fields, file] if where == "before" else [file, *fields]

    answer = servers.post_form(gateway, servers.form(*parts))

    assert (answer.status, answer.error["param"]) == (400, "expires_after")
    assert gateway.is_clean()


# retrieve, list ----------------------------------------------------------------------------------------


def test_metadata_stays_the_same_when_looked_at(gateway: Server) -> None:
    """H34, H35: neither a GET nor a listing is a use."""
    uploaded = servers.upload(gateway, PNG)
    time.sleep(1.1)

    seen = [servers.get(gateway, f"/v1/files/{uploaded['id']}").json() for _ in range(2)]
    listed = servers.get(gateway, "/v1/files").json()["data"][0]
    seen.append(servers.get(gateway, f"/v1/files/{uploaded['id']}").json())

    assert [*seen, listed] == [uploaded] * 4


def test_list_is_newest_first_and_stable_within_a_second(gateway: Server) -> None:
    """H36, H37, H40."""
    files = [servers.upload(gateway, PNG) for _ in range(12)]

    page = servers.get(gateway, "/v1/files").json()
    ascending = servers.list_ids(gateway, "order=asc")

    expected = sorted(files, key=lambda file: (file["created_at"], file["id"]), reverse=True)
    assert page == {
        "object": "list",
        "data": expected,
        "first_id": expected[0]["id"],
        "last_id": expected[-1]["id"],
        "has_more": False,
    }
    assert ascending == [file["id"] for file in reversed(expected)]


def test_empty_page_has_all_keys(gateway: Server) -> None:
    """H40."""
    assert servers.get(gateway, "/v1/files").json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("count", [5, 6])
def test_cursor_walks_all_pages_without_gap_or_duplicate(
    gateway: Server, order: str, count: int
) -> None:
    """H38: also where the last page is full."""
    uploaded = {servers.upload(gateway, PNG)["id"] for _ in range(count)}

    walked: list[str] = []
    after = ""
    pages = 0
    while True:
        page = servers.get(gateway, f"/v1/files?limit=2&order={order}{after}").json()
        walked += [file["id"] for file in page["data"]]
        pages += 1
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"

    assert pages == 3
    assert sorted(walked) == sorted(uploaded)
    assert walked == servers.list_ids(gateway, f"order={order}")


def test_deleted_cursor_keeps_its_place(gateway: Server) -> None:
    """H44."""
    for _ in range(5):
        servers.upload(gateway, PNG)
    everything = servers.list_ids(gateway)
    cursor = everything[1]
    servers.delete(gateway, f"/v1/files/{cursor}")

    rest = servers.list_ids(gateway, f"after={cursor}")

    assert rest == everything[2:]


def test_purpose_filter_is_exact(gateway: Server) -> None:
    """H43."""
    vision = servers.upload(gateway, PNG, purpose="vision")["id"]
    user_data = servers.upload(gateway, PNG, purpose="user_data")["id"]

    assert servers.list_ids(gateway, "purpose=vision") == [vision]
    assert servers.list_ids(gateway, "purpose=user_data") == [user_data]
    answer = servers.get(gateway, "/v1/files?purpose=batch")
    assert (answer.status, answer.error["param"]) == (400, "purpose")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=abc", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=1.0", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=%D9%A3", "limit"),
        ("order=up", "order"),
        ("after=file-" + "0" * 32, "after"),
        ("after=nonsense", "after"),
        ("after=", "after"),
        ("after=..%2F..%2Fetc%2Fpasswd", "after"),
    ],
)
def test_bad_query_of_a_listing_is_refused(gateway: Server, query: str, param: str) -> None:
    """H41, H42."""
    servers.upload(gateway, PNG)

    answer = servers.get(gateway, f"/v1/files?{query}")

    assert answer.code == (400, "invalid_value")
    assert answer.error["param"] == param


@pytest.mark.parametrize("limit", [1, 10_000])
def test_limits_of_a_listing_include_their_ends(gateway: Server, limit: int) -> None:
    """H41."""
    servers.upload(gateway, PNG)

    assert len(servers.list_ids(gateway, f"limit={limit}")) == 1


# methods -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("DELETE", "/v1/files", {"GET", "HEAD", "POST", "PUT", "OPTIONS"}),
        ("PATCH", "/v1/files", {"GET", "HEAD", "POST", "PUT", "OPTIONS"}),
        ("POST", "/v1/files/{id}", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("DELETE", "/v1/files/{id}/content", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_wrong_method_says_which_are_right(
    gateway: Server, method: str, target: str, allow: set[str]
) -> None:
    """H46."""
    target = target.replace("{id}", servers.upload(gateway, PNG)["id"])

    answer = servers.request(gateway, method, target)

    assert answer.code == (405, "method_not_allowed")
    assert set((answer.header("allow") or "").split(", ")) == allow


def test_head_and_options_are_answered(gateway: Server) -> None:
    """H46."""
    file_id = servers.upload(gateway, PNG)["id"]
    for target in ("/v1/files", f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        with servers.RawClient(gateway) as client:
            client.send_head("GET", target)
            whole = client.read_answer()
            client.send_head("HEAD", target)
            head = client.read_answer(to_head=True)
            client.send_head("OPTIONS", target)
            options = client.read_answer()

        assert head.status == whole.status == 200
        for name in ("content-type", "content-length"):
            assert head.header(name) == whole.header(name)
        assert options.status == 204
        assert "GET" in (options.header("allow") or "")


# content -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [67, 4095, 4096, 4097, 512 * 1024, 512 * 1024 + 1, 5 * MIB])
def test_content_is_what_was_sent(gateway: Server, size_bytes: int) -> None:
    """H47, H49: around the sizes at which heads, batches and chunks begin and end."""
    data = large(size_bytes)
    file_id = servers.upload(gateway, data)["id"]

    answer = servers.get(gateway, f"/v1/files/{file_id}/content", accept="application/binary")

    assert answer.status == 200
    assert answer.body == data
    assert answer.header("content-length") == str(size_bytes)


def test_content_cannot_be_taken_for_a_page(gateway: Server) -> None:
    """H48."""
    file_id = servers.put_file(gateway, PNG, filename='nä"me; x=1.png').json()["id"]

    answer = servers.get(gateway, f"/v1/files/{file_id}/content")

    assert answer.header("content-type") == "image/png"
    assert answer.header("x-content-type-options") == "nosniff"
    assert (
        answer.header("content-disposition")
        == "attachment; filename*=UTF-8''n%C3%A4%22me%3B%20x%3D1.png"
    )
    assert "sandbox" in (answer.header("content-security-policy") or "")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-3", 0, 4),
        ("bytes=1-1", 1, 2),
        ("bytes=999990-", 999_990, 1_000_000),
        ("bytes=-7", 999_993, 1_000_000),
        ("bytes=0-99999999999", 0, 1_000_000),
        ("bytes=-99999999999", 0, 1_000_000),
        ("BYTES=5-8", 5, 9),
    ],
)
def test_one_range_is_served(gateway: Server, asked: str, start: int, stop: int) -> None:
    """H50."""
    data = large(1_000_000)
    file_id = servers.upload(gateway, data)["id"]

    answer = servers.get(gateway, f"/v1/files/{file_id}/content", range=asked)

    assert answer.status == 206
    assert answer.body == data[start:stop]
    assert answer.header("content-range") == f"bytes {start}-{stop - 1}/1000000"
    assert answer.header("content-length") == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=67-", "bytes=100-200", "bytes=-0", f"bytes={2**63}-"])
def test_unsatisfiable_range_tells_the_size(gateway: Server, asked: str) -> None:
    """H50: and lets go of the file."""
    file_id = servers.upload(gateway, PNG)["id"]

    answer = servers.get(gateway, f"/v1/files/{file_id}/content", range=asked)

    assert answer.code == (416, "range_not_satisfiable")
    assert answer.header("content-range") == f"bytes */{len(PNG)}"


@pytest.mark.parametrize(
    "asked", ["bytes=5-2", "bytes=a-b", "items=0-3", "bytes=", "bytes=0-1,3-4", "0-3"]
)
def test_what_is_no_single_range_gets_the_whole(gateway: Server, asked: str) -> None:
    """H50: RFC 9110 §14.2."""
    file_id = servers.upload(gateway, PNG)["id"]

    answer = servers.get(gateway, f"/v1/files/{file_id}/content", range=asked)

    assert (answer.status, answer.body) == (200, PNG)


def test_if_range_counts_for_the_same_bytes_only(gateway: Server) -> None:
    """H50."""
    file_id = servers.upload(gateway, PNG)["id"]
    target = f"/v1/files/{file_id}/content"
    etag = servers.get(gateway, target).header("etag")
    assert etag

    same = servers.get(gateway, target, range="bytes=0-3", if_range=etag)
    other = servers.get(gateway, target, range="bytes=0-3", if_range='"other"')

    assert (same.status, same.body) == (206, PNG[:4])
    assert (other.status, other.body) == (200, PNG)


def _begin_slow_download(client: servers.RawClient, file_id: str) -> bytes:
    """Read the head and a little of the body, so that the server still has most of it to send."""
    client.send_head("GET", f"/v1/files/{file_id}/content")
    assert client.read_head().status == 200
    return client.receive_exactly(1000)


def test_download_outlives_the_deletion_of_its_file(gateway: Server) -> None:
    """H51, H53: invisible at once; the bytes go when the last lease ends."""
    data = large(24 * MIB)
    file_id = servers.put_file(gateway, data).json()["id"]
    with servers.RawClient(gateway, receive_buffer=4096) as client:
        begun = _begin_slow_download(client, file_id)

        assert servers.delete(gateway, f"/v1/files/{file_id}").status == 200

        assert servers.get(gateway, f"/v1/files/{file_id}").code == (404, "file_not_found")
        assert servers.get(gateway, f"/v1/files/{file_id}/content").status == 404
        assert len(gateway.on_disk()) == 1
        rest = client.receive_exactly(len(data) - len(begun))
        assert begun + rest == data
    servers.until(gateway.is_clean, timeout_s=10)


@pytest.mark.parametrize("how", ["reset", "close"])
def test_reader_that_leaves_frees_the_file_and_is_not_read_for(gateway: Server, how: str) -> None:
    """A slow reader of a stream that goes away: its lease ends, and nothing more is read from the disk."""
    data = large(24 * MIB)
    file_id = servers.put_file(gateway, data).json()["id"]
    logged = len(gateway.log())
    with servers.RawClient(gateway, receive_buffer=4096) as client:
        _begin_slow_download(client, file_id)
        assert gateway.leases() == 1

        client.reset() if how == "reset" else client.close()

        servers.until(lambda: gateway.leases() == 0, timeout_s=10)
    line = servers.until(
        lambda: next((x for x in gateway.log()[logged:].splitlines() if "/content" in x), None)
    )
    sent_bytes = int(line.partition("out=")[2].split()[0])
    assert sent_bytes < len(data) / 2


def test_slow_reader_holds_up_nobody_and_costs_little_memory(gateway: Server) -> None:
    """A slow reader of a stream: the server waits for it instead of reading ahead."""
    file_id = servers.put_file(gateway, large(24 * MIB)).json()["id"]
    before = _rss_bytes(gateway)
    clients = [servers.RawClient(gateway, receive_buffer=4096) for _ in range(8)]
    for client in clients:
        _begin_slow_download(client, file_id)

    began = time.monotonic()
    assert servers.get(gateway, "/health").status == 200
    elapsed_s = time.monotonic() - began

    grown = _rss_bytes(gateway) - before
    for client in clients:
        client.reset()
    assert elapsed_s < 10  # a server that they hold up is held up for a minute
    assert grown < 8 * 2 * MIB


def _rss_bytes(server: Server, name: str = "VmRSS") -> int:
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def test_memory_is_bounded_whatever_the_size_of_the_file(gateway: Server) -> None:
    """H9, H47: an upload and a download of 96 MiB."""
    body = servers.form(servers.part("file", large(96 * MIB), "a.png"))
    before = _rss_bytes(gateway, "VmHWM")

    file_id = servers.post_form(gateway, body).json()["id"]
    content = servers.get(gateway, f"/v1/files/{file_id}/content").body

    assert len(content) == 96 * MIB
    assert _rss_bytes(gateway, "VmHWM") - before < 16 * MIB


def test_lost_bytes_are_a_404_not_a_broken_200(gateway: Server) -> None:
    """H52: as after an eviction between the look-up and the opening."""
    file_id = servers.upload(gateway, PNG)["id"]
    (name,) = gateway.on_disk()
    (gateway.store / "blobs" / name[:2] / name).unlink()

    answer = servers.get(gateway, f"/v1/files/{file_id}/content")

    assert answer.code == (404, "file_not_found")
    assert gateway.leases() == 0


# delete ------------------------------------------------------------------------------------------------


def test_delete_removes_at_once_and_once(gateway: Server) -> None:
    """H53, H54."""
    file_id = servers.upload(gateway, PNG)["id"]

    first = servers.delete(gateway, f"/v1/files/{file_id}")
    second = servers.delete(gateway, f"/v1/files/{file_id}")

    assert (first.status, first.json()) == (
        200,
        {"id": file_id, "object": "file", "deleted": True},
    )
    assert second.code == (404, "file_not_found")
    assert gateway.is_clean()


def test_delete_takes_a_json_content_type_without_a_body(gateway: Server) -> None:
    """H55: what the official client sends."""
    file_id = servers.upload(gateway, PNG)["id"]

    answer = servers.request(
        gateway,
        "DELETE",
        f"/v1/files/{file_id}",
        headers={"content-type": "application/json", "accept": "application/json"},
    )

    assert answer.status == 200


def test_every_kind_of_absence_is_one_and_the_same(gateway: Server) -> None:
    """H57, H95: deleted, never there, malformed, hostile; byte for byte the same answer."""
    deleted = servers.upload(gateway, PNG)["id"]
    servers.delete(gateway, f"/v1/files/{deleted}")
    ids = [
        deleted,
        "file-" + "0" * 32,
        "file-0",
        "file-" + "A" * 32,
        "nonsense",
        "a" * 5000,
        "%2e%2e",
        "..%2F..%2Fetc%2Fpasswd",
        "file-" + "0" * 32 + "%2F..%2F..%2Fetc%2Fpasswd",
        "%00",
        "%ff%fe",
        "file-%0d%0a" + "0" * 28,
    ]

    for suffix in ("", "/content"):
        answers = [servers.get(gateway, f"/v1/files/{file_id}{suffix}") for file_id in ids]
        assert {(a.code, a.body) for a in answers} == {((404, "file_not_found"), answers[0].body)}
    answers = [servers.delete(gateway, f"/v1/files/{file_id}") for file_id in ids]
    assert {a.code for a in answers} == {(404, "file_not_found")}


# settings ----------------------------------------------------------------------------------------------


def test_files_that_never_expire_have_no_expires_at(tmp_path: Path) -> None:
    """H27, H33: and an `expires_after` still counts, up to the server's maximum."""
    flags = ("--file-upload-ttl-seconds", "-1", "--file-upload-max-ttl-seconds", "7200")
    with servers.serving(*flags, store=tmp_path) as server:
        forever = servers.upload(server, PNG)
        limited, clamped = (
            servers.upload(
                server, PNG, expires_after__anchor="created_at", expires_after__seconds=seconds
            )
            for seconds in ("3600", "86400")
        )

        assert "expires_at" not in forever
        assert "expires_at" not in servers.get(server, f"/v1/files/{forever['id']}").json()
        assert limited["expires_at"] == limited["created_at"] + 3600
        assert clamped["expires_at"] == clamped["created_at"] + 7200


def test_uploads_off_behave_as_the_bare_server_and_a_key_guards_all_but_health(
    tmp_path: Path,
) -> None:
    """H96."""
    env = {"MEDIAGATE_ENABLE_FILE_UPLOADS": "false", "MEDIAGATE_API_KEY": "secret-key"}
    with servers.serving(store=tmp_path, env=env) as server:
        for method, target in (
            ("GET", "/v1/files"),
            ("POST", "/v1/files"),
            ("GET", "/v1/files/file-" + "0" * 32),
            ("GET", "/v1/models"),
        ):
            for key in ("", "Bearer wrong", "Basic secret-key", "Bearer secret-key, x"):
                refused = servers.request(server, method, target, headers={"authorization": key})
                assert refused.code == (401, "invalid_api_key")
                assert refused.error["type"] == "authentication_error"
            answer = servers.request(
                server, method, target, headers={"authorization": "Bearer secret-key"}
            )
            if target == "/v1/models":
                assert answer.status == 200
            else:
                assert answer.code == (404, "route_not_found")

        assert servers.get(server, "/health").status == 200
        assert "secret-key" not in server.log()


def test_keep_alive_serves_many_requests_on_one_connection(gateway: Server) -> None:
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=30)
    body = servers.form(servers.part("file", PNG, "a.png"))

    ids = []
    used = []
    for _ in range(5):
        connection.request("POST", "/v1/files", body, {"content-type": servers.FORM_TYPE})
        ids.append(json.loads(connection.getresponse().read())["id"])
        used.append(connection.sock)
    connection.request("GET", "/v1/files")
    listed = json.loads(connection.getresponse().read())

    assert connection.sock is not None
    assert all(sock is connection.sock for sock in used)
    assert {file["id"] for file in listed["data"]} == set(ids)
    connection.close()


def test_log_names_no_id_and_no_filename(gateway: Server) -> None:
    file = servers.upload(gateway, PNG, filename="holiday-in-rome.png")
    for suffix in ("", "/content", "%2F..", "?x=" + file["id"]):
        servers.get(gateway, f"/v1/files/{file['id']}{suffix}")
    servers.put_file(gateway, PNG, filename="holiday-in-rome.png")
    servers.get(gateway, "/v1/files?after=" + file["id"])
    servers.delete(gateway, f"/v1/files/{file['id']}")

    log = gateway.log()

    assert file["id"] not in log
    assert file["id"][5:] not in log
    assert "holiday" not in log
    assert "GET /v1/files/{id}/content 200" in log
