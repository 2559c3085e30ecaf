"""Which algorithm improves the warm-started policy most, at what cost, and what does it do to held-out events?

    python eval/algorithms.py --dataset world --out runs/algorithms/world --json world.json
    python eval/algorithms.py --dataset movielens --source FOLDER --out runs/algorithms/movielens
    python eval/algorithms.py --dataset amazon-minionerec --source FOLDER --algorithms ppo grpo --seeds 0 1 2

For each algorithm the promoted checkpoint (SFT itself where the gate refused all) and the last one: true or judged
value of what is deployed, NDCG@10 on held-out events, CPU seconds and peak memory of the stage, all against SFT on
the same users and events. The settings are train/recipes/study-DATASET.yaml. Resumable: finished stages are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded
from llmrec.config import SHIPPED


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="world", help="world, movielens or amazon-minionerec")
    parser.add_argument("--source", help="the data set's folder")
    parser.add_argument("--algorithms", nargs="+", choices=SHIPPED, default=SHIPPED)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--start-seed", type=int, help="one warm start for all seeds, that of this one")
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    from llmrec.studies.algorithms import run_study, study_config

    start = options.start_seed
    config_of = study_config(options.dataset, options.source, options.overrides, start)
    run_study(config_of, options.algorithms, options.seeds, options.out, options.json, start_seed=start)


if __name__ == "__main__":
    main()
