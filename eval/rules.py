"""Do rules hold? Random rules and requests for every kind of ranker, checked by a plain reading of the rules.

    python eval/rules.py --out runs/rules

Also takes the time of the same requests with and without rules. The language model is not trained.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/rules", seeds=(0,))
    script.add_argument("--requests", type=int, default=10_000, help="of a seed")
    script.add_argument("--sets", type=int, default=100, help="sets of rules that they are divided among")
    script.add_argument("--items", type=int, default=200, help="of the catalogue")
    script.run("llmrec.studies.obeyed:obeyed")
