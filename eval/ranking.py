"""HR, NDCG and MRR of baselines and trained runs on held-out events, over the whole catalogue.

    python eval/ranking.py data/ml --split time --model runs/ml --json ranking.json

DATA is a folder written by `llmrec data import`. Differences are paired to popularity.
Give the test period of a run only to runs that were trained with the same split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set folder")
    parser.add_argument("--split", choices=("time", "leave-last-out", "given"), default="time")
    parser.add_argument("--model", action="append", default=[], help="run folder or Hub id; may be repeated")
    parser.add_argument("--test-events", type=int, default=2000, help="uniform sample of this many; 0 takes all")
    parser.add_argument("--history-events", type=int, default=20)
    parser.add_argument("--k", type=int, nargs="+", default=(1, 5, 10))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    from llmrec.baselines import Covisitation, Popularity, Random
    from llmrec.dataset.examples import examples
    from llmrec.dataset.split import make_split
    from llmrec.dataset.store import Dataset
    from llmrec.evaluation.offline import Ranker, rank_systems
    from llmrec.files import write_json
    from llmrec.progress import console
    from llmrec.recommender import Recommender

    dataset = Dataset.load(options.data)
    split = make_split(dataset, options.split)
    kept = {"history_events": options.history_events, "limit": options.test_events or None, "seed": options.seed}
    valid, test = examples(dataset, split, "valid", **kept), examples(dataset, split, "test", **kept)
    covisitation = Covisitation(seed=options.seed)
    systems: dict[str, Ranker] = {
        "random": Random(seed=options.seed).fit(dataset, split.train),
        "popularity": Popularity(seed=options.seed).fit(dataset, split.train),
        "covisitation": covisitation.fit_selected(dataset, split.train, valid.rows, seen=valid.seen)
        if len(valid)
        else covisitation.fit(dataset, split.train),
    }
    systems |= {name: Recommender.load(name, data=options.data).bundle.policy for name in options.model}
    table = rank_systems(systems, test, dataset, k=options.k, reference="popularity", seed=options.seed)
    same_as_hr = ("NDCG@1", "MRR@1")
    console.print(table.select([m for m in table.metrics if m not in same_as_hr]).to_rich())
    if options.json:
        write_json(options.json, table.to_json())


if __name__ == "__main__":
    main()
