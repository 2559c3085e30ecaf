"""A log of the shop in which users who like a colour click on its lamp, often on its colour, seldom on the rest."""

from __future__ import annotations

import dataclasses

import numpy as np

from llmrec.config import SFTSettings
from llmrec.dataset.impressions import Impressions
from llmrec.dataset.preferences import Preferences, preferences
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.sft import train_sft
from llmrec.types import Example, State
from tests.training.conftest import COLOURS
from tests.training.worlds import best, lamps

USERS = [State(f"u{n}", f"likes {COLOURS[n % 4]}") for n in range(24)]


def clicks(seed: int, slates: int = 400, slate: int = 4) -> Impressions:
    """Slates of distinct random items, each clicked with probability 0.9, 0.3 or 0.05."""
    random = np.random.default_rng(seed)
    states = [USERS[n % 24] for n in range(slates)]
    items = np.stack([random.choice(12, slate, replace=False) for _ in states])
    right = best(states)[:, None]
    chance = np.where(items == right, 0.9, np.where(items // 3 * 3 == right, 0.3, 0.05))
    return log_of(states, items, random.random(items.shape) < chance)


def log_of(states, items_SK, click_SK, conversion_SK=None) -> Impressions:
    """Impressions of slates."""
    items, click = np.asarray(items_SK), np.asarray(click_SK, dtype=np.float32)
    conversion = click * 0 if conversion_SK is None else np.asarray(conversion_SK, dtype=np.float32)
    number, width = items.shape
    return Impressions(
        states=list(states),
        state_row_M=np.repeat(np.arange(number), width),
        item_M=items.ravel(),
        click_M=click.ravel(),
        conversion_M=conversion.ravel(),
        position_M=np.tile(np.arange(width, dtype=np.float32), number),
        propensity_M=np.full(number * width, np.nan, dtype=np.float32),
        seen=[np.array([], dtype=np.int64)] * number,
    )


def pairs_of(seed: int, negatives: int = 1, **more) -> Preferences:
    return preferences(clicks(seed, **more), negatives, None, seed)


def begin(shop, seed: int, **model) -> WarmStart:
    return WarmStart(shop.model(seed=seed, **model), shop.tokenizer, shop.catalogue, shop.renderer, "allow", seed)


def share_of_optimum(shop, model) -> float:
    """Value of the deployed top item over that of the best one, which is 1.5 for every user."""
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    top = np.array([[slate.items_K[0]] for slate in policy.recommend(USERS, 1)])
    return float(lamps(USERS, top).total_BK.mean() / 1.5)


def keep(out, on_checkpoint=None) -> Checkpointing:
    return Checkpointing(out, on_checkpoint)


def warm_start(shop, seed: int, out) -> WarmStart:
    """A policy that imitates users who take anything of the colour that they like, the lamp no more than the rest."""
    rows = [Example(state, int(lamp) + n) for state, lamp in zip(USERS, best(USERS), strict=True) for n in range(3)]
    imitate = SFTSettings(
        epochs=40.0,
        batch_size=36,
        learning_rate=5e-3,
        mixture={"next_item": 1.0},
        history_dropout=0.0,
        save_every=999,
    )
    start = begin(shop, seed, hidden=64)
    warm = train_sft(
        start.model, shop.tokenizer, shop.catalogue, shop.renderer, rows, shop.items, imitate, seed=seed, out=out
    )
    return dataclasses.replace(start, model=warm.model)
