"""Logs inside vLLM: what a real uvicorn writes, however it was configured, and what vLLM's own loggers write."""

import io
import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pytest
from uvicorn.config import LOGGING_CONFIG

from mediagate.vllm_plugin.access_log import PATHS_IN, TEXTS_IN, Masked, mask_access_log

HEX = "0123456789abcdef0123456789abcdef"
FILE_ID = f"file-{HEX}"
HANDLE = f"mediagate-media:{HEX}"
TOKEN = HEX * 4
FILENAME = "holiday.mp4"

# uvicorn, as vLLM runs it ----------------------------------------------------------------------------------

SERVER = """
import json
import logging
import logging.config
import socket
import sys

import uvicorn

from mediagate.vllm_plugin.access_log import mask_access_log


class NotHealth(logging.Filter):
    def filter(self, record):
        return record.args[2].partition("?")[0] != "/health"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        mask_access_log()
        mask_access_log()
        logging.config.dictConfig(config)  # whoever comes later
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


config = json.loads(sys.argv[2])
options = json.loads(sys.argv[3])
listener = socket.socket(fileno=int(sys.argv[1]))
uvicorn.Server(uvicorn.Config(app, log_config=config, **options)).run(sockets=[listener])
"""


def filtered() -> dict[str, Any]:
    """As `--disable-access-log-for-endpoints` makes it: a filter on the handler, which looks at the record."""
    config: dict[str, Any] = json.loads(json.dumps(LOGGING_CONFIG))
    config["filters"] = {"not_health": {"()": "__main__.NotHealth"}}
    config["handlers"]["access"]["filters"] = ["not_health"]
    return config


def formatted_as_json() -> dict[str, Any]:
    """As vLLM's JSON format does it: the message as a whole."""
    config: dict[str, Any] = json.loads(json.dumps(LOGGING_CONFIG))
    config["formatters"]["access"] = {"format": "{'logger': '%(name)s', 'message': '%(message)s'}"}
    return config


def answered(
    requests: list[str], *, config: dict[str, Any], http: str = "auto", level: str = "info"
) -> list[str]:
    """What a server writes that gets these request lines, one connection each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = str(listener.fileno())
        options = json.dumps({"http": http, "log_level": level})
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, descriptor, json.dumps(config), options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[listener.fileno()],
        )
        try:
            for request in requests:
                with socket.create_connection(listener.getsockname(), timeout=20) as connection:
                    head = f"{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
                    connection.sendall(head.encode())
                    assert b"404" in connection.recv(1000), request
        finally:
            server.send_signal(signal.SIGTERM)
            text, _ = server.communicate(timeout=20)
    return text.splitlines()


REQUESTS = [
    f"GET /v1/files/{FILE_ID}",
    f"GET /v1/files/{FILE_ID}/content",
    f"GET /v1/files/{FILE_ID.upper()}",
    f"GET /v1/files/{quote(FILE_ID).replace('-', '%2D')}",
    f"GET /v1/files%2F{FILE_ID}",
    f"GET /x/%2566{FILE_ID[1:]}",
    f"GET /x/%25252566{FILE_ID[1:]}",
    f"GET /x/upload_{HEX}/part_{HEX}",
    f"GET /v1/uploads/upload_{HEX}/cancel",
    f"GET /v1/media/{TOKEN}",
    f"GET /v1/{HANDLE}",
    f"GET /v1/files?after={FILE_ID}",
    f"POST /v1/files?filename={FILENAME}&purpose=vision",
    f"POST /v1/file?filename={FILENAME}",
]


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LOGGING_CONFIG, id="uvicorn's own"),
        pytest.param(filtered(), id="filtered"),
        pytest.param(formatted_as_json(), id="json"),
    ],
)
def test_access_log_names_no_file(config: dict[str, Any], http: str) -> None:
    """P13: in no spelling, by no server, in no format."""
    lines = answered([*REQUESTS, "GET /v1/models"], config=config, http=http)

    text = "\n".join(lines)
    for _ in range(10):
        text = unquote(text)
    assert HEX not in text.lower()
    assert FILENAME not in text
    written = [line for line in lines if "HTTP/1.1" in line]
    assert len(written) == len(REQUESTS) + 1
    assert "GET /v1/models HTTP/1.1" in written[-1]
    assert "GET /v1/files/{id}/content HTTP/1.1" in written[1]
    assert "POST /v1/files?{query} HTTP/1.1" in written[-3]
    assert not [line for line in lines if "error" in line.lower()]


def test_lines_that_vllm_leaves_out_stay_out() -> None:
    lines = answered(["GET /health?a=b", "GET /ping"], config=filtered())

    written = [line for line in lines if "HTTP/1.1" in line]
    assert [line for line in written if "/health" in line] == []
    assert [re.sub(r"\d+\.\d+\.\d+\.\d+:\d+", "…", line) for line in written] == [
        'INFO:     … - "GET /ping HTTP/1.1" 404 Not Found'
    ]


def test_trace_names_no_file() -> None:
    """P13: uvicorn's most talkative level writes scopes."""
    config = json.loads(json.dumps(LOGGING_CONFIG))
    config["loggers"]["uvicorn.asgi"] = {"level": "TRACE"}

    lines = answered(
        [f"GET /v1/files/{FILE_ID}", f"GET /v1/files?after={FILE_ID}"], config=config, level="trace"
    )

    assert HEX not in "\n".join(lines)
    assert [line for line in lines if "'path': '/v1/files/{id}'" in line]


# loggers of this process -----------------------------------------------------------------------------------


@dataclass
class Written:
    """What vLLM's loggers write, by a handler like its own."""

    stream: io.StringIO
    handler: logging.Handler

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def written() -> Iterator[Written]:
    """Nothing remains afterwards."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    above = logging.getLogger(TEXTS_IN)
    loggers = [*map(logging.getLogger, PATHS_IN), logging.getLogger("python_multipart")]
    before = [(logger, logger.filters[:], logger.level) for logger in loggers]
    above.addHandler(handler)
    above.setLevel(logging.DEBUG)
    above.propagate = False
    mask_access_log()
    yield Written(stream, handler)
    above.removeHandler(handler)
    above.setLevel(logging.NOTSET)
    above.propagate = True
    for logger, filters, level in before:
        logger.filters[:] = filters
        logger.setLevel(level)
    for other in (*logging.getLogger().handlers, logging.lastResort):
        assert other is not None
        other.filters[:] = [f for f in other.filters if not isinstance(f, Masked)]


@pytest.mark.parametrize("secret", [FILE_ID, FILE_ID.upper(), f"upload_{HEX}", HANDLE, TOKEN])
def test_what_vllm_writes_of_bodies_names_no_file(written: Written, secret: str) -> None:
    """P13: with --enable-log-requests, and where answers are written."""
    logger = logging.getLogger("vllm.entrypoints.some.module")

    logger.info("Received request %s: body: %r", "chatcmpl-1", {"url": f"vllm-file://{secret}"})
    logger.info("response_body={%s}", json.dumps({"id": secret}))
    logger.info(f"literally {secret}")  # noqa: G004

    assert HEX not in written.text.lower()
    assert written.text.count("{id}") >= 3
    assert "Received request chatcmpl-1: body:" in written.text


def test_traceback_names_no_file(written: Written) -> None:
    """P13."""
    try:
        int(HANDLE)
    except ValueError:
        logging.getLogger("vllm.entrypoints").exception("Exception caught. Request id: %s", "a")

    assert HEX not in written.text
    assert "ValueError: invalid literal for int() with base 10: '{id}'" in written.text
    assert "Exception caught. Request id: a\nTraceback" in written.text


def test_websocket_line_names_no_file(written: Written, caplog: pytest.LogCaptureFixture) -> None:
    """P13: uvicorn writes it with another logger."""
    logger = logging.getLogger("uvicorn.error")

    with caplog.at_level(logging.INFO, logger="uvicorn.error"):
        logger.info('%s - "WebSocket %s" 403', "127.0.0.1:1", f"/v1/files/{FILE_ID}?a={FILENAME}")
        logger.info("cannot use %s", "the file /a b")

    assert [record.getMessage() for record in caplog.records] == [
        '127.0.0.1:1 - "WebSocket /v1/files/{id}?{query}" 403',
        "cannot use the file /a b",
    ]


def test_handler_of_last_resort_is_masked_too(written: Written) -> None:
    """P13: vLLM can be told to configure no logging at all."""
    record = logging.makeLogRecord({"name": "vllm.x", "msg": FILE_ID})

    assert logging.lastResort is not None
    logging.lastResort.filter(record)

    assert record.getMessage() == "{id}"


def test_other_lines_are_left_as_they_are(written: Written) -> None:
    record = logging.makeLogRecord({"name": "vllm.x", "msg": "took %.1f s", "args": (1.25,)})

    written.handler.handle(record)

    assert written.text == "took 1.2 s\n"
    assert (record.msg, record.args) == ("took %.1f s", (1.25,))


def test_line_that_cannot_be_formatted_fails_nobody(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the handler that tells of it, as without us."""
    record = logging.makeLogRecord({"name": "vllm.x", "msg": "%d of %d", "args": (1,)})

    written.handler.handle(record)

    assert "Logging error" in capsys.readouterr().err


def test_parser_of_forms_quotes_no_client(written: Written) -> None:
    """P13: a filename may stand in what it complains of."""
    assert not logging.getLogger("python_multipart.multipart").isEnabledFor(logging.WARNING)
