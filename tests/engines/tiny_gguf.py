"""A model of random weights for llama-server, that sees and hears; 150,000 parameters.

    tiny_gguf.write(directory)      -> directory/model.gguf, directory/mmproj.gguf

What it says means nothing, but the same input gives the same letters, and another input gives others.
"""

import math
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, INNER, HEADS = 32, 64, 2
"""Of a layer, of what is inside it, and of its attention: in the language model and both encoders alike."""
LAYERS = 2
"""Of the language model; an encoder has one."""
CONTEXT = 8192
IMAGE, PATCH = 112, 14
"""Pixels on a side. Sixteen patches are a token, so an image, or a frame of a clip, is 4."""
MELS, SOUND, STACKED = 80, 1500, 20
"""Sound is read by halves of a minute, of which each is 1500 positions; twenty are a token."""

CHAT_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_ALIGNMENT = 32
_NUMBER, _SIGNED, _FLOAT, _BOOL, _TEXT, _LIST = 4, 5, 6, 7, 8, 9
_F32, _F16 = 0, 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """Weights.

    Attributes:
        name: As llama.cpp calls it.
        shape: The dimension that is contiguous in memory first.
        values: All of them.
        is_half: 16 bits each, as convolutions want it, and not 32.
    """

    name: str
    shape: Sequence[int]
    values: Sequence[float]
    is_half: bool = False

    @property
    def data(self) -> bytes:
        """As they are in the file, up to where the next tensor may begin."""
        data = struct.pack(f"<{len(self.values)}{'e' if self.is_half else 'f'}", *self.values)
        return data + bytes(-len(data) % _ALIGNMENT)


def write(directory: Path) -> None:
    """Write both files into a directory, which is made."""
    directory.mkdir()
    _write_gguf(directory / "model.gguf", _LANGUAGE, list(_language()))
    _write_gguf(directory / "mmproj.gguf", _ENCODERS, [*_vision(), *_hearing()])


def _random(name: str, *shape: int, is_half: bool = False) -> Tensor:
    dice = random.Random(name)
    # With much smaller ones hardly a sound would change an answer.
    values = [dice.gauss(0, 0.4) for _ in range(math.prod(shape))]
    return Tensor(name, shape, values, is_half)


def _ones(name: str, size: int) -> Tensor:
    return Tensor(name, (size,), [1.0] * size)


def _norm(name: str, size: int = WIDTH) -> Iterator[Tensor]:
    yield _ones(f"{name}.weight", size)
    yield Tensor(f"{name}.bias", (size,), [0.0] * size)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in a vocabulary of GPT-2: itself where it can be seen."""
    seen = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in seen else next(others)) for byte in range(0x100)]


_WORDS = [*CHAT_MARKS, *_byte_letters(), "he"]
_LANGUAGE: Mapping[str, Any] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "llama.context_length": CONTEXT,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": INNER,
    "llama.block_count": LAYERS,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": WIDTH // HEADS,
    "llama.vocab_size": len(_WORDS),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": _WORDS,
    "tokenizer.ggml.token_type": [3] * len(CHAT_MARKS) + [1] * (len(_WORDS) - len(CHAT_MARKS)),
    "tokenizer.ggml.merges": ["h e"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": CHAT_TEMPLATE,
}


def _language() -> Iterator[Tensor]:
    yield _random("token_embd.weight", WIDTH, len(_WORDS))
    yield _ones("output_norm.weight", WIDTH)
    says = _random("output.weight", WIDTH, len(_WORDS))
    # Nothing that cannot be read in a log, and never the end: an answer is as long as it may be.
    silent = [not (len(word) == 1 and "!" <= word <= "~") for word in _WORDS]
    values = [0.0 if silent[at // WIDTH] else value for at, value in enumerate(says.values)]
    yield Tensor(says.name, says.shape, values)
    for block in (f"blk.{number}" for number in range(LAYERS)):
        yield _ones(f"{block}.attn_norm.weight", WIDTH)
        yield _ones(f"{block}.ffn_norm.weight", WIDTH)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield _random(f"{block}.{name}.weight", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            yield _random(f"{block}.{name}.weight", WIDTH, INNER)
        yield _random(f"{block}.ffn_down.weight", INNER, WIDTH)


def _encoder(name: str) -> Mapping[str, Any]:
    return {
        f"clip.{name}.embedding_length": WIDTH,
        f"clip.{name}.feed_forward_length": INNER,
        f"clip.{name}.block_count": 1,
        f"clip.{name}.projection_dim": WIDTH,
        f"clip.{name}.attention.head_count": HEADS,
        f"clip.{name}.attention.layer_norm_epsilon": 1e-5,
    }


_ENCODERS: Mapping[str, Any] = {
    "general.architecture": "clip",
    "clip.use_gelu": True,
    "clip.has_vision_encoder": True,
    "clip.vision.projector_type": "gemma3",
    **_encoder("vision"),
    "clip.vision.image_size": IMAGE,
    "clip.vision.patch_size": PATCH,
    "clip.vision.image_mean": [0.5] * 3,
    "clip.vision.image_std": [0.5] * 3,
    "clip.has_audio_encoder": True,
    "clip.audio.projector_type": "ultravox",
    **_encoder("audio"),
    "clip.audio.num_mel_bins": MELS,
    "clip.audio.projector.stack_factor": STACKED,
}


def _block(encoder: str) -> Iterator[Tensor]:
    block = f"{encoder}.blk.0"
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        yield _random(f"{block}.{name}.weight", WIDTH, WIDTH)
        if name != "attn_k":
            yield _random(f"{block}.{name}.bias", WIDTH)
    yield from _norm(f"{block}.ln1")
    yield from _norm(f"{block}.ln2")
    yield _random(f"{block}.ffn_up.weight", WIDTH, INNER)
    yield _random(f"{block}.ffn_up.bias", INNER)
    yield _random(f"{block}.ffn_down.weight", INNER, WIDTH)
    yield _random(f"{block}.ffn_down.bias", WIDTH)
    yield from _norm(f"{encoder}.post_ln")


def _vision() -> Iterator[Tensor]:
    yield _random("v.patch_embd.weight", PATCH, PATCH, 3, WIDTH)
    yield _random("v.patch_embd.bias", WIDTH)
    yield _random("v.position_embd.weight", WIDTH, (IMAGE // PATCH) ** 2)
    yield from _block("v")
    yield _random("mm.input_projection.weight", WIDTH, WIDTH)
    yield _ones("mm.soft_emb_norm.weight", WIDTH)


def _hearing() -> Iterator[Tensor]:
    for number, channels in ((1, MELS), (2, WIDTH)):
        yield _random(f"a.conv1d.{number}.weight", 3, channels, WIDTH, is_half=True)
        yield _random(f"a.conv1d.{number}.bias", 1, WIDTH)
    yield _random("a.position_embd.weight", WIDTH, SOUND)
    yield from _block("a")
    yield _ones("mm.a.norm_pre.weight", STACKED * WIDTH)
    yield _random("mm.a.mlp.1.weight", STACKED * WIDTH, 2 * INNER)
    yield _ones("mm.a.norm_mid.weight", INNER)
    yield _random("mm.a.mlp.2.weight", INNER, WIDTH)


def _write_gguf(path: Path, about: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(about))
    for key, value in about.items():
        kind, data = _value(value)
        head += _text(key) + struct.pack("<I", kind) + data
    at = 0
    blocks = [tensor.data for tensor in tensors]
    for tensor, block in zip(tensors, blocks, strict=True):
        size = len(tensor.shape)
        kind = _F16 if tensor.is_half else _F32
        head += _text(tensor.name) + struct.pack(f"<I{size}QIQ", size, *tensor.shape, kind, at)
        at += len(block)
    path.write_bytes(head + bytes(-len(head) % _ALIGNMENT) + b"".join(blocks))


def _value(value: Any) -> tuple[int, bytes]:
    """Its type in a GGUF file, and its bytes there."""
    match value:
        case bool():
            return _BOOL, struct.pack("<?", value)
        case int():
            return _NUMBER, struct.pack("<I", value)
        case float():
            return _FLOAT, struct.pack("<f", value)
        case str():
            return _TEXT, _text(value)
        case _:
            kinds, data = zip(*map(_value, value), strict=True)
            # Alone a number is wanted without a sign, in a list with one.
            kind = _SIGNED if kinds[0] == _NUMBER else kinds[0]
            return _LIST, struct.pack("<IQ", kind, len(data)) + b"".join(data)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
