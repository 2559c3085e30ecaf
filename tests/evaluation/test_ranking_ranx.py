"""The metrics of sets against ranx, an independent library, on random lists (short and empty ones among them).

Where conventions differ: ranx divides average precision by R, the number of relevant items, so that a short cut-off
cannot reach 1; here it is divided by min(K, R). Everything else agrees as it stands, precision of short lists
(divided by K) included. ranx's own order of tied scores is not specified, so the scores here are distinct.
"""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.evaluation.relevance import set_metrics
from llmrec.types import IntArray

pytest.importorskip("ranx", reason="ranx is not installed; install the extra dev to cross-check the metrics")
NAMES = {
    "HR": "hit_rate",
    "recall": "recall",
    "precision": "precision",
    "NDCG": "ndcg",
    "MRR": "mrr",
    "MAP": "map",
}
CUTOFFS = (1, 3, 10)
ROWS, ITEMS = 300, 40


def lists_and_sets() -> tuple[IntArray, list[list[int]]]:
    rng = np.random.default_rng(7)
    items_BK = np.argsort(-rng.random((ROWS, ITEMS)), axis=1)[:, :10]
    items_BK[np.arange(10)[None, :] >= rng.integers(1, 11, ROWS)[:, None]] = -1
    return items_BK, [rng.choice(ITEMS, rng.integers(1, 16), replace=False).tolist() for _ in range(ROWS)]


def by_ranx(items_BK: IntArray, relevant: list[list[int]]) -> dict[str, np.ndarray]:
    from ranx import Qrels, Run, evaluate

    qrels = {f"q{b:04d}": {f"i{i}": 1 for i in items} for b, items in enumerate(relevant)}
    run = {
        f"q{b:04d}": {f"i{i}": float(10 - place) for place, i in enumerate(row) if i >= 0}
        for b, row in enumerate(items_BK.tolist())
    }
    asked = [f"{name}@{k}" for name in NAMES.values() for k in CUTOFFS]
    return evaluate(Qrels(qrels), Run(run), asked, return_mean=False)


@pytest.mark.slow  # ranx compiles for most of a minute when it runs for the first time
def test_agreement_to_1e_9() -> None:
    items_BK, relevant = lists_and_sets()
    ours, theirs = set_metrics(items_BK, relevant, k=CUTOFFS).per_row, by_ranx(items_BK, relevant)
    count_B = np.array([len(items) for items in relevant])
    for metric, name in NAMES.items():
        for k in CUTOFFS:
            scale_B = count_B / np.minimum(k, count_B) if metric == "MAP" else 1.0
            difference_B = ours[f"{metric}@{k}"] - scale_B * theirs[f"{name}@{k}"]
            assert np.abs(difference_B).max() < 1e-9, (metric, k)
