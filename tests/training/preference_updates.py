"""Run by torchrun (or python) in one or two processes: DPO, S-DPO and the reward model, and what they change.

torchrun --nproc-per-node 2 preference_updates.py none|fsdp2 FOLDER CASE ...      a case is ALGORITHM/WEIGHTS
"""

from __future__ import annotations

import dataclasses

from llmrec.config import LoraSettings, PreferenceSettings, RewardModelSettings
from llmrec.training.item_values import valuing_model
from llmrec.training.lora import make_lora
from llmrec.training.preferences import train_preferences
from llmrec.training.reward_model import train_reward_model
from tests.training.clicks import begin, keep, pairs_of
from tests.training.distributed_updates import main, plain

SAME = {"batch_size": 8, "save_every": 4, "learning_rate": 1e-3, "max_grad_norm": 0.5}
LORA = {"lora": LoraSettings(rank=4)}
SECTIONS = {
    "dpo": PreferenceSettings(**SAME, **LORA),
    "sdpo": PreferenceSettings(**SAME, **LORA, loss="softmax", negatives=3),
    "reward": RewardModelSettings(**SAME, **LORA),
}
SEED = 5


def train(case, shop, out):
    """The weights that a training of 8 steps starts from, those it ends with, and its curve."""
    algorithm, weights = case.split("/")
    pairs = pairs_of(0, 3 if algorithm == "sdpo" else 1)
    epochs = 8 * 8 / len(pairs)
    settings = dataclasses.replace(SECTIONS[algorithm], weights=weights, epochs=epochs)
    start = begin(shop, SEED)
    if algorithm == "reward":
        before = plain(valuing_model(start.model, SEED))
        result = train_reward_model(start, pairs, settings, keep(out))
    else:
        before = plain(
            make_lora(shop.model(seed=SEED), settings.lora, seed=SEED) if weights == "lora" else start.model
        )
        result = train_preferences(start, pairs, settings, keep(out))
    return before, plain(result.model), result.curve


if __name__ == "__main__":
    main(train)
