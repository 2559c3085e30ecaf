"""Do reasons tell what decides? One item of the history decides the answer: is it found, and found by attention?

    python eval/explanations.py --seeds 0 1 2 3 4 --out runs/explanations

A nano model for each seed is trained on a planted world; --states of new states are explained.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/explanations", seeds=(0, 1, 2, 3, 4))
    script.add_argument("--examples", type=int, default=1500, help="choices that are learnt")
    script.add_argument("--epochs", type=float, default=4.0, help="passes over them")
    script.add_argument("--states", type=int, default=60, help="new states that are explained")
    script.run("llmrec.studies.explanations:explanations")
