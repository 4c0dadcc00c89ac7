"""The inference server itself, asked without mediagate in between: is it there, what is it, does it answer?"""

import json
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx2

from mediagate.core.engines import Engine
from mediagate.doctor.probe import question, words
from mediagate.gateway.detection import SIGNALS, Detection

CONNECT_S = 10.0
ANSWER_S = 60.0

_MODELS = "/v1/models"


class Unreachable(Exception):
    """There was no answer; the text says why."""


class Upstream:
    """Answers to questions of ours. An async context manager.

    Args:
        root: Its base URL, without `/v1`.
        key: Its bearer key, if there is one.
        connect_s: How long a connection may take, in seconds.
        answer_s: How long any answer may take, in seconds.
    """

    def __init__(
        self,
        root: str,
        *,
        key: str | None,
        connect_s: float = CONNECT_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.root = root
        self.secrets: Sequence[str] = () if key is None else (key,)
        self._answer_s = answer_s
        self._answers: dict[str, bytes] = {}
        self._http = httpx2.AsyncClient(
            base_url=root,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            timeout=httpx2.Timeout(answer_s, connect=connect_s),
            verify=ssl.create_default_context(),
            trust_env=False,  # the gateway goes through no proxy either
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def models(self) -> httpx2.Response:
        """What it answers to `GET /v1/models`, whatever that is.

        Raises:
            Unreachable: Nothing.
        """
        return await self._ask("GET", _MODELS)

    async def chat(self, model: str) -> httpx2.Response:
        """What it answers to a question without a picture.

        Raises:
            Unreachable: Nothing.
        """
        return await self._ask("POST", "/v1/chat/completions", question(model))

    async def engine(self) -> tuple[Engine | None, str]:
        """What it is, and which question gave that away; None: it does not say."""
        engine = await Detection(upstream=self, clock=lambda: 0.0).engine()
        told = (
            signal.path
            for signal in SIGNALS
            if signal.engine is engine
            and (answer := self._answers.get(signal.path)) is not None
            and signal.said(answer)
        )
        return engine, next(told, _MODELS)

    async def fetch(self, path: str, *, timeout_s: float, max_bytes: int) -> bytes | None:
        """The body of a 200 to a GET, or None; for `Detection`."""
        try:
            response = await self._http.get(path, timeout=timeout_s)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return None
        if response.status_code != 200 or len(response.content) > max_bytes:
            return None
        self._answers[path] = response.content
        return response.content

    def words(self, response: httpx2.Response) -> str:
        """What it says for itself, without its key."""
        return words(response, secrets=self.secrets)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> httpx2.Response:
        try:
            return await self._http.request(method, path, json=body)
        except httpx2.ConnectTimeout:
            raise Unreachable(f"no connection within {CONNECT_S:g} s") from None
        except httpx2.TimeoutException:
            raise Unreachable(f"no answer within {self._answer_s:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Unreachable(str(error) or type(error).__name__) from None


def listed(response: httpx2.Response) -> Sequence[str]:
    """The ids in a list of models; none where it is no list."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return ()
    models = body.get("data") if isinstance(body, dict) else None
    ids = (
        each.get("id")
        for each in (models if isinstance(models, list) else ())
        if isinstance(each, dict)
    )
    return [each for each in ids if isinstance(each, str)]


def wants_key(response: httpx2.Response) -> bool:
    """Whether it answers nobody without a key, or without another one."""
    return response.status_code in {401, 403}
