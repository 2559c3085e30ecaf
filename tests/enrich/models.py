"""A causal language model made on the spot, as a folder: random weights, a byte-level tokenizer, a chat template."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from tests.text.conftest import CHATML, train_tokenizer


def tiny_folder(place: Path, positions: int = 1024, seed: int = 0) -> str:
    """Saves the model at `place` and returns its name."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(["<|im_start|>", "<|im_end|>"], chat=CHATML)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=positions, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)
