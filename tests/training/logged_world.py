"""A log whose best item is known and rarely shown: desks are shown most, lamps earn three times as much."""

from __future__ import annotations

import numpy as np

from llmrec.config import BestOfNSettings, LoraSettings, OffPolicySettings
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.training.best_of_n import train_best_of_n
from llmrec.training.improvement import Checkpointing, WarmStart
from llmrec.training.logged import LoggedSlates
from llmrec.training.off_policy import train_off_policy
from llmrec.types import Reward, State
from tests.training.conftest import COLOURS
from tests.training.worlds import lamps

STATES = [State(f"u{n}", f"likes {COLOURS[n % 4]}") for n in range(24)]
SEEN = [np.array([], dtype=np.int64)] * len(STATES)
MU = np.array([0.03, 0.04, 0.18] * 4)  # lamp, chair, desk of each colour

SMALL = OffPolicySettings(
    slate=2, draws=2, batch_size=4, examples=16, save_every=2, lora=LoraSettings(rank=4, alpha=8), learning_rate=1e-3
)
WORLD = OffPolicySettings(
    slate=2,
    draws=2,
    batch_size=16,
    epochs=2.0,
    kl_coefficient=0.0,
    learning_rate=3e-3,
    lora=LoraSettings(rank=8),
    save_every=99,
)
BEST = BestOfNSettings(
    draws=8, prompts=96, rounds=3, epochs=2.0, batch_size=24, learning_rate=3e-3, lora=LoraSettings(rank=8)
)


def shown(seed: int, slates: int = 480, places: int = 8) -> LoggedSlates:
    """Slates whose places are drawn from `MU` independently, whatever the state."""
    random = np.random.default_rng(seed)
    states = [STATES[row] for row in random.integers(len(STATES), size=slates)]
    items_BK = random.choice(12, size=(slates, places), p=MU)
    return LoggedSlates(
        states,
        [SEEN[0]] * slates,
        items_BK,
        lamps(states, items_BK).total_BK,
        MU[items_BK],
        np.zeros(items_BK.shape),
        np.full(items_BK.shape, 1 / places),
    )


def halved(states, items_BK):
    """A fitted reward that is far off: half of the truth, and more for whatever has the higher index."""
    return Reward(0.5 * lamps(states, items_BK).total_BK + 0.02 * items_BK, {})


def start(shop, seed: int, *, repeat="allow", model=None) -> WarmStart:
    model = shop.model(hidden=64, seed=seed) if model is None else model
    return WarmStart(model, shop.tokenizer, shop.catalogue, shop.renderer, repeat, seed)


def learn(shop, out, slates, settings=SMALL, *, seed=5, model=None, on_checkpoint=None, **more):
    begun = start(shop, seed, model=shop.model() if model is None else model)
    return train_off_policy(begun, slates, settings, Checkpointing(out, on_checkpoint), **more)


def distil(
    shop, out, settings, *, seed=5, model=None, reward=lamps, on_checkpoint=None, repeat="allow", states=STATES
):
    begun = start(shop, seed, repeat=repeat, model=shop.model() if model is None else model)
    seen = [SEEN[0]] * len(states)
    return train_best_of_n(begun, states, seen, reward, settings, Checkpointing(out, on_checkpoint))


def deployed(shop, model) -> float:
    """What the first item of each state earns, as a share of the most that it could."""
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    top_B1 = np.array([[slate.items_K[0]] for slate in policy.recommend(STATES, 1)])
    return float(lamps(STATES, top_B1).total_BK.mean()) / 1.5
