"""Local or global normalisation over a small catalogue: which one ranks better after SFT, and after RL?

    python eval/normalisation.py --seeds 0 1 2 --out runs/normalisation
    python eval/normalisation.py --source MOVIELENS --seeds 0 1 --out runs/normalisation-movielens

One nano model a seed is trained under each normalisation on the same batches, from the same start; everything is
exact, by summing over all items. Without --source the data are generated worlds.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/normalisation", seeds=(0, 1, 2))
    script.add_argument("--source", help="folder of MovieLens-100K: its most chosen films are the catalogue")
    script.add_argument("--items", type=int, default=48, help="items of the catalogue")
    script.add_argument("--steps", type=int, default=80, help="of SFT, 32 states each")
    script.add_argument("--rl-steps", type=int, default=30, help="of RL, in worlds")
    script.add_argument("--test-events", type=int, default=400, help="ranked at most")
    script.run("llmrec.studies.normalisation:compare_normalisations")
