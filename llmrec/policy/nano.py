"""The nano model: a tokenizer and a small Qwen3-architecture model made on the spot.

It stands in where no pretrained model can be fetched. What is made here is only the untrained pair; pretraining is
the trainers' work. Once saved it is an ordinary Hugging Face folder and takes every path that a Hub model takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from llmrec.config import ModelConfig
from llmrec.errors import ConfigError
from llmrec.seeding import stream_seed

END, PAD = "<|endoftext|>", "<|pad|>"
LEAST_VOCABULARY = 258
"""All bytes, the end token and the pad token."""


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer of at most `vocabulary` tokens; every string can be encoded.

    Byte-level BPE: Sennrich et al. 2016, Radford et al. 2019. The end token ends an item and is never cut from text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left", model_max_length=1024
    )


def check_nano(settings: ModelConfig) -> None:
    """Raises `ConfigError` for sizes that make no model; cheap."""
    if settings.nano_hidden % 32 or settings.nano_hidden < 32:
        raise ConfigError(f"Key 'model.nano_hidden' is {settings.nano_hidden}; it must be a multiple of 32.")
    for key, least in (("nano_layers", 1), ("nano_vocabulary", LEAST_VOCABULARY), ("nano_pretrain_sequences", 1)):
        if getattr(settings, key) < least:
            raise ConfigError(f"Key 'model.{key}' is {getattr(settings, key)}, but it must be at least {least}.")


def make_nano(tokenizer: PreTrainedTokenizerFast, settings: ModelConfig, seed: int) -> Qwen3ForCausalLM:
    """A randomly initialised Qwen3 model for `tokenizer` (1.3 M parameters with the default settings)."""
    check_nano(settings)
    # half as many heads for keys and values, as in the Qwen3 models that it stands in for
    heads = max(1, settings.nano_hidden // 32)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.nano_hidden,
        intermediate_size=3 * settings.nano_hidden,
        num_hidden_layers=settings.nano_layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attention_dropout=0.0,
    )
    # transformers initialises from torch's global generator: seeded here for this model alone, and put back after
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "nano", "weights"))
        model = Qwen3ForCausalLM(config)
    return model


def describe(model: Any) -> str:
    """Size and shape in one line, for logs and reports."""
    count = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__}, {count / 1e6:.2f} M parameters"
