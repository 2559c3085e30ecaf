"""How well a behaviour model predicts events it has not seen, beside the mean of each item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from llmrec.errors import DataError
from llmrec.simulator.binning import calibration_error, calibration_interval, resampled_sums
from llmrec.simulator.ensemble import Predictor
from llmrec.simulator.log import ImpressionLog, Log, check_probabilities, read_log
from llmrec.types import FloatArray, IntArray, Prediction, State

_TINY = 1e-7
_PAIRS = 262_144  # (state, item) pairs predicted at a time


def auc(label_M: FloatArray, score_M: FloatArray) -> float | None:
    """Area under the ROC curve: P(a positive scores above a negative), ties half; None with one class only."""
    _, inverse_M, count_J = np.unique(score_M, return_inverse=True, return_counts=True)
    # Mann-Whitney: the positives' ranks add up to n(n + 1)/2 among themselves plus one for each negative below;
    # mid-ranks make a tie worth one half.
    rank_M = (np.cumsum(count_J) - (count_J - 1) / 2)[inverse_M]  # mid-ranks from 1
    positives = float(label_M.sum())
    negatives = len(label_M) - positives
    if positives == 0 or negatives == 0:
        return None
    return float((rank_M[label_M > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def log_losses(label_M: FloatArray, probability_M: FloatArray) -> FloatArray:
    """Minus the log-likelihood of each label, in nats, probabilities kept 1e-7 away from 0 and 1."""
    # One certain and wrong prediction would make the mean infinite; log1p keeps the digits of probabilities near 0.
    p_M = np.clip(probability_M, _TINY, 1 - _TINY)
    return np.asarray(-np.where(label_M > 0, np.log(p_M), np.log1p(-p_M)))


def paired_interval(
    difference_M: FloatArray, group_M: IntArray, *, draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `difference_M` with a 95% bootstrap interval over groups (users), which are drawn whole."""
    sums_R1, count_R = resampled_sums(difference_M[:, None], group_M, draws, seed)
    low, high = np.quantile(sums_R1[:, 0] / count_R, [0.025, 0.975])
    return float(difference_M.mean()), float(low), float(high)


def predict_log(model: Predictor, states: list[State], log: Log) -> Prediction:
    """Predictions of logged impressions: shapes (M,)."""
    order = np.argsort(log.row_M, kind="stable")
    rows_S, count_S = np.unique(log.row_M, return_counts=True)
    width = int(count_S.max(initial=1))
    column_M = np.arange(len(order)) - np.repeat(np.cumsum(count_S) - count_S, count_S)
    place_M = np.repeat(np.arange(len(rows_S)), count_S)
    # Impressions of one state become one ragged slate, padded by -1, so that each state is encoded once and not once
    # an impression.
    items_SK = np.full((len(rows_S), width), -1, dtype=np.int64)
    items_SK[place_M, column_M] = log.item_M[order]
    click_M, conversion_M = np.empty(len(order)), np.empty(len(order))
    step = max(1, _PAIRS // width)
    for low in range(0, len(rows_S), step):
        found = model.predict([states[s] for s in rows_S[low : low + step]], items_SK[low : low + step])
        here = (place_M >= low) & (place_M < low + step)
        click_M[order[here]] = found.click_BK[place_M[here] - low, column_M[here]]
        conversion_M[order[here]] = found.conversion_BK[place_M[here] - low, column_M[here]]
    check_probabilities(click_M, "click")
    check_probabilities(conversion_M, "conversion")
    return Prediction(click_M, conversion_M)


def fit_report(
    model: Predictor, impressions: ImpressionLog, *, train: ImpressionLog | None = None, seed: int = 0
) -> dict[str, Any]:
    """Figures of a model on held-out impressions, as plain values for JSON.

    Args:
        model: A behaviour model or an ensemble (its `proxy` sentence is carried over).
        impressions: Held-out events.
        train: The fitted events, from which the item means of the baseline are counted; without them the means are
            of the held-out events themselves, which flatters the baseline.
        seed: Seed of the bootstrap.

    Returns:
        For each of "click", "conversion_given_click" and "click_and_conversion": events, rate, auc, log_loss,
        calibration_error (with `_low` and `_high`, its 95% interval over users), the same of the item-mean baseline,
        and `log_loss_gain` (baseline minus model, mean and 95% interval over users). Also "impressions" and "proxy".
    """
    states = list(impressions.states)
    # Items that only the fitted log knows need a place among the item means too.
    n_items = int(max(np.max(impressions.item_M, initial=0), 0 if train is None else np.max(train.item_M))) + 1
    log = read_log(impressions, n_items)
    if len(log) == 0:
        raise DataError("There is no held-out impression to report on; widen the held-out period.")
    predicted = predict_log(model, states, log)
    baseline = item_means(log if train is None else read_log(train, n_items), log.item_M, n_items)
    group_M = users_of(states, log)
    clicked_M = log.click_M > 0
    everything = np.ones(len(log), dtype=bool)
    sections = {
        "click": (everything, log.click_M, predicted.click_BK, baseline.click_BK),
        "conversion_given_click": (clicked_M, log.conversion_M, predicted.conversion_BK, baseline.conversion_BK),
        "click_and_conversion": (
            everything,
            log.conversion_M,
            *(p.click_BK * p.conversion_BK for p in (predicted, baseline)),
        ),
    }
    report: dict[str, Any] = {"impressions": len(log), "proxy": str(getattr(model, "proxy", ""))}
    for name, (keep_M, label_M, model_M, mean_M) in sections.items():
        report[name] = section(label_M[keep_M], model_M[keep_M], mean_M[keep_M], group_M[keep_M], seed)
    return report


def users_of(states: Sequence[State], log: Log) -> IntArray:
    """A number for the user of each logged impression: (M,)."""
    user_S = np.unique([str(state.user_id) for state in states], return_inverse=True)[1]
    return np.asarray(user_S[log.row_M], dtype=np.int64)


def value_agreement(
    model: Predictor, states: Sequence[State], value_BN: FloatArray, *, click: float, conversion: float
) -> dict[str, float]:
    """How well the predicted values of all items agree with known ones (of a generated world), mean over states.

    Returns:
        "pearson" and "spearman" over the catalogue; "top1" and "top10", the known value of the items predicted best;
        "best1" and "best10", of the items that are best.
    """
    found = model.predict_all(states)
    predicted_BN = found.click_BK * (click + conversion * found.conversion_BK)
    # Stable, so that items predicted alike are chosen in the order of the catalogue and not by their known value.
    order_BN, best_BN = np.argsort(-predicted_BN, axis=1, kind="stable"), -np.sort(-value_BN, axis=1)
    chosen_BN = np.take_along_axis(value_BN, order_BN, axis=1)
    figures = {
        "pearson": _row_correlation(predicted_BN, value_BN),
        "spearman": _row_correlation(rankdata(predicted_BN, axis=1), rankdata(value_BN, axis=1)),
    }
    for k in (1, 10):
        figures[f"top{k}"], figures[f"best{k}"] = float(chosen_BN[:, :k].mean()), float(best_BN[:, :k].mean())
    return figures


def _row_correlation(one_BN: FloatArray, other_BN: FloatArray) -> float:
    one_BN, other_BN = (rows - rows.mean(axis=1, keepdims=True) for rows in (one_BN, other_BN))
    scale_B = np.sqrt((one_BN**2).sum(axis=1) * (other_BN**2).sum(axis=1))
    return float(np.mean((one_BN * other_BN).sum(axis=1) / np.where(scale_B > 0, scale_B, 1.0)))


def item_means(log: Log, item_M: IntArray, n_items: int, strength: float = 10.0) -> Prediction:
    """Each item's click and conversion rate, drawn to the overall rate by `strength` events; shapes (M,)."""
    shown_N = np.bincount(log.item_M, minlength=n_items).astype(float)
    click_N = np.bincount(log.item_M, log.click_M, minlength=n_items)
    convert_N = np.bincount(log.item_M, log.conversion_M, minlength=n_items)
    rate, conversion = click_N.sum() / max(1, shown_N.sum()), convert_N.sum() / max(1, click_N.sum())
    # Empirical Bayes: the posterior mean under a Beta prior at the overall rate, worth `strength` events. Without it
    # an item shown once would be predicted 0 or 1.
    click_rate_N = (click_N + strength * rate) / (shown_N + strength)
    conversion_rate_N = (convert_N + strength * conversion) / (click_N + strength)
    return Prediction(click_rate_N[item_M], conversion_rate_N[item_M])


def section(
    label_M: FloatArray, model_M: FloatArray, mean_M: FloatArray, group_M: IntArray, seed: int
) -> dict[str, Any]:
    """AUC, log loss and calibration error of model and item means, and the paired gain in log loss over groups."""
    if len(label_M) == 0:
        return {"events": 0}
    figures: dict[str, Any] = {"events": len(label_M), "rate": float(label_M.mean())}
    for prefix, probability_M in (("", model_M), ("baseline_", mean_M)):
        figures[f"{prefix}auc"] = auc(label_M, probability_M)
        figures[f"{prefix}log_loss"] = float(log_losses(label_M, probability_M).mean())
        name = f"{prefix}calibration_error"
        figures[name] = calibration_error(label_M, probability_M)
        bounds = calibration_interval(label_M, probability_M, group_M, seed=seed)
        figures |= dict(zip((f"{name}_low", f"{name}_high"), bounds, strict=True))
    # Paired row by row: what is hard to foresee for any model cancels, and the interval is of the difference alone.
    gain_M = log_losses(label_M, mean_M) - log_losses(label_M, model_M)
    mean, low, high = paired_interval(gain_M, group_M, seed=seed)
    figures["log_loss_gain"] = {"mean": mean, "low": low, "high": high}
    return figures
