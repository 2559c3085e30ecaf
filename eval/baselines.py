"""Every baseline on one data set: settings chosen on validation, fitted on training + validation, ranked on test.

    python eval/baselines.py data/ml --split time --json baselines.json
    python eval/baselines.py data/ml --only als bpr --seeds 0 1 2 --settings baselines.json

DATA is a folder written by `llmrec data import`. Ties count as their expectation. Random baselines are fitted with
every seed; the table shows the mean over them, with intervals over users and seeds. Settings are chosen with the
first seed within the budget that the registry states for each baseline. Read the test period once a reported number.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from llmrec.cli.guard import guarded


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set folder")
    parser.add_argument("--split", choices=("time", "leave-last-out", "given"), default="time")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="baselines by name; by default all")
    parser.add_argument("--valid-events", type=int, default=0, help="uniform sample of this many; 0 takes all")
    parser.add_argument("--test-events", type=int, default=0, help="uniform sample of this many; 0 takes all")
    parser.add_argument("--history-events", type=int, default=20)
    parser.add_argument("--k", type=int, nargs="+", default=(5, 10), help="cut-offs; the table shows the largest")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--reference", default="popularity", help="the baseline that the others are compared with")
    parser.add_argument("--settings", type=Path, help="take the settings in this file (of --json) and choose nothing")
    parser.add_argument("--json", type=Path, help="write settings, figures and times here")
    options = parser.parse_args()
    from llmrec.baselines import BASELINES, baseline
    from llmrec.dataset.examples import examples
    from llmrec.dataset.split import make_split
    from llmrec.dataset.store import Dataset
    from llmrec.errors import DataError
    from llmrec.evaluation.trainings import compare_trainings
    from llmrec.files import read_json, write_json
    from llmrec.progress import console
    from llmrec.screen import results

    specs = [baseline(name) for name in options.only or BASELINES]
    dataset = Dataset.load(options.data)
    split = make_split(dataset, options.split)
    kept = {"history_events": options.history_events, "seed": options.seeds[0]}
    valid = examples(dataset, split, "valid", limit=options.valid_events or None, **kept)
    test = examples(dataset, split, "test", limit=options.test_events or None, **kept)
    rows, facts = {}, {}
    earlier = read_json(options.settings)["baselines"] if options.settings else {}
    for spec in specs:
        if not spec.available:
            console.print(f"{spec.name} is left out: pip install 'llmrec[{spec.extra}]'")
            continue
        began = time.monotonic()
        try:
            rows[spec.name], facts[spec.name] = measure(
                spec, dataset, split, valid, test, options, earlier.get(spec.name, {}).get("settings")
            )
        except DataError as error:  # a catalogue too big for one of them is no reason to lose the others
            console.print(f"{spec.name} is left out: {error}")
            continue
        facts[spec.name]["seconds"] = time.monotonic() - began
        shown = {name: value for name, value in facts[spec.name].items() if name != "trials"}
        console.print(f"{spec.name}: {shown}")
    if not rows:
        raise DataError("None of the baselines could be measured; the lines above say why.")
    about = {"data": dataset.manifest.content_hash, "split": options.split, "valid_events": len(valid)}
    if options.json:
        write_json(options.json, about | {"baselines": facts})
    shown = [f"{metric}@{max(options.k)}" for metric in ("HR", "NDCG")]
    table = compare_trainings(
        f"{len(test)} held-out events of {dataset.manifest.name}, all {dataset.n_items} items ranked",
        {name: {metric: row[metric] for metric in shown} for name, row in rows.items()},
        reference=options.reference if options.reference in rows else None,
        users=[str(e.state.user_id) for e in test],
    )
    results().print(table.to_rich())
    if options.json:
        write_json(options.json, about | {"baselines": facts, "table": table.to_json()})


def measure(spec, dataset, split, valid, test, options, earlier):
    """Metrics of each seed and test row, (S, B), and what was chosen."""
    import numpy as np
    import polars as pl

    from llmrec.baselines import select

    settings, facts = spec.settings if earlier is None else spec.settings_from(earlier), {}
    if spec.grid and len(valid) and earlier is None:
        seen, budget = valid.seen, spec.budget_seconds
        chosen = select(
            lambda s: spec.make(s, options.seeds[0]),
            spec.grid,
            dataset,
            split.train,
            valid.rows,
            seen=seen,
            k=max(options.k),
            budget_seconds=budget,
        )
        settings = chosen.settings
        facts = {
            "valid_ndcg": chosen.ndcg,
            "untried": len(chosen.untried),
            "trials": [[dataclasses.asdict(t.settings), t.ndcg, t.seconds] for t in chosen.trials],
        }
    events = pl.concat([split.train, split.valid])
    runs = []
    for seed in options.seeds if spec.random else options.seeds[:1]:
        model = spec.make(settings, seed).fit(dataset, events)
        runs.append(per_row(model, test, dataset, options.k))
    rows = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    facts["settings"] = None if settings is None else dataclasses.asdict(settings)
    facts["by_seed"] = {name: [float(run[name].mean()) for run in runs] for name in rows}
    return rows, facts


def per_row(model, test, dataset, k):
    """Tie-aware metrics of every test row."""
    import numpy as np

    from llmrec.baselines.base import BATCH, exclude
    from llmrec.evaluation.ranking import score_metrics

    parts = []
    for start in range(0, len(test), BATCH):
        batch = test[start : start + BATCH]
        scores_BN = model.score([e.state for e in batch])
        if dataset.manifest.repeat == "exclude":
            scores_BN = exclude(scores_BN, batch.seen)
        parts.append(score_metrics(scores_BN, [e.target for e in batch], k).per_row)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


if __name__ == "__main__":
    main()
