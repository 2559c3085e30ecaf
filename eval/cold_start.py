"""Cold starts: who ranks items that nobody has chosen yet, and for users of whom little more than a profile is known?

    python eval/cold_start.py items --dataset movielens --source FOLDER --out runs/cold
    python eval/cold_start.py users --dataset movielens --source FOLDER --out runs/cold
    python eval/cold_start.py items --run RUN --before-sft MODEL --out runs/cold     # a run's language model as well

A tenth of the items is withheld from everything that trains (data.withheld.test); a run has to have been made with
it: `llmrec run --model MODEL --dataset movielens --source FOLDER --set data.withheld.test=0.1 --out RUN`. One that
was ended after SFT (--stage sft) is opened by its --config and --set. Sentence embeddings stand in the table where
LLMREC_EMBEDDINGS names a model of them. What is fitted is fitted on validation rows; the test rows are asked once.
Stages, and what language models said, are kept under --out.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/cold", seeds=(0,))
    script.add_argument("ask", choices=("items", "users"), help="which of the two questions")
    script.add_argument("--dataset", default="world", help="an importer's name, folder, or world")
    script.add_argument("--source", help="folder or file of the data set")
    script.add_argument("--run", type=Path, help="a finished run with withheld items")
    script.add_argument(
        "--config", dest="config_file", type=Path, help="its configuration, where only SFT is finished"
    )
    before = "a pretrained model, asked as it is"
    script.add_argument("--before-sft", dest="before", metavar="MODEL", help=before)
    script.add_argument("--valid-rows", type=int, default=600, help="validation rows of each kind, at most")
    script.add_argument("--test-rows", type=int, default=1000, help="test rows, at most")
    script.add_argument("--known-rows", type=int, help="test rows of known items, as many by default")
    events = "users: how many of their first events a state holds"
    script.add_argument("--events", type=int, nargs="+", default=(0, 1, 3, 5, 10), help=events)
    first = "users: targets are events of the first session alone (gaps of up to 30 minutes)"
    script.add_argument("--first-session", action="store_true", help=first)
    least = "users: events before the targets, the greatest of --events by default"
    script.add_argument("--least", type=int, help=least)
    script.add_argument("--not-judged", dest="judged", action="store_false", help="users: without judged rewards")
    script.add_argument("--no-nano", dest="nano", action="store_false", help="ask only the run's language model")
    script.add_argument("--listed", type=int, metavar="N", help="items the run's model reads at a state, its best")
    script.run("llmrec.studies.cold:cold_starts")
