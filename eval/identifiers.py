"""Titles, semantic or atomic identifiers: what does each cost, and how well does the policy rank after SFT?

    python eval/identifiers.py --dataset amazon-minionerec --source FOLDER --out runs/identifiers
    python eval/identifiers.py ... --side title --side semantic identifiers.scheme=semantic text.history=id --test

Settings are chosen on the validation rows; --test asks the test rows, after training on all that is before them.
Every side has the recipe of the data set and the overrides of --set, then its own. Trained sides are kept in --out.
FOLDER is taken from LLMREC_DATA/amazon-industrial where --source is left out. Times are CPU seconds.
"""

from llmrec.cli.script import StudyScript

if __name__ == "__main__":
    script = StudyScript(__doc__, out="runs/identifiers")
    script.add_argument("--dataset", default="amazon-minionerec", help="an importer's name, folder, or world")
    script.add_argument("--source", help="folder or file of the data set")
    side = {"action": "append", "nargs": "+", "metavar": ("NAME", "KEY=VALUE"), "help": "may be repeated"}
    script.add_argument("--side", dest="sides", **side)
    script.add_argument("--test", action="store_true", help="train until the test period and rank its rows")
    script.add_argument("--limit", type=int, help="rank a uniform sample of this many rows")
    script.run("llmrec.studies.identifiers:compare_identifiers")
