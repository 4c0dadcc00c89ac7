"""Questions about media to a real inference server, directly or through the gateway, and what it says.

    said(ask(server, part("image", "data:image/png;base64,…")))        -> Said(text, prompt_tokens)
    ask(server, part("video", url), chat_template_kwargs={…})           -> Answer, whichever status

The models are tiny and of random weights: the same medium gives the same text, and another gives another.
"""

from collections.abc import Mapping
from typing import Any

import servers
from corpus import Media
from servers import Answer, Server
from vllm_questions import BLUE, CHAT, GREEN, RED, Said, clip, image, inline, read_chat, sound

IMAGES = image(RED), image(BLUE)
CLIPS = clip(RED, BLUE), clip(GREEN, BLUE)
SOUNDS = sound(1), sound(2)
PAIRS: Mapping[str, tuple[Media, Media]] = {"image": IMAGES, "video": CLIPS, "audio": SOUNDS}
"""For each kind, two that must not be taken for each other."""


def part(kind: str, url: str) -> dict[str, Any]:
    """A part of a message that names a medium as most servers want it."""
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def data_uri(media: Media) -> str:
    """The medium itself."""
    return inline(media).uri


def ask(server: Server, *parts: Mapping[str, Any], **more: Any) -> Answer:
    """A chat completion about content parts, to be answered greedily; `more` goes into the body."""
    return servers.post_json(server, CHAT, body(*parts, **more))


def body(*parts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Its JSON."""
    content = [{"type": "text", "text": "what is in this"}, *parts]
    return {
        "model": "tiny",
        "max_tokens": 12,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
        **more,
    }


def said(answer: Answer) -> Said:
    """What a chat completion says, which must be one."""
    assert answer.status == 200, answer
    return read_chat(answer.json())
