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
    """auto is bfloat16 on a GPU that has it and, for models of hidden size 512 or more, on a processor whose products
    are at least twice as fast in it; else float32. Which it was, and why, stands in metrics.json."""
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
    """Of what an adapter reads, in the warm start (`sft`) alone: where a policy learns from what it drew, the scorer
    must be the sampler."""


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """A second source of targets in the warm start: a fast recommender, distilled (Hinton, Vinyals and Dean 2015).

    A logged state then has the target q = (1 - weight) [the item chosen] + weight p, an invented one p itself, where
    p is the teacher's distribution over the catalogue. The loss is the cross-entropy of pi to q, exact at the first
    token and at those on paths drawn from q (`llmrec.training.imitation`).
    """

    kind: Literal["none", "covisitation", "interpolation"] = "none"
    """covisitation: its scores to the power `sharpness` and a share of popularity; interpolation: a mixture of parts
    that knows how long the user was away, taken as it is (`llmrec.baselines.interpolation`)."""
    weight: float = 0.3
    """Share of the teacher in the target of a logged state."""
    invented: float = 1.0
    """Histories of one to three drawn items, for each logged state; the teacher alone answers them."""
    sharpness: float = 1.5
    """Exponent of the teacher's scores before they are normalised."""
    popularity: float = 0.1
    """Share of an item's count in the teacher's distribution: nothing has probability 0."""
    paths: int = 1
    """Items drawn from q for each state; more cost more and add to the tokens behind the first alone."""
    epochs: float = 8.0
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    history_cut: float = 0.2
    """Share of states whose history begins at a random later place (augmentation, with sft.history_dropout)."""


@dataclass(frozen=True, kw_only=True)
class WeightingSettings:
    """What a logged choice counts in the warm start: examples are drawn in proportion to it.

    Imitation learns what was shown as much as what was liked. With p the probability that the item was shown and r
    what the choice earned (`reward.click`, and `reward.conversion` where it converted), `kind` counts a choice as 1
    (none), 1 / p (propensity), r (value) or r / p (both), and pi learns items in proportion to p P(chosen),
    P(chosen), p E[r] or E[r] of a state.
    """

    kind: Literal["none", "propensity", "value", "both"] = "none"
    clip: float = 20.0
    """Largest 1 / p, as a multiple of the median one."""
    propensities: Literal["auto", "logged", "fitted"] = "auto"
    """p of the log, or fitted to what was shown; auto takes the log's where it has them."""


@dataclass(frozen=True, kw_only=True)
class SFTSettings:
    """Supervised warm start. `weights`: full or lora; auto takes full for the nano model, else lora."""

    weights: Literal["auto", "full", "lora"] = "auto"
    lora: LoraSettings = field(default_factory=LoraSettings)
    layout: Literal["auto", "rows", "timelines"] = "auto"
    """rows: each example is a row of its own. timelines: a window of a user's choices is one row, in which what the
    prompts share is read once (docs/warm-start.md). auto: timelines above 50 M parameters, where the model can read
    such rows."""
    window: int = 20
    """Choices a window."""
    likelihood: Literal["auto", "vocabulary", "catalogue"] = "auto"
    """What an item that is to be named is compared with. vocabulary: all tokens at each step. catalogue: the legal
    ones, as where the policy is deployed; texts are compared with all tokens in any case. auto: catalogue above 50 M
    parameters."""
    skip: bool = False
    """The model is a policy already, and is the warm start as it is (`llmrec update`); the section still says what
    `continued_sft` learns."""
    examples: int = 8000
    epochs: float = 2.0
    batch_size: int = 64
    """Examples of an optimiser step; with timelines about as many."""
    micro_tokens: int | None = None
    """Tokens, padding among them, that go through the model at once: a step's gradient is the same whatever it is,
    its memory is not. 0 takes steps whole. By default 2,048 on a CPU and 32,768 on a GPU; models of up to 50 M
    parameters take them whole."""
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
    request_answers: Literal["choices", "catalogue"] = "choices"
    """What answers the requests of item_from_prompt that name items ("I liked A"), always an item like those.
    choices: what users choose, as often as they do. catalogue: every item alike, those too that nobody has chosen
    yet, so that a new item is known from its text (docs/cold-start.md)."""
    request_facts: Literal["categories", "some"] = "categories"
    """What the requests of item_from_prompt that name no item say of their answer. categories: all its categories.
    some: one or several facts, drawn anew for each row: categories, who made it, the decade of its title."""
    dropout: bool = False
    """Whether the dropout that the model was made with (OPT's 0.1, `attention_dropout`) is on in the warm start. That
    of `lora.dropout` is on in any case; where a policy learns from rewards there is none at all."""
    history_dropout: float = 0.1
    """Share of history interactions dropped at random from a training state (augmentation)."""
    target: Literal["click", "conversion"] = "click"
    weighting: WeightingSettings = field(default_factory=WeightingSettings)
    save_every: int = 50
    """Optimiser steps between checkpoints."""
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    """What is learnt after the mixture from logged states and a teacher; `epochs: 0` leaves the mixture out."""
