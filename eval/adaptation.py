"""How soon does a policy adapt to a new domain, and to a new person within a session?

    python eval/adaptation.py --seeds 0 1 2 3 4 --out runs/adaptation

On generated worlds of several domains, one of which nothing trained on meets: after five users' sessions of it, the
gain in true value of a meta-trained adapter (Reptile, first-order MAML), of plain fine-tuning by the same steps, of a
library of adapters and of cheap recommenders of the same five users. Then strangers turn by turn, by a policy that
reads the running session and by the same with the feedback hidden; and one policy on all domains against one on each.
Resumable: what is finished of a seed is kept under --out.
"""

from llmrec.cli.script import StudyScript, pair

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/adaptation", seeds=(0, 1, 2, 3, 4), settings=False)
    script.add_argument("--methods", nargs="+", default=("reptile", "joint"), help="reptile, fomaml, joint")
    script.add_argument(
        "--parts", nargs="+", default=("new-domain", "in-context", "many-domains"), help="what is asked"
    )
    script.add_argument("--draws", type=int, default=2, help="of five users")
    script.add_argument("--asked", type=int, default=60, help="users of the unseen domain who are recommended to")
    script.add_argument("--played", type=int, default=40, help="strangers of each domain")
    script.add_argument("--steps", type=int, help="outer steps of the meta-training")
    script.add_argument("--size", dest="sizes", type=pair, action="append", default=[], help="a size, as users=100")
    script.add_argument("--inner", type=pair, action="append", default=[], help="of the inner steps, as steps=5")
    script.run("llmrec.studies.adaptation.study:run_adaptation")
