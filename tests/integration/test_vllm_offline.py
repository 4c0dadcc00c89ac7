"""`LLM.chat()`, without a server: there is no store, and whoever names a file is told so; all else is as without us."""

from typing import Any

import pytest

import vllm_servers

pytestmark = pytest.mark.vllm

CHAT = """
import base64, io, json, os, sys, traceback

if __name__ == "__main__":
    from PIL import Image
    import vllm.envs
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=MODEL, dtype="bfloat16", max_model_len=2048, enforce_eager=True, disable_log_stats=True,
        limit_mm_per_prompt={"image": 1},
    )

    def image(color):
        file = io.BytesIO()
        Image.new("RGB", (56, 56), color).save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

    def answer(url):
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is this?"}]
        options = SamplingParams(max_tokens=8, temperature=0)
        try:
            (output,) = llm.chat([{"role": "user", "content": parts}], options, use_tqdm=False)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame.name for frame in frames if frame.filename.endswith("vllm_plugin/connector.py")]
            return {"error": type(error).__name__, "message": str(error), "frames": ours}
        return {"tokens": list(output.outputs[0].token_ids), "prompt": len(output.prompt_token_ids)}

    def stock():
        del os.environ["VLLM_MEDIA_CONNECTOR"]
        vllm.envs.disable_envs_cache()
        return [answer(image("red")), answer("file-" + "0" * 32)]

    connector = os.environ.get("VLLM_MEDIA_CONNECTOR")
    print(json.dumps({
        "connector": connector,
        "named": [answer("vllm-file://file-" + "0" * 32), answer("file-" + "0" * 32)],
        "ours": answer(image("red")),
        "stock": stock(),
    }))
    sys.stdout.flush()
    os._exit(0)  # whatever the engine has to say at its end is not the answer
"""


@pytest.fixture(scope="module")
def chat() -> dict[str, Any]:
    """Answers of an engine in this very process."""
    model = vllm_servers.write_model(vllm_servers.PICTURES)
    env = {"MEDIAGATE_ENABLE_FILE_UPLOADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    found: dict[str, Any] = vllm_servers.run(f"MODEL = {str(model)!r}\n{CHAT}", env=env)
    return found


def test_a_reference_is_refused_with_the_reason(chat: dict[str, Any]) -> None:
    """By the half of the connector that blocks."""
    assert chat["connector"] == "mediagate"
    for refused in chat["named"]:
        assert refused["error"] == "VLLMValidationError"
        assert "there is none in this process" in refused["message"]
        assert refused["frames"][0] == "load_from_url"


def test_media_by_value_are_answered(chat: dict[str, Any]) -> None:
    """As by vLLM's own connector, which has never heard of files."""
    stock, named = chat["stock"]

    assert chat["ours"] == stock
    assert len(stock["tokens"]) == 8
    assert named["frames"] == []
