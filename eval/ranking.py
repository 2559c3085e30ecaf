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
    from llmrec.dataset.examples import examples
    from llmrec.dataset.split import make_split
    from llmrec.dataset.store import Dataset
    from llmrec.errors import RequestError
    from llmrec.evaluation.facts import machine_facts, package_versions
    from llmrec.evaluation.leaks import check_leaks
    from llmrec.evaluation.offline import rank_systems
    from llmrec.files import write_json

    specs = _specs(options.systems)
    if options.reference not in [*(spec.name for spec in specs), *options.model]:
        raise RequestError(f"--reference {options.reference!r} is no system of this table; add it to --systems.")
    for name in options.model:
        _check_run(Path(name), options.split)
    dataset = Dataset.load(options.data)
    split = make_split(dataset, options.split)
    kept = {"history_events": options.history_events, "limit": options.test_events or None, "seed": options.seed}
    valid, test = examples(dataset, split, "valid", **kept), examples(dataset, split, "test", **kept)
    for part in (valid, test):
        check_leaks(dataset, split.train, part, options.split)
    systems = {spec.name: _fitted(spec, options, dataset, split.train, valid) for spec in specs}
    systems |= {name: _policy(name, options.data) for name in options.model}
    table = rank_systems(
        systems,
        test,
        dataset,
        k=options.k,
        reference=options.reference,
        seed=options.seed,
        train=split.train,
        split=options.split,
    )
    _print(table)
    if options.json:
        facts = {
            "command": shell_command(["python", "eval/ranking.py", *sys.argv[1:]]),
            "dataset": dataset.manifest.name,
            "dataset_hash": dataset.manifest.content_hash,
            "split": {"name": options.split, **split.counts},
            "rows": {"valid": len(valid), "test": len(test), "dropped repeats": test.dropped_repeats},
            "seed": options.seed,
            "machine": machine_facts(),
            "versions": package_versions(),
        }
        write_json(options.json, facts | table.to_json())


def _specs(names):
    """What the registry says of the systems; "all" is every one whose packages are installed."""
    from llmrec.baselines.registry import BASELINES, baseline

    if list(names) == ["all"]:
        return [spec for spec in BASELINES.values() if spec.available]
    specs = [baseline(name) for name in dict.fromkeys(names)]
    for spec in specs:
        spec.require()
    return specs


def _check_run(folder, split):
    """Refuses a run whose training part is not the one of this table."""
    from llmrec.config import DataConfig, RunConfig
    from llmrec.errors import RequestError

    path = folder / "config.yaml"
    if not path.is_file():
        return
    data, default = RunConfig.read(path).data, DataConfig()
    fractions = (data.valid_fraction, data.test_fraction) != (default.valid_fraction, default.test_fraction)
    if data.split != split or (split == "time" and fractions):
        made = f"{data.split} ({data.valid_fraction:g} valid, {data.test_fraction:g} test)"
        asked = f"{split} ({default.valid_fraction:g} valid, {default.test_fraction:g} test)"
        raise RequestError(
            f"{path} says that the run was trained on the split {made}, so it may have learnt what it would be "
            f"tested on under {asked}; choose its split or train a run on this one."
        )


def _policy(name, data):
    from llmrec.recommender import Recommender  # here: tables of baselines alone load no model code

    return Recommender.load(name, data=data).bundle.policy


def _fitted(spec, options, dataset, train, valid):
    """A baseline with the settings that rank the validation events best."""
    from llmrec.progress import console

    chosen = None if options.defaults else spec.chosen(dataset, train, valid, seed=options.seed)
    if chosen is None:
        return spec.fitted(dataset, train, seed=options.seed)
    left = f", {len(chosen.untried)} of {len(spec.grid)} settings left out for time" if chosen.untried else ""
    console.print(f"{spec.name}: {chosen.settings} (validation NDCG@{chosen.k} {chosen.ndcg:.4f}{left})", style="dim")
    return spec.make(chosen.settings, options.seed).fit(dataset, train)


def _print(table):
    """The tables as wide as a terminal likes them; everything is in the JSON."""
    from llmrec.screen import results

    screen = results()
    same_as_hr = ("NDCG@1", "MRR@1")
    screen.print(table.select([m for m in table.metrics if m not in same_as_hr]).to_rich())
    top = max(int(metric.partition("@")[2]) for metric in table.metrics if metric.startswith("HR@"))
    for name, further in table.further().items():
        shown = [m for m in further.metrics if m.endswith(f"@{top}")] if name == "sets" else further.metrics
        screen.print(further.select(shown).to_rich())


if __name__ == "__main__":
    main()
