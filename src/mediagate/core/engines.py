"""The inference servers that have a profile, by the names that `--engine` takes."""

from enum import StrEnum


class Engine(StrEnum):
    """What the upstream is."""

    AUTO = "auto"
    """To be found out."""
    VLLM = "vllm"
    SGLANG = "sglang"
    LMDEPLOY = "lmdeploy"
    LLAMA_SERVER = "llama-server"
    LLAMA_CPP_PYTHON = "llama-cpp-python"
    TRANSFORMERS = "transformers"
    OLLAMA = "ollama"
    MISTRAL_RS = "mistral.rs"
    TGI = "tgi"
    LOCALAI = "localai"
    DYNAMO = "dynamo"
    OPENAI = "openai"
    """Any other that speaks like OpenAI's."""
