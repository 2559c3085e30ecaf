"""How much ranking is left when titles are mistyped, events are missing, wording is new, or item text is hostile?

    python eval/robustness.py runs/ml --json robustness.json
    python eval/robustness.py --table runs/table-amazon --dataset amazon-industrial --source FOLDER

RUN is a run folder; the data set is the one in RUN.work or --data. --table takes rows of a table that eval/table.py
has made, with its --dataset, --source and --out. Nothing is chosen or trained: baselines are fitted to what lies
before the test period, and everything ranks the test period's events clean and perturbed (docs/robustness.md).
Intervals are paired by event and clustered by user.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded

OF_RUNS, OF_TABLES = ("data", "beams"), ("dataset", "source", "only")


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="*", help="run folder; several are also ranked as one ensemble")
    parser.add_argument("--data", type=Path, help="data set folder, where RUN.work is not there")
    parser.add_argument("--beams", type=int, help="width of the runs' beam search (20)")
    parser.add_argument("--table", type=Path, metavar="OUT", help="rows of the table that eval/table.py made in OUT")
    parser.add_argument("--dataset", help="of the table: amazon-industrial, movielens-100k, ...")
    parser.add_argument("--source", type=Path, help="of the table: folder of the original files")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows of the table; by default six usual ones")
    parser.add_argument("--test-events", type=int, help="uniform sample of this many (runs: 500); 0 takes all")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    check(options)
    common = {"k": options.k, "seed": options.seed, "json_file": options.json}
    if options.table is not None:
        from llmrec.studies.table.perturbed import run_perturbed
        from llmrec.studies.table.protocol import protocol_of

        protocol, only = protocol_of(options.dataset), options.only or ()
        limit = options.test_events or None
        run_perturbed(protocol, options.table, source=options.source, only=only, limit=limit, **common)
        return
    from llmrec.studies.robust_run import run_robustness

    limit = 500 if options.test_events is None else options.test_events or None
    run_robustness(options.run, data=options.data, limit=limit, beams=options.beams or 20, **common)


def check(options: argparse.Namespace) -> None:
    """Refuses options that do not belong together."""
    from llmrec.errors import ConfigError

    if bool(options.run) == (options.table is not None):
        raise ConfigError("Give run folders or a table's folder as --table, one of the two.")
    for name in OF_RUNS if options.table is not None else OF_TABLES:
        if getattr(options, name) is not None:
            other = "run folders" if name in OF_RUNS else "a table (--table)"
            raise ConfigError(f"--{name} belongs to {other}; leave it out.")
    if options.table is not None and options.dataset is None:
        raise ConfigError("Give the table's data set as --dataset, as eval/table.py had it.")
    if options.k < 1 or (options.test_events or 0) < 0:
        raise ConfigError(f"--k is {options.k} and --test-events {options.test_events}; give at least 1 and 0.")


if __name__ == "__main__":
    main()
