"""A Gemma 4 of random weights for `transformers serve`: images, clips and sound in one; 120,000 parameters.

    python tests/engines/tiny_gemma4.py DIRECTORY

Run on the layers of `install_transformers`; needs no network. What it says means nothing, but the same input gives the
same words, and another input gives others.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PAD, BOS, START, END = "<pad>", "<bos>", "<|turn>", "<turn|>"
IMAGE, VIDEO, AUDIO = "<|image|>", "<|video|>", "<|audio|>"
AROUND = {
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
MARKS = (PAD, BOS, START, END, IMAGE, VIDEO, AUDIO, *AROUND.values())

WIDTH = 32
TOWER = {
    "hidden_size": WIDTH,
    "num_attention_heads": 2,
}
"""What the model of language and both encoders have in common."""

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}<|turn>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}
{%- if part.type == 'text' %}{{ part.text }}{% else %}<|{{ part.type }}|>{% endif %}
{%- endfor %}
{%- endif %}<turn|>
{% endfor %}
{%- if add_generation_prompt %}<|turn>model
{% endif %}"""


def write(directory: Path) -> None:
    """Write weights, tokenizer and processors."""
    tokenizer = _byte_tokenizer()
    ids: Mapping[str, int] = tokenizer.get_vocab()
    torch.manual_seed(0)
    model = transformers.Gemma4ForConditionalGeneration(_config(ids))
    for weights in model.parameters():
        if (
            weights.ndim > 1
        ):  # the usual ones are so small that hardly a sound would change an answer
            torch.nn.init.xavier_normal_(weights)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=ids[BOS],
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
        do_sample=False,
        # Nothing that cannot be read in a log, and never the end: an answer is as long as it may be.
        suppress_tokens=[
            number for word, number in ids.items() if not (len(word) == 1 and "!" <= word <= "~")
        ],
    )
    model.save_pretrained(directory)
    transformers.Gemma4Processor(
        feature_extractor=transformers.Gemma4AudioFeatureExtractor(),
        image_processor=transformers.Gemma4ImageProcessor(max_soft_tokens=70),
        video_processor=transformers.Gemma4VideoProcessor(),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)


def _byte_tokenizer() -> Any:
    """A token per byte, and one per mark."""
    words = (*MARKS, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    bytewise = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    bytewise.add_special_tokens([*MARKS])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytewise,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={**AROUND, "image_token": IMAGE, "audio_token": AUDIO},
        chat_template=CHAT_TEMPLATE,
    )


def _config(ids: Mapping[str, int]) -> Any:
    return transformers.Gemma4Config(
        text_config={
            **TOWER,
            "vocab_size": len(ids),
            "vocab_size_per_layer_input": len(ids),
            "hidden_size_per_layer_input": 0,
            "tie_word_embeddings": False,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_key_value_heads": 1,
            "num_kv_shared_layers": 0,
            "head_dim": 16,
            "global_head_dim": 16,
            "sliding_window": 512,
            "max_position_embeddings": 8192,
            "bos_token_id": ids[BOS],
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
        },
        vision_config={
            **TOWER,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 1,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "position_embedding_size": 256,
        },
        audio_config={
            **TOWER,
            "num_hidden_layers": 1,
            "output_proj_dims": WIDTH,
            "subsampling_conv_channels": (128, 4),
        },
        tie_word_embeddings=False,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        audio_token_id=ids[AUDIO],
        boi_token_id=ids[AROUND["boi_token"]],
        eoi_token_id=ids[AROUND["eoi_token"]],
        boa_token_id=ids[AROUND["boa_token"]],
        eoa_token_index=ids[AROUND["eoa_token"]],
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
