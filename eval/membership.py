"""Can it be told from a policy's answers whom it was trained on? Membership inference, beside what counts give away.

    python eval/membership.py --out runs/membership --json membership.json
    python eval/membership.py --dataset movielens --source FOLDER --set sft.epochs=2 --seeds 0 1 --out runs/membership

A third of the users trains the policy, a third like them does not, a third is the attacker's own. Attacked is the
warm start of the data set's recipe; `--set sft.weights=lora` makes it an adapter. Stages are kept under --out.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/membership", seeds=(0, 1, 2))
    script.add_argument("--dataset", default="world", help="an importer's name, folder, or world")
    script.add_argument("--source", help="folder or file of the data set")
    script.add_argument("--users", type=int, default=300, help="of members and of others, at most")
    script.add_argument("--each", type=int, default=10, help="training events of one user, at most")
    script.run("llmrec.studies.membership:run_membership")
