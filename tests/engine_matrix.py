"""Which reference works at which engine, by which delivery: asked, written down, and the table that is made of it.

bench = Bench("llama-server", engine, …)
outcome(bench, "path", "video", "file part")       -> "works", or the refusal; asserts that nothing else happens
pytest --record RESULTS …                          each test of a cell adds one JSON line
python tests/engine_matrix.py RESULTS [--write]    compares the committed table, or writes it
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine_questions
import servers
from corpus import Media
from engine_questions import PAIRS
from engines import install_loaders
from mediagate.core.engines import Engine
from mediagate.gateway.profiles import PROFILES
from servers import Answer, Server
from vllm_questions import CHAT, MESSAGES, RESPONSES, Said, inline

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/reference/engines.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"

DELIVERIES = ("path", "url", "inline")
WORKS = "works"

NAMES = {engine: row.title for engine, row in PROFILES.items()} | {Engine.OPENAI: "any other"}
"""What the tables call them."""

IMITATED = {Engine.OLLAMA, Engine.TGI}
"""Those of `engines.imitations`."""

Form = Callable[[str, str], dict[str, Any]]
"""Kind, file id → the part of a chat that names the file."""


def _url(kind: str, file_id: str) -> dict[str, Any]:
    return engine_questions.part(kind, f"vllm-file://{file_id}")


def _input_audio(_kind: str, file_id: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": file_id, "format": "mp3"}}


def _input_video(_kind: str, file_id: str) -> dict[str, Any]:
    return {"type": "input_video", "input_video": {"data": file_id}}


_ANY: Mapping[str, Form] = {
    "`vllm-file://` URL": _url,
    "bare id": engine_questions.part,
    "`file` part": lambda _, file_id: {"type": "file", "file": {"file_id": file_id}},
}
_FORMS: Mapping[str, Mapping[str, Form]] = {
    "image": {
        **_ANY,
        "`input_image`": lambda _, file_id: {"type": "input_image", "file_id": file_id},
    },
    "video": {**_ANY, "`input_video`": _input_video},
    "audio": {**_ANY, "`input_audio`": _input_audio},
}
_ELSEWHERE = {"image": ("Responses", "Messages")}

CELLS = [
    (kind, form)
    for kind, forms in _FORMS.items()
    for form in (*forms, "multipart form", *_ELSEWHERE.get(kind, ()))
]


def is_shown(engine: Engine, form: str) -> bool:
    """Whether what is sent to an engine that is not run is told: not where its row has no such endpoint."""
    row = PROFILES[engine]
    known = {"Responses": row.responses, "Messages": row.messages}
    return row.chat is None or form not in known or known[form] is not None


@dataclass
class Bench:
    """An engine, and gateways in front of it.

    Attributes:
        name: What the table calls it.
        engine: What answers; None: it is not asked directly.
        kinds: The media that its model takes.
        direct: The part that names a medium to it without a gateway.
        more: Goes into each chat.
        gateways: By delivery.
    """

    name: str
    engine: Server | None
    kinds: Iterable[str]
    direct: Callable[[Media], dict[str, Any]]
    more: Mapping[str, Any] = field(default_factory=dict)
    gateways: Mapping[str, Server] = field(default_factory=dict)
    _said: dict[tuple[str, int, str], Said] = field(default_factory=dict)

    def expected(self, kind: str, which: int, form: str) -> Said:
        """What the engine says of the medium itself, without a gateway."""
        key = (kind, which, form if form in {"Responses", "Messages"} else "")
        if key not in self._said:
            assert self.engine is not None
            media = PAIRS[kind][which]
            direct = self.direct(media)
            if form == "Responses":
                answer = _respond(self.engine, {"image_url": direct["image_url"]["url"]})
            elif form == "Messages":
                answer = _message(self.engine, inline(media).source)
            else:
                answer = engine_questions.ask(self.engine, direct, **self.more)
            self._said[key] = read(answer)
        return self._said[key]


@contextmanager
def gateways(url: str, name: str, media_path: Path, *flags: str) -> Iterator[Mapping[str, Server]]:
    """One gateway for each delivery in front of the engine at `url`, all on one store beside `media_path`."""
    store = media_path.parent / "store"
    with ExitStack() as stack:
        yield {
            delivery: stack.enter_context(
                servers.serving(
                    *("--upstream", url, "--engine", name, "--delivery", delivery),
                    *(("--media-path", str(media_path)) if delivery == "path" else ()),
                    *flags,
                    store=store,
                )
            )
            for delivery in DELIVERIES
        }


def asked(bench: Bench, delivery: str, kind: str, form: str, which: int = 0) -> Answer:
    """The answer to a question about a medium by id."""
    gateway, media = bench.gateways[delivery], PAIRS[kind][which]
    if form == "multipart form":
        return _send_form(gateway, media, bench.more)
    file_id = str(servers.upload(gateway, media.data)["id"])
    if form == "Responses":
        return _respond(gateway, {"file_id": file_id})
    if form == "Messages":
        return _message(gateway, {"type": "file", "file_id": file_id})
    return engine_questions.ask(gateway, _FORMS[kind][form](kind, file_id), **bench.more)


def outcome(bench: Bench, delivery: str, kind: str, form: str) -> str:
    """`WORKS`: by id the engine says what it says of the medium itself, and of another medium something else.

    Otherwise the refusal of the gateway, or that the engine has no such endpoint; anything else fails.
    """
    answer = asked(bench, delivery, kind, form)
    if answer.status == 404 and b"file_not_found" not in answer.body:
        return "the engine has no such endpoint (404)"
    if answer.status != 200:
        return refusal(answer)
    assert read(answer) == bench.expected(kind, 0, form)
    assert read(answer).text != bench.expected(kind, 1, form).text
    return WORKS


def refusal(answer: Answer) -> str:
    """A refusal of the gateway's own, for the table."""
    assert answer.status in {400, 413}, answer
    assert answer.error["code"] in {"not_taken_by_engine", "body_too_large"}, answer
    return f"{answer.status}: {answer.error['message']}"


def told(body: bytes) -> str:
    """What an engine that cannot run here was told, for the table."""
    found = [source for source in _SENT if source.encode() in body]
    assert len(found) <= 1, body[:300]
    return f"sent: `{found[0] if found else 'base64'}…`"


_SENT = ("file:///", "data:", "http://")


def read(answer: Answer) -> Said:
    """What any of the three APIs says."""
    assert answer.status == 200, answer
    match answer.json():
        case {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": int(n)}}:
            return Said(text, n)
        case {"output": [*_, {"content": [{"text": text}]}], "usage": {"input_tokens": int(n)}}:
            return Said(text, n)
        case {"content": [{"text": text}], "usage": {"input_tokens": int(n), **more}}:
            # llama-server counts what it had cached apart.
            return Said(text, n + int(str(more.get("cache_read_input_tokens", 0))))
    raise AssertionError(answer)


def _respond(server: Server, media: Mapping[str, Any]) -> Answer:
    image = {"type": "input_image", "detail": "auto", **media}
    content = [{"type": "input_text", "text": "what is in this"}, image]
    return servers.post_json(
        server,
        RESPONSES,
        {
            "model": "tiny",
            "max_output_tokens": 12,
            "temperature": 0,
            "stream": False,
            "input": [{"role": "user", "type": "message", "content": content}],
        },
    )


def _message(server: Server, source: Mapping[str, Any]) -> Answer:
    content = [{"type": "text", "text": "what is in this"}, {"type": "image", "source": source}]
    return servers.post_json(
        server,
        MESSAGES,
        {
            "model": "tiny",
            "max_tokens": 12,
            "temperature": 0,
            "messages": [{"role": "user", "content": content}],
        },
    )


def _send_form(server: Server, media: Media, more: Mapping[str, Any]) -> Answer:
    payload = engine_questions.body(**more)
    form = servers.form(
        servers.part("payload", json.dumps(payload).encode()),
        servers.part("file", media.data, "media"),
    )
    headers = {"content-type": servers.FORM_TYPE}
    return servers.request(server, "POST", CHAT, form, headers=headers)


def table(cells: Iterable[Mapping[str, str]]) -> str:
    """The tables, one an engine, in Markdown; forms of one kind that fare alike share a row."""
    found: defaultdict[str, defaultdict[tuple[str, str], dict[str, str]]]
    found = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        found[cell["engine"]][cell["kind"], cell["form"]][cell["delivery"]] = cell["outcome"]
    engines = {name: engine for engine, name in NAMES.items()}
    lines: list[str] = []
    for name, rows in sorted(found.items(), key=lambda item: item[0].casefold()):
        is_run = any(WORKS in by_delivery.values() for by_delivery in rows.values())
        lines += [
            f"### {name}",
            "",
            _tried(engines[name], is_run=is_run),
            "",
            "| media | named by | path | url | inline |",
            "|---|---|---|---|---|",
        ]
        alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for kind, form in CELLS:
            if by_delivery := rows.get((kind, form)):
                fared = [by_delivery.get(each, "not run") for each in DELIVERIES]
                alike[kind, *fared].append(form)
        for (kind, *outcomes), forms in alike.items():
            lines.append(f"| {kind} | {', '.join(forms)} | {' | '.join(outcomes)} |")
        lines.append("")
    return "\n".join(lines)


def _tried(engine: Engine, *, is_run: bool) -> str:
    """What its cells are, and why no more."""
    row = PROFILES[engine]
    if is_run:
        return f"Run: {row.title} {row.version}."
    if row.chat is None:
        return "Recorded: what mediagate sends where it knows nothing of the engine."
    recorded = f"Recorded, not run: what {row.title} would be sent."
    if engine in install_loaders.VERSIONS:
        return (
            f"{recorded} It wants a GPU; without one, the loaders of its wheel {install_loaders.VERSIONS[engine]} open "
            "what they are sent in chats (`tests/integration/test_engine_loaders.py`)."
        )
    if engine in IMITATED:
        return (
            f"{recorded} In chats, an imitation reads it that has the grammar and limits of its sources, {row.version} "
            "(`tests/integration/test_imitated_engines.py`)."
        )
    return f"{recorded} Nothing reads it: what it takes is known from its sources, {row.version}, only."


def main() -> int:
    """Write the table, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = map(json.loads, options.results.read_text().splitlines())
    made = table(line["cell"] for line in lines if "cell" in line)
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    whole = f"{before}{BEGIN}\n\n{made}\n{END}{rest.split(END)[1]}"
    if options.write:
        PAGE.write_text(whole)
    elif whole != page:
        name = PAGE.relative_to(ROOT)
        sys.stderr.write(f"{name} is not what was found: run `make conformance`\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
