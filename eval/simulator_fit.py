"""How well do the reward ensemble and the judge know the users of a generated world?

    python eval/simulator_fit.py --seed 123 --json figures.json

Beside the figures on held-out events it prints what only a generated world can tell: the AUC of the truth, and the
correlation over the catalogue of predicted and true value (click + 3 click-and-conversion) of each user.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from llmrec.config import SimulatorSettings, WorldConfig
from llmrec.dataset.impressions import impressions
from llmrec.dataset.split import make_split
from llmrec.dataset.world.world import generate_world
from llmrec.files import write_json
from llmrec.simulator.ensemble import fit_reward_and_judge
from llmrec.simulator.metrics import auc, fit_report, value_agreement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--users", type=int, default=WorldConfig().users)
    parser.add_argument("--items", type=int, default=WorldConfig().items)
    parser.add_argument("--states", type=int, default=1000, help="latest test states that values are compared on")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    world = generate_world(WorldConfig(users=options.users, items=options.items), seed=options.seed)
    split = make_split(world.dataset, "time")
    train, valid, test = (impressions(world.dataset, split, part) for part in ("train", "valid", "test"))
    start = time.perf_counter()
    reward, judge = fit_reward_and_judge(
        world.dataset, train, seed=options.seed, settings=SimulatorSettings(), valid=valid
    )
    figures: dict[str, Any] = {"fit_seconds": time.perf_counter() - start}
    users = [str(state.user_id) for state in test.states]
    click = world.expected_click_BN(users)[test.state_row_M, test.item_M]
    convert = world.expected_conversion_BN(users)[test.state_row_M, test.item_M]
    figures["truth"] = {"click_auc": auc(test.click_M, click), "joint_auc": auc(test.conversion_M, click * convert)}
    states = test.states[-options.states :]
    value_BN = world.value_BN(users[-options.states :])
    for name, model in (("reward", reward), ("judge", judge)):
        figures[name] = fit_report(model, test, train=train, seed=options.seed)
        figures[name]["value"] = value_agreement(model, states, value_BN, click=1.0, conversion=3.0)
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
