"""Which algorithm improves the warm-started policy most, at what cost, and what does it do to held-out events?

    python eval/algorithms.py --dataset world --out runs/algorithms/world --json world.json
    python eval/algorithms.py --dataset movielens --source FOLDER --out runs/algorithms/movielens
    python eval/algorithms.py --algorithms ppo --controls continued_sft shuffled_reward --out runs/algorithms/world
    python eval/algorithms.py --dataset shop --algorithms tilted ppo --controls continued_sft --seeds 1 2 3
    python eval/algorithms.py --dataset amazon-minionerec --source FOLDER --algorithms ppo grpo --seeds 0 1 2

For each algorithm the promoted checkpoint (SFT itself where the gate refused all) and the last one: true or judged
value of what is deployed, NDCG@10 on held-out events, CPU seconds and peak memory of the stage, all against SFT on
the same users and events. The first algorithm is also held against controls (docs/algorithms.md), by default
all that have a meaning for it, each a training that costs about as much; `--controls` without a name makes none.
The settings are train/recipes/study-DATASET.yaml. Resumable: finished stages are kept.
"""

from llmrec.cli.script import StudyScript
from llmrec.config import SHIPPED
from llmrec.pipeline.controls import ALL, CONTROLS

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/algorithms", seeds=(0, 1, 2))
    script.add_argument(
        "--dataset",
        default="world",
        help="world, shop (a newcomer's log, made by the seed), movielens or amazon-minionerec",
    )
    script.add_argument("--source", help="the data set's folder")
    script.add_argument("--algorithms", nargs="+", choices=SHIPPED, default=SHIPPED)
    held = "what the first algorithm is held against; all: every control that has a meaning for it"
    script.add_argument("--controls", nargs="*", choices=(ALL, *CONTROLS), default=[ALL], help=held)
    script.add_argument("--start-seed", type=int, help="one warm start for all seeds, that of this one")
    script.run("llmrec.studies.algorithms:run_algorithms")
