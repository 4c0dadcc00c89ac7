"""`transformers serve` where nothing but PyAV, Pillow and soundfile decodes media.

    python tests/engines/serve_transformers.py DIRECTORY --host 127.0.0.1 --port PORT

It wants torchcodec, of which the registry has builds for GPUs only. Where it would be called, and nowhere else, another
decoder is: how media is named in a request, and where it is read from, stays as released.
"""

import sys
from typing import Any

from transformers import (
    image_processing_backends,
    image_utils,
    processing_utils,
    video_processing_utils,
    video_utils,
)
from transformers.cli.transformers import main


def _load_video(video: object, *, backend: str, **options: Any) -> Any:
    return video_utils.load_video(video, backend="pyav", **options)


def _load_image(image: object, timeout: float | None = None) -> Any:
    return image_utils.load_image_as_tensor(image_utils.load_image(image, timeout=timeout))


def _silent(function: Any) -> Any:
    """The server asks for the sound of each clip, which only torchcodec would find in it."""

    def apply_chat_template(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **{**options, "load_audio_from_video": False})

    return apply_chat_template


video_processing_utils.is_torchcodec_usable = lambda **_: True
video_processing_utils.load_video = _load_video
image_processing_backends.load_image_as_tensor = _load_image
processing_utils.ProcessorMixin.apply_chat_template = _silent(
    processing_utils.ProcessorMixin.apply_chat_template
)

if __name__ == "__main__":
    sys.argv[:1] = ["transformers", "serve"]
    main()
