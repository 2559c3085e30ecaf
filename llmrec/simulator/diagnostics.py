"""Where a behaviour model is right and where it is not: by bin, by how active users and popular items are, by arm."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2, chi2_contingency

from llmrec.dataset.impressions import Impressions
from llmrec.errors import DataError
from llmrec.simulator.binning import bins_of, calibration_error
from llmrec.simulator.ensemble import Predictor
from llmrec.simulator.log import ImpressionLog, Log, read_log
from llmrec.simulator.metrics import auc, log_losses, predict_log, users_of
from llmrec.types import FloatArray, IntArray

BUCKETS = ("none", "few", "some", "many")
"""No event in the fitted log, then thirds by count of the held-out impressions whose user or item has any."""


def reliability(model: Predictor, impressions: Impressions, bins: int = 10) -> dict[str, list[dict[str, float]]]:
    """Bins of nearly equal count of the predictions on held-out impressions; equal predictions share one.

    Returns:
        For "click" and "click_and_conversion": per bin the mean prediction, the observed rate with its 95% interval
        over users (low, high), and the count.
    """
    n_items = int(np.max(impressions.item_M, initial=0)) + 1
    log = read_log(impressions, n_items)
    found = predict_log(model, list(impressions.states), log)
    pairs = {
        "click": (found.click_BK, log.click_M),
        "click_and_conversion": (found.click_BK * found.conversion_BK, log.conversion_M),
    }
    user_M = users_of(list(impressions.states), log)
    return {name: bins_of(np.asarray(p, float), np.asarray(y, float), bins, user_M) for name, (p, y) in pairs.items()}


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
        # "lower" gives counts that occur, and equal counts then fall on one side of the border together.
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


@dataclass(frozen=True)
class ArmTest:
    """A joint chi-square test over A arms of the outcomes nothing, click without conversion, conversion.

    Attributes:
        simulated_A3: Mean predicted probability of each outcome.
        observed_A3: Observed rate of each outcome.
        statistic: Sum over arms of Pearson's statistic of the two-sample table.
        degrees: Degrees of freedom, 2 an arm.
        p_value: P(a statistic as great), if simulator and other half had equal rates.
    """

    simulated_A3: FloatArray
    observed_A3: FloatArray
    statistic: float
    degrees: int
    p_value: float


def arm_test(model: Predictor, other_half: ImpressionLog, fitted_A: IntArray) -> ArmTest:
    """Compares simulated and observed rates on `other_half`, whose items are the arms.

    The simulated rates stand for `fitted_A` customers an arm, those that the model was fitted on, since they are no
    more certain than these: a model that repeats its own half exactly passes with probability 95%.

    Raises:
        DataError: An arm without an impression in one of the halves.
    """
    arms = len(fitted_A)
    log = read_log(other_half, arms)
    count_A = np.bincount(log.item_M, minlength=arms)
    if not (count_A.all() and np.all(fitted_A)):
        raise DataError("An arm has no impression in one of the halves, so the halves cannot be compared.")
    found = predict_log(model, list(other_half.states), log)
    joint_M = found.click_BK * found.conversion_BK
    simulated_A3 = _rates(log.item_M, count_A, found.click_BK, joint_M)
    observed_A3 = _rates(log.item_M, count_A, log.click_M, log.conversion_M)
    # Arms are independent groups of customers, so their chi-square statistics, and degrees of freedom, add up.
    statistic, degrees = 0.0, 0
    for simulated, observed, before, after in zip(simulated_A3, observed_A3, fitted_A, count_A, strict=True):
        table = np.stack([simulated * before, observed * after])
        # An outcome that neither half has, such as no conversion at all, has no expectation to compare with and no
        # degree of freedom. Yates's correction would break the sum over arms.
        table = table[:, table.sum(axis=0) > 0]
        test = chi2_contingency(table, correction=False)
        statistic, degrees = statistic + float(test.statistic), degrees + int(test.dof)
    return ArmTest(simulated_A3, observed_A3, statistic, degrees, float(chi2.sf(statistic, degrees)))


def _rates(arm_M: IntArray, count_A: IntArray, click_M: FloatArray, joint_M: FloatArray) -> FloatArray:
    click_A, joint_A = (np.bincount(arm_M, values, len(count_A)) / count_A for values in (click_M, joint_M))
    return np.stack([1 - click_A, click_A - joint_A, joint_A], axis=1)
