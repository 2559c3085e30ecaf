"""A pretrained model under trial: the model, and the small generated world that it is tried on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import WorldConfig
from llmrec.dataset.examples import examples
from llmrec.dataset.split import make_split
from llmrec.dataset.store import Dataset
from llmrec.dataset.world.world import generate_world
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.policy.loading import check_folder, load_causal_lm, load_tokenizer
from llmrec.policy.modes import evaluating
from llmrec.policy.scoring import Path as ScoringPath
from llmrec.policy.scoring import score_items
from llmrec.text.render import StateRenderer
from llmrec.training.lora import Adapter
from llmrec.types import Example, Item, State

WORLD = WorldConfig(domain="shop", users=40, items=50, slates_per_user=4, slate_size=10)
SEED = 0
MAX_TOKENS = 224
STATES = 3
TOLERANCE = {torch.float64: 1e-7, torch.float32: 2e-3, torch.float16: 0.1, torch.bfloat16: 0.5}
"""Largest difference of an item's log-probability between two exact ways of computing it, by the weights' type."""

Figure = float | int | str | bool


class CheckOutcome(NamedTuple):
    """What a check found: whether all is well, one sentence, and figures under plain names."""

    ok: bool
    sentence: str
    figures: dict[str, Figure]


class CheckedModel:
    """A model under trial and what it is tried on. Between checks `model` is plain and in evaluation mode.

    Attributes:
        name, revision: what is loaded.
        scratch: a folder for checkpoints and adapters.
        tuned: the adapter of the PPO step and log pi (B, N) under it, once there is one.
        load_seconds: how long the last loading of the model took.
    """

    def __init__(self, name: str, revision: str | None, scratch: Path) -> None:
        self.name, self.revision, self.scratch = name, revision, scratch
        self.tuned: tuple[Adapter, Tensor] | None = None
        self.load_seconds = 0.0
        self._model: Any = None

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(self.name, self.revision)

    @property
    def model(self) -> Any:
        """The model, loaded anew after `forget`."""
        if self._model is None:
            start = time.monotonic()
            self._model = load_causal_lm(self.name, revision=self.revision)
            self.load_seconds = time.monotonic() - start
        return self._model

    def open(self) -> None:
        """Loads tokenizer and model; raises `RunError` where that cannot be done."""
        check_folder(self.name)
        _ = self.tokenizer, self.model

    def forget(self) -> None:
        """Drops a model that a failed check may have left changed."""
        self._model = None

    @cached_property
    def dataset(self) -> Dataset:
        """The generated world's data set."""
        return generate_world(WORLD, SEED).dataset

    @cached_property
    def examples(self) -> list[Example]:
        """States with the item chosen, of the training part."""
        return list(examples(self.dataset, make_split(self.dataset, "time"), "train", limit=16, seed=SEED))

    @property
    def states(self) -> list[State]:
        """The states that numbers are compared on."""
        return [example.state for example in self.examples[:STATES]]

    @cached_property
    def renderer(self) -> StateRenderer:
        """The prompts of the world's states."""
        return self.renderer_of(self.dataset.item_list)

    def renderer_of(self, items: Sequence[Item]) -> StateRenderer:
        """A renderer for other items of the same domain."""
        return StateRenderer(items, self.tokenizer, domain="shop", language="en", max_tokens=MAX_TOKENS)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The world's items as this tokenizer encodes them."""
        ids, renderer = self.dataset.items["item_id"].to_list(), self.renderer
        return Catalogue.from_titles(ids, renderer.titles, self.tokenizer, answer_prefix=renderer.answer_prefix)

    @property
    def tolerance(self) -> float:
        """The entry of `TOLERANCE` for the model's weights."""
        return TOLERANCE.get(self.model.get_input_embeddings().weight.dtype, TOLERANCE[torch.bfloat16])

    def encode(self, model: Any, states: list[State]) -> tuple[Tensor, Tensor]:
        """Prompt ids and mask (B, P)."""
        return LanguagePolicy(model, self.tokenizer, self.catalogue, self.renderer, "allow").encode(states)

    @torch.no_grad()
    def log_probs(
        self, model: Any, *, states: int = STATES, items: int = WORLD.items, path: ScoringPath = "auto"
    ) -> Tensor:
        """log pi of the first items for the first states, (B, G), float32 (or wider) on the CPU."""
        ids, mask = self.encode(model, self.states[:states])
        items_BG = torch.arange(items).expand(len(ids), -1)
        with evaluating(model):
            scores = score_items(model, ids, mask, items_BG, self.catalogue.index, path=path)
        return scores.item_log_prob_BG.cpu()


def largest(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    return float((a.double() - b.double()).abs().max())
