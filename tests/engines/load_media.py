"""What an engine's own loader makes of a string that names media. Runs on the packages of `install_loaders`.

    python load_media.py sglang|lmdeploy

First a line that says `{}`: it is ready. Then, for each line of JSON, one of JSON:

    {"kind": "image", "source": "file:///…"}   ->  {"shape": [64, 96, 3], "type": "uint8", "sha256": "…"}
                                               or  {"error": "ValueError: …"}

An image is rows of pixels of RGB; a clip all of its frames; sound its samples, one channel at 16 kHz.
"""

import hashlib
import json
import os
import sys
import types
from collections.abc import Callable, Mapping

import numpy as np

Load = Callable[[str], np.ndarray]


def of_sglang() -> Mapping[str, Load]:
    """As the server calls them where there is no GPU."""
    from sglang.srt.utils.common import load_audio, load_image, load_video

    # Imported on the way, and used to change the sample rate only. The registry's builds do not load without a GPU.
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))

    def image(source: str) -> np.ndarray:
        return np.asarray(load_image(source, gpu_image_decode=False)[0].convert("RGB"))

    def video(source: str) -> np.ndarray:
        frames = load_video(source, use_gpu=False)
        return np.stack([np.asarray(frames[n]) for n in range(len(frames))])

    return {"image": image, "video": video, "audio": load_audio}


def of_lmdeploy() -> Mapping[str, Load]:
    """As the server calls them."""
    from lmdeploy.vl import load_audio, load_image, load_video

    return {
        "image": lambda source: np.asarray(load_image(source).convert("RGB")),
        "video": lambda source: load_video(source)[0],
        "audio": lambda source: load_audio(source)[0],
    }


def described(load: Load, source: str) -> dict[str, object]:
    """The answer to one line."""
    try:
        data = np.ascontiguousarray(load(source))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    digest = hashlib.sha256(data.tobytes()).hexdigest()
    return {"shape": data.shape, "type": str(data.dtype), "sha256": digest}


def main() -> None:
    """Answer until there are no more lines."""
    # What libraries print goes elsewhere.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    loaders = {"sglang": of_sglang, "lmdeploy": of_lmdeploy}[sys.argv[1]]()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = described(loaders[asked["kind"]], asked["source"])
        print(json.dumps(answer), file=answers, flush=True)


main()
