"""Written profiles: how much of what is written is grounded, and does it help to rank?

    python eval/enrichment.py --dataset movielens --source FOLDER --out runs/enrichment
    python eval/enrichment.py --dataset movielens --source FOLDER --model MODEL --users 40 --out runs/enrichment

Profiles are written from the training part (leave-last-out) by rule for every user and, with --model, by that model
for the first --users. Weights are chosen on validation rows, the test rows are ranked once. What a model wrote is
kept under --out, so that the same command goes on where it was stopped.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/enrichment", seeds=(0,), settings=False)
    script.add_argument("--dataset", default="world", help="an importer's name, folder, or world")
    script.add_argument("--source", type=Path, help="folder or file of the data set")
    script.add_argument("--model", help="a causal language model that writes: Hub id, folder or .gguf file")
    script.add_argument("--users", type=int, default=40, help="users that it writes of")
    script.add_argument("--tokens", type=int, default=60, help="tokens of one answer, at most")
    script.add_argument("--batch", type=int, default=8, help="prompts that are answered together")
    script.add_argument("--cache", type=Path, help="where drafts are kept (OUT/drafts)")
    script.add_argument("--rows", type=int, help="validation rows, and test rows, at most")
    script.run("llmrec.studies.enrichment:enrichment")
