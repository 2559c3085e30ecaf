"""Figures of a behaviour model by how active a user was and how popular an item was in the fitted log."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from llmrec.simulator.binning import bins_of, calibration_error
from llmrec.simulator.ensemble import Predictor
from llmrec.simulator.log import ImpressionLog, Log, read_log
from llmrec.simulator.metrics import auc, log_losses, predict_log, users_of
from llmrec.types import FloatArray, IntArray

BUCKETS = ("none", "few", "some", "many")
"""No event in the fitted log, then thirds by count of the held-out impressions whose user or item has any."""


def user_activity(impressions: ImpressionLog, train: ImpressionLog) -> IntArray:
    """Clicks in the fitted log of each held-out impression's user: (M,)."""
    rows, clicks = np.asarray(train.state_row_M), np.asarray(train.click_M)
    counts: Counter[str | None] = Counter()
    for row in rows[clicks > 0].tolist():
        counts[train.states[row].user_id] += 1
    activity_S = np.array([counts[state.user_id] for state in impressions.states], dtype=np.int64)
    return np.asarray(activity_S[np.asarray(impressions.state_row_M)])


def item_popularity(impressions: ImpressionLog, train: ImpressionLog, n_items: int) -> IntArray:
    """Clicks in the fitted log of each held-out impression's item: (M,)."""
    clicked = np.asarray(train.item_M)[np.asarray(train.click_M) > 0]
    return np.asarray(np.bincount(clicked, minlength=n_items)[np.asarray(impressions.item_M)])


def bucket_of(count_M: IntArray) -> IntArray:
    """Place in `BUCKETS` of each count: 0 apart, the rest in thirds of impressions; equal counts stay together."""
    found = np.zeros(len(count_M), dtype=np.int64)
    some = count_M > 0
    if some.any():
        low, high = np.quantile(count_M[some], [1 / 3, 2 / 3], method="lower")
        found[some] = 1 + (count_M[some] > low) + (count_M[some] > max(high, low))
    return found


def bucket_report(
    model: Predictor, impressions: ImpressionLog, train: ImpressionLog, *, n_items: int, bins: int = 10
) -> dict[str, dict[str, Any]]:
    """AUC, log loss, calibration error and reliability of clicks by bucket, as plain values for JSON.

    Args:
        model: A behaviour model or an ensemble.
        impressions: Held-out events.
        train: The fitted events, which activity and popularity are counted in.
        n_items: Size of the catalogue.
        bins: Bins of the reliability curves.

    Returns:
        "user_activity" and "item_popularity": for each bucket with impressions the range of the counts, `events`,
        `rate`, `auc` (None with one class only), `log_loss`, `calibration_error` and `reliability`.
    """
    log = read_log(impressions, n_items)
    click_M = predict_log(model, list(impressions.states), log).click_BK
    user_M = users_of(list(impressions.states), log)
    counts = {
        "user_activity": user_activity(impressions, train),
        "item_popularity": item_popularity(impressions, train, n_items),
    }
    return {name: _by_bucket(log, click_M, count_M, bins, user_M) for name, count_M in counts.items()}


def _by_bucket(log: Log, click_M: FloatArray, count_M: IntArray, bins: int, user_M: IntArray) -> dict[str, Any]:
    bucket_M = bucket_of(count_M)
    return {
        name: {
            "from": int(count_M[here].min()),
            "to": int(count_M[here].max()),
            **_figures(log.click_M[here], click_M[here], bins, user_M[here]),
        }
        for place, name in enumerate(BUCKETS)
        if (here := bucket_M == place).any()
    }


def _figures(label_M: FloatArray, probability_M: FloatArray, bins: int, user_M: IntArray) -> dict[str, Any]:
    return {
        "events": len(label_M),
        "rate": float(label_M.mean()),
        "auc": auc(label_M, probability_M),
        "log_loss": float(log_losses(label_M, probability_M).mean()),
        "calibration_error": calibration_error(label_M, probability_M),
        "reliability": bins_of(probability_M, label_M, bins, user_M),
    }
