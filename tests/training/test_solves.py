"""Every algorithm that draws items solves a trivial world: the best item of each type of user is known.

24 users of four types; the right lamp is worth 1.5, other things of the right colour 0.5, all else nothing. An
untrained model must recommend items worth 95% of the best ones after 30 rollouts of 24 states with 8 draws each.
"""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.config import GRPOSettings, LoraSettings, PPOSettings, ReinforceSettings, RLOOSettings
from llmrec.policy.language_policy import LanguagePolicy
from llmrec.types import State
from tests.training.conftest import COLOURS
from tests.training.worlds import lamps, run

STEPS = 30
USERS = [State(f"u{n}", f"likes {COLOURS[n % 4]}") for n in range(24)]
COMMON = {
    "steps": STEPS,
    "prompts": 24,
    "draws": 8,
    "learning_rate": 3e-3,
    "kl_coefficient": 0.0,
    "lora": LoraSettings(rank=8),
    "save_every": STEPS,
}


def value(shop, model):
    """Of what would be deployed, as a share of the best."""
    policy = LanguagePolicy(model, shop.tokenizer, shop.catalogue, shop.renderer, "allow")
    top_B1 = np.array([[slate.items_K[0]] for slate in policy.recommend(USERS, 1)])
    return float(lamps(USERS, top_B1).total_BK.mean()) / 1.5


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("kind", [PPOSettings, ReinforceSettings, GRPOSettings, RLOOSettings])
def test_the_best_item_of_each_user_is_found(shop, tmp_path, kind, seed):
    start = shop.model(hidden=64, seed=seed)
    assert value(shop, start) < 0.6
    result = run(shop, tmp_path, kind(**COMMON), model=start, states=USERS, seed=seed)
    assert value(shop, result.model) >= 0.95
    assert result.curve[-1]["reward"] > 2 * result.curve[0]["reward"]
