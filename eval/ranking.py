"""Baselines and trained runs on held-out events, over the whole catalogue: accuracy and what lies beyond it.

    python eval/ranking.py data/ml
    python eval/ranking.py data/ml --systems popularity item-knn ease covisitation --model runs/ml --json ranking.json
    python eval/ranking.py data/ml --split leave-last-out --test-events 0

DATA is a folder written by `llmrec data import`. The default split cuts the log at one moment; leave-last-out is for
comparison with papers. Baselines take the settings that rank the validation events best (within the time budget of
the registry; --defaults skips that) and learn from the training events alone, as runs do, so all are judged by the
same knowledge. Leaks are refused, and so is a run that was trained on another split. Differences are paired to
--reference. What is measured how: docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmrec.cli.guard import guarded
from llmrec.printing import command as shell_command


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set folder")
    parser.add_argument("--split", choices=("time", "leave-last-out", "given"), default="time")
    parser.add_argument(
        "--systems", nargs="+", default=("random", "popularity", "covisitation"), help="baselines by name, or all"
    )
    parser.add_argument("--defaults", action="store_true", help="default settings, nothing is selected")
    parser.add_argument("--model", action="append", default=[], help="run folder or Hub id; may be repeated")
    parser.add_argument("--reference", default="popularity", help="system that the others are compared with")
    parser.add_argument("--test-events", type=int, default=2000, help="uniform sample of this many; 0 takes all")
    parser.add_argument("--history-events", type=int, default=20)
    parser.add_argument("--k", type=int, nargs="+", help="cut-offs; by default 1, 5 and 10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.dataset.store import Dataset
    from llmrec.files import write_json
    from llmrec.studies.held_out import held_out

    found = held_out(
        Dataset.load(options.data),
        data=options.data,
        runs=options.model,
        systems=options.systems,
        split=options.split,
        reference=options.reference,
        test_events=options.test_events or None,
        history_events=options.history_events,
        k=options.k,
        defaults=options.defaults,
        seed=options.seed,
    )
    found.show()
    if options.json:
        command = shell_command(["python", "eval/ranking.py", *sys.argv[1:]])
        write_json(options.json, {"command": command, **found.to_json()})


if __name__ == "__main__":
    main()
