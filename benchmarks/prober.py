"""Asks for `/health` again and again, as a load balancer does. Standard library only.

One argument: the URL of the server. Asks every 4 ms, or when the answer before is there if that is later, until its
standard input ends; prints how long each answer took, in milliseconds, as JSON.
"""

import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

_EVERY_S = 0.004
_TIMEOUT_S = 120.0


def _ask(connection: http.client.HTTPConnection) -> float:
    began = time.perf_counter()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    took_s = time.perf_counter() - began
    if answer.status != 200:
        sys.exit(f"/health: {answer.status}")
    return took_s


def main() -> int:
    """Ask until nobody listens any more."""
    address = urlsplit(sys.argv[1])
    connection = http.client.HTTPConnection(address.hostname or "", address.port, _TIMEOUT_S)
    _ask(connection)
    # Whoever waits for the first answer may begin.
    sys.stdout.write("asking\n")
    sys.stdout.flush()
    is_over = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.buffer.read()
        is_over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    times_ms = []
    while not is_over.is_set():
        took_s = _ask(connection)
        times_ms.append(round(took_s * 1000, 3))
        is_over.wait(max(_EVERY_S - took_s, 0.0))
    json.dump(times_ms, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
