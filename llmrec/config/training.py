"""Settings of models and of their supervised warm start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """`name`: "nano" (made on the spot) or any causal LM that transformers loads, by Hub id or path."""

    name: str = "nano"
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    gradient_checkpointing: Literal["auto", True, False] = "auto"
    """Computes activations anew in the backward pass, for less memory; auto does so on a GPU from a billion
    parameters."""
    quantization: Literal["none", "4bit"] = "none"
    """4bit: SFT trains its adapter on weights in 4 bits (QLoRA, Dettmers et al. 2023), which needs bitsandbytes. The
    adapter is then put on the weights as they are published, and all that comes after sees what is deployed."""
    nano_hidden: int = 128
    nano_layers: int = 4
    nano_vocabulary: int = 4096
    nano_pretrain_sequences: int = 12000
    """Training sequences (of at most text.max_tokens tokens) that the nano model is pretrained on."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA (Hu et al. 2021) on all linear layers of the backbone."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SFTSettings:
    """Supervised warm start. `weights`: full or lora; auto takes full for the nano model, else lora."""

    weights: Literal["auto", "full", "lora"] = "auto"
    lora: LoraSettings = field(default_factory=LoraSettings)
    examples: int = 8000
    epochs: float = 2.0
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.05
    mixture: dict[str, float] = field(
        default_factory=lambda: {
            "next_item": 0.8,
            "title_from_description": 0.05,
            "description_from_title": 0.05,
            "item_from_attributes": 0.05,
            "item_from_prompt": 0.05,
            "title_from_id": 0.05,
            "id_from_title": 0.05,
            "attributes_from_id": 0.05,
        }
    )
    """Weights of the tasks: one epoch holds each example once as next_item, and the others in proportion to it. The
    last three tie the tokens of an identifier to its item's words; under identifiers.scheme: title there are none."""
    history_dropout: float = 0.1
    """Share of history interactions dropped at random from a training state (augmentation)."""
    target: Literal["click", "conversion"] = "click"
    save_every: int = 50
    """Optimiser steps between checkpoints."""
