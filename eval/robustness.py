"""How much ranking is left when titles are mistyped, events are missing, wording is new, or item text is hostile?

    python eval/robustness.py runs/ml --json robustness.json
    python eval/robustness.py --table runs/table-amazon --dataset amazon-industrial --source FOLDER

RUN is a run folder; the data set is the one in RUN.work or --data. --table takes rows of a table that eval/table.py
has made, with its --dataset, --source and --out. Nothing is chosen or trained: baselines are fitted to what lies
before the test period, and everything ranks the test period's events clean and perturbed (docs/robustness.md).
Intervals are paired by event and clustered by user.
"""

from pathlib import Path

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, settings=False)
    script.add_argument("run", type=Path, nargs="*", help="run folder; several are also ranked as one ensemble")
    script.add_argument("--data", type=Path, help="data set folder, where RUN.work is not there")
    script.add_argument("--beams", type=int, help="width of the runs' beam search (20)")
    script.add_argument("--table", type=Path, metavar="OUT", help="rows of the table that eval/table.py made in OUT")
    script.add_argument("--dataset", help="of the table: amazon-industrial, movielens-100k, ...")
    script.add_argument("--source", type=Path, help="of the table: folder of the original files")
    script.add_argument("--only", nargs="+", metavar="ROW", help="these rows of the table; by default six usual ones")
    script.add_argument("--test-events", type=int, help="uniform sample of this many (runs: 500); 0 takes all")
    script.add_argument("--k", type=int, default=10)
    script.add_argument("--seed", type=int, default=0)
    script.run("llmrec.studies.robustness:measure_robustness")
