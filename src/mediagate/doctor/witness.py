"""Who answers at the address of the gateway? One that shares the store answers a URL that was signed here."""

import contextlib
import json

import httpx2

from mediagate.config import Config, DeliveryKind
from mediagate.core.engines import Engine
from mediagate.doctor.probe import PLACE, picture, question
from mediagate.doctor.stack import Stack, own_url, respond, serving
from mediagate.web import server
from mediagate.web.asgi import Receive, Scope, Send
from mediagate.web.lifespan import serve_lifespan

_FETCH_S = 5.0


async def answers_for_us(stack: Stack, config: Config, file_id: str) -> bool:
    """Whether what listens on the configured address has our store."""
    sock = server.bind("127.0.0.1", 0)
    upstream = f"http://127.0.0.1:{sock.getsockname()[1]}"
    base = own_url(config, config.port)
    async with (
        serving(_fetch_and_tell, sock),
        stack.delivering(DeliveryKind.URL, Engine.OPENAI, base=base, upstream=upstream) as client,
    ):
        try:
            return (await client.chat(question("witness", file_id))).status_code == 200
        except TimeoutError:
            return False


async def _fetch_and_tell(scope: Scope, receive: Receive, send: Send) -> None:
    """In the engine's place: 200 if the picture is where the request says that it is."""
    if scope["type"] == "lifespan":
        await serve_lifespan(contextlib.nullcontext, receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    url = json.loads(body)["messages"][0]["content"][PLACE]["image_url"]["url"]
    try:
        async with httpx2.AsyncClient(timeout=_FETCH_S, trust_env=False) as http:
            is_ours = (await http.get(url)).content == picture()
    except (httpx2.HTTPError, httpx2.InvalidURL):
        is_ours = False
    await respond(send, 200 if is_ours else 502, b"")
