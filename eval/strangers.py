"""Does a language model adapt to a stranger within a session, by reading it, without a gradient?

    python eval/strangers.py --seeds 0 1 2 --out runs/strangers

A small model is taught over sessions of many people of a generated world to rank by what their choices tell. Then
people whom it has never met, and of whom it knows nothing, come turn by turn: the true value of later turns less that
of the first ones, for the policy, for itself with the choices hidden or drawn at random from what was shown, and for
the exact posterior.
Resumable: what is finished of a seed is kept under --out.
"""

from llmrec.cli.script import StudyScript, pair

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/strangers", seeds=(0, 1, 2), settings=False)
    script.add_argument("--sessions", type=int, default=4000, help="of ten turns each, that lessons are made of")
    script.add_argument("--played", type=int, default=400, help="new users whose sessions are played")
    script.add_argument("--size", dest="sizes", type=pair, action="append", default=[], help="a size, as users=100")
    script.run("llmrec.studies.adaptation.strangers:run_strangers")
