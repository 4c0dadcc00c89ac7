"""Real proxies in front of a real server, run with the configurations of `examples/`.

    with proxies.identity(directory) as identity:
        with proxies.running("nginx", server, identity, directory) as proxy:
            answer = proxy.request("GET", "/v1/files", token=identity.token("acme"))  -> servers.Answer
            proxy.connect(), proxy.url, proxy.certificate                             for other clients

Of a configuration only addresses, ports and paths are replaced. A proxy listens on a free port of loopback, with TLS,
writes nowhere but into `directory`, and is ended with the block.
"""

import base64
import contextlib
import functools
import getpass
import hashlib
import hmac
import http.client
import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import servers
from servers import Answer, Server

EXAMPLES = Path(__file__).parents[1] / "examples"
SCOPE_HEADER = "X-Scope"
_TENANTS = ("acme", "globex")


@dataclass(frozen=True, slots=True)
class Identity:
    """Knows the tenants: verifies tokens for proxies that ask, and publishes its key for one that does so itself.

    Attributes:
        auth_port: Where it is asked, at `/oauth2/auth`.
        keys_port: Where its key is, with TLS.
        certificate: Its own and that of the proxies; whoever trusts it trusts them.
        private_key: Of the certificate.
        secret: What tokens are signed with.
    """

    auth_port: int
    keys_port: int
    certificate: Path
    private_key: Path
    secret: bytes

    def token(self, tenant: str | None) -> str:
        """What the tenant sends as API key: a JSON Web Token, which may be taken for an opaque string too.

        Args:
            tenant: None: a caller whom we know, and who belongs to no tenant.
        """
        head = _base64url(b'{"alg":"HS256","kid":"tests"}')
        claims = {"iss": "https://id.example.com", "aud": "mediagate", "exp": 4e9}
        claims |= {} if tenant is None else {"sub": tenant}
        body = _base64url(json.dumps(claims).encode())
        return f"{head}.{body}.{_base64url(self._mac(head, body))}"

    def claims_of(self, authorization: str) -> dict[str, Any] | None:
        """What the token in that header says; None: nobody we know."""
        found = re.fullmatch(r"Bearer ([^. ]+)\.([^. ]+)\.([^. ]+)", authorization)
        if found is None or found[3] != _base64url(self._mac(found[1], found[2])):
            return None
        return dict(json.loads(base64.urlsafe_b64decode(found[2] + "==")))

    def _mac(self, head: str, body: str) -> bytes:
        return hmac.digest(self.secret, f"{head}.{body}".encode(), "sha256")

    @property
    def key_set(self) -> bytes:
        """Its key as a JSON Web Key Set."""
        key = {"kty": "oct", "alg": "HS256", "kid": "tests", "k": _base64url(self.secret)}
        return json.dumps({"keys": [key]}).encode()


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy at work.

    Attributes:
        port: Where it listens.
        directory: Where its files are.
        certificate: What its clients have to trust.
    """

    port: int
    directory: Path
    certificate: Path

    @property
    def url(self) -> str:
        """Without a path."""
        return f"https://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPSConnection:
        """A connection that speaks HTTP/1.1; the caller closes it."""
        trust = ssl.create_default_context(cafile=self.certificate)
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=servers.TIMEOUT_S, context=trust
        )

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        token: str | None,
        headers: Mapping[str, str] | None = None,
        lines: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """One request on a connection of its own; `lines` are header lines that may repeat a name."""
        with contextlib.closing(self.connect()) as connection:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in (*(headers or {}).items(), *lines):
                connection.putheader(name, value)
            if token is not None:
                connection.putheader("Authorization", f"Bearer {token}")
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            got = [(name.lower(), value) for name, value in response.getheaders()]
            return Answer(response.status, got, response.read())


@contextlib.contextmanager
def identity(directory: Path) -> Iterator[Identity]:
    """An authentication service, with a certificate made in `directory`."""
    certificate, private_key = directory / "certificate.pem", directory / "key.pem"
    names = "subjectAltName=IP:127.0.0.1,DNS:id.example.com,DNS:media.example.com"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    subprocess.run(
        [
            *("openssl", "req", "-x509", *curve, "-nodes", "-subj", "/CN=tests"),
            *("-addext", names, "-keyout", private_key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/.well-known/jwks.json":
                self._answer(200, {}, known.key_set)
                return
            claims = known.claims_of(self.headers.get("Authorization", ""))
            if self.path.partition("?")[0] != "/oauth2/auth" or claims is None:
                self._answer(401, {"WWW-Authenticate": "Bearer"}, b"who are you?")
            else:
                named = {"X-Auth-Request-User": claims["sub"]} if "sub" in claims else {}
                self._answer(200, named, b"")

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
            pass

    asked = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    published = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private_key)
    published.socket = context.wrap_socket(published.socket, server_side=True)
    known = Identity(
        asked.server_port,
        published.server_port,
        certificate,
        private_key,
        secrets.token_bytes(32),
    )
    with contextlib.ExitStack() as stack:
        for server in (asked, published):
            server.daemon_threads = True  # they sit in connections that proxies keep open
            server.block_on_close = False
            stack.enter_context(server)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield known


@contextlib.contextmanager
def running(
    name: str,
    server: Server,
    identity: Identity,
    directory: Path,
    *,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Proxy]:
    """The proxy of `examples/<name>` in front of `server`.

    Args:
        name: One of `nginx`, `haproxy`, `caddy`, `envoy`; or `nginx-side-car`, which sends to `server` what is about
            files, and the rest to the address that `changes` put in place of vLLM's.
        server: Where it sends requests.
        identity: Who knows the callers.
        directory: An empty one, for all that it writes.
        changes: More text of its configuration to replace.
    """
    with servers.reserved_port() as port:
        setup = _SETUPS[name](server, identity, port, directory)
        configuration = directory / Path(setup.example).name  # Envoy goes by the ending
        configuration.write_text(_text_of(setup, changes or {}), encoding="utf-8")
        log = directory / "proxy.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*setup.command, configuration],
                env=os.environ | setup.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            servers.until(lambda: _accepts(port) or process.poll() is not None)
            assert process.poll() is None, log.read_text(errors="replace")
            yield Proxy(port, directory, identity.certificate)
        finally:
            process.terminate()
            process.wait(servers.TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class _Setup:
    """How one proxy is started; its command ends with the path of the configuration."""

    example: str
    replacements: Mapping[str, str]
    command: Sequence[str | Path]
    environment: dict[str, str] = field(default_factory=dict)


def _text_of(setup: _Setup, changes: Mapping[str, str]) -> str:
    """The example, with all that is to be replaced in it."""
    text = (EXAMPLES / setup.example).read_text(encoding="utf-8")
    for theirs, ours in {**setup.replacements, **changes}.items():
        assert theirs in text, f"{theirs!r} is not in examples/{setup.example}"
        text = text.replace(theirs, ours)
    return text


def _nginx(
    server: Server,
    identity: Identity,
    port: int,
    directory: Path,
    *,
    example: str = "nginx/nginx.conf",
) -> _Setup:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    replacements = {
        "http {": f"http {{ {own}",
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "127.0.0.1:8080;": f"{server.host}:{server.port};",
        "127.0.0.1:4180": f"127.0.0.1:{identity.auth_port}",
        "/etc/ssl/certs/media.example.com.pem": str(identity.certificate),
        "/etc/ssl/private/media.example.com.key": str(identity.private_key),
        "/var/log/nginx/": f"{directory}/",
    }
    main = f"daemon off; user {getpass.getuser()}; pid {directory}/pid;"
    # Before its own log is open, nginx writes to the one it was built with, unless told otherwise.
    start_log = directory / "start.log"
    command: list[str | Path] = ["nginx", "-p", directory, "-e", start_log, "-g", main, "-c"]
    return _Setup(example, replacements, command)


def _haproxy(server: Server, identity: Identity, port: int, directory: Path) -> _Setup:
    both = directory / "both.pem"
    both.write_bytes(identity.certificate.read_bytes() + identity.private_key.read_bytes())
    keys = directory / "keys.map"
    digests = {
        tenant: hashlib.sha256(identity.token(tenant).encode()).hexdigest() for tenant in _TENANTS
    }
    keys.write_text("".join(f"{digest} {tenant}\n" for tenant, digest in digests.items()))
    replacements = {
        "log /dev/log local0": "log stderr format raw local0",
        "bind :443 ": f"bind 127.0.0.1:{port} ",
        "127.0.0.1:8080": f"{server.host}:{server.port}",
        "/etc/haproxy/media.example.com.pem": str(both),
        "/etc/haproxy/keys.map": str(keys),
    }
    return _Setup("haproxy/haproxy.cfg", replacements, ["haproxy", "-db", "-f"])


def _caddy(server: Server, identity: Identity, port: int, directory: Path) -> _Setup:
    replacements = {
        "admin localhost:2019": f"admin unix/{directory}/admin",
        "media.example.com:443 {": f"https://127.0.0.1:{port} {{\n\tbind 127.0.0.1",
        "reverse_proxy 127.0.0.1:8080": f"reverse_proxy {server.host}:{server.port}",
        "127.0.0.1:4180": f"127.0.0.1:{identity.auth_port}",
        "/etc/ssl/certs/media.example.com.pem": str(identity.certificate),
        "/etc/ssl/private/media.example.com.key": str(identity.private_key),
    }
    home = {"XDG_CONFIG_HOME": str(directory), "XDG_DATA_HOME": str(directory)}
    command = ["caddy", "run", "--adapter", "caddyfile", "--config"]
    return _Setup("caddy/Caddyfile", replacements, command, home)


def _envoy(server: Server, identity: Identity, port: int, _directory: Path) -> _Setup:
    there = "address: {}, port_value: {}"
    replacements = {
        there.format("0.0.0.0", 443): there.format("127.0.0.1", port),  # noqa: S104 - is replaced
        there.format("127.0.0.1", 8080): there.format(server.host, server.port),
        there.format("id.example.com", 443): there.format("127.0.0.1", identity.keys_port),
        "/etc/ssl/certs/media.example.com.pem": str(identity.certificate),
        "/etc/ssl/private/media.example.com.key": str(identity.private_key),
        "/etc/ssl/certs/ca-certificates.crt": str(identity.certificate),
    }
    binary = Path(os.environ.get("PEERS_BIN", "")) / "envoy"
    # Without hot restarts it needs no shared memory, which two on one machine would quarrel about.
    options = ["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning", "-c"]
    return _Setup("envoy/envoy.yaml", replacements, [binary, *options])


_SETUPS: Mapping[str, Callable[[Server, Identity, int, Path], _Setup]] = {
    "nginx": _nginx,
    "nginx-side-car": functools.partial(_nginx, example="nginx/side-car.conf"),
    "haproxy": _haproxy,
    "caddy": _caddy,
    "envoy": _envoy,
}


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
