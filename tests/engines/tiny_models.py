"""Models of random weights that real engines serve.

    python tests/engines/tiny_models.py NAME DIRECTORY

    qwen2_vl       images and clips; 340,000 parameters
    qwen2_audio    sound; 310,000 parameters

Run by the Python of a vLLM environment; needs no network. What they say means nothing, but the same input gives the
same words, and another input gives others.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHAT_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PICTURE_MARKS = (
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
SOUND_MARKS = ("<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>")

PATCH = 14
PICTURE = {"shortest_edge": (4 * PATCH) ** 2, "longest_edge": (16 * PATCH) ** 2}
"""In pixels. Two by two patches are a token, so an image, or two frames of a clip, are 4 to 64."""

LAYERS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
}
"""Of the language model in each."""

CHAT_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if 'image' in part.type %}<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'video' in part.type %}<|vision_start|><|video_pad|><|vision_end|>
{%- elif 'audio' in part.type %}<|audio_bos|><|AUDIO|><|audio_eos|>
{%- else %}{{ part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def qwen2_vl(directory: Path) -> None:
    """Write a Qwen2-VL with its weights, tokenizer and processors."""
    tokenizer, ids = _train_tokenizer(PICTURE_MARKS)
    config = transformers.Qwen2VLConfig(
        text_config={
            **_language(ids),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [4, 6, 6],
            },
        },
        vision_config={
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = transformers.Qwen2VLForConditionalGeneration(config).to(torch.bfloat16)
    model.generation_config = _generation(ids)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    _write_picture_processors(directory)


def _write_picture_processors(directory: Path) -> None:
    both: Mapping[str, Any] = {
        "processor_class": "Qwen2VLProcessor",
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "do_convert_rgb": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
        "do_resize": True,
        "resample": 3,
        "size": PICTURE,
        "min_pixels": PICTURE["shortest_edge"],
        "max_pixels": PICTURE["longest_edge"],
    }
    image = {**both, "image_processor_type": "Qwen2VLImageProcessor"}
    clip = {
        **both,
        "video_processor_type": "Qwen2VLVideoProcessor",
        "min_frames": 4,
        "max_frames": 16,
        "fps": 2,
        "do_sample_frames": False,
    }
    _dump(directory / "preprocessor_config.json", image)
    _dump(directory / "video_preprocessor_config.json", clip)
    _dump(directory / "processor_config.json", {"processor_class": "Qwen2VLProcessor"})


def qwen2_audio(directory: Path) -> None:
    """Write a Qwen2-Audio with its weights, tokenizer and processors."""
    tokenizer, ids = _train_tokenizer(SOUND_MARKS)
    config = transformers.Qwen2AudioConfig(
        text_config={**_language(ids), "model_type": "qwen2"},
        audio_config={
            "num_mel_bins": 80,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 128,
            "d_model": 64,
            "max_source_positions": 1500,
        },
        audio_token_index=ids["<|AUDIO|>"],
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = transformers.Qwen2AudioForConditionalGeneration(config).to(torch.bfloat16)
    model.generation_config = _generation(ids)
    model.save_pretrained(directory)
    # transformers writes other names than those of the published model, which are the ones that vLLM knows.
    weights = directory / "model.safetensors"
    named = {
        name.replace("model.model.", "model."): weight
        for name, weight in load_file(weights).items()
    }
    save_file(named, weights, metadata={"format": "pt"})
    transformers.Qwen2AudioProcessor(
        transformers.WhisperFeatureExtractor(feature_size=80),
        tokenizer,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)


def _train_tokenizer(marks: Sequence[str]) -> tuple[Any, Mapping[str, int]]:
    """A tokenizer that knows all bytes and hardly a word, and the number of each mark."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trained.train_from_iterator(
        ["what is in this picture", "what is in this clip", "user assistant system"],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[*CHAT_MARKS, *marks],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=trained,
        eos_token="<|im_end|>",  # noqa: S106 - no secret
        pad_token="<|endoftext|>",  # noqa: S106
        additional_special_tokens=[*CHAT_MARKS[1:], *marks],
        chat_template=CHAT_TEMPLATE,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )
    return tokenizer, tokenizer.get_vocab()


def _language(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        **LAYERS,
        "vocab_size": len(ids),
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
    }


def _generation(ids: Mapping[str, int]) -> Any:
    return transformers.GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"]
    )


def _dump(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))


if __name__ == "__main__":
    {"qwen2_vl": qwen2_vl, "qwen2_audio": qwen2_audio}[sys.argv[1]](Path(sys.argv[2]))
