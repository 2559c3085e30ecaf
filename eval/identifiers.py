"""Titles, semantic or atomic identifiers: what does each cost, and how well does the policy rank after SFT?

    python eval/identifiers.py --dataset amazon-minionerec --source FOLDER --out runs/identifiers
    python eval/identifiers.py ... --side title --side semantic identifiers.scheme=semantic text.history=id --test

Settings are chosen on the validation rows; --test asks the test rows, after training on all that is before them.
Every side has the recipe of the data set and the overrides of --set, then its own. Trained sides are kept in --out.
FOLDER is taken from LLMREC_DATA/amazon-industrial where --source is left out. Times are CPU seconds.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from llmrec.cli.guard import guarded

SIDES = (
    ("title",),
    ("semantic", "identifiers.scheme=semantic", "text.history=id"),
    ("atomic", "identifiers.scheme=atomic", "text.history=id"),
)


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon-minionerec", help="an importer's name, folder, or world")
    parser.add_argument("--source", help="folder or file of the data set")
    parser.add_argument("--out", type=Path, default=Path("runs/identifiers"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--side", dest="sides", action="append", nargs="+", metavar=("NAME", "KEY=VALUE"), help="may be repeated"
    )
    parser.add_argument("--test", action="store_true", help="train until the test period and rank its rows")
    parser.add_argument("--limit", type=int, help="rank a uniform sample of this many rows")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.pipeline.recipes import overrides_of, with_defaults
    from llmrec.studies.identifiers import run_trial

    source = options.source
    if source is None and options.dataset == "amazon-minionerec":
        source = Path(os.environ["LLMREC_DATA"]) / "amazon-industrial" if os.environ.get("LLMREC_DATA") else None
    common = overrides_of({"data.dataset": options.dataset, "data.source": source}, options.overrides)
    sides = {name: with_defaults(None, [*common, *own]) for name, *own in options.sides or SIDES}
    run_trial(
        sides,
        options.out,
        part="test" if options.test else "valid",
        until_part=options.test,
        limit=options.limit,
        json_file=options.json,
    )


if __name__ == "__main__":
    main()
