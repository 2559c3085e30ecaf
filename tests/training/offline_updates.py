"""Run by torchrun (or python) in one or two processes: off-policy learning and best-of-n, and what they change.

torchrun --nproc-per-node 2 offline_updates.py none|fsdp2 FOLDER CASE ...      a case is ALGORITHM/WEIGHTS
"""

from __future__ import annotations

import dataclasses

from llmrec.config import BestOfNSettings, LoraSettings, OffPolicySettings
from llmrec.training.lora import make_lora
from tests.training.distributed_updates import main, plain
from tests.training.logged_world import distil, halved, learn, shown

SAME = {"batch_size": 8, "save_every": 4, "learning_rate": 1e-3, "lora": LoraSettings(rank=4), "max_grad_norm": 0.5}
SECTIONS = {
    "top-k": OffPolicySettings(**SAME, slate=3, kl_coefficient=0.1, entropy_coefficient=0.05),
    "doubly-robust": OffPolicySettings(**SAME, estimator="doubly-robust", slate=3),
    "best-of-n": BestOfNSettings(**SAME, draws=3, prompts=33, rounds=2),
}


def train(case, shop, out):
    """The weights that a training of 8 steps (best-of-n: 10) starts from, those it ends with, and its curve."""
    algorithm, weights = case.split("/")
    settings = dataclasses.replace(SECTIONS[algorithm], weights=weights)
    model = shop.model()
    before = plain(make_lora(model, settings.lora, seed=5) if weights == "lora" else model)
    if algorithm == "best-of-n":
        result = distil(shop, out, settings, model=shop.model())
    else:
        result = learn(shop, out, shown(0, 64, 3), settings, model=shop.model(), value=halved)
    return before, plain(result.model), result.curve


if __name__ == "__main__":
    main(train)
