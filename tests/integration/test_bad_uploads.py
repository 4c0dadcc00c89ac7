"""Uploads that must fail: each with its exact answer, the slot free again, and nothing left behind."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import corpus
import servers
from servers import Answer, RawClient, Server

pytestmark = pytest.mark.media

MIB = 1024**2
PNG = corpus.png_pixel()
EXTENSIONS = sorted({*corpus.CLIPS, *corpus.SOUNDS, *corpus.IMAGES} - {"animated.gif"})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One slot, so that one that is not given back is noticed by the next upload; files of up to 1 MiB."""
    flags = ("--file-upload-max-size-mb", "1", "--file-upload-max-concurrent", "1")
    with servers.serving(*flags, store=tmp_path_factory.mktemp("store")) as server:
        yield server


@pytest.fixture
def gateway(shared: Server) -> Iterator[Server]:
    """Whatever happened in a test: nothing is left, and the one slot is free."""
    yield shared
    servers.until(shared.is_clean, timeout_s=10)
    servers.until(lambda: servers.post_file(shared, PNG).status == 200, timeout_s=10)
    servers.empty(shared)
    assert "Traceback" not in shared.log()


def padded(size_bytes: int) -> bytes:
    return PNG + bytes(size_bytes - len(PNG))


# early answers -------------------------------------------------------------------------------------------


def test_bad_purpose_is_answered_before_any_media_came(gateway: Server) -> None:
    """H8."""
    head = servers.part("purpose", b"answers") + servers.part("file", b"", "a.mp4")[:-2]
    with RawClient(gateway) as client:
        client.send_head(
            "POST",
            "/v1/files",
            f"Content-Type: {servers.FORM_TYPE}",
            f"Content-Length: {MIB}",
        )
        client.send(head)

        answer = client.read_answer()

    assert answer.code == (400, "invalid_value")
    assert answer.error["param"] == "purpose"
    assert answer.header("connection") == "close"


def test_bad_expires_after_is_answered_before_any_media_came(gateway: Server) -> None:
    head = (
        servers.part("expires_after[anchor]", b"created_at")
        + servers.part("expires_after[seconds]", b"60")
        + servers.part("file", b"", "a.mp4")[:-2]
    )
    with RawClient(gateway) as client:
        client.send_head(
            "POST", "/v1/files", f"Content-Type: {servers.FORM_TYPE}", f"Content-Length: {MIB}"
        )
        client.send(head)

        answer = client.read_answer()

    assert (answer.status, answer.error["param"]) == (400, "expires_after")


@pytest.mark.parametrize("how", ["form", "raw"])
@pytest.mark.parametrize("expects", [True, False])
def test_declared_length_over_the_limit_is_refused_unread(
    gateway: Server, how: str, expects: bool
) -> None:
    """H10: and `Expect: 100-continue` gets no 100."""
    content_type = servers.FORM_TYPE if how == "form" else "video/mp4"
    length = 2 * MIB + 1 if how == "form" else MIB + 1
    lines = [f"Content-Type: {content_type}", f"Content-Length: {length}"]
    if expects:
        lines.append("Expect: 100-continue")
    with RawClient(gateway) as client:
        client.send_head("POST", "/v1/files", *lines)

        answer = client.read_answer()

    assert answer.code == (413, "file_too_large")
    assert answer.header("connection") == "close"


def test_expectation_is_met_when_the_body_is_wanted(gateway: Server) -> None:
    with RawClient(gateway) as client:
        client.send_head(
            "PUT", "/v1/files?filename=a.png", f"Content-Length: {len(PNG)}", "Expect: 100-continue"
        )
        assert client.read_head().status == 100
        client.send(PNG)

        answer = client.read_answer()

    assert answer.status == 200
    servers.empty(gateway)


def test_no_slot_is_told_before_the_body_is_read(gateway: Server) -> None:
    """H23, H94."""
    with servers.slot_taken(gateway, padded(MIB // 2)) as first, RawClient(gateway) as second:
        second.send_head("PUT", "/v1/files", f"Content-Length: {MIB}", "Expect: 100-continue")

        refused = second.read_answer()

        assert refused.code == (503, "too_many_uploads")
        assert 1 <= int(refused.header("retry-after") or "") <= 120
        assert refused.error["type"] == "server_error"
        assert refused.header("x-should-retry") is None
        assert servers.get(gateway, "/health").status == 200
        first.send(bytes(MIB // 2))
        assert first.read_answer().status == 200
    servers.empty(gateway)


# size ----------------------------------------------------------------------------------------------------


def send_form(server: Server, data: bytes) -> Answer:
    return servers.post_file(server, data)


def send_raw(server: Server, data: bytes) -> Answer:
    return servers.put_file(server, data)


def chunked(data: bytes, size: int = 10_000) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def send_chunked(server: Server, data: bytes) -> Answer:
    with RawClient(server) as client:
        client.send_head("PUT", "/v1/files", "Transfer-Encoding: chunked")
        client.send_while_taken(chunked(data))
        return client.read_answer()


def send_chunked_form(server: Server, data: bytes) -> Answer:
    with RawClient(server) as client:
        client.send_head(
            "POST",
            "/v1/files",
            f"Content-Type: {servers.FORM_TYPE}",
            "Transfer-Encoding: chunked",
        )
        client.send_while_taken(chunked(servers.form(servers.part("file", data, "a.png"))))
        return client.read_answer()


SENDERS = [send_form, send_raw, send_chunked, send_chunked_form]


@pytest.mark.parametrize("send", SENDERS)
def test_file_of_exactly_the_limit_is_taken(
    gateway: Server, send: Callable[[Server, bytes], Answer]
) -> None:
    """H10, H11."""
    answer = send(gateway, padded(MIB))

    assert answer.status == 200
    assert answer.json()["bytes"] == MIB
    servers.empty(gateway)


@pytest.mark.parametrize("send", SENDERS)
@pytest.mark.parametrize("extra_bytes", [1, MIB // 2])
def test_file_over_the_limit_is_refused(
    gateway: Server, send: Callable[[Server, bytes], Answer], extra_bytes: int
) -> None:
    """H9, H11: counted while streaming where nothing was declared."""
    answer = send(gateway, padded(MIB + extra_bytes))

    assert answer.code == (413, "file_too_large")
    assert answer.error["type"] == "invalid_request_error"


def test_endless_chunked_body_is_cut_at_the_limit(gateway: Server) -> None:
    """H11: the client that never ends is told, and not read for ever."""
    piece = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0
    with RawClient(gateway) as client:
        client.send_head("PUT", "/v1/files", "Transfer-Encoding: chunked")
        client.send(b"%x\r\n%b\r\n" % (len(PNG), PNG))
        with contextlib.suppress(ConnectionError):
            while sent < 64 * MIB:
                client.send(piece)
                sent += 65536

    assert sent < 64 * MIB


# type ----------------------------------------------------------------------------------------------------


def test_what_is_no_media_is_refused(gateway: Server) -> None:
    """H14, H16: the whole corpus of it, declared as media."""
    for name, data in corpus.HOSTILE:
        for answer in (
            servers.post_file(gateway, data, filename="clip.mp4"),
            servers.request(
                gateway, "PUT", "/v1/files", data, headers={"content-type": "video/mp4"}
            ),
        ):
            assert answer.code == (400, "unsupported_media_type" if data else "empty_file"), name
            assert answer.error["param"] == "file"
    assert gateway.is_clean()


@pytest.mark.parametrize("kind", ["svg", "html", "elf", "zip", "pdf"])
def test_wrong_type_is_refused_behind_every_extension(gateway: Server, kind: str) -> None:
    """H14, H16."""
    data = next(data for name, data in corpus.HOSTILE if name.startswith(kind))
    for extension in EXTENSIONS:
        answer = servers.post_file(gateway, data, filename=f"clip.{extension}")

        assert answer.code == (400, "unsupported_media_type"), extension
    assert gateway.is_clean()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x7fELF\2\1\1" + bytes(9) + b"\2\0\x3e\0\1\0\0\0" + bytes(200), "application/x-"),
        (b"%PDF-1.7\n" + bytes(100), "application/pdf"),
        (b"<!DOCTYPE html><html></html>", "text/html"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"),
    ],
)
def test_refusal_names_what_was_found(gateway: Server, data: bytes, told: str) -> None:
    """H14."""
    assert told in servers.put_file(gateway, data).error["message"]


def test_wrong_type_is_refused_after_its_first_4_kib(gateway: Server) -> None:
    """Part 4: nothing is written before the type is known."""
    with RawClient(gateway) as client:
        client.send_head("PUT", "/v1/files", f"Content-Length: {MIB}")
        client.send(b"<html>" + b" " * 4090)

        answer = client.read_answer()

        assert answer.code == (400, "unsupported_media_type")
        assert gateway.is_clean()


@pytest.mark.services
def test_svg_is_refused_with_libmagic_too(tmp_path: Path) -> None:
    """H16: where libmagic calls it `image/svg+xml`."""
    svgs = [data for name, data in corpus.HOSTILE if "svg" in name]
    with servers.serving("--file-upload-libmagic", store=tmp_path) as server:
        for data in svgs:
            answer = servers.post_file(server, data, filename="a.png")
            assert answer.code == (400, "unsupported_media_type")
        assert servers.post_file(server, PNG).status == 200


# forms ---------------------------------------------------------------------------------------------------

WHOLE = servers.form(
    servers.part("purpose", b"vision"), servers.part("file", padded(6000), "a.png")
)


def test_truncated_form_is_refused(gateway: Server) -> None:
    """The issue: truncated multipart; the HTTP body itself is complete."""
    for at in (*range(0, 380, 9), 4096, 5000, *range(len(WHOLE) - 40, len(WHOLE) - 2)):
        assert servers.post_form(gateway, WHOLE[:at]).code == (400, "malformed_body"), at


def test_missing_final_boundary_is_refused(gateway: Server) -> None:
    for end in (b"", b"--" + servers.BOUNDARY.encode() + b"\r\n", b"--other--\r\n"):
        body = servers.form(servers.part("file", padded(6000), "a.png"), end=end)

        assert servers.post_form(gateway, body).code == (400, "malformed_body")


@pytest.mark.parametrize("second", ["a.png", "b.png"])
@pytest.mark.parametrize("size_bytes", [len(PNG), 6000])
def test_two_files_are_refused(gateway: Server, second: str, size_bytes: int) -> None:
    """H28."""
    data = padded(size_bytes)
    body = servers.form(servers.part("file", data, "a.png"), servers.part("file", data, second))

    answer = servers.post_form(gateway, body)

    assert answer.code == (400, "invalid_value")
    assert answer.error["param"] == "file"


def test_file_under_another_name_is_refused(gateway: Server) -> None:
    for parts in (
        [servers.part("data", PNG, "a.png")],
        [servers.part("file", PNG, "a.png"), servers.part("data", PNG, "b.png")],
        [servers.part("purpose", b"vision", "purpose.txt"), servers.part("file", PNG, "a.png")],
    ):
        answer = servers.post_form(gateway, servers.form(*parts))

        assert (answer.status, answer.error["param"]) == (400, "file")


@pytest.mark.parametrize("name", ["purpose", "expires_after[anchor]", "expires_after[seconds]"])
def test_doubled_field_is_refused(gateway: Server, name: str) -> None:
    value = {"purpose": b"vision", "expires_after[anchor]": b"created_at"}.get(name, b"3600")
    body = servers.form(
        servers.part(name, value), servers.part(name, value), servers.part("file", PNG, "a.png")
    )

    answer = servers.post_form(gateway, body)

    assert (answer.status, answer.error["param"]) == (400, name)


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_hundred_thousand_tiny_parts_are_refused_early(gateway: Server, where: str) -> None:
    """H28: read for as long as it takes to see the 101st."""
    tiny = servers.part("x", b"y") * 100_000
    file = servers.part("file", padded(6000), "a.png")
    body = servers.form(tiny, file) if where == "before" else servers.form(file, tiny)
    with RawClient(gateway) as client:
        client.send_head(
            "POST", "/v1/files", f"Content-Type: {servers.FORM_TYPE}", "Transfer-Encoding: chunked"
        )
        client.send_while_taken(chunked(body[:MIB], 64 * 1024))

        answer = client.read_answer()

    assert answer.code == (400, "malformed_body")


def test_hundred_text_parts_are_taken(gateway: Server) -> None:
    """H28: the limit is where it is said to be."""
    file = servers.part("file", PNG, "a.png")

    taken = servers.post_form(gateway, servers.form(*[servers.part("x", b"y")] * 100, file))
    refused = servers.post_form(gateway, servers.form(*[servers.part("x", b"y")] * 101, file))

    assert taken.status == 200
    assert refused.code == (400, "malformed_body")
    servers.empty(gateway)


@pytest.mark.parametrize("size_bytes", [MIB + 1, 10 * MIB])
@pytest.mark.parametrize("name", ["purpose", "x"])
def test_long_text_part_is_refused(gateway: Server, size_bytes: int, name: str) -> None:
    """H28: a 10 MB text part, with no length declared."""
    body = servers.form(servers.part(name, b"v" * size_bytes))
    with RawClient(gateway) as client:
        client.send_head(
            "POST", "/v1/files", f"Content-Type: {servers.FORM_TYPE}", "Transfer-Encoding: chunked"
        )
        client.send_while_taken(chunked(body, 64 * 1024))

        answer = client.read_answer()

    assert answer.code == (400, "malformed_body")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        b"--" + servers.BOUNDARY.encode() + b"\r\n\r\n" + PNG,
        servers.form(b"--" + servers.BOUNDARY.encode() + b"\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
        servers.form(b"--" + servers.BOUNDARY.encode() + b"\r\n" + b"A: b\r\n" * 10_000 + b"\r\n"),
    ],
    ids=["empty", "prose", "part without headers", "long part header", "many part headers"],
)
def test_what_is_no_form_is_refused(gateway: Server, body: bytes) -> None:
    assert servers.post_form(gateway, body).code == (400, "malformed_body")


def test_no_word_of_a_malformed_form_stands_in_the_log(gateway: Server) -> None:
    """P13: the parser's own complaints quote what was sent."""
    before = len(gateway.log())

    assert servers.post_form(gateway, b"secret, and no form").code == (400, "malformed_body")

    servers.until(lambda: " 400 " in gateway.log()[before:])
    told = gateway.log()[before:].splitlines()
    assert [line for line in told if "mediagate.access" not in line and '"op":' not in line] == []


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="' + "x" * 71 + '"',
        "multipart/form-data; boundary=another",
    ],
)
def test_bad_boundary_is_refused(gateway: Server, content_type: str) -> None:
    answer = servers.post_form(gateway, WHOLE, headers={"content-type": content_type})

    assert answer.code == (400, "malformed_body")


def test_boundary_like_bytes_in_the_file_are_kept(gateway: Server) -> None:
    boundary = servers.BOUNDARY.encode()
    tricky = [
        b"\r\n--" + boundary[:-1],
        b"\r",
        b"\n",
        b"--",
        b"\r\n-",
        b"\r\n--" + boundary[:-1] + b"x",
    ]
    data = PNG + b"".join(tricky * 50) + b"\r\n"

    file = servers.upload(gateway, data)

    assert servers.get(gateway, f"/v1/files/{file['id']}/content").body == data
    servers.empty(gateway)


# clients that leave --------------------------------------------------------------------------------------


def head_of(how: str, length: int) -> Sequence[str]:
    framing = "Transfer-Encoding: chunked" if "chunked" in how else f"Content-Length: {length}"
    kind = servers.FORM_TYPE if "form" in how else "video/mp4"
    return (f"Content-Type: {kind}", framing)


@pytest.mark.parametrize("leave", ["fin", "half close", "reset"])
@pytest.mark.parametrize("how", ["form", "raw", "form chunked", "raw chunked"])
def test_client_that_leaves_mid_body_leaves_nothing(gateway: Server, leave: str, how: str) -> None:
    """H22: before the type is known, and after."""
    for sent_bytes in (0, 100, 6000, 600_000):
        leave_after(gateway, leave, how, sent_bytes)


def leave_after(gateway: Server, leave: str, how: str, sent_bytes: int) -> None:
    start = servers.part("file", b"", "a.png")[:-2] if "form" in how else b""
    body = start + padded(MIB)
    client = RawClient(gateway)
    client.send_head("POST", "/v1/files", *head_of(how, len(body)))
    piece = body[:sent_bytes]
    client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in how and piece else piece)
    if sent_bytes > 5000:
        servers.until(lambda: gateway.on_disk() and gateway.usage()[0] > 0)

    if leave == "reset":
        client.reset()
    elif leave == "half close":
        client.half_close()
        with contextlib.suppress(ConnectionError):
            assert not client.read_rest().startswith(b"HTTP/1.1 2")
        client.close()
    else:
        client.close()

    servers.until(gateway.is_clean, timeout_s=10)
    # The one slot too: what never reached the disk looks clean before the server has noticed that its client left.
    servers.until(lambda: servers.post_file(gateway, PNG).status == 200, timeout_s=10)
    servers.empty(gateway)


def test_client_that_leaves_after_the_last_byte_but_before_the_answer_gets_all_or_nothing(
    gateway: Server,
) -> None:
    body = servers.form(servers.part("file", padded(100_000), "a.png"))
    for _ in range(10):
        client = RawClient(gateway)
        client.send_head(
            "POST",
            "/v1/files",
            f"Content-Type: {servers.FORM_TYPE}",
            f"Content-Length: {len(body)}",
        )
        client.send(body)
        client.reset()
        # The slot is free again when it is decided.
        servers.until(lambda: servers.put_file(gateway, PNG).status == 200, timeout_s=10)

    for file_id in servers.list_ids(gateway):
        assert servers.get(gateway, f"/v1/files/{file_id}/content").status == 200
    servers.empty(gateway)


@pytest.mark.parametrize(
    "broken", [b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabcdefgh\r\n"]
)
def test_broken_chunk_framing_leaves_nothing(gateway: Server, broken: bytes) -> None:
    with RawClient(gateway) as client:
        client.send_head("PUT", "/v1/files", "Transfer-Encoding: chunked")
        client.send(b"%x\r\n%b\r\n" % (6000, padded(6000)))
        servers.until(gateway.on_disk)

        client.send(broken)
        answer = client.read_answer()

    assert answer.code == (400, "malformed_body")


# the connection after an early error -----------------------------------------------------------------------


@pytest.mark.parametrize("rest_bytes", [0, 100_000, MIB])
def test_rest_of_a_refused_body_is_never_taken_for_a_request(
    gateway: Server, rest_bytes: int
) -> None:
    """The issue: the next request on the connection after an early error."""
    smuggled = b"\r\n\r\nGET /v1/files HTTP/1.1\r\nHost: x\r\n\r\n"
    body = servers.part("purpose", b"no") + servers.part("file", padded(200), "a")[:-2]
    body += smuggled + bytes(rest_bytes) + smuggled
    following = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with RawClient(gateway) as client:
        client.send_head(
            "POST",
            "/v1/files",
            f"Content-Type: {servers.FORM_TYPE}",
            f"Content-Length: {len(body)}",
        )
        client.send_while_taken(body + following)

        answer = client.read_answer()
        rest = b""
        with contextlib.suppress(ConnectionResetError):
            rest = client.read_rest()

    assert answer.code == (400, "invalid_value")
    if answer.header("connection") == "close":
        assert rest == b""
    else:
        assert rest.count(b"HTTP/1.1 ") == 1
        assert rest.endswith(b'{"status":"ok"}')


def test_connection_goes_on_after_an_error_whose_body_had_come(gateway: Server) -> None:
    body = servers.form(servers.part("file", b"", "a.png"))
    with RawClient(gateway) as client:
        for _ in range(3):
            client.send_head(
                "POST",
                "/v1/files",
                f"Content-Type: {servers.FORM_TYPE}",
                f"Content-Length: {len(body)}",
            )
            client.send(body)
            assert client.read_answer().code == (400, "empty_file")
        client.send_head("GET", "/health")
        assert client.read_answer().status == 200


def test_early_answer_is_read_by_a_client_that_sends_everything_first(gateway: Server) -> None:
    """A reset that overtakes the answer would show here."""
    for _ in range(5):
        with RawClient(gateway) as client:
            client.send_head("PUT", "/v1/files", f"Content-Length: {4 * MIB}")
            client.send_while_taken(bytes(4 * MIB))
            assert client.read_answer().code == (413, "file_too_large")


# slow clients, full disks ----------------------------------------------------------------------------------


def test_stalled_body_gives_its_slot_back(tmp_path: Path) -> None:
    """P10: the idle timeout, and the minimum rate against one that trickles; 408 is not worth a retry."""
    flags = (
        "--file-upload-idle-timeout-seconds=0.3",
        "--file-upload-min-rate-kbps=64",
        "--file-upload-max-concurrent=1",
    )
    with servers.serving(*flags, store=tmp_path) as server:
        for trickles in (False, True):
            with servers.slot_taken(server, padded(6000)) as client:
                began = time.monotonic()
                client.socket.settimeout(0.05)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    while trickles and time.monotonic() - began < 10:
                        client.send(b"x")
                        with contextlib.suppress(TimeoutError):
                            if client.socket.recv(1, socket.MSG_PEEK):
                                break
                client.socket.settimeout(10)
                answer = client.read_answer()
            assert answer.code == (408, "receive_timeout")
            assert answer.header("x-should-retry") == "false"
            servers.until(server.is_clean, timeout_s=5)
        servers.until(lambda: servers.post_file(server, PNG).status == 200, timeout_s=10)


def test_full_disk_is_507_and_leaves_nothing(tmp_path: Path) -> None:
    """H31, P8: the kernel refuses to let any file grow beyond 2 MiB."""
    command = ("bash", "-c", 'ulimit -f 2048; exec "$0" serve "$@"', servers.MEDIAGATE)
    with servers.serving(store=tmp_path, command=command) as server:
        kept = servers.upload(server, PNG)

        for send in (servers.post_file, servers.put_file):
            answer = send(server, padded(8 * MIB))

            assert answer.code == (507, "insufficient_storage")
            assert answer.error["type"] == "server_error"
            assert answer.header("x-should-retry") == "false"
            assert answer.header("retry-after") is None
        servers.until(lambda: server.usage() == (len(PNG), 1))
        assert len(server.on_disk()) == 1
        assert servers.get(server, f"/v1/files/{kept['id']}/content").body == PNG
        assert servers.upload(server, PNG)["bytes"] == len(PNG)


@pytest.mark.slow
def test_server_out_of_file_descriptors_recovers(tmp_path: Path) -> None:
    """EMFILE: uploads fail with our own error, nothing is left, and it works again afterwards."""
    command = ("bash", "-c", 'ulimit -n 64; exec "$0" serve "$@"', servers.MEDIAGATE)
    with servers.serving(store=tmp_path, command=command) as server:
        servers.upload(server, PNG)
        clients = []
        for _ in range(80):
            client = RawClient(server, timeout_s=5)
            client.send_head("PUT", "/v1/files", f"Content-Length: {MIB}")
            with contextlib.suppress(ConnectionError):
                client.send(padded(6000))
            clients.append(client)
        time.sleep(0.5)
        assert server.is_running
        for client in clients:
            client.reset()

        servers.until(lambda: server.usage() == (len(PNG), 1), timeout_s=20)
        servers.until(lambda: len(server.on_disk()) == 1, timeout_s=5)
        assert servers.upload(server, PNG)["bytes"] == len(PNG)
