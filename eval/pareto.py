"""Several objectives: one policy that is told its weights in words, moved along each weight and over all of them.

    python eval/pareto.py --seeds 0 1 2 3 4 --out runs/pareto

A nano model a seed learns in a small generated world under drawn weights; true values of other users are shown.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/pareto", seeds=(0, 1, 2, 3, 4))
    script.add_argument("--steps", type=int, default=60, help="of SFT")
    script.add_argument("--rl-steps", type=int, default=600, help="of learning under drawn weights")
    script.add_argument("--states", type=int, default=120, help="of other users that are asked")
    script.add_argument("--batch", type=int, default=16, help="states of a step")
    script.run("llmrec.studies.pareto:pareto")
