"""Our ALS baseline against the evaluation of the package that trains it, on the same leave-last-out split.

    python eval/reference_als.py data/ml --json reference_als.json

DATA is a folder written by `llmrec data import`. Both sides train on training + validation events with the same
settings. The package ranks by its trained user factors and measures itself (`implicit.evaluation.
ranking_metrics_at_k`: precision counts hits over min(k, test items), NDCG and MAP are means over users); ours folds
every state in, and its slates are measured by the same definitions. Means over the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmrec.cli.guard import guarded

METRICS = ("precision", "map", "ndcg")


@guarded
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set folder")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--alpha", type=float, default=10.0)
    parser.add_argument("--regularization", type=float, default=0.01)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    import numpy as np
    import polars as pl

    from llmrec.baselines import ALSSettings
    from llmrec.dataset.examples import examples
    from llmrec.dataset.split import make_split
    from llmrec.dataset.store import Dataset
    from llmrec.files import write_json
    from llmrec.screen import results

    dataset = Dataset.load(options.data)
    split = make_split(dataset, "leave-last-out")
    train = pl.concat([split.train, split.valid])
    test = examples(dataset, split, "test")
    settings = ALSSettings(factors=options.factors, alpha=options.alpha, regularization=options.regularization)
    sides = {"package": package, "llmrec": ours}
    figures = {
        side: np.mean([measure(dataset, train, test, settings, options.k, s) for s in options.seeds], axis=0)
        for side, measure in sides.items()
    }
    relative = figures["llmrec"] / figures["package"] - 1
    for n, metric in enumerate(METRICS):
        results().print(
            f"{metric}@{options.k}: package {figures['package'][n]:.4f}, llmrec {figures['llmrec'][n]:.4f} "
            f"({relative[n]:+.1%})"
        )
    if options.json:
        values = {side: dict(zip(METRICS, map(float, row), strict=True)) for side, row in figures.items()}
        about = {"data": dataset.manifest.content_hash, "k": options.k, "seeds": list(options.seeds)}
        write_json(options.json, about | values | {"relative": dict(zip(METRICS, map(float, relative), strict=True))})


def package(dataset, train, test, settings, k, seed):
    """The package's figures for itself."""
    from implicit.cpu.als import AlternatingLeastSquares
    from implicit.evaluation import ranking_metrics_at_k
    from threadpoolctl import threadpool_limits

    user = {user_id: row for row, user_id in enumerate(dataset.users["user_id"])}
    item = dataset.item_index
    known = matrix([(user[u], item[i]) for u, i in train.select("user_id", "item_id").iter_rows()], dataset)
    held_out = matrix([(user[str(e.state.user_id)], e.target) for e in test], dataset)
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=settings.factors,
            regularization=settings.regularization,
            alpha=settings.alpha,
            iterations=settings.iterations,
            random_state=seed,
            num_threads=1,
        )
        model.fit(known, show_progress=False)
        found = ranking_metrics_at_k(model, known, held_out, K=k, show_progress=False, num_threads=1)
    return [found[metric] for metric in METRICS]


def ours(dataset, train, test, settings, k, seed):
    """Our figures, by the package's definitions."""
    from llmrec.baselines import ALS

    wanted, states, seen = {}, {}, {}
    for row, example in enumerate(test):
        user_id = str(example.state.user_id)
        wanted.setdefault(user_id, set()).add(example.target)
        states[user_id], seen[user_id] = example.state, test.seen[row]
    model = ALS(settings, seed=seed).fit(dataset, train)
    slates = model.recommend(list(states.values()), k, seen=list(seen.values()), exclude_seen=True)
    return user_metrics([slate.items_K for slate in slates], list(wanted.values()), k)


def user_metrics(lists, wanted, k):
    """Precision, MAP and NDCG at k of one list a user against a set of items."""
    import numpy as np

    hits = possible = 0
    average_precision, ndcg = [], []
    for items, liked in zip(lists, wanted, strict=True):
        hit_K = np.array([item in liked for item in items], dtype=float)
        ideal, place_K = min(k, len(liked)), np.arange(1, len(items) + 1)
        hits, possible = hits + hit_K.sum(), possible + ideal
        average_precision.append(float((hit_K * np.cumsum(hit_K) / place_K).sum()) / ideal)
        best = (1 / np.log2(np.arange(2, ideal + 2))).sum()
        ndcg.append(float((hit_K / np.log2(place_K + 1)).sum() / best))
    return [hits / possible, float(np.mean(average_precision)), float(np.mean(ndcg))]


def matrix(pairs, dataset):
    """Binary users by items."""
    import numpy as np
    from scipy.sparse import csr_matrix

    rows, columns = np.array(pairs).T
    shape = (dataset.users.height, dataset.n_items)
    return csr_matrix((np.ones(len(pairs), dtype=np.float32), (rows, columns)), shape=shape).sign()


if __name__ == "__main__":
    main()
