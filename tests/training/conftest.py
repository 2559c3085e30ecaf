"""A tiny shop for the trainers: 12 items, their tokenizer, an untrained model of 2 layers, states and examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from llmrec.catalogue.catalogue import Catalogue
from llmrec.config import ModelConfig
from llmrec.dataset.timelines import Timeline, Timelines
from llmrec.policy.nano import make_nano, train_tokenizer
from llmrec.policy.new_tokens import add_words
from llmrec.text.render import StateRenderer
from llmrec.types import Example, Interaction, Item, State

COLOURS, THINGS = ("red", "green", "blue", "grey"), ("lamp", "chair", "desk")


@dataclass(frozen=True)
class Shop:
    items: tuple[Item, ...]
    tokenizer: Any
    catalogue: Catalogue
    renderer: StateRenderer

    def model(self, hidden: int = 32, layers: int = 2, seed: int = 0) -> Any:
        settings = dataclasses.replace(ModelConfig(), nano_hidden=hidden, nano_layers=layers)
        return make_nano(self.tokenizer, settings, seed).eval()

    def states(self, number: int) -> list[State]:
        rng = np.random.default_rng(1)
        return [
            State(
                f"u{n}",
                "likes " + COLOURS[n % 4],
                tuple(Interaction(int(i), "click", 10 * t) for t, i in enumerate(rng.choice(12, 3, replace=False))),
                time=100,
            )
            for n in range(number)
        ]

    def examples(self, number: int) -> list[Example]:
        return [Example(state, target=(3 * (n % 4) + n) % 12) for n, state in enumerate(self.states(number))]

    def timelines(self, users: int = 6, events: int = 9) -> Timelines:
        """Users who chose items 0, 1, 2, ... one after the other."""
        made = (timeline(range(10 * n, 10 * n + 10 * events, 10), f"u{n}") for n in range(users))
        return Timelines(tuple(made), history_events=3)


def timeline(times: Sequence[int], user: str = "u", targets: Collection[int] | None = None) -> Timeline:
    """A user who chose item n % 12 at each time; those numbers in `targets` (None: all) are learnt."""
    history = tuple(Interaction(n % 12, "click", time) for n, time in enumerate(times))
    chosen = [n for n in range(len(history)) if targets is None or n in targets]
    before = tuple(sum(h.time < history[n].time for h in history) for n in chosen)
    return Timeline(user, "likes red", history, tuple(history[n] for n in chosen), before)


@pytest.fixture(scope="session")
def shop() -> Shop:
    return make_shop()


def make_shop() -> Shop:
    torch.set_num_threads(1)
    items = tuple(
        Item(f"i{n}", f"{c} {t}", f"a {t} painted {c} for the home", (t,), "acme", 3.0 + n)
        for n, (c, t) in enumerate((c, t) for c in COLOURS for t in THINGS)
    )
    texts = [f"{i.title} {i.description} {i.brand}" for i in items] * 3 + ["The user liked these items. Next item:"]
    tokenizer = train_tokenizer(texts, 400)
    renderer = StateRenderer(items, tokenizer, domain="shop", language="en", max_tokens=160)
    catalogue = Catalogue.from_titles(
        [i.item_id for i in items], [i.title for i in items], tokenizer, answer_prefix=renderer.answer_prefix
    )
    return Shop(items, tokenizer, catalogue, renderer)


@dataclass(frozen=True)
class CodedShop(Shop):
    """The shop with items written by identifiers: new words that only the tokenizer knows yet.

    `words` are the identifiers, `new_tokens` the ids of the tokens that were added.
    """

    words: tuple[str, ...] = ()
    new_tokens: tuple[int, ...] = ()


@pytest.fixture(scope="session")
def coded() -> CodedShop:
    shop = make_shop()
    words = [f"<a_{n}>" for n in range(4)] + [f"<b_{n}>" for n in range(3)]
    new = add_words(shop.tokenizer, words)
    texts = tuple(words[n // 3] + words[4 + n % 3] for n in range(12))
    renderer = StateRenderer(
        shop.items,
        shop.tokenizer,
        domain="shop",
        language="en",
        max_tokens=160,
        identifiers=texts,
        history="both",
    )
    catalogue = Catalogue.from_sequences(
        [i.item_id for i in shop.items],
        [i.title for i in shop.items],
        [[new[n // 3], new[4 + n % 3]] for n in range(12)],
        shop.tokenizer,
        scheme="semantic",
    )
    return CodedShop(shop.items, shop.tokenizer, catalogue, renderer, texts, tuple(new))
