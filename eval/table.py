"""Every baseline and every form of the policy on one data set, in one table with intervals.

    python eval/table.py --dataset amazon-industrial --source FOLDER --out runs/table-amazon
    python eval/table.py --dataset folder --source data/ml --only baselines --no-judge --out runs/baselines

Settings are chosen on the validation rows (each baseline within its time budget), fitted anew on everything before
the test period (with --fit-once left as they are: half the hours of a large model), and asked the test rows once;
rows that depend on chance under three seeds. Finished rows, and the networks that were fitted for them, are kept in
OUT: the same command goes on where it was stopped, and another mixture of the same networks fits none again. So is
what a policy was asked for a mixture, batch by batch: all forms of a mixture are chosen among by one reading of it,
and another mixture reads what is new to it.
OUT/table.md and OUT/table.json hold the table. FOLDER is LLMREC_DATA/NAME where --source is left out.
`--dataset folder` takes any folder written by `llmrec data import`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from llmrec.cli.guard import guarded
from llmrec.printing import command as shell_command


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon-industrial", help="movielens-100k, ... or folder")
    parser.add_argument("--source", type=Path, help="folder of the original files, or of a saved data set")
    parser.add_argument("--split", choices=("time", "leave-last-out", "given"), help="of a saved data set (time)")
    parser.add_argument("--out", type=Path, required=True, help="finished rows and the table are kept here")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the rows that depend on chance")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="these rows alone, or baselines")
    parser.add_argument(
        "--model", help="folder or Hub id of a pretrained model, for rows of its own (hours on a CPU)"
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="FILE", help="of that model's rows, in place of the table's own"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a configuration key of that model's rows"
    )
    parser.add_argument("--budget", type=float, default=1.0, help="factor of the baselines' time budgets")
    parser.add_argument("--limit", type=int, help="at most so many validation and test rows")
    parser.add_argument("--json", type=Path, help="write the table here, too")
    parser.add_argument(
        "--fit-once", action="store_true", help="what was fitted before the validation rows ranks the test rows, too"
    )
    parser.add_argument("--no-judge", action="store_true", help="no simulator: leaves the judge's column out")
    options = parser.parse_args()
    from llmrec.config import RunConfig
    from llmrec.config_tree import parse_overrides
    from llmrec.errors import ConfigError
    from llmrec.studies.table.protocol import open_table, protocol_of

    if options.seeds < 1:
        raise ConfigError(f"--seeds is {options.seeds}; give at least 1.")
    if options.model is None and (options.recipe or options.set):
        raise ConfigError("--recipe and --set are for the rows of a pretrained model; name it by --model.")
    protocol = replace(protocol_of(options.dataset, options.split), refit=not options.fit_once)
    from llmrec.files import read_json, write_json
    from llmrec.screen import results
    from llmrec.studies.table.board import answers, measure
    from llmrec.studies.table.roster import PAIRS, roster, simulating
    from llmrec.studies.table.writing import SHORT, write

    seeds = range(options.seeds)
    pretrained = options.model and {"model.name": options.model, **parse_overrides(options.set, RunConfig)}
    entries = roster(
        protocol,
        options.out,
        seeds,
        budget=options.budget,
        only=options.only,
        pretrained=pretrained,
        recipe=options.recipe,
    )
    bench = open_table(protocol, options.source, options.out, options.limit)
    found, failed = answers(bench, entries, options.out, seeds)
    judge = None if options.no_judge else simulating(options.out).simulators(bench).judge
    board = measure(bench, found, judge, pairs=PAIRS, failed=failed, entries=entries)
    write(board, bench, options.out, shell_command(["python", *sys.argv]))
    if options.json:
        write_json(options.json, read_json(options.out / "table.json"))
    results().print(board.main.select([m for m in SHORT if m in board.main.metrics]).to_rich())
    results().print(f"All columns, groups and settings: {options.out / 'table.md'}", style="dim")
    for claim, figures in board.claims.items():
        results().print(f"{claim}: {figures['sentence']}")


if __name__ == "__main__":
    main()
