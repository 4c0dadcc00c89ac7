"""The client of the benchmarks, as cheap as it can be: a socket and `sendfile`. Standard library only.

One argument, the order as JSON, see `harness.send`; prints the answers as JSON. Time runs from before the connection is
made until the whole answer is read, and the file synced where that was ordered.
"""

import http.client
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 240.0
_BOUNDARY = "a-boundary-of-the-benchmarks"
_FORM_HEAD = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n'
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="noise.wav"\r\n'
    "Content-Type: audio/wav\r\n\r\n"
).encode()
_FORM_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()


def upload(order: dict[str, Any], start: threading.Barrier, client: int) -> dict[str, Any]:
    """Send one file, read the answer."""
    url = urlsplit(order["url"].replace("{client}", str(client)))
    media = Path(order["media"])
    is_form = order["form"]
    prefix, suffix = (_FORM_HEAD, _FORM_TAIL) if is_form else (b"", b"")
    kind = f"multipart/form-data; boundary={_BOUNDARY}" if is_form else "audio/wav"
    head = (
        f"{'POST' if is_form else 'PUT'} {url.path}{'?' + url.query if url.query else ''} HTTP/1.1\r\n"
        f"Host: {url.netloc}\r\nContent-Type: {kind}\r\nConnection: close\r\n"
        f"Content-Length: {len(prefix) + media.stat().st_size + len(suffix)}\r\n\r\n"
    ).encode()
    with media.open("rb") as file:
        start.wait()
        began = time.perf_counter()
        with socket.create_connection((url.hostname or "", url.port or 80), _TIMEOUT_S) as sock:
            sock.sendall(head + prefix)
            sock.sendfile(file)
            sock.sendall(suffix)
            response = http.client.HTTPResponse(sock)
            response.begin()
            body = response.read()
        if order["sync"]:
            stored = Path(order["sync"].replace("{client}", str(client)))
            _sync(stored)
            _sync(stored.parent)
        wall_s = time.perf_counter() - began
    return {"wall_s": wall_s, "status": response.status, "body": body.decode()}


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def main() -> int:
    """Carry out the order; a client that fails leaves its answer out, and the status is 1."""
    order = json.loads(sys.argv[1])
    clients: int = order["clients"]
    start = threading.Barrier(clients)
    answers: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda client=client: answers.append(upload(order, start, client)))
        for client in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    json.dump(answers, sys.stdout)
    return 0 if len(answers) == clients else 1


if __name__ == "__main__":
    sys.exit(main())
