"""Off-policy estimates held against known values on real data: coverage of intervals, RMSE, overlap.

    python eval/off_policy.py jester --source data/jester5k --json jester.json
    python eval/off_policy.py hillstrom --source data/hillstrom --json hillstrom.json
    python eval/off_policy.py open-bandit --source data/open-bandit-small --json open-bandit.json

jester: 1,000 resampled logs a pair of policies where every counterfactual is known. hillstrom: one half of a
randomised experiment against thinned logs of the other half. open-bandit: two policies valued from each other's logs.
docs/off-policy.md reads the figures.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path
from typing import Any

from llmrec.cli.guard import guarded


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("jester", "hillstrom", "open-bandit"))
    parser.add_argument("--source", type=Path, required=True, help="the data's folder")
    parser.add_argument("--logs", type=int, default=1000, help="logs (jester) or splits (hillstrom)")
    parser.add_argument("--pairs", type=int, nargs="+", metavar="N", help="only these pairs of jester, from 0")
    parser.add_argument("--rewards", nargs="+", choices=("visit", "conversion", "spend"), help="of hillstrom")
    parser.add_argument("--bootstrap", action="store_true", help="jester: measure bootstrap-t intervals too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="jester: draw coverage and RMSE by overlap into this PNG or SVG")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.errors import ConfigError
    from llmrec.files import write_json
    from llmrec.studies.off_policy.show import coverage_table, estimate_table, plot_overlap

    if options.logs < 2:
        raise ConfigError(f"--logs is {options.logs}; coverage needs at least 2.")
    began, busy = time.monotonic(), time.process_time()
    results, content_hash = _run(options)
    print(estimate_table(results) if options.dataset == "open-bandit" else coverage_table(results))
    if options.plot and options.dataset == "jester":
        plot_overlap(results, options.plot)
    if options.json:
        figures = {
            "command": " ".join(["python", *sys.argv]),
            "seed": options.seed,
            "content_hash": content_hash,
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - busy, 1),
            "results": results,
        }
        write_json(options.json, figures)


def _run(options: argparse.Namespace) -> tuple[list[dict[str, Any]], str]:
    from llmrec.dataset.importers import import_dataset
    from llmrec.errors import ConfigError
    from llmrec.studies.off_policy.hillstrom import HillstromWorld, run_hillstrom
    from llmrec.studies.off_policy.jester import PAIRS, JesterWorld, run_jester
    from llmrec.studies.off_policy.open_bandit import run_open_bandit

    if options.dataset == "open-bandit":
        results = run_open_bandit(options.source, seed=options.seed)
        return results, " ".join(dict.fromkeys(h for r in results for h in r["content_hashes"]))
    dataset = import_dataset(options.dataset, options.source)
    if options.dataset == "hillstrom":
        world = HillstromWorld.of(options.source)
        rewards = options.rewards or ("visit", "conversion")
        found = run_hillstrom(world, logs=options.logs, seed=options.seed, rewards=rewards)
        return found, dataset.manifest.content_hash
    wrong = [n for n in options.pairs or () if not 0 <= n < len(PAIRS)]
    if wrong:
        raise ConfigError(f"--pairs names {wrong[0]}; the pairs are 0 to {len(PAIRS) - 1}.")
    chosen = PAIRS if options.pairs is None else [PAIRS[n] for n in options.pairs]
    found = run_jester(
        JesterWorld.of(dataset), logs=options.logs, seed=options.seed, pairs=chosen, resampled=options.bootstrap
    )
    return found, dataset.manifest.content_hash


if __name__ == "__main__":
    main()
