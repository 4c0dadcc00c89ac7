"""What schemathesis, in an environment of its own, sends where the description says `format: binary`: media."""

import io
import wave

import schemathesis
from hypothesis import strategies

GIF = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\1\0\1\0\0\2\2L\1\0;"


def _silence() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "NONE"))
        sound.writeframes(bytes(1600))
    return target.getvalue()


schemathesis.openapi.format("binary", strategies.sampled_from([GIF, _silence()]))
