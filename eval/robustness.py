"""How much ranking is left when titles are mistyped, events are missing, wording is new, or item text is hostile?

    python eval/robustness.py runs/ml --json robustness.json

RUN is a run folder; the data set is the one in RUN.work or --data. Nothing is trained: baselines are fitted to the
training period, and everything ranks the test period's events clean and perturbed (docs/robustness.md). Intervals are
paired by event and clustered by user.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="run folder; several are also ranked as one ensemble")
    parser.add_argument("--data", type=Path, help="data set folder, where RUN.work is not there")
    parser.add_argument("--test-events", type=int, default=500, help="uniform sample of this many; 0 takes all")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--beams", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.pipeline.robust_run import run_robustness

    run_robustness(
        options.run,
        data=options.data,
        limit=options.test_events or None,
        k=options.k,
        beams=options.beams,
        seed=options.seed,
        json_file=options.json,
    )


if __name__ == "__main__":
    main()
