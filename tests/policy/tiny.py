"""Tiny random models of several architectures, a small ragged catalogue, and pi by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from llmrec.catalogue import PrefixIndex

VOCABULARY = 60
BASE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
LAYERS = ["sliding_attention", "full_attention"]
CONFIGS = {
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "llama": ("LlamaConfig", {}),
    "mistral-window": ("MistralConfig", {"sliding_window": 4, "head_dim": 8}),
    "qwen2-window": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "gemma3-window": (
        "Gemma3TextConfig",
        {
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 8,
            "layer_types": LAYERS,
            "final_logit_softcapping": 3.0,
        },
    ),
    "phi3": ("Phi3Config", {}),
    "smollm3": ("SmolLM3Config", {}),
    "granite": ("GraniteConfig", {"logits_scaling": 4.0}),
    "cohere": ("CohereConfig", {"logit_scale": 0.25}),
}
OTHERS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=96, bos_token_id=None, eos_token_id=1
    ),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=1, pad_token_id=0
    ),
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=1, pad_token_id=0
    ),
}
SHARING = (*CONFIGS, "gpt2")


def tiny_model(name="qwen3", dtype=torch.float64, attention=None, seed=0):
    """A random model whose distribution is far from flat, in evaluation mode."""
    torch.manual_seed(seed)
    kind, extra = CONFIGS.get(name, (None, None))
    config = getattr(transformers, kind)(**{**BASE, **extra}) if kind else OTHERS[name]()
    options = {"attn_implementation": attention} if attention else {}
    model = AutoModelForCausalLM.from_config(config, **options).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


# shared prefixes, ragged lengths, forced stretches in the middle and at the end; 1 is the end token
ITEMS = (
    (5, 1),
    (5, 6, 1),
    (5, 6, 7, 1),
    (5, 8, 9, 10, 11, 1),
    (5, 8, 9, 10, 12, 1),
    (5, 8, 9, 10, 12, 13, 14, 1),
    (20, 21, 22, 1),
    (20, 21, 23, 1),
    (30, 31, 32, 33, 34, 35, 1),
    (40, 1),
    (41, 6, 1),
    (41, 7, 8, 1),
)


def index_of(items=ITEMS):
    width = max(map(len, items))
    table = np.array([[*row, *[-1] * (width - len(row))] for row in items])
    return PrefixIndex.from_tokens(table, np.array(list(map(len, items))))


def prompts(lengths=(9, 5, 7), seed=1):
    """Left-padded prompt ids and mask."""
    torch.manual_seed(seed)
    width = max(lengths)
    mask = torch.tensor([[0] * (width - n) + [1] * n for n in lengths])
    return torch.randint(2, VOCABULARY, (len(lengths), width)) * mask, mask


def legal_tokens(prefix, items):
    return sorted({row[len(prefix)] for row in items if row[: len(prefix)] == prefix and len(row) > len(prefix)})


def brute_steps(model, prompt, item, items, allowed=None, temperature=1.0):
    """For each step of one item {legal token: log-probability}, by the model's own full logits, unpadded."""
    row, kept = items[item], items if allowed is None else [items[i] for i in allowed]
    logits = model(input_ids=torch.tensor([[*prompt, *row[:-1]]])).logits[0, len(prompt) - 1 :] / temperature
    legal = [legal_tokens(row[:level], kept) for level in range(len(row))]
    return [dict(zip(t, torch.log_softmax(x[t], 0), strict=True)) for t, x in zip(legal, logits, strict=True)]


def brute_log_pi(model, prompt, items=ITEMS, allowed=None, temperature=1.0):
    """log pi (or pi_F) of every allowed item, as {item: tensor}, differentiable."""
    chosen = range(len(items)) if allowed is None else allowed
    steps = {i: brute_steps(model, prompt, i, items, allowed, temperature) for i in chosen}
    return {i: sum(step[t] for step, t in zip(steps[i], items[i], strict=True)) for i in chosen}


def unpadded(ids, mask):
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


def byte_tokenizer(specials=("<|im_start|>", "<|im_end|>", "<pad>"), merges=(("T", "h"), ("Th", "e"), ("Ġ", "The"))):
    """A real byte-level BPE tokenizer with three merges; its end token is <|im_end|>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": [s for s in specials if s not in ("<|im_end|>", "<pad>")]})
    return fast


def all_prefixes(items):
    return set(itertools.chain.from_iterable((row[:n] for n in range(len(row))) for row in items))
