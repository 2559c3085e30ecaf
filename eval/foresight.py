"""How much can foresight gain where users win and lose trust? Exactly, on small catalogues from worlds.

    python eval/foresight.py --seeds 1001 1002 1003 1004 --out runs/foresight

By dynamic programming over every level of trust that a session reaches, for several strengths of trust's response:
the greedy policy (gamma 0), the optimum for the discounted sum, and the most that any policy is worth.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/foresight", seeds=(1001, 1002, 1003, 1004))
    script.add_argument("--users", type=int, default=40, help="of each world")
    script.add_argument("--size", type=int, default=4, help="items that a user can be shown, at most")
    script.run("llmrec.studies.foresight:run_foresight")
